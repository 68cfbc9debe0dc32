"""Comparing studies in one call, and the comparison as a folder.

index.html           the page
comparison.parquet   a row per study, statistic and depth
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path

from siftlens.comparison import Comparison, compare_results
from siftlens.core import InputError
from siftlens.data import expect_free, make_own, write_page
from siftlens.interrelation.files import write_table
from siftlens.interrelation.results import Result
from siftlens.report import render_comparison
from siftlens.study import storage
from siftlens.study.facade import Study

TABLE = "comparison.parquet"


def compare(studies: Sequence[Study | str | PathLike[str]], *, out: str | PathLike[str] | None = None) -> Comparison:
    """Show what differs between the models, or checkpoints of one model, of two or more studies of the same images.

    Differences are paired: of every image's effect beyond null 1, mean over heads, its value in the first study is
    subtracted. Images are matched by the pixels that the models saw, or by name where they resize or crop differently.
    Models of different depth are compared at the same relative depths.

    Args:
        studies: studies, or their folders; the first is the reference.
        out: folder to write index.html and comparison.parquet to; those of an earlier comparison are replaced.

    Returns:
        The comparison; its `table` has a row per study, statistic and depth.

    Raises:
        InputError: fewer than two studies, different images, too few in common, other settings, or a folder that
            holds a study, an audit, a prompt or another index.html, or cannot be written.
        StudyError: a study is missing, damaged, or of another version.

    Example:
        >>> comparison = siftlens.compare(["out/epoch_02", "out/epoch_11"])
        >>> comparison.table.query("statistic == 'semantic_pull' and significant")
    """
    if isinstance(studies, str | PathLike):
        raise InputError("expected a list of at least two studies, got one path; pass [PATH, PATH]")
    if out is not None:
        expect_free(Path(out), files=(TABLE, storage.REPORT))
    comparison = compare_results(_named(studies))
    if out is not None:
        make_own(Path(out))
        write_table(Path(out) / TABLE, comparison.table)
        write_page(Path(out) / storage.REPORT, render_comparison(comparison))
    return comparison


def _named(studies: Sequence[Study | str | PathLike[str]]) -> dict[str, Result]:
    """Studies by the name of their folder, or of their model where they are in memory; numbered where names agree."""
    named: dict[str, Result] = {}
    for study in studies:
        if isinstance(study, Study):
            name, result = str(study.run.model.get("name") or "model"), study.result
        else:
            folder = Path(study)
            name, result = folder.resolve().name, storage.load(folder)
        number, unique = 1, name
        while unique in named:
            number += 1
            unique = f"{name} ({number})"
        named[unique] = result
    return named
