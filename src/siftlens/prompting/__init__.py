"""Prompting at inference: attention moved, tokens chosen, pixels masked, logits contrasted; no weight changes."""

from siftlens.prompting.context import Prompting, prompt
from siftlens.prompting.plan import Plan
from siftlens.prompting.policy import Bias, Contrast, Mixture, PixelMask, Policy, TokenChoice

__all__ = [
    "Bias",
    "Contrast",
    "Mixture",
    "PixelMask",
    "Plan",
    "Policy",
    "Prompting",
    "TokenChoice",
    "prompt",
]
