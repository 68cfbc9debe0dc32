"""Finished results as self-contained HTML pages."""

from siftlens.report.html import render, render_audit, render_comparison, render_prompt
from siftlens.report.named import named_heads

__all__ = ["named_heads", "render", "render_audit", "render_comparison", "render_prompt"]
