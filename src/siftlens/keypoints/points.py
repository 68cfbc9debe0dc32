"""Keypoints of one image as arrays, and as the few bytes in which they are stored."""

import struct
import zlib
from dataclasses import dataclass
from math import floor, log2

import numpy as np
from jaxtyping import Float, Int

_STEPS_PER_PIXEL = 32
_ANGLES = 256  # per full turn
_HEADER = struct.Struct("<III")  # height, width, points
_COLUMNS = {"x": "<u2", "y": "<u2", "size": "<f2", "response": "<f2", "angle": "u1", "octave": "i1"}


@dataclass(frozen=True, eq=False)
class Keypoints:
    """SIFT keypoints of one image, each once, whatever its number of orientations.

    Attributes:
        x: position in the image frame, px: the outer top-left corner is (0, 0), a pixel's centre is at +0.5.
        y: likewise, downwards.
        size: diameter of the meaningful neighbourhood, px.
        response: contrast of the extremum in scale space.
        angle: orientation, degrees in [0, 360), clockwise from +x; the first where there are several.
        octave: of the scale pyramid; -1 is the image at twice its size.
        descriptors: RootSIFT, of length 1; None where they were not asked for.
        height: of the image, px.
        width: of the image, px.
    """

    x: Float[np.ndarray, " point"]
    y: Float[np.ndarray, " point"]
    size: Float[np.ndarray, " point"]
    response: Float[np.ndarray, " point"]
    angle: Float[np.ndarray, " point"]
    octave: Int[np.ndarray, " point"]
    descriptors: Float[np.ndarray, "point 128"] | None
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.x)


def pack(keypoints: Keypoints) -> bytes:
    """Keypoints without descriptors in at most 10 bytes each, and a checksum.

    Positions are kept to 1/32 px (images beyond 2047 px: proportionally coarser), sizes and responses to 11 bits,
    angles to 1/256 turn. Packing again what was unpacked loses nothing.
    """
    steps = steps_per_pixel(keypoints.height, keypoints.width)
    whole = {
        "x": np.rint(keypoints.x * steps),
        "y": np.rint(keypoints.y * steps),
        "size": keypoints.size,
        "response": keypoints.response,
        "angle": np.rint(keypoints.angle / 360 * _ANGLES) % _ANGLES,
        "octave": keypoints.octave,
    }
    header = _HEADER.pack(keypoints.height, keypoints.width, len(keypoints))
    return zlib.compress(header + b"".join(whole[name].astype(kind).tobytes() for name, kind in _COLUMNS.items()), 1)


def unpack(packed: bytes) -> Keypoints:
    """Keypoints from what `pack` made.

    Raises:
        ValueError: the bytes are damaged.
    """
    try:
        plain = zlib.decompress(packed)
        height, width, count = _HEADER.unpack_from(plain)
        stored, offset = {}, _HEADER.size
        for name, kind in _COLUMNS.items():
            stored[name] = np.frombuffer(plain, kind, count, offset)
            offset += stored[name].nbytes
    except (zlib.error, struct.error) as error:
        raise ValueError(f"damaged keypoints: {error}") from error
    steps = np.float32(steps_per_pixel(height, width))
    return Keypoints(
        x=stored["x"] / steps,
        y=stored["y"] / steps,
        size=stored["size"].astype(np.float32),
        response=stored["response"].astype(np.float32),
        angle=stored["angle"] * np.float32(360 / _ANGLES),
        octave=stored["octave"].astype(np.int16),
        descriptors=None,
        height=height,
        width=width,
    )


def steps_per_pixel(height: int, width: int) -> float:
    """Steps per pixel: a power of two for which every position fits 16 bits."""
    return min(_STEPS_PER_PIXEL, 2.0 ** floor(log2(0xFFFF / max(height, width))))
