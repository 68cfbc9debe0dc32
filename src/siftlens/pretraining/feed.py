"""A process's parts of each step, one step after the other."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from siftlens.pretraining.batches import Batch, Batches


def feed(batches: Batches, first: int, *, rank: int, world: int, accumulate: int, ahead: int) -> Iterator[list[Batch]]:
    """Yield the parts that a process computes of each step.

    Args:
        batches: of the run.
        first: step to begin with.
        rank: of the process.
        world: processes.
        accumulate: parts of a step per process.
        ahead: steps whose parts are made before their turn, each in a thread, as for an accelerator.
    """

    def made(step: int) -> list[Batch]:
        return [batches.part(step, rank + world * n, world * accumulate) for n in range(accumulate)]

    steps = range(first, batches.steps)
    if not ahead:
        yield from map(made, steps)
        return
    with ThreadPoolExecutor(ahead) as beside:
        coming = deque(beside.submit(made, step) for step in steps[:ahead])
        for step in steps:
            ready = coming.popleft().result()
            if step + ahead < batches.steps:
                coming.append(beside.submit(made, step + ahead))
            yield ready
