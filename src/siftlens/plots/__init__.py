"""Finished results as matplotlib figures, in the report's colours."""

from siftlens.plots.export import export
from siftlens.plots.plots import Plots

__all__ = ["Plots", "export"]
