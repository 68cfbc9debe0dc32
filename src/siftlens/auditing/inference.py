"""How sure one can be of many cues at once: the largest statistic under the null (Westfall and Young, 1993)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

DRAWS = 2000
_AT_ONCE = 200  # draws, or images: all at once would be gigabytes for many images
_CONFIDENCE = 0.95


def rank_z(
    values: Float[np.ndarray, "image column"], inside: Bool[np.ndarray, " image"]
) -> Float[np.ndarray, " column"]:
    """Wilcoxon's rank sum of some images against the others, standardised; 0 for a constant column."""
    return _standardised(stats.rankdata(values, axis=0), inside[:, None])[:, 0]


def signed_rank_z(values: Float[np.ndarray, " image"]) -> float:
    """Wilcoxon's signed ranks against a median of zero, standardised; 0 for fewer than five images."""
    signed = stats.rankdata(np.abs(values)) * np.sign(values)
    return float(signed.sum() / np.linalg.norm(signed)) if len(values) >= 5 and signed.any() else 0.0


def association_p(
    values: Float[np.ndarray, "image cue"],
    labels: Int[np.ndarray, " image"],
    classes: Int[np.ndarray, " cue"],
    seed: int,
) -> tuple[Float[np.ndarray, " cue"], Float[np.ndarray, " cue"]]:
    """Whether each column is larger in its class than in the others: z, and p adjusted over all columns.

    The null draws permute the labels.
    """
    ranks = stats.rankdata(values, axis=0)
    random, short = np.random.default_rng((seed, 1)), labels.astype(np.int32)
    z = []
    for start in range(0, DRAWS + 1, _AT_ONCE):
        draws = range(start, min(start + _AT_ONCE, DRAWS + 1))
        drawn = np.stack([random.permutation(short) if draw else short for draw in draws], axis=1)
        z.append(np.stack([_standardised(ranks[:, [j]], drawn == label)[0] for j, label in enumerate(classes)]))
    every = np.concatenate(z, axis=1)
    return every[:, 0], _adjusted(every)


def effects_p(
    effects: Sequence[tuple[Int[np.ndarray, "_"], Float[np.ndarray, "_"]]], images: int, seed: int
) -> Float[np.ndarray, " effect"]:
    """Whether the mean of each effect is above zero: p adjusted over all effects; 1 for fewer than two images.

    The null draws flip the signs, those of one image alike in all effects.

    Args:
        effects: places of the images, and an effect for each.
        images: how many places there are.
        seed: of the draws.
    """
    random = np.random.default_rng((seed, 2))
    signs = np.ones((images, DRAWS + 1), np.int8)
    for start in range(0, images, _AT_ONCE):
        here = signs[start : start + _AT_ONCE]
        here[random.random(here.shape) < 0.5] = -1
    signs[:, 0] = 1
    t = np.full((len(effects), DRAWS + 1), -np.inf)
    for row, (index, values) in zip(t, effects, strict=True):
        if len(values) > 1 and values.any():
            mean = values @ signs[index] / len(values)
            row[:] = mean / np.sqrt(np.maximum(np.mean(values**2) - mean**2, 1e-12) / len(values))
    return _adjusted(t)


def interval(values: Float[np.ndarray, " image"]) -> tuple[float, float, float]:
    """Mean and 95 % interval by Student's t; NaN for fewer than two."""
    if len(values) < 2:
        return float("nan"), float("nan"), float("nan")
    mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, len(values) - 1)) * error
    return mean, mean - half, mean + half


def _standardised(
    ranks: Float[np.ndarray, "image column"], inside: Bool[np.ndarray, "image draw"]
) -> Float[np.ndarray, "column draw"]:
    n, mine = len(ranks), inside.sum(axis=0)
    # The variance of a sum of `mine` ranks drawn without replacement; ties are in the ranks' own variance.
    variance = ranks.var(axis=0)[:, None] * mine * (n - mine) / max(n - 1, 1)
    centred = ranks.T @ inside.astype(np.float64) - mine * (n + 1) / 2
    return np.asarray(np.divide(centred, np.sqrt(variance), out=np.zeros_like(centred), where=variance > 0))


def _adjusted(statistics: Float[np.ndarray, "test draw"]) -> Float[np.ndarray, " test"]:
    """Share of draws whose largest statistic reaches the observed one, which is draw 0 and counts."""
    if not len(statistics):
        return np.zeros(0)
    observed, largest = statistics[:, 0], statistics.max(axis=0)
    reached = (largest[None, :] >= observed[:, None] - 1e-12).mean(axis=1)
    return np.where(np.isfinite(observed), reached, 1.0)
