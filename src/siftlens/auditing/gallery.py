"""What a person needs to see of every cue, kept so that neither the model nor the images are needed later."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, UInt8

from siftlens.auditing.tables import HARMFUL, RELIED_ON
from siftlens.core import PatchGrid
from siftlens.data import ImageRef, Jpeg, Preprocessing, as_jpeg, decode

SHEET, SMALL_SHEET = 12, 6  # images on the contact sheet of a cue that is relied on, and of any other
AFFECTED = 8  # images of either kind of error
PICTURES = 480  # different ones in all: with `_BYTES` each, 12 MB in base64
_BYTES = 18_000
_ENCODINGS = (Jpeg(224, 90, full_colour=True), Jpeg(224, 75), Jpeg(160, 75), Jpeg(128, 60))

SHOWN_COLUMNS = ["cue", "part", "image", "patches"]
_COLOURS = ["red", "green", "blue", "spread", "texture"]
LOOKS_COLUMNS = [*_COLOURS, "keypoints", "keypoints_elsewhere", "map", "shared", "shared_with"]


@dataclass(frozen=True)
class Gallery:
    """Pictures, and what cues look like.

    Attributes:
        shown: a row per image that is shown of a cue: cue (row of the cues), part ("carries": of the class and with
            the cue; "taken": of another class, with the cue, and taken for the class; "missed": of the class, without
            the cue, and taken for another), image (row of the images), patches (numbers of the cue's, row-major).
        pictures: a row per image: image, jpeg.
        looks: a row per cue: red, green, blue (mean over its patches in the pictures, of 255), spread (root mean square
            distance of these patches' means from it), texture (mean standard deviation of brightness within a patch),
            keypoints (share of its patches that hold one), keypoints_elsewhere (share of the same images' other
            patches), map (share of the class's images with the cue that have it at each patch, row-major), shared
            (largest share of its patches that a cue of the class before it has too), shared_with (row of that cue, -1
            for none). NaN where not known.
    """

    shown: pd.DataFrame
    pictures: pd.DataFrame
    looks: pd.DataFrame


def take_gallery(
    refs: Sequence[ImageRef],
    preprocessing: Preprocessing,
    grid: PatchGrid,
    cues: pd.DataFrame,
    images: pd.DataFrame,
    there: Sequence[Bool[np.ndarray, "image patch"]],
    keypoints: Bool[np.ndarray, "image patch"] | None,
) -> Gallery:
    """Choose and keep pictures of every cue, the first cues first, until there are `PICTURES` of them.

    Args:
        refs: the images.
        preprocessing: of the model.
        grid: the patches.
        cues: a row per cue.
        images: a row per image.
        there: where each cue is, in the order of `cues`.
        keypoints: whether a patch holds a keypoint; None where that is not known.
    """
    kept: dict[int, bytes] = {}
    shown, looks = [], []
    for row, (cue, place) in enumerate(zip(cues.itertuples(), there, strict=True)):
        chosen = dict(_chosen(cue, images, place))
        if len(kept.keys() | {image for part in chosen.values() for image in part}) > PICTURES:
            chosen = {}
        colour = _Colours(grid)
        for part, members in chosen.items():
            for image in members:
                pixels = decode(refs[image], preprocessing)[: grid.height, : grid.width]
                if image not in kept:
                    kept[image] = as_jpeg(pixels, _ENCODINGS, _BYTES)
                if part == "carries":
                    colour.add(pixels, place[image])
                shown.append((row, part, image, np.flatnonzero(place[image]).tolist()))
        looks.append(colour.described() | _where(cue, images, place, keypoints) | _shared(row, cues, images, there))
    return Gallery(
        pd.DataFrame(shown, columns=SHOWN_COLUMNS),
        pd.DataFrame({"image": list(kept), "jpeg": list(kept.values())}),
        pd.DataFrame(looks, columns=LOOKS_COLUMNS),
    )


def _chosen(cue: Any, images: pd.DataFrame, there: Bool[np.ndarray, "image patch"]) -> Iterator[tuple[str, list[int]]]:
    """Images by part: spread evenly from most of the cue to least; errors from the surest on."""
    share = there.mean(axis=1)
    carries = _carries(cue, images, there)
    carrying = carries[np.argsort(-share[carries], kind="stable")]
    most = SHEET if cue.verdict in RELIED_ON else SMALL_SHEET
    places = np.linspace(0, len(carrying) - 1, min(most, len(carrying))).round().astype(int)
    yield "carries", carrying[places].tolist()
    if cue.verdict in HARMFUL:
        margin = images["margin"].to_numpy()
        mine, answer = ((images[name] == cue.label).to_numpy() for name in ("label", "predicted"))
        holds = share >= cue.threshold
        for part, wrong in (("taken", ~mine & holds & answer), ("missed", mine & ~holds & ~answer)):
            members = np.flatnonzero(wrong)
            yield part, members[np.argsort(margin[members], kind="stable")][:AFFECTED].tolist()


def _carries(cue: Any, images: pd.DataFrame, there: Bool[np.ndarray, "image patch"]) -> Int[np.ndarray, " carrier"]:
    """Images of the class that carry the cue, of the half that tested it."""
    tested = (images["label"] == cue.label) & (images["half"] == "confirm")
    return np.flatnonzero(tested.to_numpy() & (there.mean(axis=1) >= cue.threshold))


def _where(
    cue: Any,
    images: pd.DataFrame,
    there: Bool[np.ndarray, "image patch"],
    keypoints: Bool[np.ndarray, "image patch"] | None,
) -> dict[str, Any]:
    carrying = _carries(cue, images, there)
    place = there[carrying]
    known = keypoints is not None and place.any() and not place.all()
    return {
        "keypoints": float(keypoints[carrying][place].mean()) if known and keypoints is not None else np.nan,
        "keypoints_elsewhere": float(keypoints[carrying][~place].mean()) if known and keypoints is not None else np.nan,
        "map": place.mean(axis=0).round(4).tolist() if len(place) else [0.0] * there.shape[1],
    }


def _shared(
    row: int, cues: pd.DataFrame, images: pd.DataFrame, there: Sequence[Bool[np.ndarray, "image patch"]]
) -> dict[str, Any]:
    mine = (images["label"] == cues["label"].iloc[row]).to_numpy()
    shares = {
        other: float(there[other][mine][there[row][mine]].mean())
        for other in range(row)
        if cues["label"].iloc[other] == cues["label"].iloc[row] and there[row][mine].any()
    }
    first = max(shares, key=lambda other: shares[other], default=-1)
    return {"shared": shares.get(first, 0.0), "shared_with": first}


class _Colours:
    """Colours of the patches of a cue."""

    def __init__(self, grid: PatchGrid):
        self._grid = grid
        self._means: list[Float[np.ndarray, "patch 3"]] = []
        self._deviations: list[Float[np.ndarray, " patch"]] = []

    def add(self, pixels: UInt8[np.ndarray, "height width 3"], there: Bool[np.ndarray, " patch"]) -> None:
        grid = self._grid
        blocks = pixels.reshape(grid.rows, grid.patch_height, grid.cols, grid.patch_width, 3).swapaxes(1, 2)
        mine = blocks.reshape(grid.patches, -1, 3)[there].astype(np.float64)
        self._means.append(mine.mean(axis=1))
        self._deviations.append(mine.mean(axis=2).std(axis=1))

    def described(self) -> dict[str, float]:
        if not self._means:
            return dict.fromkeys(_COLOURS, float("nan"))
        means = np.concatenate(self._means)
        mean = means.mean(axis=0)
        return dict(zip(("red", "green", "blue"), mean.tolist(), strict=True)) | {
            "spread": float(np.sqrt(((means - mean) ** 2).sum(axis=1).mean())),
            "texture": float(np.concatenate(self._deviations).mean()),
        }
