"""Two or more studies of the same images: what differs between their models, layer by layer."""

from siftlens.comparison.compare import compare_results
from siftlens.comparison.results import Compared, Comparison

__all__ = ["Compared", "Comparison", "compare_results"]
