"""`load_model`: one spec string for every kind of model."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor, nn

from siftlens.core import ModelError
from siftlens.data import input_size
from siftlens.models.checkpoints import expect_finite, hash_weights, read_weights
from siftlens.models.errors import first_line
from siftlens.models.loaded import Built, LoadedModel, Request

_BACKENDS = {
    "timm": "siftlens.models.timm_backend",
    "hf": "siftlens.models.hf_backend",
    "torchvision": "siftlens.models.torchvision_backend",
    "open_clip": "siftlens.models.open_clip_backend",
    "demo": "siftlens.models.demo",
    "demo-shortcut": "siftlens.models.demo_shortcut",
    "file": "siftlens.models.file_backend",
}
_BUNDLED = ("demo", "demo-shortcut")  # specs without a name
_EXTRAS = {"transformers": "hf", "open_clip": "open-clip"}
_DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
}


def load_model(
    spec: str,
    *,
    weights: str | PathLike[str] | None = None,
    random_init: bool = False,
    size: int | tuple[int, int] | None = None,
    device: str = "cpu",
    dtype: str | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Load a model together with the preprocessing and normalisation that belong to it.

    Args:
        spec: `timm/NAME`, `hf/REPO-OR-DIRECTORY`, `torchvision/NAME`, `open_clip/NAME[:TAG]`, `demo`, `demo-shortcut`,
            or `path/to/file.py:factory`: `factory()` returns a module whose attributes `normalize` (a name, a
            (mean, std) pair, or None where it normalises by itself) and `size` (px, or (height, width)) say what it
            takes.
        weights: a file to fill the model with instead of the pretrained weights: safetensors, or a state dict that
            `torch.save` wrote. Read without running any code in it.
        random_init: leave the weights as initialised.
        size: input size, px, or (height, width), other than the model's own; position embeddings are interpolated.
        device: "cpu", "cuda", "cuda:N" or "mps".
        dtype: "fp32" (the default), "bf16" or "fp16".
        seed: of random weights.

    Returns:
        The model in evaluation mode.

    Raises:
        InputError: the size is none.
        ModelError: the model cannot be built, its weights cannot be had, do not fit or are not finite, or it does
            not run at this size on this device.

    Example:
        >>> model = siftlens.load_model("timm/vit_small_patch16_224", size=384)
    """
    backend, name = _parse(spec)
    place, kind = _device(device), _dtype(dtype)
    height_width = None if size is None else input_size(size)
    if random_init and weights is not None:
        raise ModelError(f"either random weights or those of {weights} can be had, not both; drop one of the two")
    state = None if weights is None else read_weights(Path(weights))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        built = _build(backend, Request(name, random_init, state, height_width))
    module = built.module.float().eval().requires_grad_(False)
    expect_finite(module.named_parameters(), spec)
    weights_hash = hash_weights(module)
    module.to(device=place, dtype=kind)
    sides = (built.preprocessing.height, built.preprocessing.width)
    _try(module, torch.zeros(1, 3, *sides, device=place, dtype=kind), spec)
    return LoadedModel(
        module=module,
        spec=spec,
        name=name or spec,
        preprocessing=built.preprocessing,
        normalization=built.normalization,
        weights_hash=weights_hash,
        classes=built.classes,
        weights=f"random, seed {seed}" if random_init else "pretrained" if weights is None else str(weights),
        size=height_width,
        notes=built.notes,
    )


def _build(backend: str, request: Request) -> Built:
    try:
        module = import_module(_BACKENDS[backend])
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        raise ModelError(f"{backend}/{request.name} needs {error.name}: pip install 'siftlens[{extra}]'") from error
    try:
        with _quiet_hub():
            built: Built = module.build(request)
    except (MemoryError, RuntimeError) as error:  # the latter by torch, on a CPU
        if not isinstance(error, MemoryError) and "can't allocate memory" not in str(error):
            raise
        wanted = "" if request.size is None else " at {}x{} px; choose a smaller --size".format(*request.size)
        raise ModelError(f"{backend}/{request.name} does not fit into memory{wanted}") from error
    return built


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep the retries of a download off the terminal: what matters of them is in the one error at their end."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _parse(spec: str) -> tuple[str, str]:
    """Backend and name."""
    if spec in _BUNDLED:
        return spec, ""
    if spec.rpartition(":")[0].endswith(".py"):
        return "file", spec
    backend, _, name = spec.partition("/")
    if backend not in _BACKENDS or backend in (*_BUNDLED, "file") or not name:
        raise ModelError(
            "a model must be timm/NAME, hf/REPO-OR-DIRECTORY, torchvision/NAME, open_clip/NAME[:TAG], demo, "
            f"demo-shortcut or path/to/file.py:factory, got {spec!r}"
        )
    return backend, name


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}") from error
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in there:
        raise ModelError(f"device must be cpu, cuda, cuda:N or mps, got {name!r}")
    if not there[device.type]:
        raise ModelError(f"device {name} is not there, or this torch was built without it; use --device cpu")
    return device


def _dtype(name: str | None) -> torch.dtype:
    if name is not None and name not in _DTYPES:
        raise ModelError(f"dtype must be float32, bfloat16 or float16 (or fp32, bf16, fp16), got {name!r}")
    return _DTYPES[name or "fp32"]


def _try(module: nn.Module, x: Tensor, spec: str) -> None:
    """Run the model once, so that a size or an output that does not do is found now and not in the middle of images."""
    height, width = x.shape[2:]
    try:
        with torch.inference_mode():
            output = module(x)
    except Exception as error:
        raise ModelError(
            f"{spec} cannot run on {height}x{width} px in {str(x.dtype).removeprefix('torch.')} on {x.device}: "
            f"{first_line(error)}; try another --size, --dtype or --device"
        ) from error
    if not isinstance(output, Tensor):
        raise ModelError(f"{spec} must return one tensor when called on images, got {type(output).__name__}; wrap it")
