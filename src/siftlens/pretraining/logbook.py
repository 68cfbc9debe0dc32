"""CSV logs that a resumed run continues as if it had never stopped."""

import csv
from collections.abc import Iterable
from pathlib import Path

from siftlens.data import atomic_path, disk_errors


class Logbook:
    """A CSV file whose first column is the step.

    Args:
        path: the file; rows of steps from `first_step` on are dropped, they are about to be made again.
        columns: names, the first is "step".
        first_step: of the run that goes on; 0 begins anew.

    Raises:
        InputError: the disk is full or read-only.
    """

    def __init__(self, path: Path, columns: Iterable[str], first_step: int):
        self._path = path
        kept: list[list[str]] = []
        if first_step and path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdecimal() and int(row[0]) < first_step]
        with atomic_path(path) as target, target.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([list(columns), *kept])

    def add(self, rows: Iterable[Iterable[object]]) -> None:
        """Append rows.

        Raises:
            InputError: the disk is full or read-only.
        """
        with disk_errors(self._path), self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
