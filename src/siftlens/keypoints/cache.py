"""Keypoints on disk, so that the same pixels are never searched twice."""

import hashlib
import os
import sqlite3
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import final

import cv2

from siftlens.keypoints.points import Keypoints, pack, unpack
from siftlens.keypoints.sift import SiftSettings

_VERSION = 1  # of what is stored under a key
_TABLE = "CREATE TABLE IF NOT EXISTS keypoints (key BLOB PRIMARY KEY, packed BLOB NOT NULL)"
_PATIENCE = 30.0  # s, while another process writes
_BATCH = 128  # images per write
_PAGE = 65536  # bytes; an image takes 2500 to 6000, and one that does not fit the rest of a page leaves it empty


@final
class KeypointCache:
    """Keypoints by content of the pixels and settings, in one SQLite file of some KB per image.

    Any number of processes may use it at once. It never stands in the way: damaged, it is begun anew; where it cannot
    be read or written, it remembers nothing. Both are said by one RuntimeWarning.

    Args:
        path: the file; by default keypoints.sqlite in the folder SIFTLENS_CACHE, or in the user's folder of caches.
        read_only: neither make, mend nor warn; for processes beside the one that does.
    """

    def __init__(self, path: Path | None = None, *, read_only: bool = False):
        self.path = path or default_folder() / "keypoints.sqlite"
        self._read_only = read_only
        self._waiting: dict[bytes, bytes] = {}
        self._database: sqlite3.Connection | None = None
        self._open()

    def get(self, content: str, settings: SiftSettings) -> Keypoints | None:
        """The keypoints of pixels with this content hash, or None where they are not known."""
        key = _key(content, settings)
        packed = self._waiting.get(key) or self._read(key)
        try:
            return unpack(packed) if packed else None
        except ValueError:  # a damaged entry counts as none, and is replaced by the next
            return None

    def put(self, content: str, settings: SiftSettings, keypoints: Keypoints) -> None:
        """Remember keypoints; on disk at the latest when the cache is closed. Descriptors are left out."""
        self._waiting[_key(content, settings)] = pack(keypoints)
        if len(self._waiting) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write what waits to disk."""
        waiting, self._waiting = self._waiting, {}
        if self._database is None or not waiting:
            return
        try:
            self._write(waiting)
        except sqlite3.DatabaseError as error:
            self._recover(error)
            if self._database is not None:
                self._write(waiting)

    def close(self) -> None:
        """Write what waits, and let go of the file."""
        self.flush()
        self._disconnect()

    def __enter__(self) -> "KeypointCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        try:
            if self._read_only:
                self._database = sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?mode=ro", timeout=_PATIENCE, uri=True
                )
            else:
                self._create()
        except (sqlite3.DatabaseError, OSError) as error:
            self._recover(error)

    def _create(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, timeout=_PATIENCE)
        with self._database:
            self._database.execute(f"PRAGMA page_size = {_PAGE}")  # heeded in a new file only
            self._database.execute(_TABLE)

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _recover(self, error: Exception) -> None:
        """Begin a damaged file anew; go without where that is not the fault, or does not help."""
        self._disconnect()
        if self._read_only:
            return
        # SQLite has a kind of its own for what the system refuses; the bare kind means that the file is damaged.
        if type(error) is not sqlite3.DatabaseError:
            told = f"the keypoint cache {self.path} cannot be used ({error}); keypoints are detected anew"
            warnings.warn(told, RuntimeWarning, stacklevel=2)
            return
        warnings.warn(f"the keypoint cache {self.path} was damaged and is begun anew", RuntimeWarning, stacklevel=2)
        try:
            self.path.unlink()
            self._create()
        except (sqlite3.DatabaseError, OSError):
            self._disconnect()

    def _read(self, key: bytes) -> bytes | None:
        if self._database is None:
            return None
        try:
            row = self._database.execute("SELECT packed FROM keypoints WHERE key = ?", (key,)).fetchone()
        except sqlite3.DatabaseError as error:
            self._recover(error)
            return None
        return row[0] if row else None

    def _write(self, entries: dict[bytes, bytes]) -> None:
        assert self._database is not None
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO keypoints VALUES (?, ?)", entries.items())


def default_folder() -> Path:
    """Where the platform keeps a user's caches."""
    if folder := os.environ.get("SIFTLENS_CACHE"):
        return Path(folder)
    home = Path("~").expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"), "siftlens", "cache")
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "siftlens"
    return Path(os.environ.get("XDG_CACHE_HOME", home / ".cache"), "siftlens")


def _key(content: str, settings: SiftSettings) -> bytes:
    text = f"{_VERSION} {cv2.__version__} {settings!r} {content}"
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
