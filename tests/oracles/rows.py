"""Attention rows made up for tests, with the exact shares behind them."""

import numpy as np

from siftlens.interrelation.kept_rows import quantised


def kept_rows(layers, heads, patches, rng, whole=((0, 0),), strongest=5):
    """Rows of a made-up model in full for `whole`, else the strongest keys; and the exact ones, by layer and head."""
    exact = {}
    for layer in range(layers):
        scores = rng.gamma(0.3, 1, (heads, patches, patches + 1))  # one token in front
        shares = (scores / scores.sum(axis=2, keepdims=True))[:, :, 1:]
        exact |= {(layer, head): shares[head] for head in range(heads)} | {(layer, heads): shares.mean(axis=0)}
    others = [place for place in exact if place not in whole]
    rest = np.stack([exact[place] for place in others])
    keys = np.sort(np.argsort(-rest, axis=2)[:, :, :strongest], axis=2).astype(np.uint16)
    return (
        quantised(np.stack([exact[place] for place in whole]), whole),
        quantised(np.take_along_axis(rest, keys.astype(np.int64), axis=2), others, keys),
        exact,
    )
