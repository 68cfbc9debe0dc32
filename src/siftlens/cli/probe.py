"""`siftlens probe`: how good an encoder is, on labelled images."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.options import IMAGES, MOST_SEED, Decoders, Device, ModelSpec, RandomInit, Size, Weights, parse_size
from siftlens.cli.progress import shown

_TEST = "Test"


def probe(
    model: ModelSpec,
    train: Annotated[
        str, typer.Option(metavar="DIR", help="Images to learn from, a folder per class.", rich_help_panel=IMAGES)
    ],
    val: Annotated[str, typer.Option(metavar="DIR", help="Images to be tested on, likewise.", rich_help_panel=IMAGES)],
    weights: Weights = None,
    random_init: RandomInit = False,
    size: Size = None,
    method: Annotated[
        Literal["linear", "knn", "finetune"],
        typer.Option(metavar="NAME", help="linear, knn or finetune.", rich_help_panel=_TEST),
    ] = "linear",
    epochs: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="By default 100 for linear, 20 for finetune.", rich_help_panel=_TEST),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, metavar="N", help="Of the order and the views.", rich_help_panel=_TEST)
    ] = 0,
    device: Device = "cpu",
    workers: Decoders = 0,
) -> None:
    """Test an encoder by a linear probe, by k-NN or by fine-tuning; the last epoch counts, never the best."""
    with TemporaryDirectory() as folder, reported(Path(folder)):
        height_width = parse_size(size)
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.models import load_model
        from siftlens.pretraining import hold_labelled
        from siftlens.pretraining import probe as run

        loaded = load_model(
            model, weights=weights, random_init=random_init, size=height_width, device=device, seed=seed
        )
        images = hold_labelled(loaded, train, val, spill=Path(folder), workers=workers)
        with shown(Console(stderr=True)) as progress:
            result = run(loaded, images, method, epochs=epochs, seed=seed, progress=progress)
        aside = len(images.train.aside) + len(images.validation.aside)
        typer.echo(f"accuracy   {result.accuracy:.1%} of {len(result.correct)} images, {result.classes} classes")
        typer.echo(f"learned    from {result.train} images" + (f"; {aside} set aside" if aside else ""))
        typer.echo(f"protocol   {result.protocol}")
