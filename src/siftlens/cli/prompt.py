"""`siftlens prompt`: a classifier's answers before and after a prompt."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.analyze import parse_size
from siftlens.cli.failure import reported
from siftlens.cli.progress import shown
from siftlens.cli.where import IMAGES, output


def prompt(
    model: Annotated[str, typer.Option("--model", "-m", metavar="SPEC", help="As of siftlens analyze.")],
    images: Annotated[str, typer.Option("--images", "-i", metavar="PATH", help=IMAGES)],
    policy: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help='A file, or the policy itself: {"bias": [{"strength": 3}], "maps": {"keypoints": 1}}.',
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder to write to.")],
    audit: Annotated[
        Path | None, typer.Option(metavar="DIR", help="An audit of this model, where the maps are made of its cues.")
    ] = None,
    weights: Annotated[str | None, typer.Option(metavar="FILE", help="Weights to load into the model.")] = None,
    size: Annotated[str | None, typer.Option(metavar="PX", help="Input size, 384 or 384x512 (height x width).")] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1 or mps.")] = "cpu",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many images, spread evenly.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, metavar="N", help="Images per forward pass.")] = 64,
) -> None:
    """Prompt a classifier without training: move attention, choose tokens, mask pixels, contrast logits.

    DIR then holds the page index.html with what changed, predictions.parquet, and the prompt itself. Finished
    results are never overwritten.
    """
    with reported(out):
        height_width = parse_size(size)
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.data import expect_free, open_images

        open_images(images)  # a mistyped path is told at once, and before a model is downloaded

        from siftlens.cli.prompted import prompted, read_policy
        from siftlens.models import load_model
        from siftlens.study import load_audit, try_prompt

        expect_free(out)
        chosen = read_policy(policy)
        found = None if audit is None else load_audit(audit)
        loaded = load_model(model, weights=weights, size=height_width, device=device)
        with shown(Console(stderr=True)) as progress:
            effect = try_prompt(
                loaded, chosen, images, audit=found, out=out, limit=limit, batch_size=batch_size, progress=progress
            )
        typer.echo(prompted(effect, out))
