"""Whatever holds one image in memory, as RGB pixels of 8 bits."""

import hashlib
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siftlens.core import InputError

_LOWEST, _HIGHEST = -0.05, 1.05  # resampling overshoots; a normalised image goes far beyond
_WHITE = (255, 255, 255)


def as_pixels(image: Any) -> UInt8[np.ndarray, "height width 3"]:
    """RGB pixels of 8 bits of one image.

    Args:
        image: a PIL image, or a NumPy or torch array of uint8 or of floats in [0, 1], (height, width),
            (height, width, 1, 3 or 4) or (1, 3 or 4, height, width); where both fit, torch arrays are read as channels
            first, NumPy arrays as channels last. A fourth channel is opacity, on white.

    Raises:
        InputError: none of those; floats outside [-0.05, 1.05], or NaN.
    """
    if isinstance(image, Image.Image):
        return np.asarray(to_rgb(image))
    channels_first = hasattr(image, "detach")
    if channels_first:
        image = image.detach().cpu()
        image = (image.float() if image.is_floating_point() else image).numpy()
    if not isinstance(image, np.ndarray):
        raise InputError(
            f"expected an image as a PIL image or as an array of pixels, got {type(image).__qualname__}; "
            "pass images alone, without labels"
        )
    pixels = _eight_bits(_channels_last(image, channels_first))
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    if pixels.shape[2] == 4:
        pixels = np.asarray(to_rgb(Image.fromarray(np.ascontiguousarray(pixels))))
    return np.ascontiguousarray(pixels)


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL image as RGB of 8 bits: 16-bit values are scaled, transparency is put on white.

    Raises:
        InputError: pixels of unknown scale.
    """
    if image.mode == "F":
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 0xFFFF or (image.mode == "I" and values.max() <= 0xFF):
            raise InputError(
                f"expected pixels of 8 or 16 bits, got 32-bit integers in [{values.min()}, {values.max()}]: the "
                "scale is not known; convert the image to 8 bits"
            )
        return Image.fromarray(np.rint(values / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGB", image.size, _WHITE)
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def content_hash(pixels: UInt8[np.ndarray, "..."]) -> str:
    """32 hexadecimal digits that stand for the pixels and their shape."""
    header = f"{pixels.dtype.str}{pixels.shape}".encode()
    return hashlib.blake2b(header + np.ascontiguousarray(pixels).tobytes(), digest_size=16).hexdigest()


def _channels_last(image: np.ndarray, channels_first: bool) -> np.ndarray:
    if image.ndim == 2:
        image = image[:, :, None]
    elif image.ndim == 3:
        axes = (0, 2) if channels_first else (2, 0)
        axis = next((axis for axis in axes if image.shape[axis] in (1, 3, 4)), None)
        if axis is not None:
            image = np.moveaxis(image, axis, 2)
    if image.ndim != 3 or image.shape[2] not in (1, 3, 4) or image.size == 0:
        raise InputError(
            "expected pixels of shape (height, width), (height, width, channels) or (channels, height, width) with "
            f"1, 3 or 4 channels, got {image.shape}; pass one image at a time"
        )
    return image


def _eight_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "..."]:
    if pixels.dtype == np.uint8:
        return pixels
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError(f"expected pixels as uint8 or as floats in [0, 1], got {pixels.dtype}; convert them first")
    if not np.isfinite(pixels).all():
        raise InputError("expected finite pixels, got NaN or infinity")
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= _LOWEST and high <= _HIGHEST):
        raise InputError(
            f"expected float pixels in [0, 1], got [{low:.6g}, {high:.6g}]; scale them (resampling may go to {_LOWEST} "
            f"and {_HIGHEST}), and undo any normalisation: keypoints are detected on the picture itself"
        )
    scaled = np.rint(np.clip(pixels.astype(np.float64), 0, 1) * 255)
    return scaled.astype(np.uint8)
