"""The files of a run, whole or not at all: its state, from which it goes on exactly, and the encoder."""

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from json import dumps, loads
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from siftlens.core import StudyError
from siftlens.data import atomic_path
from siftlens.pretraining.optimizers import moments, restore
from siftlens.pretraining.settings import PretrainSettings

STATE, ENCODER = "state.safetensors", "encoder.safetensors"


def save_state(
    folder: Path, module: nn.Module, optimizers: Iterable[Optimizer], step: int, settings: Mapping[str, Any]
) -> None:
    """Write weights, what optimizers remember, and how far the run is.

    Args:
        folder: of the run.
        module: the autoencoder.
        optimizers: of its parameters.
        step: steps done.
        settings: of the run, as JSON values; with its images.

    Raises:
        InputError: the disk is full or read-only.
    """
    tensors = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    tensors |= moments(optimizers, module)
    metadata = {"step": str(step), "settings": dumps(dict(settings))}
    metadata["digest"] = _digest(tensors, metadata)
    _write(folder / STATE, tensors, metadata)


def load_state(folder: Path, module: nn.Module, optimizers: Iterable[Optimizer], settings: Mapping[str, Any]) -> int:
    """Put module and optimizers into the state that a run was left in.

    Args:
        folder: of the run.
        module: the autoencoder, newly built.
        optimizers: of its parameters, new.
        settings: of the run that goes on, as JSON values; with its images.

    Returns:
        Steps done.

    Raises:
        StudyError: the file is damaged, or the run had other settings, images or keypoints.
    """
    path = folder / STATE
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        digest = metadata.pop("digest")
        if digest != _digest(tensors, metadata):
            raise ValueError("its bytes have changed")
        step, before = int(metadata["step"]), loads(metadata["settings"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise StudyError(f"{path} is damaged ({error}), and cannot be resumed; begin anew in another folder") from error
    now = loads(dumps(dict(settings)))
    changed = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    if changed:
        first = changed[0]
        raise StudyError(
            f"the run in {folder} had other settings: {first} was {before.get(first)!r} and is {now.get(first)!r}; "
            "resume with the settings and images it was begun with, or begin anew in another folder"
        )
    module.load_state_dict({name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")})
    restore(optimizers, module, tensors, step)
    return step


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hash of all that a file holds: bytes that change on a disk would be trained on as if nothing were wrong."""
    digest = blake2b(dumps(sorted(metadata.items())).encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_encoder(folder: Path, encoder: nn.Module, settings: PretrainSettings) -> None:
    """Write the encoder as timm loads it, with what it takes to build it.

    Raises:
        InputError: the disk is full or read-only.
    """
    about = {
        "timm": settings.model,
        "architecture": dumps(dict(settings.architecture)),
        "size": str(settings.size),
        "settings": dumps(settings.describe()),
    }
    _write(folder / ENCODER, encoder.state_dict(), about)


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors, whole or not at all.

    Raises:
        InputError: the disk is full or read-only.
    """
    there = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as target:
        save_file(there, target, dict(metadata))
