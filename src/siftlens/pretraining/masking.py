"""Which patches are masked: one noise per patch, whose lowest stay visible."""

from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from siftlens.core import InputError
from siftlens.pretraining.randomness import Purpose, uniform

POLICIES = ("random", "keypoint-high", "keypoint-low", "ramped", "hints")
_STRONGEST = 100  # alpha at which chance has no say any more
_HINTED = 0.1  # of the masked patches in the top quartile


@dataclass(frozen=True)
class MaskPolicy:
    """How semantic concentration steers a random mask.

    noise = alpha_t * zscore(log(1 + c)) + Gumbel. With alpha_t = 0 this is exactly random masking.

    Args:
        name: "random", alpha_t = 0; "keypoint-high", alpha_t = alpha, masks patches with many keypoints more often;
            "keypoint-low", alpha_t = -alpha, less often; "ramped", alpha_t = alpha * progress; "hints",
            "keypoint-high" that reveals a random tenth of the masked patches of the top quartile.
        alpha: strength. At 0.5 and a ratio of 0.75, the bottom and the top quartile of a normal map are masked 0.54 and
            0.93 of the time.
        ratio: share of the patches that is masked.

    Raises:
        InputError: another name, an alpha outside [0, 100], or a ratio outside (0, 1).
    """

    name: str = "random"
    alpha: float = 0.5
    ratio: float = 0.75

    def __post_init__(self) -> None:
        if self.name not in POLICIES:
            raise InputError(f"the mask policy must be one of {', '.join(POLICIES)}, got {self.name!r}")
        if not 0 <= self.alpha <= _STRONGEST:
            raise InputError(f"the policy's alpha must lie in [0, {_STRONGEST}], got {self.alpha}")
        if not 0 < self.ratio < 1:
            raise InputError(f"the mask ratio must lie between 0 and 1, got {self.ratio}")

    @property
    def guided(self) -> bool:
        """Whether concentration has a say."""
        return self.name != "random" and self.alpha > 0

    def visible(self, patches: int) -> int:
        """How many of so many patches stay visible; at least one is, and one is not.

        Raises:
            InputError: there is only one patch.
        """
        if patches < 2:
            raise InputError(
                f"masking needs at least 2 patches, got {patches}; choose smaller patches or larger images"
            )
        return min(max(round(patches * (1 - self.ratio)), 1), patches - 1)

    def noise(
        self, concentration: Float[Tensor, "batch patch"], *, progress: float, keys: Int64[Tensor, " batch"]
    ) -> Float[Tensor, "batch patch"]:
        """Noise per patch; the lowest `visible(patch)` of an image stay visible.

        A row depends on its own concentration and key alone: any batch, worker or rank gives the same.

        Args:
            concentration: c, for instance keypoints per patch; not negative.
            progress: of the training, from 0 to 1.
            keys: hash of seed, epoch and image, from `image_keys`.

        Returns:
            float32.

        Raises:
            InputError: progress lies outside [0, 1], concentration is negative or not finite, or keys are not as many.
        """
        if not 0 <= progress <= 1:
            raise InputError(f"progress must lie between 0 and 1, got {progress}")
        if not bool(((concentration >= 0) & (concentration < inf)).all()):
            raise InputError("concentration must be finite and not negative, as counts of keypoints are")
        if len(keys) != len(concentration):
            raise InputError(f"expected a key for each of {len(concentration)} images, got {len(keys)}")
        z = zscore(torch.log1p(concentration.double()))
        gumbel = -torch.log(-torch.log(uniform(keys, Purpose.MASK, z.shape[1])))
        noise = self._strength(progress) * z + gumbel
        if self.name == "hints":
            below = noise - noise.amax(dim=1, keepdim=True) + noise.amin(dim=1, keepdim=True) - 1
            noise = torch.where(self._hinted(noise, z, keys), below, noise)
        return noise.float()

    def _strength(self, progress: float) -> float:
        """alpha_t."""
        return {"random": 0.0, "keypoint-low": -self.alpha, "ramped": self.alpha * progress}.get(self.name, self.alpha)

    def _hinted(
        self, noise: Float64[Tensor, "batch patch"], z: Float64[Tensor, "batch patch"], keys: Int64[Tensor, " batch"]
    ) -> Bool[Tensor, "batch patch"]:
        patches = z.shape[1]
        masked = ranks(noise) >= self.visible(patches)
        draws = uniform(keys, Purpose.REVEAL, 2 * patches)
        by_chance = torch.argsort(draws[:, :patches])  # among patches of equal concentration
        top = ranks(z, among_equals=by_chance) >= patches - patches // 4
        return masked & top & (draws[:, patches:] < _HINTED)


def zscore(values: Float64[Tensor, "batch patch"]) -> Float64[Tensor, "batch patch"]:
    """Values with mean 0 and variance 1 within each image; 0 where constant."""
    centred = values - values.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    constant = values.amax(dim=1, keepdim=True) == values.amin(dim=1, keepdim=True)
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, spread))


def ranks(
    values: Float[Tensor, "batch patch"], among_equals: Int64[Tensor, "batch patch"] | None = None
) -> Int64[Tensor, "batch patch"]:
    """Place of every value in the ascending order of its row, from 0.

    Args:
        values: to be ranked.
        among_equals: the order in which equal values follow each other; by default as they stand.
    """
    if among_equals is None:
        order = torch.argsort(values, dim=1, stable=True)
    else:
        order = among_equals.gather(1, torch.argsort(values.gather(1, among_equals), dim=1, stable=True))
    return torch.argsort(order, dim=1)
