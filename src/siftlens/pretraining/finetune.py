"""Fine-tuning: how well an encoder tells classes apart once all its weights may change."""

from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor, nn

from siftlens.core import InputError
from siftlens.models import LoadedModel
from siftlens.pretraining.features import CHUNK, as_input, features
from siftlens.pretraining.labelled import LabelledImages
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.sampler import epoch_order
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.views import cut, draw_boxes

FINETUNE_EPOCHS = 20
_BATCH, _RATE, _DECAY, _CROP, _SMOOTHING, _WARM_UP = 128, 5e-4, 0.05, 0.35, 0.1, 0.1


def finetune_predict(
    model: LoadedModel,
    images: LabelledImages,
    *,
    epochs: int,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> Int64[Tensor, " validation"]:
    """Class of each validation image by a fine-tuned copy of an encoder, as it is after the last epoch.

    Args:
        model: the encoder, which stays as it is.
        images: labelled.
        epochs: over the images to learn from.
        seed: of their order and views.
        progress: called with a stage, images done and images to do.

    Raises:
        InputError: the model's input is not square.
    """
    encoder, device = deepcopy(model.module).float().train().requires_grad_(True), model.device
    side = images.train.pixels.shape[2]
    if images.train.pixels.shape[3] != side:
        raise InputError("fine-tuning cuts square views, but the model's input is not square; choose a square --size")
    width = features(encoder, as_input(images.train.pixels[:1], model.normalization).to(device)).shape[1]
    head = nn.Linear(width, len(images.classes)).to(device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], weight_decay=_DECAY)
    batches = -(-len(images.train) // _BATCH)
    for epoch in range(epochs):
        for number, part in enumerate(epoch_order(seed, epoch, len(images.train)).split(_BATCH)):
            done = epoch * batches + number
            optimizer.param_groups[0]["lr"] = _RATE * rate_at((done + 0.5) / (epochs * batches), _WARM_UP)
            boxes = draw_boxes(image_keys(seed, epoch, part), side, _CROP)
            x = as_input(cut(images.train.pixels[part], boxes, side), model.normalization).to(device)
            loss = F.cross_entropy(
                head(features(encoder, x)), images.labels[part].to(device), label_smoothing=_SMOOTHING
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            progress("training", (done + 1) * _BATCH, epochs * batches * _BATCH)
    encoder.eval()
    with torch.inference_mode():
        predicted = [
            head(features(encoder, as_input(pixels, model.normalization).to(device))).argmax(dim=1).cpu()
            for pixels in images.validation.pixels.split(CHUNK)
        ]
    return torch.cat(predicted)


def finetune_protocol(epochs: int, seed: int) -> str:
    """How it was done, in one sentence."""
    return (
        f"all weights trained: AdamW, rate {_RATE} at batch {_BATCH}, weight decay {_DECAY}, cosine "
        f"after a warm-up of {_WARM_UP:.0%}, crops of at least {_CROP:.0%} and flips, label smoothing "
        f"{_SMOOTHING}, {epochs} epoch{'' if epochs == 1 else 's'}, the last one reported, seed {seed}"
    )
