"""One step of training: from a batch to changed weights."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from siftlens.data import Normalization
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.batches import Batch
from siftlens.pretraining.patches import grid_of
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.views import normalised

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_BETAS = (0.9, 0.95)  # of AdamW, as in MAE
_REFERENCE_BATCH = 256  # that the learning rate is given for


class Learner:
    """An autoencoder and its optimizer.

    Args:
        fabric: launched.
        model: newly built.
        normalization: that its encoder wants.
        settings: of the run.
        steps: of the whole run, which the learning rate follows.
        compiled: compile the model with torch.compile.

    Attributes:
        optimizer: AdamW over the model's parameters.
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
        self.optimizer = torch.optim.AdamW(_groups(model, settings.weight_decay), betas=_BETAS, fused=True)
        self._wrapped, self._stepper = fabric.setup(model, self.optimizer)
        if settings.first_size is not None:  # made within the first step, they would have it compiled once more
            model.positions(grid_of(settings.first_size, settings.first_size, model.layout.grid))

    def step(self, step: int, parts: list[Batch]) -> Tensor:
        """Do one step on this process's parts of it, and return the loss."""
        rate = self._settings.learning_rate * self._settings.batch_size / _REFERENCE_BATCH
        for group in self.optimizer.param_groups:
            group["lr"] = rate * rate_at((step + 0.5) / self._steps, self._settings.warm_up)
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
