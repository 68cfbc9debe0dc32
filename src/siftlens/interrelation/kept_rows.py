"""Where patches attend, kept for a person to look at: whole rows, or the strongest keys of each, at 8 bits a share."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Float, Float16, Float64, Int64, UInt8, UInt16


@dataclass(frozen=True)
class KeptRows:
    """Attention of patches (queries) to patches (keys), a map per layer and head, and how far off it is.

    A share is kept as its row's `scale` times `values` / 255. What a row lacks to 1 goes to tokens in front of the
    patches and, where only the strongest keys are kept, to the other patches.

    Attributes:
        heads: (layer, head) of each map; the number of heads stands for the mean over them.
        keys: which patches the kept shares go to, ascending; None where rows are whole.
        values: kept shares, 255 being the row's largest.
        scale: the row's largest share.
        held: what the kept shares of a row sum to, taken before they were rounded.
        error: largest difference of a kept share from the exact one, by map.
    """

    heads: Int64[np.ndarray, "map 2"]
    keys: UInt16[np.ndarray, "map query kept"] | None
    values: UInt8[np.ndarray, "map query kept"]
    scale: Float16[np.ndarray, "map query"]
    held: Float16[np.ndarray, "map query"]
    error: Float64[np.ndarray, " map"]

    def shares(self) -> Float64[np.ndarray, "map query kept"]:
        """The kept shares."""
        return _shares(self.values, self.scale)

    def map(self, index: int) -> "KeptRows":
        """One map of these."""
        one = slice(index, index + 1)
        parts: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        mapped: dict[str, Any] = {name: None if part is None else part[one] for name, part in parts.items()}
        return KeptRows(**mapped)

    @classmethod
    def join(cls, kept: Sequence["KeptRows"]) -> "KeptRows":
        """Maps of one kind as one; at least one."""
        parts = {field.name: [getattr(rows, field.name) for rows in kept] for field in fields(cls)}
        joined: dict[str, Any] = {
            name: None if part[0] is None else np.concatenate(part) for name, part in parts.items()
        }
        return cls(**joined)

    @property
    def key_bytes(self) -> int:
        """Bytes of a key when packed: 1 for up to 256 patches, else 2; 0 where rows are whole."""
        return 0 if self.keys is None else 1 if self.values.shape[1] <= 256 else 2

    def packed(self) -> bytes:
        """Deflated, as a report carries them: all values, then all keys, all scales, all sums (float32)."""
        parts = [self.values]
        if self.keys is not None:
            parts.append(self.keys.astype(f"<u{self.key_bytes}"))
        parts += [self.scale.astype("<f4"), self.held.astype("<f4")]
        return zlib.compress(b"".join(part.tobytes() for part in parts))


def quantised(
    exact: Float[np.ndarray, "map query kept"],
    heads: Sequence[tuple[int, int]],
    keys: UInt16[np.ndarray, "map query kept"] | None = None,
) -> KeptRows:
    """Keep shares at 8 bits each, and measure what that costs.

    Args:
        exact: shares of attention.
        heads: (layer, head) of each map.
        keys: the patches that they go to; None where these are all, in order.
    """
    wide = exact.astype(np.float64)
    # Rounded to float16 before it divides, so that what is read back is what was measured.
    scale = wide.max(axis=2).astype(np.float16)
    unit = np.where(scale > 0, scale, 1).astype(np.float64)[:, :, None]
    values = np.rint(255 * wide / unit).clip(0, 255).astype(np.uint8)
    return KeptRows(
        heads=np.asarray(heads, np.int64).reshape(-1, 2),
        keys=keys,
        values=values,
        scale=scale,
        held=wide.sum(axis=2).astype(np.float16),
        error=np.abs(_shares(values, scale) - wide).max(axis=(1, 2)),
    )


def _shares(
    values: UInt8[np.ndarray, "map query kept"], scale: Float16[np.ndarray, "map query"]
) -> Float64[np.ndarray, "map query kept"]:
    return values * (scale.astype(np.float64)[:, :, None] / 255)
