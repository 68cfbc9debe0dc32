"""Finished results as one self-contained HTML page."""

from siftlens.report.html import render

__all__ = ["render"]
