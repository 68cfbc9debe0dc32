"""`siftlens prompt`: a classifier's answers before and after a prompt."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.options import RUN, BatchSize, Device, Images, Limit, ModelSpec, Size, Weights, output, parse_size
from siftlens.cli.progress import shown

_PROMPT = "Prompt"


def prompt(
    model: ModelSpec,
    images: Images,
    policy: Annotated[
        str,
        typer.Option(
            metavar="JSON",
            help='A file, or the policy itself: {"bias": [{"strength": 3}], "maps": {"keypoints": 1}}.',
            rich_help_panel=_PROMPT,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder to write to.", rich_help_panel=RUN)
    ],
    audit: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="An audit of this model, where the maps are made of its cues.", rich_help_panel=_PROMPT
        ),
    ] = None,
    weights: Weights = None,
    size: Size = None,
    device: Device = "cpu",
    limit: Limit = None,
    batch_size: BatchSize = 64,
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
