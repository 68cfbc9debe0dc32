"""What the steps of an audit found so far, on disk: an interrupted audit does none of them again.

state.json           what the audit depends on, from which follow its steps and their order
NUMBER.safetensors   what came of a step
lock                 held by the process that writes here
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.causal import Effects
from siftlens.auditing.sight import Glimpse
from siftlens.auditing.trials import Trial
from siftlens.core import StudyError
from siftlens.data import PROGRESS, STATE, atomic_path, disk_errors, expect_same, locked, read_record, write_record

Done = TypeVar("Done")
_FOUND = {kind.__name__: kind for kind in (Effects, Glimpse, Trial)}


@contextmanager
def remembered(each: Each, folder: Path | None, numbers: Mapping[str, Any]) -> Iterator[Each]:
    """While inside, steps leave what they found in a folder; those that an interrupted audit had done are read there.

    Args:
        each: does the others.
        folder: that the audit goes to; None to leave nothing anywhere.
        numbers: all that they depend on (JSON values).

    Raises:
        InputError: the folder cannot be written, another process writes to it, or it holds an audit of other settings.
        StudyError: what it holds cannot be read.
    """
    if folder is None:
        yield each
        return
    place = folder / PROGRESS
    with disk_errors(place):
        place.mkdir(parents=True, exist_ok=True)
        lock = locked(folder)
    try:
        if (place / STATE).exists():
            begun = read_record(place / STATE, f"remove {place} and run again")
            expect_same(folder, begun.get("audit", {}), numbers)
        else:
            write_record(place / STATE, {"audit": numbers}, ())
        yield _Remembered(each, place)
    finally:
        lock.release()


class _Remembered:
    """Steps come in the same order whenever the audit is run: those on disk are the first ones."""

    def __init__(self, each: Each, place: Path):
        self._each, self._place = each, place
        self._step = 0

    def __call__(self, steps: Iterable[Callable[[Bench], Done]], /) -> Iterator[Done]:
        left = iter(steps)
        while self._file.exists() and any(True for _ in islice(left, 1)):
            found: Done = _read(self._file)
            self._step += 1
            yield found
        for found in self._each(left):
            _write(self._file, found)
            self._step += 1
            yield found

    @property
    def _file(self) -> Path:
        return self._place / f"{self._step}.safetensors"


def _write(path: Path, found: Any) -> None:
    tensors: dict[str, Tensor] = {}
    form = _taken_apart(found, tensors)
    with atomic_path(path) as target:
        save_file(tensors, target, metadata={"form": json.dumps(form)})


def _read(path: Path) -> Any:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            return _put_together(json.loads(file.metadata()["form"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise StudyError(f"{path} cannot be read; remove {path.parent} and run again") from error


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value's form in JSON values, and every array of it among the tensors."""
    if isinstance(value, np.ndarray | Tensor):
        name = str(len(tensors))
        tensors[name] = torch.as_tensor(value).clone().contiguous()
        return {"array" if isinstance(value, np.ndarray) else "tensor": name}
    if isinstance(value, tuple):
        return {"tuple": [_taken_apart(part, tensors) for part in value]}
    if isinstance(value, dict):
        return {"dict": {key: _taken_apart(part, tensors) for key, part in value.items()}}
    if is_dataclass(value):
        parts = {part.name: _taken_apart(getattr(value, part.name), tensors) for part in fields(value)}
        return {type(value).__name__: parts}
    return value


def _put_together(form: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(form, dict):
        return form
    ((kind, parts),) = form.items()
    if kind == "array":
        return tensors[parts].numpy()
    if kind == "tensor":
        return tensors[parts]
    if kind == "tuple":
        return tuple(_put_together(part, tensors) for part in parts)
    built = {name: _put_together(part, tensors) for name, part in parts.items()}
    return built if kind == "dict" else _FOUND[kind](**built)
