"""The learning rate over a training."""

import math


def rate_at(progress: float, warm_up: float) -> float:
    """Share of the full learning rate after a share of all steps: a linear rise, then a cosine to zero."""
    if progress < warm_up:
        return progress / warm_up
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warm_up) / (1 - warm_up))
