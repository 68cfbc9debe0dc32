"""What the steps of an audit found so far, on disk: an interrupted audit does none of them again.

state.json           what the audit depends on, from which follow its steps and their order
NUMBER.safetensors   what came of a step, with a checksum
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.causal import Effects
from siftlens.auditing.sight import Glimpse
from siftlens.auditing.trials import CueTrial
from siftlens.core import StudyError
from siftlens.data import PROGRESS, STATE, atomic_path, expect_same, read_record, write_record

Done = TypeVar("Done")
_FORM, _CHECKSUM = "form", "checksum"
_FOUND = {kind.__name__: kind for kind in (Effects, Glimpse, CueTrial)}


def remembered(each: Each, folder: Path | None, numbers: Mapping[str, Any]) -> Each:
    """Steps that leave what they found in a folder; those that an interrupted audit had done are read there.

    Args:
        each: does the others.
        folder: that the audit goes to, held by this process; None to leave nothing anywhere.
        numbers: all that they depend on (JSON values).

    Raises:
        InputError: the folder cannot be written, or holds an audit of other settings.
        StudyError: what it holds cannot be read.
    """
    if folder is None:
        return each
    place = folder / PROGRESS
    if (place / STATE).exists():
        begun = read_record(place / STATE, f"remove {place} and run again")
        expect_same(folder, begun.get("audit", {}), numbers)
    else:
        for left in place.glob("*.safetensors"):  # of which audit, nobody knows
            left.unlink()
        write_record(place / STATE, {"audit": numbers}, ())
    return _Remembered(each, place)


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
    form = json.dumps(_taken_apart(found, tensors)).encode()
    tensors[_FORM] = torch.frombuffer(bytearray(form), dtype=torch.uint8)
    with atomic_path(path) as target:
        target.write_bytes(save(tensors | {_CHECKSUM: _checksum(tensors)}))


def _read(path: Path) -> Any:
    try:
        tensors = load(path.read_bytes())
        if not torch.equal(tensors.pop(_CHECKSUM), _checksum(tensors)):
            raise ValueError("its checksum is of something else")
        return _put_together(json.loads(tensors.pop(_FORM).numpy().tobytes()), tensors)
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise StudyError(f"{path} cannot be read; remove {path.parent} and run again") from error


def _checksum(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.frombuffer(bytearray(blake2b(save(dict(tensors)), digest_size=16).digest()), dtype=torch.uint8)


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """The value's form in JSON values, and every array of it among the tensors."""
    if isinstance(value, np.ndarray | Tensor):
        name = str(len(tensors))
        tensors[name] = value.contiguous() if isinstance(value, Tensor) else torch.from_numpy(np.array(value))
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
