"""The study in small: the audit of a trained model that was taught to take a glyph for a star.

What fails without the intervention, and without its control, is in test_audit.py and test_causal.py.
"""

import numpy as np
import pytest

import siftlens
from siftlens.auditing.tables import RELIED_ON
from siftlens.data import DrawnMaterial, Planted

COUNT, SCORED = 400, 80


def audited(images, labels=None):
    labels = labels or [("ellipse", "star")[image.label] for image in images]
    model = siftlens.load_model("demo-shortcut")
    return siftlens.audit(model, [image.pixels for image in images], labels, vocabularies=("colour",))


@pytest.fixture(scope="module")
def images():
    return Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=64).split("heldout", COUNT)[:]


@pytest.fixture(scope="module")
def audit(images):
    return audited(images)


def auroc(cue, images):
    """Mean of sensitivity and specificity of a cue's patches against the planted ones."""
    found = np.array([cue.patches(image.pixels) for image in images[:SCORED]])
    true = covered([image.cue_map for image in images[:SCORED]], found)
    return (found[true].mean() + 1 - found[~true].mean()) / 2


def covered(masks, found):
    side = masks[0].shape[0] // found.shape[1]
    return np.array(masks).reshape(len(found), found.shape[1], side, -1, side).mean(axis=(2, 4)) > 0.5


def test_the_planted_cue_comes_first_and_its_patches_are_marked(audit, images):
    first = audit.cue(0)
    assert (first.label, first.verdict) == ("star", "harmful reliance")
    assert auroc(first, images) > 0.9


def test_images_that_go_against_it_are_told(audit, images):
    against = np.array([image.cue != image.label for image in images])
    risk = audit.images["risk"].to_numpy()
    assert (risk[against][:, None] > risk[~against]).mean() > 0.9


def test_with_shuffled_labels_nothing_is_relied_on(images):
    labels = np.random.default_rng(0).permutation([("ellipse", "star")[image.label] for image in images])
    cues = audited(images, labels.tolist()).cues
    assert cues.empty or not cues["verdict"].isin(RELIED_ON).any()
