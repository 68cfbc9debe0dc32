"""Visual words: k-means on descriptions of patches."""

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.cluster.vq import kmeans2
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
    return Codebook(mean.contiguous(), base, torch.from_numpy(_centres((points.float() @ base).numpy(), words, seed)))


def _centres(points: Float[np.ndarray, "point axis"], words: int, seed: int) -> Float[np.ndarray, "word axis"]:
    """Centres by k-means++; the points themselves where they are no more than the words."""
    distinct = np.unique(points, axis=0) if points.shape[1] else points[:1]
    if len(distinct) <= words:
        return distinct
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # its centre stays where it was
        centres, _ = kmeans2(points, words, iter=_ROUNDS, minit="++", rng=seed)
    return np.asarray(centres)
