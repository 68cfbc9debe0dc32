"""`siftlens keypoints`: the keypoints of a folder of images, once, for pre-training."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from siftlens.cli.failure import printable, reported
from siftlens.cli.options import RUN, Address, Engine, Images, output
from siftlens.cli.progress import shown

_DETECT = "What to detect"


def keypoints(
    images: Images,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            parser=output,
            help="File to write.",
            rich_help_panel=RUN,
        ),
    ] = Path("keypoints"),
    size: Annotated[
        int,
        typer.Option(
            min=8,
            metavar="PX",
            help="Squares to detect on; those that pretrain cuts views from.",
            rich_help_panel=_DETECT,
        ),
    ] = 128,
    contrast_threshold: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="X",
            help="Least contrast; less finds more keypoints.",
            rich_help_panel=_DETECT,
        ),
    ] = 0.04,
    workers: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Processes beside this one, 0 for none; ray takes all cores.", rich_help_panel=RUN
        ),
    ] = 2,
    engine: Engine = "local",
    address: Address = None,
) -> None:
    """Detect the keypoints of images and write them to one file, about 1 KB per image.

    An interrupted run goes on where it was, from FILE.partial.
    """
    with reported(out, resumes=True):
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.engine import open_engine
        from siftlens.keypoints import SiftSettings
        from siftlens.pretraining import detect_images

        settings = SiftSettings(contrast_threshold=contrast_threshold)
        with (
            open_engine(engine, workers=workers, address=address) as where,
            shown(Console(stderr=True)) as progress,
        ):
            store, aside = detect_images(images, out, side=size, settings=settings, engine=where, progress=progress)
        typer.echo(f"keypoints  {out}, {len(store.x) / len(store):.0f} per image, {_per_image(out, len(store))}")
        typer.echo(f"images     {len(store)}" + (f", and {len(aside)} set aside" if aside else ""))
        for image in aside:
            typer.echo(printable(f"set aside  {image.identity}: {image.reason}").replace("\n", "\\n"), err=True)


def _per_image(file: Path, images: int) -> str:
    return f"{file.stat().st_size / images / 1000:.1f} KB each"
