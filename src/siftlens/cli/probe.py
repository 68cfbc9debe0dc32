"""`siftlens probe`: how good an encoder is, on labelled images."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.progress import shown
from siftlens.cli.where import MOST_SEED


def probe(
    model: Annotated[str, typer.Option("--model", "-m", metavar="SPEC", help="As of siftlens analyze.")],
    train: Annotated[str, typer.Option(metavar="DIR", help="Images to learn from, a folder per class.")],
    val: Annotated[str, typer.Option(metavar="DIR", help="Images to be tested on, likewise.")],
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights to load into the model.")] = None,
    random_init: Annotated[bool, typer.Option("--random-init", help="Random weights, to compare with.")] = False,
    size: Annotated[
        int | None, typer.Option(min=1, metavar="PX", help="Input size, where not the model's own.")
    ] = None,
    method: Annotated[
        Literal["linear", "knn", "finetune"],
        typer.Option(metavar="NAME", help="linear, knn or finetune."),
    ] = "linear",
    epochs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="By default 100 for linear, 20 for finetune.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, metavar="N", help="Of the order and the views.")] = 0,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    workers: Annotated[int, typer.Option(min=0, metavar="N", help="Processes that decode beside this one.")] = 0,
) -> None:
    """Test an encoder by a linear probe, by k-NN or by fine-tuning; the last epoch counts, never the best."""
    with TemporaryDirectory() as folder, reported(Path(folder)):
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.models import load_model
        from siftlens.pretraining import hold_labelled
        from siftlens.pretraining import probe as run

        loaded = load_model(model, weights=weights, random_init=random_init, size=size, device=device, seed=seed)
        images = hold_labelled(loaded, train, val, spill=Path(folder), workers=workers)
        with shown(Console(stderr=True)) as progress:
            result = run(loaded, images, method, epochs=epochs, seed=seed, progress=progress)
        aside = len(images.train.aside) + len(images.validation.aside)
        typer.echo(f"accuracy   {result.accuracy:.1%} of {len(result.correct)} images, {result.classes} classes")
        typer.echo(f"learned    from {result.train} images" + (f"; {aside} set aside" if aside else ""))
        typer.echo(f"protocol   {result.protocol}")
