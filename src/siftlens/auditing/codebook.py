"""Visual words: k-means on descriptions of patches."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

_ROUNDS = 25
_CHUNK = 65536  # descriptions at a time


@dataclass(frozen=True)
class Codebook:
    """Centres of visual words.

    Attributes:
        mean: of the descriptions, by position; taken off first.
        axes: principal axes, each over its standard deviation to the power that whitens halfway.
        centres: of the words, on these axes.
    """

    mean: Float[Tensor, "patch feature"]
    axes: Float[Tensor, "feature axis"]
    centres: Float[Tensor, "word axis"]

    def words(self, described: Float[Tensor, "image patch feature"]) -> Int[np.ndarray, "image patch"]:
        """The nearest word of every patch; -1 where it has no description (NaN)."""
        flat = ((described - self.mean) @ self.axes).flatten(0, 1)
        nearest = torch.cat([torch.cdist(part, self.centres).argmin(dim=1) for part in flat.split(_CHUNK)])
        nearest[flat.isnan().any(dim=1)] = -1
        return nearest.reshape(described.shape[:2]).numpy().astype(np.int16)


def fit(
    described: Float[Tensor, "image patch feature"], words: int, *, axes: int, by_position: bool, seed: int
) -> Codebook:
    """Fit a codebook.

    Args:
        described: descriptions, NaN where a patch has none.
        words: how many; fewer where there are fewer descriptions.
        axes: principal axes to keep, at most.
        by_position: take off the mean of each position rather than that of all.
        seed: of the first centres.
    """
    known = ~described.isnan().any(dim=2)
    mean = described.nanmean(dim=0) if by_position else described[known].mean(dim=0).expand(described.shape[1], -1)
    mean = mean.nan_to_num()
    points = (described - mean)[known].double()
    _, scale, right = torch.linalg.svd(points.T @ points / len(points))
    kept = scale[:axes] > 1e-9 * scale[0]
    # Halfway between raw, where the first axes are all, and white, where the last are noise: variance to the 1/4.
    base = (right[: len(kept)][kept].T * scale[: len(kept)][kept] ** -0.25).float()
    return Codebook(mean.contiguous(), base, _centres(points.float() @ base, words, seed))


def _centres(points: Float[Tensor, "point axis"], words: int, seed: int) -> Float[Tensor, "word axis"]:
    """Lloyd's algorithm from centres that k-means++ draws (Arthur and Vassilvitskii, 2007)."""
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randint(len(points), (1,), generator=generator)]
    nearest = torch.cdist(points, centres).square().squeeze(1)
    while len(centres) < words and bool(nearest.max() > 0):
        drawn = points[torch.multinomial(nearest, 1, generator=generator)]
        centres = torch.cat([centres, drawn])
        nearest = torch.minimum(nearest, torch.cdist(points, drawn).square().squeeze(1))
    for _ in range(_ROUNDS):
        owner = torch.cat([torch.cdist(part, centres).argmin(dim=1) for part in points.split(_CHUNK)])
        count = torch.bincount(owner, minlength=len(centres))[:, None]
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        moved = torch.where(count > 0, sums / count.clamp(min=1), centres)
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres
