"""Figures and tables as files.

figures/heads_STATISTIC.svg, .png    layers x heads
figures/depth_STATISTIC.svg, .png    over depth
figures/levels.svg, .png             from level to level, all layers
tables/heads.csv                     a row per layer, head and statistic
tables/images.csv                    a row per image
tables/levels.csv                    a row per layer, head, query level and key level
"""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from siftlens.data import atomic_path, make_own
from siftlens.interrelation.results import Result
from siftlens.plots.plots import Plots
from siftlens.plots.style import rendered

_FORMATS = ("svg", "png")
_CLASS_TOKEN = "class token"  # noqa: S105  # as query level


def export(result: Result, folder: Path) -> tuple[Path, ...]:
    """Write every figure as SVG and PNG and the tables as CSV; files of an earlier export are replaced.

    Returns:
        The files.

    Raises:
        InputError: the folder cannot be written.
    """
    written = []
    for place in ("figures", "tables"):
        make_own(folder / place)
    for name, figure in _figures(Plots(result)):
        for suffix in _FORMATS:
            written.append(folder / "figures" / f"{name}.{suffix}")
            with atomic_path(written[-1]) as path:
                path.write_bytes(rendered(figure, suffix))
    for name, table in {"heads": result.heads, "images": result.images, "levels": level_table(result)}.items():
        written.append(folder / "tables" / f"{name}.csv")
        with atomic_path(written[-1]) as path:
            table.to_csv(path, index=False, lineterminator="\n")
    return tuple(written)


def level_table(result: Result) -> pd.DataFrame:
    """The matrices between levels, a row per cell; the class token's row, where there is one, as a query level."""
    arrays = result.arrays
    parts = [_long(arrays[[name for name in arrays if str(name).startswith("level_lift") or name == "level_mass"]])]
    of_class = {str(name): str(name).removeprefix("cls_") for name in arrays if str(name).startswith("cls_level_")}
    if of_class:
        parts.append(_long(arrays[list(of_class)].rename(of_class)).assign(query_level=_CLASS_TOKEN))
    table = pd.concat(parts, ignore_index=True)
    first = ["layer", "head", "query_level", "key_level"]
    return table[[*first, *(name for name in table.columns if name not in first)]]


def _long(arrays: xr.Dataset) -> pd.DataFrame:
    return arrays.to_dataframe().reset_index().drop(columns=["layer_name", "level", "image"], errors="ignore")


def _figures(plots: Plots) -> Iterator[tuple[str, Figure]]:
    for statistic in plots.statistics:
        yield f"heads_{statistic}", plots.heads(statistic)
        yield f"depth_{statistic}", plots.depth(statistic)
    yield "levels", plots.levels()
