"""How good an encoder is: linear probe, k-NN or fine-tuning on labelled images."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from siftlens.core import InputError
from siftlens.data import Normalization
from siftlens.models import LoadedModel
from siftlens.pretraining.images import HeldImages, hold
from siftlens.pretraining.neighbours import NEIGHBOURS, TEMPERATURE, knn_predict, labels_of
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.sampler import epoch_order
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.views import cut, draw_boxes, normalised

METHODS = ("linear", "knn", "finetune")
_CHUNK = 256  # images at once, where nothing is trained
_BATCH = 256
_LINEAR_RATE = 0.1
_TUNED_BATCH, _TUNED_RATE, _TUNED_DECAY, _TUNED_CROP, _SMOOTHING = 128, 5e-4, 0.05, 0.35, 0.1
_WARM_UP = 0.1
EPOCHS = {"linear": 100, "knn": 1, "finetune": 20}


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found.

    Attributes:
        method: "linear", "knn" or "finetune".
        correct: whether each validation image's class was told.
        contents: hashes of those images' pixels.
        train: images to learn from.
        classes: number of them.
        protocol: how it was done, in one sentence.
    """

    method: str
    correct: Bool[np.ndarray, " image"]
    contents: tuple[str, ...]
    train: int
    classes: int
    protocol: str

    @property
    def accuracy(self) -> float:
        """Share of the validation images whose class was told, after the last epoch."""
        return float(self.correct.mean())

    @property
    def halves(self) -> tuple[float, float]:
        """The same on two halves by content: choices are made on the first, figures are from the second."""
        second = np.array([int(content, 16) % 2 for content in self.contents], bool)
        return float(self.correct[~second].mean()), float(self.correct[second].mean())


@dataclass(frozen=True)
class LabelledImages:
    """Images to learn from and images to be tested on, of the same classes.

    Attributes:
        train: to learn from.
        labels: their classes, from 0.
        validation: to be tested on.
        answers: their classes.
        classes: names.
    """

    train: HeldImages
    labels: Int64[Tensor, " train"]
    validation: HeldImages
    answers: Int64[Tensor, " validation"]
    classes: tuple[str, ...]


def hold_labelled(model: LoadedModel, train: Any, validation: Any, *, spill: Path, workers: int = 0) -> LabelledImages:
    """Decode two folders with a folder per class each, as a model wants them.

    Raises:
        InputError: a folder has not two classes, or the validation images have others.
        NothingReadableError: not one image can be used.
    """
    held = [
        hold(images, model.preprocessing, spill=spill / f"{name}.npy", workers=workers)
        for name, images in (("train", train), ("validation", validation))
    ]
    labels, classes = labels_of(held[0].groups)
    if len(classes) < 2:
        raise InputError(
            f"a probe needs a folder per class, got {len(classes)} in {train}; sort the images into folders"
        )
    unknown = sorted(set(held[1].groups) - set(classes))
    if unknown:
        raise InputError(f"the validation images have classes that training has not: {', '.join(unknown[:3])}")
    answers = torch.tensor([classes.index(group) for group in held[1].groups])
    return LabelledImages(held[0], labels, held[1], answers, classes)


