"""`siftlens pretrain`: a masked autoencoder on a folder of images."""

from os import environ
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer
from rich.console import Console

from siftlens.cli.failure import reported
from siftlens.cli.options import IMAGES, MODEL, MOST_SEED, RUN, Decoders, Images, Resume, output
from siftlens.cli.progress import shown
from siftlens.core import InputError

_MASKS, _TRAINING = "Masks and loss", "Training"


def pretrain(
    images: Images,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", parser=output, help="Folder to write.", rich_help_panel=RUN)
    ],
    keypoints: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What siftlens keypoints wrote.", rich_help_panel=IMAGES),
    ] = None,
    size: Annotated[
        int, typer.Option(min=8, metavar="PX", help="Width and height of views.", rich_help_panel=IMAGES)
    ] = 128,
    source: Annotated[
        int | None,
        typer.Option(
            min=8, metavar="PX", help="Squares that views are cut from; by default as --size.", rich_help_panel=IMAGES
        ),
    ] = None,
    smallest_crop: Annotated[
        float, typer.Option(metavar="X", help="Least area of a view over the square's.", rich_help_panel=IMAGES)
    ] = 0.2,
    model: Annotated[
        str, typer.Option("--model", "-m", metavar="NAME", help="The encoder, in timm.", rich_help_panel=MODEL)
    ] = "vit_tiny_patch16_224",
    decoder_width: Annotated[
        int, typer.Option(min=4, metavar="N", help="Channels of the decoder.", rich_help_panel=MODEL)
    ] = 192,
    decoder_depth: Annotated[
        int, typer.Option(min=1, metavar="N", help="Blocks of the decoder.", rich_help_panel=MODEL)
    ] = 4,
    decoder_heads: Annotated[
        int, typer.Option(min=1, metavar="N", help="Heads of the decoder.", rich_help_panel=MODEL)
    ] = 3,
    cross: Annotated[
        bool,
        typer.Option("--cross", help="Masked patches attend to visible ones alone.", rich_help_panel=MODEL),
    ] = False,
    policy: Annotated[
        Literal["random", "keypoint-high", "keypoint-low", "ramped", "hints"],
        typer.Option(
            metavar="NAME",
            help="random; keypoint-high, keypoint-low: patches with many or few keypoints are masked more often; "
            "ramped: as keypoint-high, more and more; hints: likewise, but some with many stay visible.",
            rich_help_panel=_MASKS,
        ),
    ] = "random",
    alpha: Annotated[
        float, typer.Option(min=0, metavar="X", help="Strength of the policy.", rich_help_panel=_MASKS)
    ] = 0.5,
    mask_ratio: Annotated[
        float, typer.Option(metavar="X", help="Share of patches masked.", rich_help_panel=_MASKS)
    ] = 0.75,
    decode: Annotated[
        float, typer.Option(metavar="X", help="Share of masked patches decoded.", rich_help_panel=_MASKS)
    ] = 1.0,
    ranked: Annotated[
        float,
        typer.Option(metavar="X", help="Part of those chosen by keypoints, not by chance.", rich_help_panel=_MASKS),
    ] = 0.0,
    loss_temperature: Annotated[
        float | None,
        typer.Option(metavar="X", help="Weigh the loss by keypoints, exp(density / X).", rich_help_panel=_MASKS),
    ] = None,
    norm_pix: Annotated[
        bool,
        typer.Option("--norm-pix/--raw-pix", help="Predict pixels normalised by patch.", rich_help_panel=_MASKS),
    ] = True,
    epochs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Passes over the images.", rich_help_panel=_TRAINING)
    ] = 100,
    batch_size: Annotated[
        int, typer.Option(min=1, metavar="N", help="Images per step, in all processes.", rich_help_panel=_TRAINING)
    ] = 256,
    optimizer: Annotated[
        Literal["muon", "muon-encoder", "adamw"],
        typer.Option(
            metavar="NAME",
            help="muon (AdamW outside the blocks), muon-encoder (AdamW in the decoder, too; for wide ones), adamw.",
            rich_help_panel=_TRAINING,
        ),
    ] = "muon",
    learning_rate: Annotated[
        float, typer.Option(metavar="X", help="At a batch of 256.", rich_help_panel=_TRAINING)
    ] = 1e-3,
    first_size: Annotated[
        int | None,
        typer.Option(
            min=8,
            metavar="PX",
            help="Smaller views at first, of fewer patches; then views have --size.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    first_part: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of the training with those smaller views; by default 0.6.",
            rich_help_panel=_TRAINING,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            min=0, max=MOST_SEED, metavar="N", help="Of weights, views, order and masks.", rich_help_panel=_TRAINING
        ),
    ] = 0,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(metavar="NAME", help="auto, cpu or cuda.", rich_help_panel=RUN),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16"] | None,
        typer.Option(metavar="NAME", help="fp32 or bf16; by default as fits.", rich_help_panel=RUN),
    ] = None,
    accumulate: Annotated[
        int, typer.Option(min=1, metavar="N", help="Parts of a step, to save memory.", rich_help_panel=RUN)
    ] = 1,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the model with torch.compile.", rich_help_panel=RUN)
    ] = False,
    workers: Decoders = 0,
    resume: Resume = False,
) -> None:
    """Pre-train a vision transformer on images without labels, as a masked autoencoder.

    DIR then holds encoder.safetensors, which loads into timm and siftlens, state.safetensors, from which a run goes on,
    log.csv, knn.csv (where images lie in class folders), reconstructions.png and run.json. Start it by torchrun for
    many GPUs, or many processes on CPUs.
    """
    with reported(out, resumes=True):
        # Not at import: torch takes seconds, and --help should not.
        from siftlens.pretraining import DecoderSettings, MaskPolicy, Pace, PartialDecoding, PretrainSettings
        from siftlens.pretraining import pretrain as run

        if ranked and decode == 1:
            raise InputError("--ranked chooses among decoded patches, and all are decoded; name a share with --decode")
        if first_part is not None and first_size is None:
            raise InputError(
                "--first-part is the share of the training with smaller views, and none are; name their size with "
                "--first-size"
            )
        settings = PretrainSettings(
            model=model,
            size=size,
            source=source,
            first_size=first_size,
            first_part=PretrainSettings.first_part if first_part is None else first_part,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            smallest_crop=smallest_crop,
            policy=MaskPolicy(policy, alpha, mask_ratio),
            decoding=PartialDecoding(decode, ranked),
            decoder=DecoderSettings(decoder_width, decoder_depth, decoder_heads, "cross" if cross else "self"),
            loss_temperature=loss_temperature,
            norm_pix=norm_pix,
            seed=seed,
        )
        with shown(Console(stderr=True)) as progress:
            done = run(
                images,
                out,
                settings,
                keypoints=keypoints,
                pace=Pace(accumulate=accumulate, compile=compiled),
                resume=resume,
                device=device,
                precision=precision,
                workers=workers,
                progress=progress,
            )
        if int(environ.get("RANK", "0")):
            return  # of several processes that torchrun started, the first speaks
        finished = done.finished
        typer.echo(f"encoder    {done.encoder}")
        typer.echo(
            f"images     {done.images}" + (f", and {len(done.aside)} set aside (run.json)" if done.aside else "")
        )
        if not finished.steps:
            typer.echo("steps      none were left to do")
        else:
            speed = finished.steps * batch_size / finished.seconds
            typer.echo(f"loss       {finished.loss:.4f} in the last epoch; {speed:.0f} images/s")
        if finished.knn is not None:
            typer.echo(f"k-NN       {finished.knn:.1%}, each image by the others")
        weights = quote(str(done.encoder))
        typer.echo(f"look       siftlens analyze --model timm/{settings.model} --weights {weights} --size {size} ...")
