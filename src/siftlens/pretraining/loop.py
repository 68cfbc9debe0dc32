"""The training loop: steps, logs, and checkpoints from which it goes on exactly."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from loky import cpu_count
from torch import Tensor

from siftlens.core import SiftlensError
from siftlens.data import Normalization
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.checkpoint import STATE, load_state, save_encoder, save_state
from siftlens.pretraining.feed import feed
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.learner import Learner
from siftlens.pretraining.logbook import Logbook
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.trouble import step_errors
from siftlens.pretraining.watch import Watch

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_CHECKED = 20  # steps between looks at the loss, which wait for the device
_AHEAD = 8  # steps made beside an accelerator, at most; a core cuts some 3000 views of 224 px in a second
_FIRST = 30.0  # seconds before the first checkpoint: whoever stops early loses no more


@dataclass(frozen=True)
class Pace:
    """How a run is carried out; nothing here changes what is computed, but for rounding.

    Args:
        accumulate: parts that a step is computed in, one after the other, to save memory.
        compile: compile the model with torch.compile.
        save_every: seconds between checkpoints.
        evaluations: how often k-NN and reconstructions are made, spread evenly over the epochs, last included.
    """

    accumulate: int = 1
    compile: bool = False
    save_every: float = 300.0
    evaluations: int = 10


@dataclass(frozen=True)
class Finished:
    """What came of a run.

    Attributes:
        loss: mean over the last epoch's steps; NaN where none was left to do.
        knn: leave-one-out accuracy at the end; None without class folders.
        seconds: of the steps that this call did, with making their batches; evaluations and checkpoints apart.
        steps: that this call did.
    """

    loss: float
    knn: float | None
    seconds: float
    steps: int


class Run:
    """One run, from wherever it was left to its end.

    Args:
        fabric: launched.
        model: newly built.
        normalization: that its encoder wants.
        images: decoded.
        batches: of the run.
        settings: of the run.
        out: folder of its files.
        pace: how it is carried out.
        progress: called with a stage, images done and images to do.

    Attributes:
        first: step that it goes on with.

    Raises:
        StudyError: the checkpoint in `out` is damaged, or of other settings, images or keypoints.
    """

    def __init__(
        self,
        fabric: "Fabric",
        model: MaskedAutoencoder,
        normalization: Normalization,
        images: HeldImages,
        batches: Batches,
        settings: PretrainSettings,
        out: Path,
        pace: Pace,
        progress: Callable[[str, int, int], None],
    ):
        self._fabric, self._model, self._normalization = fabric, model, normalization
        self._images, self._batches, self._settings = images, batches, settings
        self._out, self._pace, self._progress = out, pace, progress
        with step_errors(out):
            self._learner = Learner(fabric, model, normalization, settings, batches.steps, compiled=pace.compile)
        self._about = batches.describe()
        self.first = 0
        if (out / STATE).exists():
            self.first = load_state(out, model, self._learner.optimizers, self._about)

    def train(self) -> Finished:
        """Train to the end.

        Raises:
            SiftlensError: the loss is not finite, memory ran out, or a process is gone; the last checkpoint stays.
        """
        first, total = self.first, self._batches.steps
        self._saved, self._seconds = time.monotonic() - max(self._pace.save_every - _FIRST, 0.0), 0.0
        if self._fabric.is_global_zero:
            self._log = Logbook(self._out / "log.csv", ("step", "loss"), first)
            self._watch = Watch(
                self._model, self._normalization, self._images, self._batches, self._out, self._pace.evaluations, first
            )
        losses: list[Tensor] = []
        last_epoch: list[float] = []
        fabric = self._fabric
        parts_of_steps = feed(
            self._batches,
            first,
            rank=fabric.global_rank,
            world=fabric.world_size,
            accumulate=self._pace.accumulate,
            ahead=0 if fabric.device.type == "cpu" else max(1, min(_AHEAD, cpu_count() // fabric.world_size)),
        )
        resumed = time.perf_counter()
        for step, parts in zip(range(first, total), parts_of_steps, strict=True):
            with step_errors(self._out):
                losses.append(self._learner.step(step, parts))
            epoch, within = divmod(step + 1, self._batches.steps_per_epoch)
            if len(losses) == _CHECKED or not within:
                last_epoch = (last_epoch + self._check(step + 1, losses))[-self._batches.steps_per_epoch :]
                losses.clear()
                self._seconds += time.perf_counter() - resumed
                self._after(step + 1, epoch if not within else None)
                resumed = time.perf_counter()
        if self._fabric.is_global_zero:
            save_encoder(self._out, self._model.encoder, self._settings)
        with step_errors(self._out):
            self._fabric.barrier()
        loss = sum(last_epoch) / len(last_epoch) if last_epoch else math.nan
        knn = self._watch.knn if self._fabric.is_global_zero else None
        return Finished(loss, knn, self._seconds, total - first)

    def _check(self, step: int, losses: list[Tensor]) -> list[float]:
        """Look at the last losses, which must be finite, and log them."""
        with step_errors(self._out):
            reduced = self._fabric.all_reduce(torch.stack(losses), reduce_op="mean")
        assert isinstance(reduced, Tensor)
        values: list[float] = reduced.tolist()
        for number, value in enumerate(values, start=step - len(values)):
            if not math.isfinite(value):
                raise self._diverged(f"the loss is {value} at step {number}")
        if self._fabric.is_global_zero:
            first = step - len(values)
            self._log.add((first + n, f"{value:.6f}") for n, value in enumerate(values))
            self._progress(
                "training", step * self._settings.batch_size, self._batches.steps * self._settings.batch_size
            )
        return values

    def _after(self, step: int, epoch: int | None) -> None:
        """What is done between steps: evaluation after some epochs, a checkpoint now and then and at the end."""
        if not self._fabric.is_global_zero:
            return
        if epoch is not None:
            with step_errors(self._out):
                self._watch.after(epoch)
        if step == self._batches.steps or time.monotonic() - self._saved >= self._pace.save_every:
            if not all(bool(torch.isfinite(weights).all()) for weights in self._model.parameters()):
                raise self._diverged(f"weights are not finite after step {step}")  # told before they are kept
            save_state(self._out, self._model, self._learner.optimizers, step, self._about)
            self._saved = time.monotonic()

    def _diverged(self, what: str) -> SiftlensError:
        remedy = "lower --learning-rate and begin anew"
        if (self._out / STATE).exists():
            remedy = f"what {self._out} holds is from before: {remedy}, or --resume with --precision fp32"
        return SiftlensError(f"{what}; {remedy}")
