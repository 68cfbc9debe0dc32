"""Weights in files and in models: reading them without running code, filling a model with them, hashing them."""

import pickle
import re
import warnings
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from siftlens.core import ModelError

_NESTS = ("model", "state_dict", "model_state_dict", "module", "model_ema", "weights")
_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name
_NAMED = 3


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict from safetensors, or from what `torch.save` wrote, without running any code in it.

    Dicts nested under "model", "state_dict" and the like are found; the prefixes of DataParallel and torch.compile
    are taken off.

    Args:
        path: the file.

    Returns:
        Tensors on the CPU, by name.

    Raises:
        ModelError: there is no such file, it is damaged, holds pickled code, holds no state dict, or NaN or infinity.
    """
    if not path.is_file():
        raise ModelError(f"weights must be a .safetensors file or one that torch.save wrote, there is no file {path}")
    state = _state_dict(_load(path), path)
    while any(all(name.startswith(wrapper) for name in state) for wrapper in _WRAPPERS):
        state = {name.partition(".")[2]: tensor for name, tensor in state.items()}
    expect_finite(state.items(), str(path))
    return state


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        is_safetensors = file.read(9)[8:] == b"{"
    if is_safetensors or path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ModelError(f"{path} is not a whole safetensors file ({error}); copy or download it again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a pickle is of a newer protocol; it is read, or refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(_refusal(path, str(error))) from error
    except Exception as error:  # what a damaged pickle raises depends on where it breaks off
        raise ModelError(
            f"{path} is truncated, or not a file that torch.save wrote; copy or download it again"
        ) from error


def _refusal(path: Path, reason: str) -> str:
    code = re.search(r"GLOBAL ([\w.]+)", reason)
    if code is None:
        return f"{path} is damaged, or not a file that torch.save wrote; copy or download it again"
    return (
        f"{path} holds pickled code ({code[1]}), which is refused because it could do anything; "
        "save model.state_dict() alone, best with safetensors"
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors in what a file held, wherever common training scripts put them."""
    while isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        nested = next((content[key] for key in _NESTS if isinstance(content.get(key), Mapping)), None)
        if nested is None and tensors:
            return tensors
        content = nested
    raise ModelError(f"{path} holds no state dict; save model.state_dict(), best with safetensors")


def expect_finite(tensors: Iterable[tuple[str, Tensor]], where: str) -> None:
    """Refuse weights with NaN or infinity in them.

    Raises:
        ModelError: names the first of them.
    """
    for name, tensor in tensors:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise ModelError(
                f"weights must be finite, {where} has NaN or infinity in {name}; choose an earlier checkpoint"
            )


def fill(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give a module exactly these weights.

    Raises:
        ModelError: names are missing or unexpected, or shapes differ.
    """
    own = module.state_dict()
    expect_same(
        missing=own.keys() - state.keys(),
        unexpected=state.keys() - own.keys(),
        mismatched=[
            (name, tuple(own[name].shape), tuple(tensor.shape))
            for name, tensor in state.items()
            if name in own and own[name].shape != tensor.shape
        ],
    )
    module.load_state_dict(state)


def expect_same(
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[tuple[str, tuple[int, ...], tuple[int, ...]]],
) -> None:
    """Refuse weights of another architecture.

    Args:
        missing: names that the model has and the weights have not.
        unexpected: names that the weights have and the model has not.
        mismatched: names with the model's shape and the weights' shape, where those differ.

    Raises:
        ModelError: there are any; the first few are named.
    """
    shapes = [f"{name} is {_shape(came)}, not {_shape(expected)}" for name, expected, came in sorted(mismatched)]
    faults = [
        _few("missing", sorted(missing)),
        _few("unexpected", sorted(unexpected)),
        _few("of another shape", shapes),
    ]
    if any(faults):
        found = "; ".join(fault for fault in faults if fault)
        advice = "choose the architecture that they were trained in"
        if not missing and not unexpected and all("pos" in name for name, _, _ in mismatched):  # position embeddings
            advice = "name the image size that they were trained at (--size, size=)"
        raise ModelError(f"the weights do not fit the model: {found}; {advice}")


def _few(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})"


def _shape(sides: tuple[int, ...]) -> str:
    return "x".join(map(str, sides)) or "a scalar"


def hash_weights(module: nn.Module) -> str:
    """Hash a module's parameters and buffers: blake2b over names, types, shapes and bytes, in the names' order.

    Returns:
        32 hexadecimal digits.
    """
    digest = blake2b(digest_size=16)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
