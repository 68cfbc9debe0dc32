"""Images: where they come from, how they are decoded, and what a model sees of them."""

from siftlens.data.atomic import atomic_path, disk_errors
from siftlens.data.decode import Unreadable, decode
from siftlens.data.files import open_images
from siftlens.data.pixels import as_pixels, content_hash
from siftlens.data.preprocessing import NORMALIZATIONS, Normalization, Preprocessing
from siftlens.data.sources import ImageRef, ImageSource

__all__ = [
    "NORMALIZATIONS",
    "ImageRef",
    "ImageSource",
    "Normalization",
    "Preprocessing",
    "Unreadable",
    "as_pixels",
    "atomic_path",
    "content_hash",
    "decode",
    "disk_errors",
    "open_images",
]
