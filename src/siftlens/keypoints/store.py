"""Keypoints of a set of images in one file, to be mapped through views: 8 bytes each, all held in memory."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from json import dumps, loads
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Int64, UInt16
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from siftlens.core import InputError
from siftlens.data import atomic_path
from siftlens.keypoints.points import Keypoints, steps_per_pixel
from siftlens.keypoints.sift import SiftSettings

_FORMAT = "siftlens keypoints 2"
_DIGEST = 16  # bytes of a content hash
_COLUMNS = ("x", "y", "size", "response")


@dataclass(frozen=True)
class KeypointStore:
    """Keypoints of many images of one size: positions, sizes and responses.

    Attributes:
        identities: names of the images.
        contents: hashes of their pixels.
        side: width and height of all images, px.
        settings: of the detector.
        start: where each image's points begin, and where the last one's end.
        x: position in the image frame, in steps of `1 / steps_per_pixel(side, side)` px.
        y: likewise, downwards.
        size: diameter, px.
        response: contrast of the extremum.
    """

    identities: tuple[str, ...]
    contents: tuple[str, ...]
    side: int
    settings: SiftSettings
    start: Int64[np.ndarray, " image_and_end"]
    x: UInt16[np.ndarray, " point"]
    y: UInt16[np.ndarray, " point"]
    size: Float16[np.ndarray, " point"]
    response: Float16[np.ndarray, " point"]

    def __len__(self) -> int:
        return len(self.identities)

    def points_of(
        self, images: Int64[np.ndarray, " batch"]
    ) -> tuple[Int64[np.ndarray, " point"], Int64[np.ndarray, " point"]]:
        """Every point of some images: its place in this store, and whose it is, as a place in `images`."""
        first, count = self.start[images], self.start[images + 1] - self.start[images]
        owner = np.repeat(np.arange(len(images)), count)
        within_image = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
        return first[owner] + within_image, owner

    @classmethod
    def gather(cls, found: Iterable[tuple[str, str, Keypoints]], side: int, settings: SiftSettings) -> "KeypointStore":
        """Put the keypoints of images together.

        Args:
            found: identity, content hash and keypoints of each image.
            side: width and height of the images, px.
            settings: that they were detected with.
        """
        identities, contents, each = [], [], []
        steps = steps_per_pixel(side, side)
        for identity, content, keypoints in found:
            identities.append(identity)
            contents.append(content)
            each.append(
                (
                    np.rint(keypoints.x * steps).astype(np.uint16),
                    np.rint(keypoints.y * steps).astype(np.uint16),
                    keypoints.size.astype(np.float16),
                    keypoints.response.astype(np.float16),
                )
            )
        start = np.cumsum([0, *(len(columns[0]) for columns in each)], dtype=np.int64)
        x, y, size, response = (np.concatenate(column) for column in zip(*each, strict=True))
        return cls(tuple(identities), tuple(contents), side, settings, start, x, y, size, response)

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.

        Raises:
            InputError: the disk is full or read-only.
        """
        names = "\n".join(identity.replace("\n", "\\n") for identity in self.identities).encode()
        arrays = {
            "identities": np.frombuffer(names, np.uint8),
            "contents": np.frombuffer(bytes.fromhex("".join(self.contents)), np.uint8).reshape(-1, _DIGEST),
            "start": self.start,
            **{name: getattr(self, name) for name in _COLUMNS},
        }
        metadata = {"format": _FORMAT, "side": str(self.side), "settings": dumps(asdict(self.settings))}
        metadata["digest"] = _digest(arrays, metadata)
        with atomic_path(path) as target:
            save_file(arrays, target, metadata)

    @classmethod
    def load(cls, path: Path) -> "KeypointStore":
        """Read the file.

        Raises:
            InputError: there is none, it is cut off or damaged, or something else.
        """
        if not path.is_file():
            raise InputError(f"no keypoints at {path}; make the file: siftlens keypoints --images DIR --out {path}")
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise InputError(f"{path} holds no keypoints of images; name a file that siftlens keypoints wrote")
                arrays = {name: file.get_tensor(name) for name in ("identities", "contents", "start", *_COLUMNS)}
            _expect_consistent(arrays)
            if metadata.pop("digest") != _digest(arrays, metadata):
                raise ValueError("its bytes have changed")
            return cls(
                identities=tuple(arrays["identities"].tobytes().decode().split("\n")),
                contents=tuple(row.tobytes().hex() for row in arrays["contents"]),
                side=int(metadata["side"]),
                settings=SiftSettings(**loads(metadata["settings"])),
                start=arrays["start"],
                **{name: arrays[name] for name in _COLUMNS},
            )
        except InputError:
            raise
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path} is cut off, damaged, or holds no keypoints of images ({error}); "
                "delete it and run siftlens keypoints again"
            ) from error


def _digest(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    """Hash of all that a file holds, by which bytes that changed on the disk are found out."""
    digest = hashlib.blake2b(dumps(sorted(metadata.items())).encode(), digest_size=_DIGEST)
    for name in sorted(arrays):
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _expect_consistent(arrays: Mapping[str, np.ndarray]) -> None:
    start, names = arrays["start"], arrays["identities"].tobytes().count(b"\n") + 1
    points = {len(arrays[name]) for name in _COLUMNS}
    if {names, len(arrays["contents"])} != {len(start) - 1} or points != {int(start[-1])}:
        raise ValueError("its parts are not of one length")
    if start[0] or (np.diff(start) < 0).any():
        raise ValueError("its images do not follow one another")
