"""What an analysis computes: the part of a run that its numbers depend on, and the part that only its speed does."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from siftlens.attention import WEIGHTINGS
from siftlens.core import InputError, PatchGrid, is_whole, keep_flags, keep_whole

Measure = str | Callable[[UInt8[np.ndarray, "height width 3"], PatchGrid], Float[np.ndarray, "rows cols"]]
GROUPINGS = ("folder",)
MAX_WORKERS = 1024  # processes; a number beyond is a slip of the keyboard
MAX_GROUPS = 32  # each group keeps all bootstrap sums: 40 MB for 12 layers x 12 heads


@dataclass(frozen=True)
class Settings:
    """Settings of an analysis.

    Args:
        measure: semantic concentration of a patch: "count", "response", "footprint", or a callable.
        weighting: "attention", or "value_norm" to weight each key by the norm of its value vector.
        entropy: also compute the entropy of every attention row.
        exclude_outliers: leave out patch tokens of outlier norm; runs the model twice.
        group_by: "folder" for one more table per folder of images, or None.
        masks: folder of object masks, named as the images are; they tell how far concentration marks the object.
        seed: of the pool, the null maps and the bootstrap.
        batch_size: images per forward pass.
        workers: of the engine; locally, processes that decode and detect beside the model, 0 works in this process;
            None where the engine takes as many as fit.

    Raises:
        InputError: a value is not one of those.
    """

    measure: Measure = "count"
    weighting: str = "attention"
    entropy: bool = False
    exclude_outliers: bool = False
    group_by: str | None = None
    masks: Path | None = None
    seed: int = 0
    batch_size: int = 32
    workers: int | None = 1

    def __post_init__(self) -> None:
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting must be one of {', '.join(WEIGHTINGS)}, got {self.weighting!r}")
        if self.group_by is not None and self.group_by not in GROUPINGS:
            raise InputError(f"group_by must be one of {', '.join(GROUPINGS)}, or None; got {self.group_by!r}")
        keep_whole(self, "batch_size", least=1)
        keep_whole(self, "seed", least=0)
        keep_flags(self, "entropy", "exclude_outliers")
        if self.workers is not None and not (is_whole(self.workers, least=0) and self.workers <= MAX_WORKERS):
            raise InputError(f"workers must be a whole number from 0 to {MAX_WORKERS}, or None, got {self.workers!r}")
        if self.workers is not None:
            keep_whole(self, "workers", least=0)

    @property
    def measure_name(self) -> str:
        """Name of the measure, for the record."""
        if isinstance(self.measure, str):
            return self.measure
        name = getattr(self.measure, "__qualname__", type(self.measure).__qualname__)
        return f"{getattr(self.measure, '__module__', '?')}.{name}"

    def numbers(self) -> dict[str, Any]:
        """What the numbers depend on, as JSON values; batches and workers change rounding and speed only."""
        return {
            "measure": self.measure_name,
            "weighting": self.weighting,
            "entropy": self.entropy,
            "exclude_outliers": self.exclude_outliers,
            "group_by": self.group_by,
            "masks": None if self.masks is None else str(self.masks),
            "seed": self.seed,
        }
