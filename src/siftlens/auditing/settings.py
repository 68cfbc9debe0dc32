"""What an audit computes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siftlens.auditing.vocabulary import KINDS
from siftlens.core import InputError, keep_flags, keep_whole


@dataclass(frozen=True)
class AuditSettings:
    """Settings of an audit.

    Args:
        vocabularies: kinds of visual words, of "sift", "colour" and "token".
        layer: whose tokens words are made of, counted from 0; None for the last of the first quarter.
        probe: fit a linear classifier on the model's output first.
        masks: folder of object masks, named as the images are.
        environment: folder of labelled images from elsewhere.
        batch_size: images per forward pass.
        seed: of everything that is drawn.

    Raises:
        InputError: a value is not one of those.
    """

    vocabularies: Sequence[str] = KINDS
    layer: int | None = None
    probe: bool = False
    masks: Path | None = None
    environment: Path | None = None
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.vocabularies or not set(self.vocabularies) <= set(KINDS):
            raise InputError(f"vocabularies must be some of {', '.join(KINDS)}, got {self.vocabularies!r}")
        keep_whole(self, "batch_size", least=1)
        keep_whole(self, "seed", least=0)
        keep_flags(self, "probe")
        if self.layer is not None:
            keep_whole(self, "layer", least=0)
        for name in ("masks", "environment"):
            folder = getattr(self, name)
            if folder is not None and not folder.is_dir():
                raise InputError(f"{name} must be a folder, there is none at {folder}")

    def described(self) -> dict[str, Any]:
        """The settings as JSON values."""
        return {
            "vocabularies": list(self.vocabularies),
            "layer": self.layer,
            "probe": self.probe,
            "masks": None if self.masks is None else str(self.masks),
            "environment": None if self.environment is None else str(self.environment),
            "batch_size": self.batch_size,
            "seed": self.seed,
        }
