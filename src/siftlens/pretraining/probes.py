"""How good an encoder is: linear probe, k-NN or fine-tuning on labelled images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from siftlens.core import InputError, expect_whole
from siftlens.models import LoadedModel
from siftlens.pretraining.features import frozen_features
from siftlens.pretraining.finetune import FINETUNE_EPOCHS, finetune_predict, finetune_protocol
from siftlens.pretraining.labelled import LabelledImages
from siftlens.pretraining.linear import LINEAR_EPOCHS, linear_predict, linear_protocol
from siftlens.pretraining.neighbours import NEIGHBOURS, TEMPERATURE, knn_predict

METHODS = ("linear", "knn", "finetune")


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
        InputError: another method, epochs that are not positive, or any for "knn".
    """
    if method not in METHODS:
        raise InputError(f"a probe's method must be one of {', '.join(METHODS)}, got {method!r}")
    if epochs is not None:
        epochs = expect_whole("epochs", epochs, least=1)
    if method == "knn" and epochs is not None:
        raise InputError(f"k-NN trains nothing; leave the {epochs} epochs out")
    if method == "finetune":
        epochs = epochs or FINETUNE_EPOCHS
        predicted = finetune_predict(model, images, epochs=epochs, seed=seed, progress=progress)
        protocol = finetune_protocol(epochs, seed)
    else:
        known = frozen_features(model, images.train.pixels, progress)
        asked = frozen_features(model, images.validation.pixels, progress)
        if method == "knn":
            predicted = knn_predict(known, images.labels, asked)
            protocol = f"k = {NEIGHBOURS}, cosine similarity s weighted by exp(s / {TEMPERATURE}), frozen features"
        else:
            epochs = epochs or LINEAR_EPOCHS
            predicted = linear_predict(known, images.labels, asked, epochs=epochs, seed=seed)
            protocol = linear_protocol(epochs, seed)
    return ProbeResult(
        method=method,
        correct=(predicted == images.answers).numpy(),
        contents=images.validation.contents,
        train=len(images.train),
        classes=len(images.classes),
        protocol=protocol,
    )
