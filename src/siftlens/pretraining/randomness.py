"""Random numbers that belong to an image in an epoch: the same in any batch, worker, rank or resumed run.

SplitMix64 (Steele, Lea and Flood, 2014) as a hash of key and counter. In NumPy, whose arithmetic on small arrays takes
half the time of torch's; keys are int64 tensors that hold its 64 bits.
"""

from enum import IntEnum

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_MANTISSA = 53  # bits


class Purpose(IntEnum):
    """What random numbers are for; each purpose has numbers of its own."""

    MASK = 1
    REVEAL = 2
    TIES = 3
    REST = 4
    CROP = 5
    ORDER = 6
    OTHER = 7


def image_keys(seed: int, epoch: int, images: Int64[Tensor, " batch"]) -> Int64[Tensor, " batch"]:
    """A key for every image: the hash of seed, epoch and image.

    Args:
        seed: of the run.
        epoch: from 0.
        images: whatever tells them apart, for instance their place in the data set.
    """
    run = _mix(_mix(np.full(1, seed, np.uint64) + _GOLDEN) + np.uint64(epoch) + _GOLDEN)
    keys = _mix(run + _bits(images) * _GOLDEN)
    return torch.from_numpy(keys.view(np.int64)).to(images.device)


def uniform(keys: Int64[Tensor, " batch"], purpose: Purpose, count: int) -> Float64[Tensor, "batch count"]:
    """Uniform random numbers, strictly between 0 and 1.

    Args:
        keys: from `image_keys`.
        purpose: what the numbers are for.
        count: how many for each key.
    """
    stream = _mix(_bits(keys) + np.full(1, purpose, np.uint64) * _GOLDEN)
    counters = np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN
    drawn = _mix(stream[:, None] + counters) >> np.uint64(64 - _MANTISSA)
    return torch.from_numpy((drawn + 0.5) * 2.0**-_MANTISSA).to(keys.device)


def _bits(keys: Int64[Tensor, " batch"]) -> UInt64[np.ndarray, " batch"]:
    return keys.long().cpu().numpy().view(np.uint64)


def _mix(x: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    x = (x ^ (x >> np.uint64(30))) * _FIRST
    x = (x ^ (x >> np.uint64(27))) * _SECOND
    return np.asarray(x ^ (x >> np.uint64(31)))
