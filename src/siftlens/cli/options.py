"""Options that several commands have, each said once."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from siftlens.core import InputError

MODEL, IMAGES, RUN = "Model", "Images", "How to run"  # panels of --help
MOST_SEED = 2**32 - 1

ModelSpec = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="SPEC",
        help="timm/NAME, hf/REPO-OR-DIRECTORY, torchvision/NAME, open_clip/NAME[:TAG], demo, demo-shortcut, or "
        "path/to/file.py:factory.",
        rich_help_panel=MODEL,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Weights to load into the model.", rich_help_panel=MODEL),
]
RandomInit = Annotated[
    bool,
    typer.Option("--random-init", help="Random weights; nothing is downloaded.", rich_help_panel=MODEL),
]
Size = Annotated[
    str | None,
    typer.Option(metavar="PX", help="Input size, 384 or 384x512 (height x width).", rich_help_panel=MODEL),
]
Device = Annotated[
    str,
    typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps.", rich_help_panel=MODEL),
]
Images = Annotated[
    str,
    typer.Option(
        "--images",
        "-i",
        metavar="PATH",
        help="A folder, a glob, a tar or Parquet file, an address (s3://...), or a text file of paths.",
        rich_help_panel=IMAGES,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="At most so many images, spread evenly.", rich_help_panel=IMAGES),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, metavar="N", help="Images per forward pass.", rich_help_panel=RUN),
]
Engine = Annotated[
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
Decoders = Annotated[
    int,
    typer.Option(min=0, metavar="N", help="Processes that decode beside this one.", rich_help_panel=RUN),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on with an interrupted run in DIR.", rich_help_panel=RUN),
]


def output(name: str | Path) -> Path:
    """What to write to; an empty name, as of a shell variable that is not set, would be the current folder."""
    if not str(name):
        raise typer.BadParameter("expected a name, got an empty one; is a shell variable not set?")
    return Path(name)


def parse_size(text: str | None) -> int | tuple[int, int] | None:
    """Input size, px: one number for a square, or HEIGHTxWIDTH.

    Raises:
        InputError: neither of these.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--size must be one number (384) or HEIGHTxWIDTH (384x512), got {text!r}")
    sides = [int(part) for part in parts]
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])
