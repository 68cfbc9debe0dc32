"""Does the audit find what was planted, and nothing where nothing was? One small model and its audits for each run.

Usage: python benchmarks/audit_study.py --work /tmp/audit-study --seeds 12
       python benchmarks/audit_tables.py

Every run is a cue, a correlation and a seed; its JSON lies in benchmarks/results/audit and is skipped when it is there,
so that an interrupted study goes on by the same command. Each model sees the balanced split first, then the biased one;
it is audited on held-out images, and once more with shuffled labels. Without --cutouts and --scenes the composites are
drawn.

For every cue that was tested, a run holds its rank, class, vocabulary, verdict, dependence and adjusted p, and against
the truth about every patch of 200 images: AUROC (of a yes-no map: the mean of sensitivity and specificity), precision,
and the shares of its patches, in images of its class, of which the object covers less than half, and nothing.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import siftlens
from planted_models import Recipe, add_options, chosen, group_accuracy, trained
from siftlens.attention import find_layout
from siftlens.auditing.tokens import TokenAccess
from siftlens.data import CUES, Planted, PlantedImage, atomic_path

RUNS = Path(__file__).parent / "results" / "audit"
CORRELATIONS = (0.5, 0.7, 0.9, 0.95, 1.0)
SCORED = 200  # images that maps are compared with the truth on
PATCH = 0.5  # share of a patch that a mask must cover, for the patch to count as the object's or the planted cue's


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--cues", nargs="+", default=list(CUES), choices=CUES)
    parser.add_argument("--correlations", nargs="+", type=float, default=list(CORRELATIONS))
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--images", type=int, default=600, help="audited images")
    parser.add_argument("--size", type=int, default=64, help="px")
    arguments = parser.parse_args()
    material, recipe = chosen(arguments)
    # Seeds outermost: whenever it is stopped, every cue and correlation has about as many runs.
    for seed, cue, correlation in itertools.product(range(arguments.seeds), arguments.cues, arguments.correlations):
        planted = Planted(material, cue, correlation, size=arguments.size, seed=seed)
        path = RUNS / f"{type(material).__name__}-{cue}-{correlation}-{seed}.json"
        if path.exists():
            continue
        start = time.perf_counter()
        found = run(planted, recipe, arguments.images, arguments.work / "models")
        with atomic_path(path) as target:
            target.write_text(json.dumps(found) + "\n")
        first = found["audits"]["all"]["cues"][:1]
        told = [f"{c['kind']} {c['verdict']} AUROC {c['auroc']}" for c in first]
        print(path.stem, found["group_accuracy"], *told, f"{time.perf_counter() - start:.0f} s", flush=True)


def run(planted: Planted, recipe: Recipe, count: int, models: Path) -> dict[str, Any]:
    """Train, audit with true and with shuffled labels, and compare with the truth."""
    model = trained(planted, recipe, models)
    images = planted.split("heldout", count)[:]
    labels = [image.label for image in images]
    shuffled = np.random.default_rng(planted.seed).permutation(labels).tolist()
    return {
        "material": type(planted.material).__name__,
        "cue": planted.cue,
        "correlation": planted.correlation,
        "seed": planted.seed,
        "recipe": vars(recipe) | {"size": planted.size},
        "group_accuracy": group_accuracy(model, planted, 400),
        "audits": {
            name: audited(planted, model, images, given)
            for name, given in (("all", labels), ("shuffled labels", shuffled))
        },
    }


def audited(planted: Planted, model: torch.nn.Module, images: list[PlantedImage], labels: list[int]) -> dict[str, Any]:
    """One audit, and how its cues compare with the truth."""
    start = time.perf_counter()
    audit = siftlens.audit(model, [image.pixels for image in images], labels, normalize="inception", seed=planted.seed)
    seconds = time.perf_counter() - start
    words = words_of(audit, [image.pixels for image in images[:SCORED]], model)
    against = np.array([image.cue != image.label for image in images])
    risk = audit.images["risk"].to_numpy()
    return {
        "seconds": round(seconds, 1),
        "passes_per_image": audit.info["passes_per_image"],
        "misled_auroc": rounded(auroc(risk[against], risk[~against])),
        "cues": [
            {"rank": rank + 1, "label": int(cue.label), "kind": cue.kind, "verdict": cue.verdict}
            | {name: rounded(audit.cues[name].iloc[rank]) for name in ("dependence", "p", "explained")}
            | compared(planted, int(cue.label), np.isin(words[cue.kind], cue.words), images)
            for rank, cue in enumerate(audit)
        ],
        "properties": json.loads(audit.properties.round(4).to_json(orient="records")),
    }


def words_of(audit: siftlens.Audit, pixels: list[np.ndarray], model: torch.nn.Module) -> dict[str, np.ndarray]:
    """The words of all patches at once; `Cue.patches` takes image by image and finds the model's layout every time."""
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1
    access = TokenAccess(model, find_layout(model, x[:1]), x[:1])
    with torch.no_grad(), access.read(audit.layer) as read:
        model(x)
    grid = audit.vocabulary.grid
    return {
        kind: found.reshape(-1, grid.rows, grid.cols) for kind, found in audit.vocabulary.words(pixels, read[0]).items()
    }


def compared(planted: Planted, label: int, found: np.ndarray, images: list[PlantedImage]) -> dict[str, float | None]:
    """A cue's maps against the planted ones, and against the objects."""
    images = images[: len(found)]
    grid = found.shape[1:]
    mine = np.array([image.label == label for image in images])
    cover = np.stack([coverage(image.object_mask, grid) for image in images])[mine][found[mine]]
    off = {
        "off_object": rounded((cover < PATCH).mean()) if len(cover) else None,
        "clear_of_object": rounded((cover == 0).mean()) if len(cover) else None,
    }
    carried = [image.cue == label if planted.cue == "scene" else label == 1 for image in images]
    truth = np.stack(
        [(coverage(image.cue_map, grid) >= PATCH) & here for image, here in zip(images, carried, strict=True)]
    )
    if not truth.any():
        return {"auroc": None, "precision": None} | off
    sensitivity, specificity = found[truth].mean(), 1 - found[~truth].mean()
    precision = truth[found].mean() if found.any() else 0.0
    return {"auroc": rounded((sensitivity + specificity) / 2), "precision": rounded(precision)} | off


def coverage(mask: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Share of each patch that a mask covers."""
    rows, cols = grid
    return np.asarray(mask.reshape(rows, mask.shape[0] // rows, cols, mask.shape[1] // cols).mean(axis=(1, 3)))


def auroc(positive: np.ndarray, negative: np.ndarray) -> float | None:
    """Chance that a value of the first is the larger one, ties counting half."""
    if not len(positive) or not len(negative):
        return None
    larger, equal = positive[:, None] > negative, positive[:, None] == negative
    return float((larger + equal / 2).mean())


def rounded(value: Any) -> float | None:
    """For people and small files."""
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


if __name__ == "__main__":
    main()
