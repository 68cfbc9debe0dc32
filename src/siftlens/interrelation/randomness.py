"""Random numbers that belong to a thing, not to a place in the run: no result depends on batch, order or shard."""

from hashlib import blake2b

import numpy as np


def digest(seed: int, purpose: str, key: str) -> bytes:
    """16 bytes that depend on nothing but the arguments."""
    return blake2b(f"{seed}\0{purpose}\0{key}".encode(), digest_size=16).digest()


def stream(seed: int, purpose: str, key: str) -> np.random.Generator:
    """A random generator for one thing and one purpose, independent of every other.

    Args:
        seed: the analysis' seed.
        purpose: what the numbers are for; other purposes get independent numbers.
        key: what they belong to, usually an image's content hash.
    """
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest(seed, purpose, key), "little")))
