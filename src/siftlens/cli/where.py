"""Options that say where a command computes and where images are, the same for all that can choose."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RUN = "How to run"  # panel of --help
MOST_SEED = 2**32 - 1
IMAGES = "A folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths."

EngineName = Annotated[
    Literal["local", "ray"],
    typer.Option(metavar="NAME", help="local, or ray: on a Ray cluster.", rich_help_panel=RUN),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Of a running Ray cluster, or auto; without, one is started on this machine.",
        rich_help_panel=RUN,
    ),
]


def output(name: str | Path) -> Path:
    """What to write to; an empty name, as of a shell variable that is not set, would be the current folder."""
    if not str(name):
        raise typer.BadParameter("expected a name, got an empty one; is a shell variable not set?")
    return Path(name)
