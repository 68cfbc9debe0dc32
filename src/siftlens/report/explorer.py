"""The images to look at, as the report's script draws them: pictures, keypoints, and attention as bytes in base64."""

from collections.abc import Sequence

import numpy as np

from siftlens.data import Jpeg, as_jpeg
from siftlens.interrelation.gallery_budget import OVERVIEW_BYTES, heads_by_importance
from siftlens.interrelation.kept_rows import KeptRows
from siftlens.interrelation.results import GalleryImage, Result
from siftlens.report.embedded import as_text, picture_uri
from siftlens.report.evidence import Cell
from siftlens.report.numbers import number
from siftlens.report.payload import Json, plain

_PICTURE_BYTES = 75_000
_PICTURES = (Jpeg(512, 88), Jpeg(512, 70), Jpeg(384, 70), Jpeg(256, 70))
_RANKS = ("", "2nd ", "3rd ")


def explorer_json(result: Result, named: Sequence[Cell], ends: Json) -> dict[str, Json]:
    """All images.

    Args:
        result: the finished analysis.
        named: heads that the findings call out.
        ends: images at the ends of every head, as `extremes` finds them.
    """
    cells = _overview(result, named)
    return {
        "overview": cells,
        "named": [list(cell) for cell in named],
        "images": [image_json(image, cells, _reasons(image.identity, named, ends)) for image in result.gallery],
    }


def image_json(image: GalleryImage, cells: Sequence[Cell], reasons: Sequence[str]) -> dict[str, Json]:
    """One image with its overlays.

    Args:
        image: the image.
        cells: (layer, head) of which it carries what patches receive and the class token's row.
        reasons: why it is shown.
    """
    height, width = image.pixels.shape[:2]
    rows, cols = image.concentration.shape
    overview = [("received", "Attention each patch receives", image.received, image.received_scale)]
    if image.cls_attention is not None and image.cls_scale is not None:
        overview.insert(0, ("class", "Attention of the class token", image.cls_attention, image.cls_scale))
    index = tuple(np.array(cells, np.int64).reshape(-1, 2).T)
    points = np.stack([image.keypoint_x, image.keypoint_y, image.keypoint_size], axis=1)
    return {
        "name": image.identity,
        "reasons": list(reasons),
        "width": width,
        "height": height,
        "rows": rows,
        "cols": cols,
        "source": picture_uri(as_jpeg(image.pixels, _PICTURES, _PICTURE_BYTES)),
        "points": np.round(points.astype(np.float64), 1).tolist(),
        "concentration": plain(image.concentration.ravel()),
        "attention": [
            {"key": key, "label": label, "bytes": as_text(values[index].tobytes()), "scale": plain(scale[index])}
            for key, label, values, scale in overview
        ],
        "whole": _rows_json(image.whole),
        "strongest": _rows_json(image.strongest),
    }


def _rows_json(kept: KeptRows | None) -> Json:
    if kept is None:
        return None
    return {
        "heads": kept.heads.tolist(),
        "kept": kept.values.shape[2],
        "keyBytes": kept.key_bytes,
        "error": plain(kept.error),
        "packed": as_text(kept.packed()),
    }


def _overview(result: Result, named: Sequence[Cell]) -> list[Cell]:
    """The heads whose overview fits, in the order of layers and heads; all of them in all but very large models."""
    known = set(result.heads["head"])
    heads = [cell for cell in heads_by_importance(result.heads, named) if cell[1] in known]
    if result.gallery:
        image = result.gallery[0]
        kinds = 1 if image.cls_attention is None else 2
        heads = heads[: OVERVIEW_BYTES // (image.concentration.size * kinds)]
    return sorted(heads)


def _reasons(name: str, named: Sequence[Cell], ends: Json) -> list[str]:
    """Why an image is shown: where it stands at an end of a named head."""
    told = []
    for layer, head in named if ends else ():
        for end, size in (("most", "largest"), ("least", "smallest")):
            for rank, (index, value) in enumerate(ends["cells"][layer][head][end]):
                if ends["names"][index] == name:
                    pull = number(value, 2, signed=True)
                    told.append(f"{_RANKS[rank]}{size} pull of layer {layer}, head {head} ({pull}\u00a0SD)")
    return told
