"""From a spec string to a model with the preprocessing that belongs to it."""

from siftlens.models.checkpoints import hash_weights
from siftlens.models.load import load_model
from siftlens.models.loaded import LoadedModel

__all__ = ["LoadedModel", "hash_weights", "load_model"]
