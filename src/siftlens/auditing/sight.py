"""What the model and the words say of every image, looked at batch by batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.margins import expected_gradients, margins
from siftlens.auditing.sample import Sample
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.interrelation.randomness import stream

_SAMPLES = 2  # of expected gradients, for each image
_BACKWARD = 2  # forward passes that a backward pass counts as


@dataclass(frozen=True)
class Seen:
    """What is known of every image of the sample.

    Attributes:
        margins: of the image's label.
        answers: index of the class that it is taken for; -1 for a logit that no image is labelled with.
        words: of every patch, by kind; -1 for none.
        attribution: to every patch, for the image's label; 0 for images of the confirm half.
        passes: forward passes that it took.
    """

    margins: Float[np.ndarray, " image"]
    answers: Int[np.ndarray, " image"]
    words: dict[str, Int[np.ndarray, "image patch"]]
    attribution: Float[np.ndarray, "image patch"]
    passes: int


def see(
    each: Each,
    sample: Sample,
    vocabulary: Vocabulary,
    logit: Int[np.ndarray, " class"],
    batch_size: int,
    seed: int,
    seen: Callable[[int], None],
) -> Seen:
    """Look at every image.

    Args:
        each: does the looking.
        sample: the images.
        vocabulary: of their words.
        logit: index of the logit of each class.
        batch_size: images at a time.
        seed: of the donors that attributions are made with.
        seen: called with the number of images looked at.
    """
    everything = np.arange(len(sample.refs))
    batches = [everything[start : start + batch_size] for start in range(0, len(everything), batch_size)]
    looks = (partial(_look, vocabulary=vocabulary, question=_question(sample, batch, logit, seed)) for batch in batches)
    found = []
    for batch, glimpse in zip(batches, each(looks), strict=True):
        found.append(glimpse)
        seen(int(batch[-1]) + 1)
    logits = torch.cat([glimpse.logits for glimpse in found])
    lookup = np.full(logits.shape[1], -1)
    lookup[logit] = np.arange(len(logit))
    return Seen(
        margins(logits.double(), torch.from_numpy(logit[sample.labels])).numpy(),
        np.asarray(lookup[logits.argmax(dim=1).numpy()]),
        {kind: np.concatenate([glimpse.words[kind] for glimpse in found]) for kind in vocabulary.codebooks},
        np.concatenate([glimpse.attribution for glimpse in found]),
        sum(glimpse.passes for glimpse in found),
    )


@dataclass(frozen=True)
class _Question:
    """What is asked of a batch.

    Attributes:
        images: their places in the sample.
        attributed: which of them patches are attributed for.
        logits: of the labels of these.
        donors: for each of these, and each sample, the place of an image of another class.
        shares: how far from the donor to the image.
    """

    images: Int[np.ndarray, " image"]
    attributed: Bool[np.ndarray, " image"]
    logits: Int[np.ndarray, " mine"]
    donors: Int[np.ndarray, "sample mine"]
    shares: Float[np.ndarray, "sample mine"]


@dataclass(frozen=True)
class Glimpse:
    """What was seen of a batch, as in `Seen`."""

    logits: Float[Tensor, "image logit"]
    words: dict[str, Int[np.ndarray, "image patch"]]
    attribution: Float[np.ndarray, "image patch"]
    passes: int


def _question(
    sample: Sample, images: Int[np.ndarray, " image"], logit: Int[np.ndarray, " class"], seed: int
) -> _Question:
    discover = sample.discover
    mine = images[discover[images]]
    others = {label: np.flatnonzero(discover & (sample.labels != label)) for label in set(sample.labels[mine])}
    donors, shares = np.zeros((_SAMPLES, len(mine)), np.int64), np.zeros((_SAMPLES, len(mine)), np.float32)
    for draw in range(_SAMPLES):
        for place, image in enumerate(mine):
            random = stream(seed, f"donor {draw}", str(image))
            donors[draw, place] = random.choice(others[sample.labels[image]])
            shares[draw, place] = random.random()
    return _Question(images, discover[images], logit[sample.labels[mine]], donors, shares)


def _look(bench: Bench, vocabulary: Vocabulary, question: _Question) -> Glimpse:
    (batch,) = bench.reader.batches(question.images)
    logits, tokens = bench.run(batch.x)
    mine = question.attributed
    attribution = np.zeros((len(mine), bench.layout.grid.patches), np.float32)
    if mine.any():
        attribution[mine] = _attribution(bench, batch.x[torch.from_numpy(mine)], question)
    passes = len(mine) + _SAMPLES * int(mine.sum()) * (1 + _BACKWARD)
    return Glimpse(logits.cpu(), vocabulary.words(batch.pixels, tokens), attribution, passes)


def _attribution(bench: Bench, x: Tensor, question: _Question) -> Float[np.ndarray, "mine patch"]:
    """Mean over a few donors of other classes."""
    model, access, layout = bench.reader.model, bench.access, bench.layout
    total = torch.zeros(len(x), layout.grid.patches)
    classes = torch.from_numpy(question.logits).to(x.device)
    for places, shares in zip(question.donors, question.shares, strict=True):
        (donors,) = bench.reader.batches(places)
        given = access.embed(donors.x)
        found = expected_gradients(model.module, access, x, given, classes, torch.from_numpy(shares))
        total += found[:, layout.prefix :].cpu() / _SAMPLES
    return total.numpy()
