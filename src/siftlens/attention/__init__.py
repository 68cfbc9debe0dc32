"""Reading attention: intercept, channels through fused attention, readings, completeness."""

from siftlens.attention.layout import find_layout
from siftlens.attention.maps import attention_maps
from siftlens.attention.reading import LayerReading, Reading
from siftlens.attention.session import observe, read_attention
from siftlens.attention.weights import WEIGHTINGS

__all__ = [
    "WEIGHTINGS",
    "LayerReading",
    "Reading",
    "attention_maps",
    "find_layout",
    "observe",
    "read_attention",
]
