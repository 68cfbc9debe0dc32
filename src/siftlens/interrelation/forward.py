"""One batch through the model: pixels in, statistics of every layer out."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from siftlens.attention import LayerReading, find_layout, observe
from siftlens.core import InputError, ModelError, SiftlensError, TokenLayout
from siftlens.data import Normalization
from siftlens.interrelation.channels import MapBatch
from siftlens.interrelation.statistics import BatchRecord, LayerRecord, layer_record, stack_records
from siftlens.models import LoadedModel
from siftlens.models.errors import first_line

OUTLIER = 3.0  # times the median norm of the image's patch tokens: artefact tokens lie far beyond
_STRIP = 2**15  # pixels


class Scratch:
    """Memory for one array at a time, kept for the next: new memory costs more to touch than to fill."""

    def __init__(self) -> None:
        self._memory = np.empty(0, np.float32)  # NumPy asks for huge pages, PyTorch does not

    def array(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """An array of any content; what was handed out before must no longer be needed."""
        size = math.prod(shape)
        if self._memory.size < size:
            self._memory = np.empty(size, np.float32)
        return self._memory[:size].reshape(shape)


def to_input(
    pixels: Sequence[UInt8[np.ndarray, "height width 3"]],
    normalization: Normalization | None,
    device: torch.device | str,
    dtype: torch.dtype,
    scratch: Scratch | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """The tensor that a model sees: in [0, 1], normalised, on its device and of its type.

    Args:
        pixels: of the images.
        normalization: that the model wants; None for one that normalises by itself.
        device: of the model.
        dtype: of the model.
        scratch: memory that the tensor may lie in, whose next user overwrites it; new memory without.
    """
    # A byte has 256 values, so that they are normalised once, and pixels looked up, in one pass through memory.
    table = torch.arange(256, dtype=torch.float32).div_(255).repeat(3, 1)
    if normalization is not None:
        mean, std = (torch.tensor(values)[:, None] for values in (normalization.mean, normalization.std))
        table.sub_(mean).div_(std)
    lookup = np.ascontiguousarray(table.T.numpy())[None]
    planes = (scratch or Scratch()).array((len(pixels), 3, *pixels[0].shape[:2]))
    # In strips that stay in the cache, and for which OpenCV starts no threads: idle, they spin on others' cores.
    rows = max(1, _STRIP // pixels[0].shape[1])
    for image, channels in zip(pixels, planes, strict=True):
        for top in range(0, len(image), rows):
            cv2.split(cv2.LUT(image[top : top + rows], lookup), list(channels[:, top : top + rows]))
    return torch.from_numpy(planes).to(device, dtype)


def blank_input(model: LoadedModel) -> Float[Tensor, "1 3 height width"]:
    """One black image, as the model takes it."""
    size = model.preprocessing
    return torch.zeros(1, 3, size.height, size.width, dtype=model.dtype, device=model.device)


def model_layout(model: LoadedModel) -> TokenLayout:
    """What stands at which token of a model.

    Raises:
        CaptureError: its attention cannot be read.
        ModelError: it cannot run on images of this size.
        InputError: it has a single patch.
    """
    blank = blank_input(model)
    try:
        layout = find_layout(model.module, blank)
    except SiftlensError:
        raise
    except (AssertionError, ValueError) as error:  # by which timm and transformers say so
        height, width = blank.shape[2:]
        raise ModelError(
            f"{model.name} cannot run on {height}x{width} px: {first_line(error)}; "
            "where it takes another size, pass that as size="
        ) from error
    if layout.grid.patches < 2:
        raise InputError(
            f"{model.name} has one patch at this size, and no attention between patches; choose a larger one"
        )
    return layout


def read_batch(
    module: nn.Module,
    x: Float[Tensor, "batch 3 height width"],
    maps: MapBatch,
    layout: TokenLayout,
    *,
    weighting: str,
    entropy: bool,
) -> tuple[BatchRecord, Int[np.ndarray, " batch"]]:
    """Run the model once, and reduce each layer's attention as soon as it is there.

    Returns:
        Statistics of every layer, and the number of patch tokens of outlier norm per image.

    Raises:
        ModelError: NaN or infinity in an attention or in the output.
        InputError: no memory left.
        CaptureError: attention that cannot be read.
    """
    records: list[LayerRecord] = []
    finite: list[Tensor] = []

    def reduce(reading: LayerReading) -> None:
        finite.append(torch.isfinite(reading.values).all())
        records.append(layer_record(reading, maps, layout))

    with (
        torch.no_grad(),
        enough_memory(len(x)),
        observe(
            module,
            maps.channels,
            grid=layout,
            on_layer=reduce,
            weighting=weighting,
            entropy=entropy,
            token_norms=True,
        ) as reading,
    ):
        output = module(x)
    for record, good in zip(records, torch.stack(finite).tolist(), strict=True):
        if not good:
            raise _not_finite(f"the attention of {record.name}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in _tensors(output)):
        raise _not_finite("the model's output")
    outliers = _outliers(reading.token_norms, len(x), layout)
    return stack_records(records, maps), outliers.sum(axis=1)


def outlier_patches(
    module: nn.Module, x: Float[Tensor, "batch 3 height width"], layout: TokenLayout
) -> Bool[np.ndarray, "batch patch"]:
    """Patches whose token has an outlier norm, by a forward pass of its own.

    Raises:
        InputError: the model's blocks do not return tokens, so that no norm is known; no memory left.
    """
    blank = x.new_zeros(layout.grid.patches, 1, dtype=torch.float32)
    with (
        torch.no_grad(),
        enough_memory(len(x)),
        observe(module, blank, grid=layout, on_layer=lambda *_: None, token_norms=True) as reading,
    ):
        module(x)
    if not reading.token_norms:
        raise InputError(
            f"{type(module).__name__}: no block returns its tokens, so outlier tokens cannot be told; "
            "leave out --exclude-outliers (exclude_outliers=False)"
        )
    return _outliers(reading.token_norms, len(x), layout)


def _outliers(norms: Mapping[int, Tensor], images: int, layout: TokenLayout) -> Bool[np.ndarray, "batch patch"]:
    """Far beyond the other patches after any layer of the later half; before, contrast alone makes norms differ."""
    found = np.zeros((images, layout.grid.patches), bool)
    for layer, norm in norms.items():
        if layer < max(norms) / 2:
            continue
        patches = norm[:, layout.prefix :]
        found |= (patches > OUTLIER * patches.median(dim=1, keepdim=True).values).cpu().numpy()
    return found


def _tensors(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors of a model's output, whatever it is wrapped in."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)


def _not_finite(where: str) -> ModelError:
    return ModelError(
        f"expected finite numbers, but {where} has NaN or infinity; check the weights, or run in float32 "
        "(--dtype float32)"
    )


@contextmanager
def enough_memory(images: int) -> Iterator[None]:
    """Say what to do where a batch of so many images does not fit into memory.

    Raises:
        InputError: it did not fit.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = str(error).lower()
        if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in told:
            raise InputError(
                f"a batch of {images} images does not fit into memory; lower --batch-size (batch_size)"
            ) from error
        raise
