"""Images: where they come from, how they are decoded, and what a model sees of them."""

from siftlens.data.atomic import atomic_path, disk_errors
from siftlens.data.preprocessing import NORMALIZATIONS, Normalization, Preprocessing

__all__ = ["NORMALIZATIONS", "Normalization", "Preprocessing", "atomic_path", "disk_errors"]
