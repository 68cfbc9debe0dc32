"""Images in Parquet files, a row each, as Hugging Face writes data sets: read where they lie."""

import json
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from siftlens.core import InputError, one_line
from siftlens.data.remote import Remote, within_reach

_LARGEST_GROUP = 2**30  # bytes, decompressed
_ONE_AT_A_TIME = threading.Lock()  # of groups: each thread would hold one
_LABELS = ("label", "labels", "class", "cls")


@dataclass(frozen=True)
class Row:
    """An image in a Parquet file.

    Attributes:
        file: the Parquet file.
        column: the column of images.
        group: of rows, which are read together.
        index: of the row in its group.
    """

    file: Path | Remote
    column: str
    group: int
    index: int

    def read(self) -> bytes:
        """The image's own bytes; none where the row has none.

        Raises:
            OSError: they cannot be read.
        """
        with _ONE_AT_A_TIME:
            value = _images(self.file, self.column, self.group)[self.index].as_py()
        return bytes((value.get("bytes") if isinstance(value, dict) else value) or b"")


def is_parquet(file: Path | Remote) -> bool:
    """Whether a file is taken as a Parquet file."""
    return file.suffix.lower() == ".parquet"


def rows_in(file: Path | Remote) -> Iterator[tuple[str, str, Row]]:
    """Number, class and place of every image in a Parquet file.

    The images are in the first column of bytes, or of a struct with a field `bytes`; classes in a column `label`,
    `labels`, `class` or `cls`, by their names where the file tells them.

    Raises:
        InputError: it is no Parquet file, or has no such column.
    """
    import pyarrow as pa  # not at import: every worker process would
    import pyarrow.parquet as pq

    try:
        with file.open("rb") as opened, pq.ParquetFile(opened) as parquet:
            schema = parquet.schema_arrow
            label = next((name for name in _LABELS if name in schema.names), None)
            classes = _labels(file, parquet, label) if label else []
            groups = [parquet.metadata.row_group(group) for group in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"cannot read {file} as a Parquet file ({one_line(error)}); fetch or write it again"
        ) from error
    column = next((field.name for field in schema if _holds_images(field.type)), None)
    if column is None:
        raise InputError(
            f"{file} has no column of image bytes, but {', '.join(schema.names)}; expected binary, or a struct "
            "with a field 'bytes'"
        )
    if (largest := max((group.total_byte_size for group in groups), default=0)) > _LARGEST_GROUP:
        raise InputError(
            f"{file} has {largest / 2**30:.1f} GB in one group of rows, which are read together; expected at most "
            f"{_LARGEST_GROUP // 2**30} GB, write it again with smaller groups (row_group_size=100)"
        )
    names, number = _names(schema, label), 0
    for group, rows in enumerate(groups):
        for index in range(rows.num_rows):
            named = _named(classes[number], names) if classes else ""
            yield f"{number:09}", named, Row(file, column, group, index)
            number += 1


def _labels(file: Path | Remote, parquet: Any, column: str) -> list[Any]:
    table = parquet.read([column])
    try:
        return list(table[column].to_pylist())
    except (KeyError, ValueError, OverflowError) as error:  # two of that name; times that Python does not know
        raise InputError(
            f"cannot read the column {column} of {file} ({one_line(error)}); expected numbers or words, or no column "
            "of that name"
        ) from error


def _named(label: Any, names: list[str]) -> str:
    if isinstance(label, int) and 0 <= label < len(names):
        return names[label]
    if isinstance(label, bytes):
        return label.decode("utf-8", "backslashreplace")
    return "" if label is None else str(label)


def _holds_images(kind: Any) -> bool:
    import pyarrow.types

    if pyarrow.types.is_struct(kind):
        index = kind.get_field_index("bytes")
        return index >= 0 and _holds_images(kind.field(index).type)
    return bool(pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind))


def _names(schema: Any, label: str | None) -> list[str]:
    """Names of the classes, which Hugging Face keeps beside the schema."""
    try:
        told: Any = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        return [str(name) for name in told["info"]["features"][label]["names"]]
    except (ValueError, KeyError, TypeError):
        return []


@lru_cache(maxsize=1)
def _images(file: Path | Remote, column: str, group: int) -> Any:
    """The images of a group of rows, kept until another group is asked for: neighbours are asked for in turn."""
    import pyarrow.parquet as pq

    with (
        within_reach(file) if isinstance(file, Remote) else nullcontext(),
        file.open("rb") as opened,
        pq.ParquetFile(opened) as parquet,
    ):
        return parquet.read_row_group(group, [column])[column]
