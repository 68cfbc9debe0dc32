"""Pictures with the patches of a cue: shapes that are laid over them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from siftlens.core import PatchGrid
from siftlens.report.embedded import picture_uri


@dataclass(frozen=True)
class Tile:
    """One picture of a cue.

    Attributes:
        picture: id of the picture in the page.
        veil: path over everything but the cue's patches, px.
        edge: path around these; empty where there are none.
        name: of the image.
        label: its class.
        predicted: what it is taken for; empty for a class that no image is labelled with.
    """

    picture: str
    veil: str
    edge: str
    name: str
    label: str
    predicted: str


def rows_of(table: pd.DataFrame) -> list[Any]:
    """The rows of a table, by the names of its columns."""
    return list(table.itertuples())


def tiles(shown: pd.DataFrame, images: pd.DataFrame, grid: PatchGrid) -> tuple[Tile, ...]:
    """The pictures of some rows.

    Args:
        shown: rows of pictures of one cue.
        images: a row per image.
        grid: the patches.
    """
    found = []
    for row in rows_of(shown):
        image = images.iloc[int(row.image)]
        there = np.zeros(grid.patches, bool)
        there[np.asarray(row.patches, np.int64)] = True
        veil, edge = outline(there.reshape(grid.rows, grid.cols), grid)
        found.append(Tile(f"p{int(row.image)}", veil, edge, image["identity"], image["label"], image["predicted"]))
    return tuple(found)


def pictures(table: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """(id, data URI) of every picture."""
    return tuple((f"p{int(row.image)}", picture_uri(row.jpeg)) for row in rows_of(table))


def outline(there: Bool[np.ndarray, "rows cols"], grid: PatchGrid) -> tuple[str, str]:
    """Paths, px: everything but the patches, and the border around them.

    Args:
        there: which patches.
        grid: their size.
    """
    high, wide = grid.patch_height, grid.patch_width
    holes = "".join(
        f"M{start * wide} {row * high}h{(stop - start) * wide}v{high}h{-(stop - start) * wide}z"
        for row, line in enumerate(there)
        for start, stop in _runs(line)
    )
    padded = np.pad(there, 1)
    across, down = padded[1:, 1:-1] != padded[:-1, 1:-1], padded[1:-1, 1:] != padded[1:-1, :-1]
    edges = [
        f"M{start * wide} {row * high}h{(stop - start) * wide}"
        for row, line in enumerate(across)
        for start, stop in _runs(line)
    ]
    edges += [
        f"M{col * wide} {start * high}v{(stop - start) * high}"
        for col, line in enumerate(down.T)
        for start, stop in _runs(line)
    ]
    return f"M0 0h{grid.width}v{grid.height}h{-grid.width}z{holes}", "".join(edges)


def cells(mass: Float[np.ndarray, " patch"], grid: PatchGrid) -> tuple[tuple[int, int, str], ...]:
    """(column, row, opacity) of every patch where a cue ever is, against where it is most."""
    return tuple(
        (place % grid.cols, place // grid.cols, f"{mass[place] / mass.max():.2f}")
        for place in np.flatnonzero(mass).tolist()
    )


def _runs(line: Bool[np.ndarray, " place"]) -> Iterable[tuple[int, int]]:
    """First place and the one after the last of every run."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    return zip(ends[::2].tolist(), ends[1::2].tolist(), strict=True)
