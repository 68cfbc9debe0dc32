"""Progress on a terminal: images/s and time left; nothing where nobody watches."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

_STAGES = {
    "pool": "reference images",
    "images": "images",
    "decoding": "images to decode",
    "training": "images to train on",
    "gallery": "images to look at",
    "cues": "cues",
}


class _Speed(TextColumn):
    """Images per second."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text(f"{speed:.1f} images/s" if speed else "", style="progress.data.speed")


@contextmanager
def shown(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of an analysis while inside.

    Yields:
        What the analysis calls with a stage, what is done and what there is to do.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Speed(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def update(stage: str, done: int, total: int) -> None:
        if stage not in tasks:  # what a resumed run starts with does not count as speed
            tasks[stage] = bars.add_task(_STAGES[stage], total=total, completed=done)
        bars.update(tasks[stage], completed=done, total=total)

    with bars:
        yield update
