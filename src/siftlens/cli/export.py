"""`siftlens export`: a study's figures and tables as files."""

from pathlib import Path
from typing import Annotated

import typer

from siftlens.cli.failure import reported
from siftlens.cli.options import output


def export(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="Folder of a study.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder to write to.")],
) -> None:
    """Write a study's figures as SVG and PNG, and its tables as CSV.

    DIR then holds figures/ and tables/; files of an earlier export are replaced.
    """
    with reported(out):
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.study import load_study

        written = load_study(study).export(out)
        figures = sum(path.suffix != ".csv" for path in written)
        typer.echo(
            f"figures    {figures} in {out / 'figures'}\ntables     {len(written) - figures} in {out / 'tables'}"
        )
