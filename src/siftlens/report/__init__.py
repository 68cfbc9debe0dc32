"""Finished results as self-contained HTML pages."""

from siftlens.report.html import render, render_comparison

__all__ = ["render", "render_comparison"]
