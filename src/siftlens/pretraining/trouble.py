"""What can go wrong in a step, in one line each; the last checkpoint stays in every case."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

from siftlens.core import SiftlensError
from siftlens.pretraining.checkpoint import STATE

_MEMORY = ("out of memory", "not enough memory", "can't allocate")
_NETWORK = ("gloo", "nccl", "connection closed", "connection reset", "broken pipe")


@contextmanager
def step_errors(out: Path) -> Iterator[None]:
    """Say what happened to memory and to other processes.

    Args:
        out: folder of the run.

    Raises:
        SiftlensError: memory ran out, or another process of the run is gone.
    """
    try:
        yield
    except RuntimeError as error:  # which torch.OutOfMemoryError and torch.distributed's errors are
        told = str(error).lower()
        if any(words in told for words in _MEMORY):
            raise SiftlensError(
                f"out of memory in a training step; --accumulate 2 needs about half; {_go_on(out)}"
            ) from error
        if isinstance(error, distributed.DistError) or any(words in told for words in _NETWORK):
            raise SiftlensError(f"another process of this run is gone, see what it printed; {_go_on(out)}") from error
        raise


def _go_on(out: Path) -> str:
    return f"--resume goes on in {out}" if (out / STATE).exists() else "no checkpoint was due yet: begin anew"
