"""`siftlens analyze`: a vision transformer on a folder of images."""

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.options import (
    IMAGES,
    MODEL,
    MOST_SEED,
    RUN,
    Address,
    BatchSize,
    Device,
    Engine,
    Images,
    Limit,
    ModelSpec,
    RandomInit,
    Resume,
    Size,
    Weights,
    output,
    parse_size,
)
from siftlens.cli.progress import shown

_COMPUTE = "What to compute"


def analyze(
    model: ModelSpec,
    images: Images,
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", metavar="DIR", parser=output, help="Folder to write the study to.", rich_help_panel=RUN
        ),
    ],
    weights: Weights = None,
    random_init: RandomInit = False,
    size: Size = None,
    device: Device = "cpu",
    dtype: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="float32, bfloat16 or float16.", rich_help_panel=MODEL),
    ] = None,
    limit: Limit = None,
    group_by: Annotated[
        Literal["folder"] | None,
        typer.Option(metavar="folder", help="A part per folder, in heads_by_group.parquet.", rich_help_panel=IMAGES),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Object masks named as the images: how far does concentration mark the object?",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    measure: Annotated[
        Literal["count", "response", "footprint"],
        typer.Option(
            metavar="NAME",
            help="Concentration of a patch: count, response or footprint of its keypoints.",
            rich_help_panel=_COMPUTE,
        ),
    ] = "count",
    weighting: Annotated[
        Literal["attention", "value_norm"],
        typer.Option(
            metavar="NAME",
            help="attention, or value_norm: keys weighted by the norm of their values.",
            rich_help_panel=_COMPUTE,
        ),
    ] = "attention",
    entropy: Annotated[
        bool,
        typer.Option("--entropy", help="The entropy of every attention row too.", rich_help_panel=_COMPUTE),
    ] = False,
    exclude_outliers: Annotated[
        bool,
        typer.Option(
            "--exclude-outliers",
            help="Leave out patch tokens of outlier norm; runs the model twice.",
            rich_help_panel=_COMPUTE,
        ),
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_SEED, metavar="N", help="Of the null maps and the bootstrap.", rich_help_panel=_COMPUTE
        ),
    ] = 0,
    batch_size: BatchSize = 32,
    engine: Engine = "local",
    address: Address = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Processes that decode and detect, or with ray those that run the model; by default as fits.",
            rich_help_panel=RUN,
        ),
    ] = None,
    resume: Resume = False,
) -> None:
    """Analyse a vision transformer on images, and write a report.

    DIR then holds the report index.html, and the numbers: heads.parquet, layers.parquet, images.parquet, arrays.nc,
    gallery.npz, quarantine.csv and run.json.
    Finished results are never overwritten.
    """
    with reported(out, resumes=True):
        height_width = parse_size(size)
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.data import RUN, expect_free, open_images

        open_images(images)  # a mistyped path is told at once, and before a model is downloaded

        from siftlens.cli.summary import summary
        from siftlens.models import load_model
        from siftlens.study import analyze as run

        expect_free(out, but=RUN if resume else None)
        loaded = load_model(
            model,
            weights=weights,
            random_init=random_init,
            size=height_width,
            device=device,
            dtype=dtype,
            seed=seed,
        )
        with shown(Console(stderr=True)) as progress:
            study = run(
                loaded,
                images,
                measure=measure,
                weighting=weighting,
                batch_size=batch_size,
                seed=seed,
                entropy=entropy,
                exclude_outliers=exclude_outliers,
                group_by=group_by,
                masks=masks,
                limit=limit,
                engine=engine,
                address=address,
                workers=workers,
                out=out,
                resume=resume,
                progress=progress,
            )
        typer.echo(summary(study, out))
