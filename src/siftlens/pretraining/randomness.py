"""Random numbers that belong to an image in an epoch: the same in any batch, worker, rank or resumed run.

SplitMix64 (Steele, Lea and Flood, 2014) as a hash of key and counter, in torch's int64 arithmetic, which wraps around.
"""

from enum import IntEnum

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64
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
    run = _mix(_mix(torch.tensor(seed) + _GOLDEN) + epoch + _GOLDEN)
    return _mix(run + images * _GOLDEN)


def uniform(keys: Int64[Tensor, " batch"], purpose: Purpose, count: int) -> Float64[Tensor, "batch count"]:
    """Uniform random numbers, strictly between 0 and 1.

    Args:
        keys: from `image_keys`.
        purpose: what the numbers are for.
        count: how many for each key.
    """
    stream = _mix(keys + torch.tensor(purpose, device=keys.device) * _GOLDEN)
    counters = torch.arange(1, count + 1, device=keys.device) * _GOLDEN
    bits = _shifted(_mix(stream[:, None] + counters), 64 - _MANTISSA)
    return (bits.double() + 0.5) * 2.0**-_MANTISSA


def _mix(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    x = (x ^ _shifted(x, 30)) * _FIRST
    x = (x ^ _shifted(x, 27)) * _SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Int64[Tensor, "*shape"], bits: int) -> Int64[Tensor, "*shape"]:
    """To the right, filled with zeros; torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
