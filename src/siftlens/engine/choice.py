"""An engine by its name."""

from collections.abc import Iterator
from contextlib import contextmanager

from siftlens.core import InputError
from siftlens.engine.cluster import connected
from siftlens.engine.local import LocalEngine
from siftlens.engine.protocol import Engine

ENGINES = ("local", "ray")


@contextmanager
def open_engine(name: str, *, workers: int | None, address: str | None = None, gpu: bool = False) -> Iterator[Engine]:
    """An engine to work with while inside.

    Args:
        name: "local" or "ray".
        workers: processes: local, that decode and detect beside this one (None for none); ray, that run the model
            (None for as many as fit).
        address: of a running Ray cluster; None starts one on this machine, and ends it.
        gpu: the work runs on a GPU, and each process needs one.

    Raises:
        InputError: another name; an address without Ray, no worker on it; Ray is not installed, or not at this address.
    """
    if name not in ENGINES:
        raise InputError(f"engine must be one of {', '.join(ENGINES)}, got {name!r}")
    if name == "local":
        if address is not None:
            raise InputError("an address is that of a Ray cluster; add --engine ray (engine='ray')")
        yield LocalEngine(workers or 0)
        return
    if workers == 0:
        raise InputError(
            "on Ray the model runs in worker processes; give --workers 1 (workers=1) or more, or leave it out"
        )
    with connected(address):
        from siftlens.engine.on_ray import RayEngine  # not at import: Ray is an extra, and takes a while

        yield RayEngine(workers, gpu=gpu)
