"""Counterparts: the cue changes sides, the rest of the image and the label stay."""

from dataclasses import replace

import numpy as np
import pytest

import siftlens
from oracles.leaning import COLS, CUE, ROWS, SIDE, Leaning, pictures
from siftlens.data import open_images
from siftlens.models.given import as_loaded
from siftlens.prompting.counterparts import MOST, _Exchange, counterparts
from siftlens.prompting.maps import harmful_rows
from siftlens.prompting.validation import read_validation

IMAGES, LEANING = pictures(300, seed=1), Leaning(on_object=1, on_cue=2).eval()


@pytest.fixture(scope="module")
def audit():
    taught = pictures(240)
    return siftlens.audit(
        LEANING,
        [image.pixels for image in taught],
        [image.label for image in taught],
        normalize=None,
        vocabularies=("colour",),
    )


def read(audit, rows, images=IMAGES, model=LEANING):
    source = open_images([image.pixels for image in images])
    split = read_validation(as_loaded(model, source, None, None), audit, source, [image.label for image in images], 64)
    return split.with_cues(audit, rows)


def red(pixels):
    """Patches that show the cue."""
    patches = np.asarray(pixels).reshape(ROWS, SIDE, COLS, SIDE, 3).mean(axis=(1, 3))
    return np.abs(patches - CUE).max(axis=2).ravel() < 40


def test_the_cue_changes_sides_and_the_label_does_not(audit):
    rows = harmful_rows(audit)[:1]
    split = read(audit, rows)
    made = counterparts(split, audit, rows)
    assert np.array_equal(np.bincount(made.names.astype(int)), [MOST, MOST])
    assert np.array_equal(made.groups, 2 * made.names.astype(int) + 1)
    assert np.array_equal(made.logit, made.names.astype(int))
    carrying = np.array([red(pixels).any() for pixels in made.pixels])
    assert np.array_equal(carrying, made.names == "0")  # the cue is of class 1
    shown = np.stack([red(pixels) for pixels in made.pixels])
    assert (made.cued == shown).mean() > 0.99  # where the cues are is looked up anew


def test_all_but_the_cues_places_is_the_image_as_it_was(audit):
    rows = harmful_rows(audit)[:1]
    split = read(audit, rows)
    made = counterparts(split, audit, rows)
    assert len(made.pixels) == 2 * MOST
    for pixels in made.pixels:
        differs = [np.asarray(pixels != image).any(axis=2) for image in split.pixels]
        least = min(differs, key=np.sum)
        patches = least.reshape(ROWS, SIDE, COLS, SIDE).any(axis=(1, 3))
        assert 1 <= patches.sum() <= 4


def test_the_strongest_cue_that_allows_it_is_exchanged(audit):
    """A second, weaker cue of class 0 changes nothing."""
    rows = (*harmful_rows(audit)[:1], len(audit.cues) - 1)
    label, dependence = audit.cues["label"].to_list(), audit.cues["dependence"].to_list()
    label[rows[1]], dependence[rows[1]] = "0", 0.01
    weaker = replace(audit, cues=audit.cues.assign(label=label, dependence=dependence))
    split = read(weaker, rows)
    with_weaker = counterparts(split, weaker, rows)
    alone = counterparts(read(audit, rows[:1]), audit, rows[:1])
    assert all(
        red(pixels).any() == (name == "0") for pixels, name in zip(with_weaker.pixels, with_weaker.names, strict=True)
    )
    assert len(with_weaker.pixels) == len(alone.pixels) == 2 * MOST


def test_the_same_images_have_the_same_counterparts(audit):
    rows = harmful_rows(audit)
    first, second = (counterparts(read(audit, rows), audit, rows) for _ in range(2))
    assert len(first.pixels) == 2 * MOST
    assert all(np.array_equal(a, b) for a, b in zip(first.pixels, second.pixels, strict=True))


def test_without_donors_there_are_none(audit):
    """No image carries the cue, so it cannot be put in, and is not there to be taken away."""
    rows = harmful_rows(audit)[:1]
    bare = [image for image in IMAGES if not image.cue]
    made = counterparts(read(audit, rows, bare), audit, rows)
    assert len(made.pixels) == 0


@pytest.mark.parametrize(
    ("known", "answered", "believed"), [(10, 0.9, True), (10, 0.2, False), (8, 0.9, True), (7, 0.9, False)]
)
def test_counterparts_must_be_as_easy_as_what_they_stand_for(audit, monkeypatch, known, answered, believed):
    """40 images of class 1 and 40 others; `known` of each really go against the cue, and all are answered rightly."""
    rows = harmful_rows(audit)[:1]
    own = np.repeat([True, False], 40)
    carried = own ^ np.tile(np.arange(40) < known, 2)
    order, grid = np.array([0]), audit.vocabulary.grid
    exchange = _Exchange(read(audit, rows), carried[None], own[None], order, grid)
    monkeypatch.setattr("siftlens.prompting.counterparts._plain", lambda split: np.ones(80, bool))
    whose = np.flatnonzero(carried == own)
    made = np.arange(len(whose)) % 10 < 10 * answered
    kept = exchange.believed(whose, np.zeros(len(whose), np.int64), made)
    assert np.array_equal(kept, np.full(len(whose), believed))
