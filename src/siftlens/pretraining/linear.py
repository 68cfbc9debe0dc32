"""The linear probe: how well a linear layer tells classes apart by frozen features."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from siftlens.pretraining.sampler import epoch_order
from siftlens.pretraining.schedule import rate_at

LINEAR_EPOCHS = 100
_BATCH, _RATE, _WARM_UP = 256, 0.1, 0.1


def linear_predict(
    known: Float[Tensor, "train channel"],
    labels: Int64[Tensor, " train"],
    asked: Float[Tensor, "query channel"],
    *,
    epochs: int = LINEAR_EPOCHS,
    seed: int = 0,
) -> Int64[Tensor, " query"]:
    """Class of each query by a linear layer, as it is after the last epoch.

    Args:
        known: features with known classes.
        labels: those, from 0; each class occurs.
        asked: features of the queries.
        epochs: over the known features.
        seed: of their order.
    """
    mean, std = known.mean(dim=0), known.std(dim=0, correction=0).clamp(min=1e-6)
    known, asked = (known - mean) / std, (asked - mean) / std
    layer = nn.Linear(known.shape[1], int(labels.max()) + 1)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=_RATE, momentum=0.9)
    steps = epochs * -(-len(known) // _BATCH)
    step = 0
    for epoch in range(epochs):
        for part in epoch_order(seed, epoch, len(known)).split(_BATCH):
            optimizer.param_groups[0]["lr"] = _RATE * rate_at((step + 0.5) / steps, _WARM_UP)
            F.cross_entropy(layer(known[part]), labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    with torch.inference_mode():
        return torch.as_tensor(layer(asked).argmax(dim=1))


def linear_protocol(epochs: int, seed: int) -> str:
    """How it was done, in one sentence."""
    return (
        "a linear layer on frozen, standardised features, without augmentation: SGD, momentum 0.9, rate "
        f"{_RATE} at batch {_BATCH}, cosine, {epochs} epoch{'' if epochs == 1 else 's'}, the last one reported, "
        f"seed {seed}"
    )
