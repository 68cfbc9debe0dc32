"""A finished folder's record: a JSON file, written last, that knows what it and the files beside it held.

So damage is told before a decoder sees it, and numbers that were changed are never shown as if they had been computed.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from siftlens.core import InputError, StudyError, one_line
from siftlens.data.atomic import atomic_path, disk_errors

FORMAT = 1
RUN, AUDIT, PROMPT = "run.json", "audit.json", "prompt.json"
PROGRESS, STATE = ".progress", "state.json"  # a folder inside that of the results, and its record
_CHECKSUMS = "checksums"
_MARK = ".siftlens"  # in a folder of files that siftlens wrote, where no record tells so
_KINDS = {RUN: "study", AUDIT: "audit", PROMPT: "prompt"}


def expect_free(folder: Path, *, but: str | None = None, files: Iterable[str] = ()) -> None:
    """Refuse a folder whose finished result, of whatever kind, or whose files of another origin would be overwritten.

    Args:
        folder: to write to.
        but: the record that may be there: of a result to go on with.
        files: names of those that will be written.

    Raises:
        InputError: it holds one.
    """
    with disk_errors(folder):  # a name too long
        there = [kind for record, kind in _KINDS.items() if record != but and (folder / record).exists()]
    if there:
        raise InputError(f"{folder} holds a finished {there[0]}; choose another folder, or remove that one first")
    taken = [] if is_own(folder) else [name for name in files if (folder / name).exists()]
    if taken:
        raise InputError(f"{folder} holds {taken[0]} already; choose another folder, or remove that file first")


def is_result(folder: Path) -> bool:
    """Whether siftlens wrote the folder, be it finished or not: what lies in it are no images of the user's."""
    places = [folder / record for record in (*_KINDS, f"{PROGRESS}/{STATE}")]
    with suppress(OSError):
        return any(f'"{_CHECKSUMS}"'.encode() in place.read_bytes() for place in places if place.is_file())
    return False


def is_own(folder: Path) -> bool:
    """Whether siftlens wrote the folder: a result, or figures, a comparison, a pre-training."""
    return is_result(folder) or (folder / _MARK).is_file()


def make_own(folder: Path) -> None:
    """Make a folder for files of siftlens' own, whose pictures are no images of the user's; one in use stays unmarked.

    What a run under way keeps there is no use of it.

    Raises:
        InputError: it cannot be made.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if all(there.name == PROGRESS for there in folder.iterdir()):
            (folder / _MARK).write_text("siftlens wrote this folder; its pictures are left out of --images.\n")


def write_record(path: Path, values: Mapping[str, Any], files: Iterable[str]) -> None:
    """Write a record with the checksums of itself and of files beside it.

    Args:
        path: the record.
        values: what it says (JSON values).
        files: names of the files, which are there already.

    Raises:
        InputError: the disk is full or read-only.
    """
    whole = json.loads(json.dumps({"format": FORMAT, **values}))
    checksums = {name: _of_file(path.parent / name) for name in files}
    whole[_CHECKSUMS] = checksums | {path.name: _of_values(whole)}
    with atomic_path(path) as target:
        target.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def read_record(path: Path, advice: str) -> dict[str, Any]:
    """Read a record, once it and every file that it names are found to be what was written.

    All files are read through once, about 1 GB per second.

    Args:
        path: the record.
        advice: what to do about one that cannot be used.

    Raises:
        StudyError: it or one of the files is missing, damaged or changed, or of a newer version.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe might never end
            raise OSError("not a file")
        whole = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"{path} is damaged or cut off ({one_line(error)[:200]}); {advice}") from error
    if not isinstance(whole, dict) or not isinstance(written := whole.get("format"), int):
        raise StudyError(f"{path} names no format: not written by siftlens, or damaged; {advice}")
    if written > FORMAT:
        raise StudyError(f"{path} has format {written}, this siftlens reads up to {FORMAT}; update siftlens")
    checksums = whole.pop(_CHECKSUMS, None)
    if checksums is None:
        raise StudyError(f"{path} has no checksums: of a siftlens before there were any, or changed; {advice}")
    if not isinstance(checksums, dict) or checksums.pop(path.name, None) != _of_values(whole):
        raise StudyError(f"{path} was changed since it was written; {advice}")
    for name, expected in checksums.items():
        file = path.parent / name
        if not file.is_file():
            raise StudyError(f"{path.parent} lacks {name}; {advice}")
        if _of_file(file) != expected:
            raise StudyError(f"{file} is damaged or cut off, or was changed since it was written; {advice}")
    return whole


def _of_values(values: Any) -> str:
    return hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()


def _of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
