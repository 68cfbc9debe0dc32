"""Options that say where a command computes and where images are, the same for all that can choose."""

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
