"""How near is a mapped concentration map to one whose keypoints were detected anew in the view?

    python benchmarks/pretraining_maps.py --data ../shared/data/imagenette-128/train

Views as pre-training cuts them: 96 px from squares of 128 px, patches of 16 px. Their keypoints are counted per patch
once by mapping those of the whole square, as training does, and once by detection in the view itself. Per view:
Spearman's rank correlation between both maps, between the mapped map and that of another image through the same box,
and between the mapped map and one detected anew in the same box without the resize, which leaves only the border and
what crops change. By how much the box is enlarged or shrunk. Writes benchmarks/results/pretraining-maps.json.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats

from machine import save_result
from pretraining_arms import BASE, some_images
from siftlens.core import PatchGrid
from siftlens.keypoints import KeypointStore, SiftSettings, detect, map_keypoints
from siftlens.keypoints.mapping import View
from siftlens.patchmaps import Shrinking, patch_weights
from siftlens.pretraining.guide import KeypointGuide
from siftlens.pretraining.images import hold
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.views import Boxes, cut, draw_boxes

VIEWS = 2  # of each image
BINS = (0.0, 0.75, 1.0, 1.25, 1.5, 1.75)  # px of the view per px of the square
BOOTSTRAPS = 2000


def correlations(images: Path, limit: int, grid: PatchGrid, spill: Path) -> dict[str, Float[np.ndarray, " view"]]:
    """Correlations of every view, and its scale."""
    held = hold(some_images(images, limit, spill.with_suffix(".txt")), Shrinking(BASE.side, BASE.side), spill=spill)
    found = [detect(pixels(image)) for image in held.pixels]
    store = KeypointStore.gather(zip(held.identities, held.contents, found, strict=True), BASE.side, SiftSettings())
    every = torch.arange(len(held))
    own, other = (KeypointGuide(store, np.arange(len(held)), other=other) for other in (False, True))
    columns: dict[str, list[float]] = {"scale": [], "detected": [], "other": [], "unscaled": [], "keypoints": []}
    for epoch in range(VIEWS):
        keys = image_keys(0, epoch, every)
        boxes = draw_boxes(keys, BASE.side, BASE.smallest_crop)
        views = cut(held.pixels, boxes, BASE.size)
        mapped, others = (guide(every, keys, boxes, views, grid).numpy() for guide in (own, other))
        for n in range(len(held)):
            anew = patch_weights(detect(pixels(views[n])), grid).ravel()
            columns["scale"].append(BASE.size / float(np.sqrt(int(boxes.width[n]) * int(boxes.height[n]))))
            columns["detected"].append(spearman(mapped[n], anew))
            columns["other"].append(spearman(mapped[n], others[n]))
            columns["unscaled"].append(spearman(mapped[n], in_place(held.pixels[n], boxes, n, grid)))
            columns["keypoints"].append(float(mapped[n].sum()))
    return {name: np.array(values) for name, values in columns.items()}


def in_place(image: torch.Tensor, boxes: Boxes, n: int, grid: PatchGrid) -> Float[np.ndarray, " patch"]:
    """The map of a box with keypoints detected in the box as it is, neither resized nor mirrored."""
    left, top, width, height = (int(column[n]) for column in (boxes.left, boxes.top, boxes.width, boxes.height))
    inside = detect(pixels(image[:, top : top + height, left : left + width]))
    view = View(0, 0, width, height, width=grid.width, height=grid.height, flip=bool(boxes.flip[n]))
    return patch_weights(map_keypoints(inside, view), grid).ravel()


def pixels(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()


def spearman(a: Float[np.ndarray, " patch"], b: Float[np.ndarray, " patch"]) -> float:
    """Rank correlation; NaN where a map is flat."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.spearmanr(a, b).statistic)


def summed(values: Float[np.ndarray, " view"], random: np.random.Generator) -> dict[str, float]:
    """Mean, its interval over views by the bootstrap, and the middle half of the views."""
    known = values[np.isfinite(values)]
    means = known[random.integers(0, len(known), (BOOTSTRAPS, len(known)))].mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    lower, upper = np.quantile(known, (0.25, 0.75))
    told = {"mean": known.mean(), "low": low, "high": high, "quarter": lower, "three_quarters": upper}
    return {**{name: round(float(value), 4) for name, value in told.items()}, "views": len(known)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--work", type=Path, default=Path("/tmp"), help="where images are held that memory cannot")
    parser.add_argument("--limit", type=int, default=1000, help="images")
    given = parser.parse_args()
    patch = 16
    grid = PatchGrid(BASE.size // patch, BASE.size // patch, patch, patch)
    start = time.perf_counter()
    found = correlations(given.data, given.limit, grid, given.work / "squares.npy")
    random = np.random.default_rng(0)
    bins = np.digitize(found["scale"], BINS) - 1
    result: dict[str, Any] = {
        "images": given.limit,
        "views": len(bins),
        "keypoints_per_view": round(float(found["keypoints"].mean()), 1),
        "all": {name: summed(found[name], random) for name in ("detected", "unscaled", "other")},
        "by_scale": [
            {
                "from": BINS[n],
                "mean_scale": round(float(found["scale"][bins == n].mean()), 3),
                **{name: summed(found[name][bins == n], random) for name in ("detected", "unscaled", "other")},
            }
            for n in range(len(BINS))
            if (bins == n).sum() > 20
        ],
        "seconds": round(time.perf_counter() - start, 1),
    }
    save_result("pretraining-maps", result)
    print(result["all"])


if __name__ == "__main__":
    main()
