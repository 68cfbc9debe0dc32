"""Keypoints through a crop, a resize and a flip, so that no view has to be searched anew."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Real

from siftlens.core import InputError
from siftlens.keypoints.points import Keypoints


@dataclass(frozen=True)
class View:
    """A box of an image, resized and perhaps mirrored: a random resized crop with a horizontal flip.

    Args:
        left: left edge of the box, px of the image.
        top: upper edge.
        crop_width: width of the box, px of the image.
        crop_height: height of the box.
        width: width of the view, px.
        height: height of the view.
        flip: mirrored left to right, after the resize.

    Raises:
        InputError: the box or the view is empty.
    """

    left: float
    top: float
    crop_width: float
    crop_height: float
    width: int
    height: int
    flip: bool = False

    def __post_init__(self) -> None:
        for name in ("crop_width", "crop_height", "width", "height"):
            if not getattr(self, name) > 0:
                raise InputError(f"View.{name} must be positive, got {getattr(self, name)}")


def map_keypoints(keypoints: Keypoints, view: View) -> Keypoints:
    """Keypoints of an image as keypoints of a view of it; those outside the view are dropped, never moved.

    The size is scaled by the geometric mean of both directions, the angle turns with the picture. Descriptors are
    dropped: they belong to the pixels that they were made from.
    """
    along = view.width / view.crop_width
    down = view.height / view.crop_height
    x = map_positions(keypoints.x, view.left, along, view.width, view.flip)
    y = map_positions(keypoints.y, view.top, down, view.height, False)
    inside = within(x, y, view.width, view.height)
    turned = np.radians(keypoints.angle)
    angle = np.degrees(np.arctan2(down * np.sin(turned), along * np.cos(turned) * (-1 if view.flip else 1))) % 360
    return replace(
        keypoints,
        x=x[inside],
        y=y[inside],
        size=(keypoints.size * np.sqrt(along * down))[inside],
        response=keypoints.response[inside],
        angle=angle[inside],
        octave=keypoints.octave[inside],
        descriptors=None,
        height=view.height,
        width=view.width,
    )


def map_positions(
    position: Float[np.ndarray, " point"],
    start: float | Real[np.ndarray, " point"],
    scale: float | Real[np.ndarray, " point"],
    extent: int,
    flip: bool | Bool[np.ndarray, " point"],
) -> Float[np.ndarray, " point"]:
    """Coordinates along one axis of an image as coordinates along that axis of a view.

    Args:
        position: px of the image, from its outer edge.
        start: edge of the box, px of the image; one number, or one per point where points are of several images.
        scale: px of the view per px of the image; likewise.
        extent: length of the view, px.
        flip: mirrored; likewise.
    """
    moved = (position.astype(np.float64) - start) * scale
    return np.asarray(np.where(flip, extent - moved, moved))


def within(
    x: Float[np.ndarray, " point"], y: Float[np.ndarray, " point"], width: int, height: int
) -> Bool[np.ndarray, " point"]:
    """Which points lie in a view: its left and upper edge belong to it, the right and lower one do not."""
    return np.asarray((x >= 0) & (x < width) & (y >= 0) & (y < height))