def probe(
    model: LoadedModel,
    images: LabelledImages,
    method: str = "linear",
    *,
    epochs: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> ProbeResult:
    """Test an encoder on labelled images. What is reported is the last epoch, never the best.

    Features are the mean patch token where the model is timm's and has patches, else whatever it returns.

    Args:
        model: the encoder.
        images: labelled.
        method: "linear", a linear layer on frozen features; "knn", nothing is trained; "finetune", all is.
        epochs: of training; by default 100 for "linear" and 20 for "finetune".
        seed: of the order and the views.
        progress: called with a stage, images done and images to do.

    Raises:
        InputError: another method, or epochs that are not positive.
    """
    if method not in METHODS:
        raise InputError(f"a probe's method must be one of {', '.join(METHODS)}, got {method!r}")
    epochs = EPOCHS[method] if epochs is None else epochs
    if epochs < 1:
        raise InputError(f"epochs must be positive, got {epochs}")
    if method == "finetune":
        predicted, protocol = _finetune(model, images, epochs, seed, progress)
    else:
        known = frozen_features(model, images.train.pixels, progress)
        asked = frozen_features(model, images.validation.pixels, progress)
        if method == "knn":
            predicted = knn_predict(known, images.labels, asked)
            protocol = f"k = {NEIGHBOURS}, cosine similarity s weighted by exp(s / {TEMPERATURE}), frozen features"
        else:
            predicted, protocol = _linear(known, images.labels, asked, len(images.classes), epochs, seed)
    return ProbeResult(
        method=method,
        correct=(predicted == images.answers).numpy(),
        contents=images.validation.contents,
        train=len(images.train),
        classes=len(images.classes),
        protocol=protocol,
    )


def features(module: nn.Module, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channel"]:
    """The mean patch token where a module has patches as timm's have, else what it returns."""
    if not hasattr(module, "forward_features") or not hasattr(module, "num_prefix_tokens"):
        returned: Tensor = module(x)
        return returned
    vit: Any = module
    tokens: Tensor = vit.forward_features(x)
    return tokens[:, vit.num_prefix_tokens :].mean(dim=1)


@torch.inference_mode()
def frozen_features(
    model: LoadedModel,
    pixels: UInt8[Tensor, "image 3 height width"],
    progress: Callable[[str, int, int], None] = lambda _stage, _done, _total: None,
) -> Float[Tensor, "image channel"]:
    """Features of images, on the CPU."""
    found = []
    for start in range(0, len(pixels), _CHUNK):
        x = _input(pixels[start : start + _CHUNK], model.normalization).to(model.device, model.dtype)
        found.append(features(model.module, x).float().cpu())
        progress("images", min(start + _CHUNK, len(pixels)), len(pixels))
    return torch.cat(found)


def _input(pixels: UInt8[Tensor, "batch 3 height width"], normalization: Normalization | None) -> Tensor:
    return pixels / 255 if normalization is None else normalised(pixels, normalization.mean, normalization.std)


def _linear(
    known: Float[Tensor, "train channel"],
    labels: Int64[Tensor, " train"],
    asked: Float[Tensor, "query channel"],
    classes: int,
    epochs: int,
    seed: int,
) -> tuple[Int64[Tensor, " query"], str]:
    mean, std = known.mean(dim=0), known.std(dim=0, correction=0).clamp(min=1e-6)
    known, asked = (known - mean) / std, (asked - mean) / std
    layer = nn.Linear(known.shape[1], classes)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.SGD(layer.parameters(), lr=_LINEAR_RATE, momentum=0.9)
    steps = epochs * -(-len(known) // _BATCH)
    step = 0
    for epoch in range(epochs):
        for part in epoch_order(seed, epoch, len(known)).split(_BATCH):
            optimizer.param_groups[0]["lr"] = _LINEAR_RATE * rate_at((step + 0.5) / steps, _WARM_UP)
            F.cross_entropy(layer(known[part]), labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
            step += 1
    with torch.inference_mode():
        predicted = layer(asked).argmax(dim=1)
    return predicted, (
        f"a linear layer on frozen, standardised features, without augmentation: SGD, momentum 0.9, rate "
        f"{_LINEAR_RATE} at batch {_BATCH}, cosine, {epochs} epochs, the last one reported, seed {seed}"
    )


def _finetune(
    model: LoadedModel, images: LabelledImages, epochs: int, seed: int, progress: Callable[[str, int, int], None]
) -> tuple[Int64[Tensor, " query"], str]:
    encoder, device = deepcopy(model.module).float().train().requires_grad_(True), model.device
    side = images.train.pixels.shape[2]
    if images.train.pixels.shape[3] != side:
        raise InputError("fine-tuning cuts square views, but the model's input is not square; choose a square --size")
    width = features(encoder, _input(images.train.pixels[:1], model.normalization).to(device)).shape[1]
    head = nn.Linear(width, len(images.classes)).to(device)
    nn.init.zeros_(head.weight)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *head.parameters()], weight_decay=_TUNED_DECAY)
    batches = -(-len(images.train) // _TUNED_BATCH)
    for epoch in range(epochs):
        for number, part in enumerate(epoch_order(seed, epoch, len(images.train)).split(_TUNED_BATCH)):
            done = epoch * batches + number
            optimizer.param_groups[0]["lr"] = _TUNED_RATE * rate_at((done + 0.5) / (epochs * batches), _WARM_UP)
            boxes = draw_boxes(image_keys(seed, epoch, part), side, _TUNED_CROP)
            x = _input(cut(images.train.pixels[part], boxes, side), model.normalization).to(device)
            loss = F.cross_entropy(
                head(features(encoder, x)), images.labels[part].to(device), label_smoothing=_SMOOTHING
            )
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            progress("training", (done + 1) * _TUNED_BATCH, epochs * batches * _TUNED_BATCH)
    encoder.eval()
    with torch.inference_mode():
        predicted = [
            head(features(encoder, _input(pixels, model.normalization).to(device))).argmax(dim=1).cpu()
            for pixels in images.validation.pixels.split(_CHUNK)
        ]
    return torch.cat(predicted), (
        f"all weights trained: AdamW, rate {_TUNED_RATE} at batch {_TUNED_BATCH}, weight decay {_TUNED_DECAY}, cosine "
        f"after a warm-up of {_WARM_UP:.0%}, crops of at least {_TUNED_CROP:.0%} and flips, label smoothing "
        f"{_SMOOTHING}, {epochs} epochs, the last one reported, seed {seed}"
    )
