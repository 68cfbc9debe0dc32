"""A finished study, to look at, save and load."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import xarray as xr

from siftlens.interrelation.results import Result, RunInfo
from siftlens.study import storage

if TYPE_CHECKING:
    from siftlens.plots import Plots


class Study:
    """What an analysis found.

    Args:
        result: the finished analysis.
    """

    def __init__(self, result: Result):
        self.result = result

    @property
    def heads(self) -> pd.DataFrame:
        """A row per layer, head and statistic: value, null mean, effect, interval, p, q, n."""
        return self.result.heads

    @property
    def layers(self) -> pd.DataFrame:
        """Means over the heads of a layer, with intervals of their own: the columns of `heads` but `head`."""
        return self.result.layers

    @property
    def heads_by_group(self) -> pd.DataFrame | None:
        """The same for every group of images, with a column `group`; None where images were not grouped."""
        return self.result.heads_by_group

    @property
    def arrays(self) -> xr.Dataset:
        """Labelled arrays: level matrices merged over images, and the statistics of every image."""
        return self.result.arrays

    @property
    def images(self) -> pd.DataFrame:
        """A row per image: identity, content, group, keypoints, covered."""
        return self.result.images

    @property
    def quarantine(self) -> pd.DataFrame:
        """A row per image that could not be used: identity, reason."""
        return self.result.quarantine

    @property
    def run(self) -> RunInfo:
        """How the analysis was run."""
        return self.result.run

    @property
    def plot(self) -> "Plots":
        """Figures for a notebook: `.heads()`, `.levels()`, `.depth()`."""
        from siftlens.plots import Plots  # not at import: matplotlib takes a while, and few need it

        return Plots(self.result)

    def export(self, folder: str | PathLike[str]) -> tuple[Path, ...]:
        """Write every figure as SVG and PNG to FOLDER/figures, and the tables as CSV to FOLDER/tables.

        Returns:
            The files; those of an earlier export are replaced.

        Raises:
            InputError: the folder cannot be written.
        """
        from siftlens.plots import export

        return export(self.result, Path(folder))

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the study: the report index.html and the files beside it, as docs/reference/files.md lists them.

        Raises:
            InputError: the folder holds a study already, or cannot be written.
        """
        storage.save(self.result, Path(folder))

    def __repr__(self) -> str:
        run = self.run
        return f"Study(model={run.model.get('name')!r}, images={run.images}, quarantined={run.quarantined})"


def load_study(folder: str | PathLike[str]) -> Study:
    """Read a study that `Study.save` or `siftlens analyze` wrote.

    Raises:
        StudyError: missing, incomplete, damaged, or written by a newer version.
    """
    return Study(storage.load(Path(folder)))
