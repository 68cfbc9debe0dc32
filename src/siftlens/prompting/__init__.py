"""Prompting at inference: attention moved, tokens chosen, pixels masked, logits contrasted; no weight changes."""

from typing import TYPE_CHECKING, Any

from siftlens.prompting.context import Prompting, prompt
from siftlens.prompting.maps import mixed_maps
from siftlens.prompting.plan import Plan
from siftlens.prompting.policy import Bias, Contrast, Mixture, PixelMask, Policy, TokenChoice
from siftlens.prompting.tune import tune_prompt

if TYPE_CHECKING:
    from siftlens.prompting.module import Prompted, load_prompted, prompted

__all__ = [
    "Bias",
    "Contrast",
    "Mixture",
    "PixelMask",
    "Plan",
    "Policy",
    "Prompted",
    "Prompting",
    "TokenChoice",
    "load_prompted",
    "mixed_maps",
    "prompt",
    "prompted",
    "tune_prompt",
]


def __getattr__(name: str) -> Any:
    # Keeping a module out of torch.compile's graphs imports the compiler, which takes seconds.
    if name in ("Prompted", "load_prompted", "prompted"):
        from siftlens.prompting import module

        return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
