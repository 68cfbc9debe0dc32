"""Everything that decides what a pre-training computes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from typing import Any

from siftlens.core import InputError, keep_whole
from siftlens.pretraining.choice import PartialDecoding
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.guide import GUIDES
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.optimizers import OPTIMIZERS

_FASTEST = 1e30  # what float32 holds, with room to spare
_COLDEST = 1e-3  # temperature of loss weights, at which one patch has all the weight


@dataclass(frozen=True)
class PretrainSettings:
    """How a masked autoencoder is trained. Two runs of the same settings end with the same weights.

    Args:
        model: the encoder's name in timm, with or without "timm/" before it.
        architecture: arguments of timm.create_model that differ from the name's own.
        size: width and height of views, px.
        source: width and height of the squares that views are cut from, px; by default `size`.
        first_size: width and height of views at first, px; None for `size` from the beginning.
        first_part: share of the training with views of `first_size`.
        epochs: passes over the images.
        batch_size: images per step, over all processes and parts.
        optimizer: "muon", Muon on the matrices of blocks and AdamW on all else; "muon-encoder", on the encoder's alone;
            or "adamw", as in MAE.
        learning_rate: at a batch of 256, scaled in proportion to the batch.
        warm_up: share of all steps over which the rate rises; then it falls as a cosine to zero.
        weight_decay: of matrices, over the learning rate; Muon's is four times `learning_rate`.
        smallest_crop: least area of a view over the square's.
        policy: which patches are masked.
        decoding: which of them are decoded.
        decoder: its size and kind.
        loss_temperature: of weights by concentration in the loss; None weighs all alike.
        guide: what concentration is: "keypoints", "other" (another image's keypoints) or "gradient".
        norm_pix: predict pixels normalised patch by patch.
        seed: of weights, views, order and masks.

    Raises:
        InputError: a value is out of range.
    """

    model: str = "vit_tiny_patch16_224"
    architecture: Mapping[str, Any] = field(default_factory=dict)
    size: int = 128
    source: int | None = None
    first_size: int | None = None
    first_part: float = 0.6
    epochs: int = 100
    batch_size: int = 256
    optimizer: str = "muon"
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    weight_decay: float = 0.05
    smallest_crop: float = 0.2
    policy: MaskPolicy = field(default_factory=MaskPolicy)
    decoding: PartialDecoding = field(default_factory=PartialDecoding)
    decoder: DecoderSettings = field(default_factory=DecoderSettings)
    loss_temperature: float | None = None
    guide: str = "keypoints"
    norm_pix: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", self.model.removeprefix("timm/"))
        if self.source is None:
            object.__setattr__(self, "source", self.size)
        keep_whole(self, "size", "epochs", "batch_size", "source", least=1)
        keep_whole(self, "seed", least=0)
        if not 0 < self.learning_rate <= _FASTEST:
            raise InputError(f"learning_rate must be positive and at most {_FASTEST:g}, got {self.learning_rate}")
        if self.seed >= 2**63:
            raise InputError(f"seed must be below 2**63, got {self.seed}")
        if not 0 < self.warm_up < 1:
            raise InputError(f"warm_up must lie between 0 and 1, got {self.warm_up}")
        if not 0 < self.smallest_crop <= 1:
            raise InputError(f"smallest_crop must lie in (0, 1], got {self.smallest_crop}")
        if self.side < self.size:
            raise InputError(
                f"views of {self.size} px cannot be cut from squares of {self.side} px; choose a larger source"
            )
        if self.first_size is not None and not 0 < self.first_size < self.size:
            raise InputError(
                f"first_size must be positive and smaller than size, {self.size} px, got {self.first_size}"
            )
        if not 0 < self.first_part < 1:
            raise InputError(f"first_part must lie between 0 and 1, got {self.first_part}")
        if self.loss_temperature is not None and not _COLDEST <= self.loss_temperature < inf:
            raise InputError(f"loss_temperature must be at least {_COLDEST}, got {self.loss_temperature}")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}")
        if self.guide not in GUIDES:
            raise InputError(f"guide must be one of {', '.join(GUIDES)}, got {self.guide!r}")

    @property
    def side(self) -> int:
        """Width and height of the squares that views are cut from, px."""
        return self.source or self.size

    def size_at(self, progress: float) -> int:
        """Width and height of views, px.

        Args:
            progress: of the training, from 0 to 1.
        """
        return self.size if self.first_size is None or progress >= self.first_part else self.first_size

    @property
    def guided(self) -> bool:
        """Whether concentration has a say in anything."""
        ranked = self.decoding.share < 1 and self.decoding.ranked > 0
        return self.policy.guided or ranked or self.loss_temperature is not None

    @property
    def needs_keypoints(self) -> bool:
        """Whether keypoints have a say in anything."""
        return self.guided and self.guide != "gradient"

    def describe(self) -> dict[str, Any]:
        """The settings as JSON values, nested ones by their path."""
        flat: dict[str, Any] = {}
        for name, value in asdict(self).items():
            if isinstance(value, Mapping):
                flat |= {f"{name}.{part}": nested for part, nested in value.items()}
            else:
                flat[name] = value
        return flat
