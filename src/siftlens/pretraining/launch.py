"""Lightning Fabric: one process or, under torchrun, many."""

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from siftlens.core import InputError
from siftlens.core.memory import keep_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_DEVICES = ("auto", "cpu", "cuda")
_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


def launch(device: str = "auto", precision: str | None = None) -> "Fabric":
    """Start Fabric on this process; under torchrun, on all that it started (DDP).

    Args:
        device: "cpu", "cuda" or "auto", which takes CUDA where it is there.
        precision: "fp32" or "bf16"; by default bf16 where the hardware computes with it.

    Raises:
        InputError: Fabric is not installed, or the device or precision is not to be had.
    """
    try:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
    except ModuleNotFoundError as error:
        raise InputError("pre-training needs Lightning Fabric: pip install 'siftlens[pretrain]'") from error
    if device not in _DEVICES:
        raise InputError(f"device must be one of {', '.join(_DEVICES)}, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device cuda is not there, or this torch was built without it; use --device cpu")
    if precision is not None and precision not in _PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    accelerator = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if accelerator == "cpu":
        keep_memory()
    if precision is None:
        precision = "bf16" if _has_bf16(accelerator) else "fp32"
    many = TorchElasticEnvironment.detect()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if many else 1
    with _quiet():
        fabric = Fabric(
            accelerator=accelerator,
            devices=local,
            num_nodes=int(os.environ["WORLD_SIZE"]) // local if many else 1,
            strategy="ddp" if many and int(os.environ["WORLD_SIZE"]) > 1 else "auto",
            precision=_PRECISIONS[precision],
            plugins=TorchElasticEnvironment() if many else LightningEnvironment(),
        )
        fabric.launch()
    atexit.register(_leave)
    return fabric


def _leave() -> None:
    """Leave the group of processes, which Fabric does for NCCL alone: Gloo's threads can abort a process that ends."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Fabric tells about itself off the terminal; run.json has it."""
    logger = logging.getLogger("lightning_fabric")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _has_bf16(accelerator: str) -> bool:
    """Whether the hardware itself multiplies in bf16; emulated, it would be slower than fp32."""
    if accelerator == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
