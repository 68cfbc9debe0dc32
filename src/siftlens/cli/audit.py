"""`siftlens audit`: what a classifier leans on besides the object."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.analyze import parse_size
from siftlens.cli.failure import printable, reported
from siftlens.cli.progress import shown
from siftlens.cli.where import MOST_SEED, RUN, Address, EngineName, output

_MODEL, _IMAGES, _EVIDENCE = "Model", "Images", "Evidence from outside"


def audit(
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            metavar="SPEC",
            help="timm/NAME, hf/REPO-OR-DIRECTORY, torchvision/NAME, open_clip/NAME[:TAG], demo, demo-shortcut, or "
            "path/to/file.py:factory.",
            rich_help_panel=_MODEL,
        ),
    ],
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="PATH",
            help="Images in a folder per class, best held out from training.",
            rich_help_panel=_IMAGES,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", parser=output, help="Folder to write the audit to.", rich_help_panel=RUN
        ),
    ],
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Weights to load into the model.", rich_help_panel=_MODEL),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="PX", help="Input size, 384 or 384x512 (height x width).", rich_help_panel=_MODEL),
    ] = None,
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps.", rich_help_panel=_MODEL)
    ] = "cpu",
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Fit a linear classifier first, for a model without a head.", rich_help_panel=_MODEL
        ),
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="At most so many images, spread evenly.", rich_help_panel=_IMAGES),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Object masks named as the images, bright on the object.", rich_help_panel=_EVIDENCE
        ),
    ] = None,
    environment: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Images of the same classes from elsewhere, in a folder each.",
            rich_help_panel=_EVIDENCE,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per forward pass.", rich_help_panel=RUN)
    ] = 64,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_SEED, metavar="N", help="Of the halves, the words and the controls.", rich_help_panel=RUN
        ),
    ] = 0,
    engine: EngineName = "local",
    address: Address = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="With ray, processes that run the model; by default as fits.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted audit in DIR.", rich_help_panel=RUN)
    ] = False,
) -> None:
    """Find what a classifier leans on besides the object, and test each claim by intervention.

    DIR then holds the page index.html, tables, pictures and codebooks. Finished results are never overwritten.
    """
    with reported(out, resumes=True):
        height_width = parse_size(size)
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.data import AUDIT, expect_free, open_images

        open_images(images)  # a mistyped path is told at once, and before a model is downloaded

        from siftlens.cli.audited import audited
        from siftlens.models import load_model
        from siftlens.study import audit as run

        expect_free(out, but=AUDIT if resume else None)
        loaded = load_model(model, weights=weights, size=height_width, device=device)
        with shown(Console(stderr=True)) as progress:
            found = run(
                loaded,
                images,
                masks=masks,
                environment=environment,
                probe=probe,
                limit=limit,
                batch_size=batch_size,
                seed=seed,
                engine=engine,
                address=address,
                workers=workers,
                out=out,
                resume=resume,
                progress=progress,
            )
        typer.echo(printable(audited(found, out)))
