"""Which words are taken for cues: those that go with a class and are used for it, each at places of its own."""

import numpy as np
import pytest

from siftlens.auditing.candidates import PER_CLASS, Candidate, find_candidates
from siftlens.core import PatchGrid

GRID = PatchGrid(4, 4, 8, 8)
CUE, NOISE = 0, 7


@pytest.fixture
def scattered() -> tuple[np.ndarray, np.ndarray]:
    """Words 1 to 6 anywhere in 200 images, and the cue's in one patch of most images of class 1: words, labels."""
    random = np.random.default_rng(0)
    labels = np.arange(200) % 2
    words = random.integers(1, NOISE, (200, GRID.patches))
    words[(labels == 1) & (random.random(200) < 0.9), 5] = CUE
    return words, labels


def found(words: np.ndarray, labels: np.ndarray, attribution: np.ndarray) -> list[Candidate]:
    return find_candidates({"token": words}, labels, attribution, np.array([0, 1]), GRID)


def test_what_goes_with_a_class_and_is_used_for_it_is_found(scattered):
    words, labels = scattered
    attribution = np.random.default_rng(1).normal(0, 0.1, words.shape) + 3 * (words == CUE)
    first = found(words, labels, attribution)[0]
    assert first.label == 1 and CUE in first.words
    assert first.threshold == 1 / GRID.patches
    assert first.matched_use == pytest.approx(3, abs=0.1)


def test_what_is_not_used_is_no_candidate(scattered):
    words, labels = scattered
    assert not found(words, labels, np.random.default_rng(1).normal(size=words.shape) - 3 * (words == CUE))


def test_attribution_may_hang_on_few_images(scattered):
    # Near the decision a margin changes by hundreds, elsewhere by fractions: the mean over images then says little.
    words, labels = scattered
    attribution = np.random.default_rng(2).normal(0, 0.05, words.shape) + 0.3 * (words == CUE)
    attribution[tuple(np.argwhere(words == CUE)[0])] = 326
    of_cue = attribution[words == CUE]
    assert of_cue.mean() < 2 * of_cue.std() / np.sqrt(len(of_cue))
    first = found(words, labels, attribution)[0]
    assert first.label == 1 and CUE in first.words and first.use > 5


def test_cues_of_a_class_lie_at_places_of_their_own():
    # Eight words of a class, each in a place of its own: any of them and their unions, but no two nearly the same.
    labels = np.arange(200) % 2
    words = np.full((200, GRID.patches), NOISE + 8)
    words[labels == 1, :8] = np.arange(8)
    random = np.random.default_rng(3)
    candidates = found(words, labels, random.normal(1, 0.1, words.shape))
    of_one = [candidate.patches(words[labels == 1]) for candidate in candidates if candidate.label == 1]
    assert len(of_one) == PER_CLASS
    overlaps = [(a & b).sum() / (a | b).sum() for i, a in enumerate(of_one) for b in of_one[:i]]
    assert max(overlaps) < 0.75
