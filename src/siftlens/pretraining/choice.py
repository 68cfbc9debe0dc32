"""What an autoencoder sees of each image, what it decodes, and how much each decoded patch counts."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from siftlens.core import InputError
from siftlens.pretraining.randomness import Purpose, uniform


@dataclass(frozen=True)
class PartialDecoding:
    """Decode only a share of the masked patches: part of it those with most keypoints, the rest by chance.

    Args:
        share: of the masked patches that is decoded; 1 decodes all.
        ranked: part of those that is chosen by concentration; 0 chooses all by chance.

    Raises:
        InputError: a share outside (0, 1], or a part outside [0, 1].
    """

    share: float = 1.0
    ranked: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"the share of masked patches to decode must lie in (0, 1], got {self.share}")
        if not 0 <= self.ranked <= 1:
            raise InputError(f"the ranked part of the decoded patches must lie in [0, 1], got {self.ranked}")

    def counts(self, masked: int) -> tuple[int, int]:
        """How many of so many masked patches are decoded, and how many of those by concentration."""
        decoded = max(1, round(masked * self.share))
        return decoded, round(decoded * self.ranked)

    def expect_effect(self, masked: int) -> None:
        """Check that what was asked for is not rounded away.

        Raises:
            InputError: a share of all masked patches but all of them, or of none but none by concentration.
        """
        decoded, top = self.counts(masked)
        if decoded == masked and self.share < 1:
            raise InputError(f"a share of {self.share} of {masked} masked patches is all of them; choose a smaller one")
        if self.share < 1 and self.ranked > 0 and not top:
            raise InputError(f"a part of {self.ranked} of {decoded} decoded patches is none; choose a larger one")

    def choose(
        self,
        masked: Int64[Tensor, "batch masked"],
        concentration: Float[Tensor, "batch patch"],
        keys: Int64[Tensor, " batch"],
    ) -> Int64[Tensor, "batch decoded"]:
        """Which of the masked patches are decoded; ties in concentration are broken by chance."""
        count = masked.shape[1]
        decoded, top = self.counts(count)
        if decoded == count:
            return masked
        by_chance = torch.argsort(uniform(keys, Purpose.TIES, count), dim=1)
        shuffled = concentration.gather(1, masked.gather(1, by_chance))
        rising = by_chance.gather(1, torch.argsort(shuffled, dim=1, stable=True))
        # Those ranked highest come first in any case, below every number of the rest.
        order = uniform(keys, Purpose.REST, count).scatter(1, rising[:, count - top :], -1.0)
        return masked.gather(1, torch.argsort(order, dim=1, stable=True)[:, :decoded])


def split(
    noise: Float[Tensor, "batch patch"], visible: int
) -> tuple[Int64[Tensor, "batch visible"], Int64[Tensor, "batch masked"]]:
    """Indices of the patches with the lowest noise, which stay visible, and of the others."""
    order = torch.argsort(noise, dim=1, stable=True)
    return order[:, :visible], order[:, visible:]


def loss_weights(
    concentration: Float[Tensor, "batch patch"], decoded: Int64[Tensor, "batch decoded"], temperature: float
) -> Float[Tensor, "batch decoded"]:
    """Weight of each decoded patch in the loss: exp(d / temperature), d = c over the image's largest, with mean 1.

    KAMIM's weight (Naik et al. 2024) divides by the smallest instead, which also scales the loss, and its density is
    of drawn keypoints' ink; both differ here on purpose.

    Raises:
        InputError: the temperature is not positive.
    """
    if not temperature > 0:
        raise InputError(f"the temperature of the loss weights must be positive, got {temperature}")
    largest = concentration.amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    density = (concentration / largest).gather(1, decoded)
    return torch.softmax(density / temperature, dim=1) * decoded.shape[1]
