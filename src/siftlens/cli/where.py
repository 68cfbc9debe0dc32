"""Options that say where a command computes, the same for all that can choose."""

from typing import Annotated, Literal

import typer

RUN = "How to run"  # panel of --help

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
