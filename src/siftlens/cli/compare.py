"""`siftlens compare`: what differs between the models of several studies."""

from pathlib import Path
from typing import Annotated

import typer

from siftlens.cli.failure import printable, reported
from siftlens.cli.options import output


def compare(
    studies: Annotated[
        list[Path], typer.Argument(metavar="STUDY STUDY...", help="Folders of studies; the first is the reference.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder to write the comparison to.")
    ],
) -> None:
    """Compare models or checkpoints on the same images, layer by layer.

    DIR then holds index.html and comparison.parquet; those of an earlier comparison are replaced.
    """
    with reported(out):
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.cli.compared import compared
        from siftlens.study import compare as run

        typer.echo(printable(compared(run(studies, out=out), out)))
