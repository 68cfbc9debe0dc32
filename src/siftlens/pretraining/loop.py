"""The training loop: steps, logs, and checkpoints from which it goes on exactly."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from siftlens.core import SiftlensError
from siftlens.data import Normalization
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.batches import Batch, Batches
from siftlens.pretraining.checkpoint import ENCODER, STATE, load_state, save_state, write
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.logbook import Logbook
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.views import normalised
from siftlens.pretraining.watch import draw_reconstructions, watch_knn

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BETAS = (0.9, 0.95)  # of AdamW, as in MAE
_REFERENCE_BATCH = 256  # that the learning rate is given for
_CHECKED = 20  # steps between looks at the loss, which wait for the device
_PICTURED = 8  # images in the picture of reconstructions


@dataclass(frozen=True)
class Pace:
    """How a run is carried out; nothing here changes what is computed.

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
        seconds: of the steps that this call did, evaluations and checkpoints apart.
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
        if fabric.device.type == "cpu" and "bf16" in str(fabric._precision.precision):
            _avoid_fused_attention(model)
        if pace.compile:
            model.compile()
        self._optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), betas=_BETAS, fused=True)
        self._wrapped, self._stepper = fabric.setup(model, self._optimizer)

    def train(self) -> Finished:
        """Train to the end.

        Raises:
            SiftlensError: the loss is not finite, or memory ran out; the last checkpoint stays.
            StudyError: the checkpoint is damaged or of other settings.
        """
        first, total = 0, self._batches.steps
        if (self._out / STATE).exists():
            first = load_state(self._out, self._model, self._optimizer, self._settings.describe())
        self._open_logs(first)
        self._saved, self._seconds = time.monotonic(), 0.0
        self._knn: float | None = None
        losses: list[Tensor] = []
        last_epoch: list[float] = []
        for step, parts in zip(range(first, total), self._parts(first), strict=True):
            started = time.perf_counter()
            with _memory_errors(self._out):
                losses.append(self.step(step, parts))
            epoch, within = divmod(step + 1, self._batches.steps_per_epoch)
            if len(losses) == _CHECKED or not within:
                last_epoch = (last_epoch + self._check(step + 1, losses))[-self._batches.steps_per_epoch :]
                losses.clear()
                self._seconds += time.perf_counter() - started
                self._after(step + 1, epoch if not within else None)
            else:
                self._seconds += time.perf_counter() - started
        if self._fabric.is_global_zero:
            self._save_encoder()
        self._fabric.barrier()
        loss = sum(last_epoch) / len(last_epoch) if last_epoch else math.nan
        return Finished(loss, self._knn, self._seconds, total - first)

    def step(self, step: int, parts: list[Batch]) -> Tensor:
        """Do one step on this process's parts of it, and return the loss."""
        rate = self._settings.learning_rate * self._settings.batch_size / _REFERENCE_BATCH
        for group in self._optimizer.param_groups:
            group["lr"] = rate * rate_at((step + 0.5) / self._batches.steps, self._settings.warm_up)
        total = torch.zeros((), device=self._fabric.device)
        for number, batch in enumerate(parts, start=1):
            there = self._fabric.device
            x = normalised(batch.views.to(there), self._normalization.mean, self._normalization.std)
            weights = None if batch.weights is None else batch.weights.to(there)
            with self._fabric.no_backward_sync(self._wrapped, enabled=number < len(parts)):
                loss = self._wrapped(x, batch.visible.to(there), batch.decoded.to(there), weights) / len(parts)
                self._fabric.backward(loss)
            total += loss.detach()
        self._stepper.step()
        self._stepper.zero_grad()
        return total

    def _parts(self, first: int) -> Iterator[list[Batch]]:
        """This process's parts of each step; beside an accelerator, made while it computes the step before."""
        rank, world, accumulate = self._fabric.global_rank, self._fabric.world_size, self._pace.accumulate

        def made(step: int) -> list[Batch]:
            return [self._batches.part(step, rank + world * n, world * accumulate) for n in range(accumulate)]

        steps = range(first, self._batches.steps)
        if self._fabric.device.type == "cpu":
            yield from map(made, steps)
            return
        with ThreadPoolExecutor(1) as beside:
            coming = [beside.submit(made, step) for step in steps[:1]]
            for step in steps:
                ready = coming.pop().result()
                if step + 1 < self._batches.steps:
                    coming.append(beside.submit(made, step + 1))
                yield ready

    def _check(self, step: int, losses: list[Tensor]) -> list[float]:
        """Look at the last losses, which must be finite, and log them."""
        reduced = self._fabric.all_reduce(torch.stack(losses), reduce_op="mean")
        assert isinstance(reduced, Tensor)
        values: list[float] = reduced.tolist()
        for number, value in enumerate(values, start=step - len(values)):
            if not math.isfinite(value):
                raise SiftlensError(
                    f"the loss is {value} at step {number}; the last checkpoint in {self._out} is from before: lower "
                    "--learning-rate and begin anew, or --resume with --precision fp32"
                )
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
        if epoch is not None and self._is_watched(epoch):
            self._watch(step, epoch)
        if step == self._batches.steps or time.monotonic() - self._saved >= self._pace.save_every:
            save_state(self._out, self._model, self._optimizer, step, self._settings.describe())
            self._saved = time.monotonic()

    def _is_watched(self, epoch: int) -> bool:
        wanted, epochs = self._pace.evaluations, self._settings.epochs
        return epoch * wanted // epochs > (epoch - 1) * wanted // epochs

    def _watch(self, step: int, epoch: int) -> None:
        self._model.eval()
        self._knn = watch_knn(self._model, self._images, self._normalization)
        if self._knn is not None:
            self._knn_log.add([(step, epoch, f"{self._knn:.4f}")])
        shown = torch.linspace(0, len(self._images) - 1, min(_PICTURED, len(self._images))).long()
        batch = self._batches.views(shown, 0, progress=step / self._batches.steps)
        draw_reconstructions(self._out / "reconstructions.png", self._model, batch, self._normalization)
        self._model.train()

    def _open_logs(self, first: int) -> None:
        if self._fabric.is_global_zero:
            self._log = Logbook(self._out / "log.csv", ("step", "loss"), first)
            self._knn_log = Logbook(self._out / "knn.csv", ("step", "epoch", "accuracy"), first + 1)

    def _save_encoder(self) -> None:
        about = {
            "timm": self._settings.model,
            "architecture": dumps(dict(self._settings.architecture)),
            "size": str(self._settings.size),
            "settings": dumps(self._settings.describe()),
        }
        write(self._out / ENCODER, self._model.encoder.state_dict(), about)


def _groups(model: nn.Module, decay: float) -> list[dict[str, object]]:
    """Matrices decay; biases, norms and tokens do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in trained if parameter.squeeze().ndim > 1]
    others = [parameter for parameter in trained if parameter.squeeze().ndim <= 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]


def _avoid_fused_attention(model: nn.Module) -> None:
    """On a CPU, the fused kernel's backward pass is slow in bf16: 104 images/s of the study's model against 178."""
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for attention in attentions:
        attention.fused_attn = False


@contextmanager
def _memory_errors(out: Path) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # which torch.OutOfMemoryError is
        if "out of memory" in str(error) or "not enough memory" in str(error) or "can't allocate" in str(error):
            raise SiftlensError(
                f"out of memory in a training step; --accumulate 2 needs about half, and --resume goes on in {out}"
            ) from error
        raise
