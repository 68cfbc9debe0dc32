"""What is told of a run in run.json: what it computes, and how each part of it was carried out."""

import warnings
from collections.abc import Mapping
from json import dumps, loads
from pathlib import Path
from typing import Any

from siftlens.data import atomic_path

_ABOUT = "run.json"
_FROM = "from_step"


def note_part(folder: Path, about: Mapping[str, Any], step: int, how: Mapping[str, Any]) -> None:
    """Write what a run computes, and add how it is carried out from a step on.

    Warns where that has changed: the weights are then not those of a run that was never interrupted.

    Args:
        folder: of the run.
        about: what it computes, as JSON values.
        step: from which it goes on; what an earlier call did beyond was lost.
        how: device, precision and the like, likewise.

    Raises:
        InputError: the disk is full or read-only.
    """
    path = folder / _ABOUT
    parts = [part for part in _parts_of(path) if part[_FROM] < step] if step else []
    if parts:
        before = {name: value for name, value in parts[-1].items() if name != _FROM}
        pairs = [(name, before.get(name), value) for name, value in how.items()]
        changed = [f"{name} was {was} and is {now}" for name, was, now in pairs if was != now]
        if changed:
            warnings.warn(
                f"the run goes on in another way than before: {', '.join(changed)}; its weights will differ from those "
                "of a run without this change",
                stacklevel=3,
            )
    with atomic_path(path) as target:
        whole = {**about, "parts": [*parts, {_FROM: step, **how}]}
        target.write_text(dumps(whole, indent=1) + "\n", encoding="utf-8")


def _parts_of(path: Path) -> list[dict[str, Any]]:
    """The parts that are told already; none where the file is gone or damaged, for nothing is computed from it."""
    try:
        parts = loads(path.read_text(encoding="utf-8"))["parts"]
        return [part for part in parts if isinstance(part[_FROM], int)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
