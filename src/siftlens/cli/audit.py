"""`siftlens audit`: what a classifier leans on besides the object."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.failure import printable, reported
from siftlens.cli.options import (
    IMAGES,
    MODEL,
    MOST_SEED,
    RUN,
    Address,
    BatchSize,
    Device,
    Engine,
    Limit,
    ModelSpec,
    Resume,
    Size,
    Weights,
    output,
    parse_size,
)
from siftlens.cli.progress import shown

_EVIDENCE = "Evidence from outside"


def audit(
    model: ModelSpec,
    images: Annotated[
        str,
        typer.Option(
            "--images",
            "-i",
            metavar="PATH",
            help="Images in a folder per class, best held out from training.",
            rich_help_panel=IMAGES,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", parser=output, help="Folder to write the audit to.", rich_help_panel=RUN
        ),
    ],
    weights: Weights = None,
    size: Size = None,
    device: Device = "cpu",
    probe: Annotated[
        bool,
        typer.Option(
            "--probe", help="Fit a linear classifier first, for a model without a head.", rich_help_panel=MODEL
        ),
    ] = False,
    limit: Limit = None,
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
    batch_size: BatchSize = 64,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_SEED, metavar="N", help="Of the halves, the words and the controls.", rich_help_panel=RUN
        ),
    ] = 0,
    engine: Engine = "local",
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
    resume: Resume = False,
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
