"""What an analysis has found so far, on disk: rows that only grow, and one small file that says how far they count.

    state.json        the commit: settings, how far each log counts, names of the accumulator files
    rows.f32          a fixed-width float32 record per image (variable, layer, head)
    images.jsonl      a line per image
    quarantine.jsonl  a line per image set aside
    state-*.npz       sums of the accumulators

A crash at any moment leaves the last commit: whatever was written after it is cut off when the run goes on.
"""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from io import BufferedWriter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from siftlens.core import InputError, StudyError
from siftlens.data import (
    STATE,
    atomic_path,
    disk_errors,
    expect_asked,
    expect_same,
    read_record,
    write_record,
)

_LOGS = ("rows.f32", "images.jsonl", "quarantine.jsonl")


@dataclass
class _State:
    """The commit.

    Attributes:
        settings: what the numbers depend on; another run may go on only with the same.
        refs: images of the source that are done, quarantined ones included.
        images: images read.
        row_shape: (variable, layer, head) of a record.
        sizes: bytes of each log that count.
        sums: name of an accumulator -> its file.
        facts: whatever else the finished study needs to know (JSON values).
    """

    settings: dict[str, Any]
    refs: int = 0
    images: int = 0
    row_shape: list[int] = field(default_factory=list)
    sizes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_LOGS, 0))
    sums: dict[str, str] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    commits: int = 0


class Spool:
    """An analysis under way, in a folder of its own.

    Args:
        folder: where; made if missing.
        settings: what the numbers depend on (JSON values).
        resume: go on from the last commit in the folder.

    Raises:
        InputError: the folder cannot be written; it holds a run and `resume` is False, or one of other settings.
        StudyError: the last commit cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, resume: bool = False):
        self.folder = folder
        self._state = _State(json.loads(json.dumps(settings)))
        self._logs: dict[str, BufferedWriter] = {}
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            if (folder / STATE).exists():
                expect_asked(folder.parent, resume=resume)
                self._state = self._last_commit()
            with disk_errors(folder):
                for name in _LOGS:
                    log = self._logs[name] = (folder / name).open("ab")
                    log.truncate(self._state.sizes[name])
                    log.seek(0, 2)
        except BaseException:
            for log in self._logs.values():
                log.close()
            raise

    def _last_commit(self) -> _State:
        advice = f"remove {self.folder} and run again"
        values = read_record(self.folder / STATE, advice)
        if not {part.name for part in fields(_State)} <= values.keys():
            raise StudyError(f"{self.folder / STATE} is not of an analysis; {advice}, or choose another folder")
        state = _State(**{part.name: values[part.name] for part in fields(_State)})
        for name, size in state.sizes.items():
            log = self.folder / name
            if not log.exists() or log.stat().st_size < size:
                raise StudyError(f"{log} is shorter than its last commit; {advice}")
        expect_same(self.folder.parent, state.settings, self._state.settings)
        return state

    @property
    def refs(self) -> int:
        """Images of the source that are done, quarantined ones included."""
        return self._state.refs

    @property
    def images(self) -> int:
        """Images read."""
        return self._state.images

    @property
    def facts(self) -> dict[str, Any]:
        """What was noted with `commit`."""
        return self._state.facts

    def append(self, rows: Float[np.ndarray, "image variable layer head"], images: list[dict[str, Any]]) -> None:
        """Add a record and a line per image; they count after the next commit."""
        shape = list(rows.shape[1:])
        if self._state.images == 0:
            self._state.row_shape = shape
        if self._state.row_shape != shape or len(rows) != len(images):
            raise ValueError(f"expected a line and a record {self._state.row_shape} per image, got {rows.shape}")
        self._write("rows.f32", np.ascontiguousarray(rows, np.float32).tobytes())
        self._write("images.jsonl", _lines(images))
        self._state.images += len(images)

    def quarantine(self, identity: str, reason: str) -> None:
        """Add an image set aside; it counts after the next commit."""
        self._write("quarantine.jsonl", _lines([{"identity": identity, "reason": reason}]))

    def commit(
        self, refs: int, sums: Mapping[str, Mapping[str, np.ndarray]], facts: Mapping[str, Any] | None = None
    ) -> None:
        """Make everything so far count, all of it or nothing.

        Args:
            refs: images of the source that are done.
            sums: arrays of every accumulator that changed since the last commit.
            facts: what else to remember (JSON values).
        """
        state, old = self._state, set(self._state.sums.values())
        if not all((self.folder / name).exists() for name in self._logs):
            raise InputError(
                f"{self.folder} was removed or moved while it was written to, so that nothing of it can be resumed; "
                "run again"
            )
        with disk_errors(self.folder):
            for name, log in self._logs.items():
                log.flush()
                os.fsync(log.fileno())
                state.sizes[name] = log.tell()
        state.commits += 1
        state.refs = refs
        state.facts = state.facts | dict(facts or {})
        for number, (name, arrays) in enumerate(sums.items()):
            state.sums[name] = f"state-{state.commits}-{number}.npz"
            with atomic_path(self.folder / state.sums[name]) as path, path.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        write_record(self.folder / STATE, asdict(state), ())
        for name in old - set(state.sums.values()):
            (self.folder / name).unlink()

    def sums(self) -> dict[str, dict[str, np.ndarray]]:
        """The arrays of every accumulator at the last commit."""
        found = {}
        for name, file in self._state.sums.items():
            try:
                with (self.folder / file).open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
                    found[name] = dict(arrays)
            except Exception as error:  # what a damaged archive raises depends on where it is damaged
                raise StudyError(f"{self.folder / file} cannot be read; remove {self.folder} and run again") from error
        return found

    def rows(self) -> Float[np.ndarray, "image variable layer head"]:
        """The records that count, mapped from disk rather than read."""
        shape = (self._state.images, *self._state.row_shape)
        if self._state.images == 0:
            return np.zeros((0, 0, 0, 0), np.float32)
        return np.memmap(self.folder / "rows.f32", np.float32, mode="r", shape=shape)

    def image_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the images that count."""
        return self._read("images.jsonl")

    def quarantine_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of the images set aside that count."""
        return self._read("quarantine.jsonl")

    def close(self) -> None:
        """Let go of the files."""
        for log in self._logs.values():
            log.close()

    def _write(self, name: str, data: bytes) -> None:
        with disk_errors(self.folder):
            self._logs[name].write(data)

    def _read(self, name: str) -> Iterator[dict[str, Any]]:
        left = self._state.sizes[name]
        with (self.folder / name).open("rb") as log:
            for line in log:
                left -= len(line)
                if left < 0:
                    return
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise StudyError(f"{log.name} is damaged; remove {self.folder} and run again") from error
                yield record


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()
