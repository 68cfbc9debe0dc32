"""Properties of whole images: do they go with a class, and does the model follow when they are changed?"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageFilter

from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.inference import association_p, effects_p, interval
from siftlens.auditing.margins import logits_of, margins
from siftlens.auditing.properties import CHANGEABLE, PROPERTIES, everywhere, properties_of
from siftlens.auditing.reader import Pixels, SampleReader
from siftlens.auditing.sample import Sample, enough
from siftlens.auditing.verdicts import RELEVANT, SIGNIFICANT

_CHANGED = 32  # images for each property, of a class and of the others
_LEAST = 0.1  # factor
_RADII = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)  # px


def screen(
    each: Each,
    sample: Sample,
    logits: Int[np.ndarray, " class"],
    medians: Float[np.ndarray, " class"],
    seed: int,
) -> tuple[pd.DataFrame, int]:
    """Screen properties of whole images for each class (confirm half).

    Where one goes with a class, images of other classes are given the class's median of it, and images of the class the
    others' median; the control moves them as far the other way. Size and aspect cannot be changed, and stay
    "associated".

    Args:
        each: does the changes.
        sample: the images.
        logits: index of the logit of each class.
        medians: margin of each class.
        seed: of the null draws.

    Returns:
        A row per class and property: label, property, direction ("more" or "less" in the class), p_association
        (adjusted), everywhere (whether it may explain patches, as `everywhere` says; True for size and aspect), change
        (of the margin, over the median margin, beyond the control), low, high, p (adjusted), verdict ("associated" or
        "relied on"). And the forward passes that it took.
    """
    confirm = ~sample.discover
    values, labels = sample.properties[confirm], sample.labels[confirm]
    columns = [(label, place, sign) for label in enough(sample) for place in range(len(PROPERTIES)) for sign in (1, -1)]
    table = np.stack([sign * values[:, place] for _, place, sign in columns], axis=1)
    _, p = association_p(table, labels, np.array([label for label, _, _ in columns]), seed)
    associated = [(column, float(p_one)) for column, p_one in zip(columns, p, strict=True) if p_one < SIGNIFICANT]
    steps = []
    for (label, place, _), _ in associated:
        parts = []
        if PROPERTIES[place] in CHANGEABLE and medians[label] > 0:
            for here, there in ((sample.labels != label, labels == label), (sample.labels == label, labels != label)):
                some = np.flatnonzero(confirm & here)
                some = some[np.linspace(0, len(some) - 1, min(len(some), _CHANGED)).astype(int)]
                parts.append((some, float(np.median(values[there, place]))))
        steps.append(partial(_change, parts=parts, name=PROPERTIES[place], logit=int(logits[label])))
    found = [
        (column, p_one, index, change / medians[column[0]])
        for (column, p_one), (index, change) in zip(associated, each(steps), strict=True)
    ]
    adjusted = effects_p([(index, change) for _, _, index, change in found], len(sample.refs), seed)
    whole = {
        label: everywhere(values, sample.spreads[confirm], labels == label) for label in {one[0][0] for one in found}
    }
    rows = []
    for ((label, place, sign), p_one, _, change), p_change in zip(found, adjusted, strict=True):
        mean, low, high = interval(change)
        relied = p_change < SIGNIFICANT and mean >= RELEVANT
        rows.append(
            {
                "label": sample.names[label],
                "property": PROPERTIES[place],
                "direction": "more" if sign > 0 else "less",
                "p_association": p_one,
                "everywhere": place >= len(CHANGEABLE) or bool(whole[label][place]),
                "change": mean,
                "low": low,
                "high": high,
                "p": float(p_change),
                "verdict": "relied on" if relied else "associated",
            }
        )
    columns_of = [
        "label",
        "property",
        "direction",
        "p_association",
        "everywhere",
        "change",
        "low",
        "high",
        "p",
        "verdict",
    ]
    passes = 2 * sum(len(index) for _, _, index, _ in found)
    return pd.DataFrame(rows, columns=columns_of).sort_values("change", ascending=False, ignore_index=True), passes


def moved(pixels: Pixels, name: str, amount: float) -> Pixels:
    """The image with a property moved by an amount, in the property's unit; the others stay as far as they can."""
    if name == "sharpness":
        return _sharper(pixels, amount)
    image = pixels.astype(np.float64)
    mean = image.mean(axis=(0, 1))
    if name == "contrast":
        spread = max(properties_of(pixels, (1, 1))[PROPERTIES.index(name)], 1.0)
        image = image.mean() + (image - image.mean()) * max(_LEAST, 1 + amount / spread)
    else:
        # Light multiplies: what is dark stays dark in any light.
        shift = {"brightness": (1, 1, 1), "redness": (0.5, -0.5, 0), "yellowness": (1 / 3, 1 / 3, -2 / 3)}[name]
        image *= np.maximum(_LEAST, 1 + amount * np.array(shift) / np.maximum(mean, 1.0))
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _sharper(pixels: UInt8[np.ndarray, "height width 3"], amount: float) -> UInt8[np.ndarray, "height width 3"]:
    """The blur, or for a positive amount the sharpening, that comes nearest to an amount."""
    image, place = Image.fromarray(pixels), PROPERTIES.index("sharpness")
    start = properties_of(pixels, (1, 1))[place]
    tried = [pixels]
    for radius in _RADII:
        blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))
        if amount > 0:  # what blur takes away, added once more
            blurred = np.clip(2 * pixels.astype(np.int64) - blurred, 0, 255).astype(np.uint8)
        tried.append(blurred)
    reached = [properties_of(version, (1, 1))[place] - start for version in tried]
    return tried[int(np.argmin(np.abs(np.array(reached) - amount)))]


def _change(
    bench: Bench, parts: Sequence[tuple[Int[np.ndarray, "_"], float]], name: str, logit: int
) -> tuple[Int[np.ndarray, " image"], Float[np.ndarray, " image"]]:
    """What a property moved to a target adds to the margin of the class, and takes from it in the class's own images.

    Args:
        bench: with the images and the model.
        parts: images of the other classes, and of the class, each with the target; or nothing.
        name: of the property.
        logit: of the class.
    """
    if not parts:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    toward, away = (_changes(bench.reader, index, name, target, logit) for index, target in parts)
    return np.concatenate([index for index, _ in parts]), np.concatenate([toward, -away])


def _changes(
    reader: SampleReader, index: Int[np.ndarray, " image"], name: str, target: float, logit: int
) -> Float[np.ndarray, " image"]:
    """Margin of the class with a property moved to the target, minus margin with it moved as far the other way."""
    place, found = PROPERTIES.index(name), []
    for batch in reader.batches(index):
        amounts = [target - properties_of(pixels, (1, 1))[place] for pixels in batch.pixels]
        there, back = (
            margins(
                logits_of(
                    reader.model.module,
                    reader.input(
                        [moved(pixels, name, sign * a) for pixels, a in zip(batch.pixels, amounts, strict=True)]
                    ),
                ).cpu(),
                torch.full((len(amounts),), logit),
            )
            for sign in (1, -1)
        )
        found.append((there - back).numpy())
    return np.concatenate(found)
