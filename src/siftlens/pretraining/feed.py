"""A process's parts of each step, one step after the other."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from siftlens.pretraining.batches import Batch, Batches


def feed(batches: Batches, first: int, *, rank: int, world: int, accumulate: int, ahead: bool) -> Iterator[list[Batch]]:
    """Yield the parts that a process computes of each step.

    Args:
        batches: of the run.
        first: step to begin with.
        rank: of the process.
        world: processes.
        accumulate: parts of a step per process.
        ahead: make each step's parts in a thread while the step before is computed, as on an accelerator.
    """

    def made(step: int) -> list[Batch]:
        return [batches.part(step, rank + world * n, world * accumulate) for n in range(accumulate)]

    steps = range(first, batches.steps)
    if not ahead:
        yield from map(made, steps)
        return
    with ThreadPoolExecutor(1) as beside:
        coming = [beside.submit(made, step) for step in steps[:1]]
        for step in steps:
            ready = coming.pop().result()
            if step + 1 < batches.steps:
                coming.append(beside.submit(made, step + 1))
            yield ready
