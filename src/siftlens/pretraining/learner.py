"""One step of training: from a batch to changed weights."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from siftlens.data import Normalization
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.batches import Batch
from siftlens.pretraining.optimizers import optimizers_of, set_rate
from siftlens.pretraining.patches import grid_of
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.views import normalised

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_REFERENCE_BATCH = 256  # that the learning rate is given for


class Learner:
    """An autoencoder and its optimizers.

    Args:
        fabric: launched.
        model: newly built.
        normalization: that its encoder wants.
        settings: of the run.
        steps: of the whole run, which the learning rate follows.
        compiled: compile the model with torch.compile.

    Attributes:
        optimizers: of the model's parameters.
    """

    def __init__(
        self,
        fabric: "Fabric",
        model: MaskedAutoencoder,
        normalization: Normalization,
        settings: PretrainSettings,
        steps: int,
        *,
        compiled: bool = False,
    ):
        self._fabric, self._normalization, self._settings, self._steps = fabric, normalization, settings, steps
        if fabric.device.type == "cpu" and "bf16" in str(fabric._precision.precision):
            _avoid_fused_attention(model)
        if compiled:
            model.compile()
        self.optimizers = optimizers_of(model, settings.optimizer, settings.weight_decay)
        self._wrapped, *self._steppers = fabric.setup(model, *self.optimizers)
        if settings.first_size is not None:  # made within the first step, they would have it compiled once more
            model.positions(grid_of(settings.first_size, settings.first_size, model.layout.grid))

    def step(self, step: int, parts: list[Batch]) -> Tensor:
        """Do one step on this process's parts of it, and return the loss."""
        rate = self._settings.learning_rate * self._settings.batch_size / _REFERENCE_BATCH
        set_rate(self.optimizers, rate * rate_at((step + 0.5) / self._steps, self._settings.warm_up))
        total = torch.zeros((), device=self._fabric.device)
        for number, batch in enumerate(parts, start=1):
            there = self._fabric.device
            x = normalised(batch.views.to(there), self._normalization.mean, self._normalization.std)
            weights = None if batch.weights is None else batch.weights.to(there)
            with self._fabric.no_backward_sync(self._wrapped, enabled=number < len(parts)):
                loss = self._wrapped(x, batch.visible.to(there), batch.decoded.to(there), weights) / len(parts)
                self._fabric.backward(loss)
            total += loss.detach()
        for stepper in self._steppers:
            stepper.step()
            stepper.zero_grad()
        return total


def _avoid_fused_attention(model: nn.Module) -> None:
    """On a CPU, the fused kernel's backward pass is slow in bf16: 104 images/s of the study's model against 178."""
    attentions: list[Any] = [module for module in model.modules() if hasattr(module, "fused_attn")]
    for attention in attentions:
        attention.fused_attn = False
