"""Tuning: helps a model that leans on a cue, leaves others alone, and gives up rather than cost accuracy."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import siftlens
from oracles.leaning import Leaning, pictures
from siftlens.core import InputError
from siftlens.data import open_images
from siftlens.models.given import as_loaded
from siftlens.prompting import Policy, prompted, tune_prompt
from siftlens.prompting.maps import harmful_rows
from siftlens.prompting.validation import Validation, read_validation

TAUGHT, HELD_OUT, TEST = pictures(240), pictures(300, seed=1), pictures(300, correlation=0.5, seed=2)


def pixels_of(images):
    return [image.pixels for image in images]


def labels_of(images):
    return [image.label for image in images]


def audited(model):
    return siftlens.audit(model, pixels_of(TAUGHT), labels_of(TAUGHT), normalize=None, vocabularies=("colour",))


def tuned(model, audit, images=HELD_OUT, **settings):
    return tune_prompt(model, audit, pixels_of(images), labels_of(images), normalize=None, **settings)


def group_accuracy(model, images):
    x = torch.stack([torch.from_numpy(image.pixels).permute(2, 0, 1) / 255 for image in images])
    with torch.no_grad():
        right = model(x).argmax(1).numpy() == labels_of(images)
    groups = np.array([2 * image.label + image.cue for image in images])
    return [right[groups == group].mean() for group in range(4)]


@pytest.fixture(scope="module")
def leaning():
    return Leaning(on_object=1, on_cue=2).eval()


@pytest.fixture(scope="module")
def audit(leaning):
    return audited(leaning)


def test_groups_are_inferred_without_their_labels(leaning, audit):
    source = open_images(pixels_of(HELD_OUT))
    split = read_validation(as_loaded(leaning, source, None, None), audit, source, labels_of(HELD_OUT), 64)
    true = np.array([2 * image.label + (image.cue != image.label) for image in HELD_OUT])
    assert np.array_equal(split.groups, true)
    assert np.array_equal(split.against, true % 2 == 1)
    cued = np.stack([image.cue_map.ravel() for image in HELD_OUT])
    assert (split.cued == cued).mean() > 0.99


def test_the_worst_group_gains_on_images_never_seen(leaning, audit):
    policy = tuned(leaning, audit)
    before = group_accuracy(leaning, TEST)
    after = group_accuracy(prompted(leaning, policy, normalize=None, audit=audit), TEST)
    assert policy.maps.rows == harmful_rows(audit)
    assert min(before) < 0.6 and min(after) > 0.9
    assert np.mean(after) > np.mean(before)


def test_the_same_images_give_the_same_policy(leaning, audit):
    assert tuned(leaning, audit) == tuned(leaning, audit, batch_size=17)


def test_numbers_stand_for_the_models_classes(leaning):
    def named(images):
        return [("plain", "striped")[image.label] for image in images]

    source = open_images(pixels_of(TAUGHT))
    loaded = replace(as_loaded(leaning, source, None, None), classes=("plain", "striped"))
    audit = siftlens.audit(loaded, pixels_of(TAUGHT), named(TAUGHT), vocabularies=("colour",))
    policy = tune_prompt(loaded, audit, pixels_of(HELD_OUT), named(HELD_OUT))
    assert policy != Policy.identity()
    assert tune_prompt(loaded, audit, pixels_of(HELD_OUT), labels_of(HELD_OUT)) == policy


def test_nothing_harmful_nothing_done():
    upright = Leaning(on_object=1, on_cue=0).eval()
    assert tuned(upright, audited(upright)) == Policy.identity()


def test_no_image_goes_against_the_cue(leaning, audit):
    agreeing = [image for image in HELD_OUT if image.label == image.cue]
    assert tuned(leaning, audit, agreeing) == Policy.identity()
    few = agreeing + [image for image in HELD_OUT if image.label != image.cue][:7]
    assert tuned(leaning, audit, few) == Policy.identity()


def test_the_strongest_cue_is_also_tried_alone(leaning, audit, monkeypatch):
    """Two cues do harm, and only the patches of the one that is depended on more, suppressed alone, mend anything."""
    rest = len(audit.cues) - 2
    verdicts, dependence = ["harmful reliance"] * 2 + ["relied on"] * rest, [1.0] + [0.1] * (1 + rest)
    both = replace(audit, cues=audit.cues.assign(verdict=verdicts, dependence=dependence))

    def right(self, policy, maps):
        alone = policy.maps.rows == (0,) and torch.equal(maps, -torch.from_numpy(self.cues[0]).float())
        return ~self.against | alone

    monkeypatch.setattr(Validation, "right", right)
    assert tuned(leaning, both).maps.rows == (0,)


def test_only_what_may_be_best_is_tried_on_all_images(leaning, audit, monkeypatch):
    """The images against the cue bound what the worst group can reach."""
    sizes, right = [], Validation.right

    def counted(self, policy, maps):
        sizes.append(len(self.groups))
        return right(self, policy, maps)

    monkeypatch.setattr(Validation, "right", counted)
    tuned(leaning, audit)
    few, every = max(set(sizes), key=sizes.count), max(sizes)
    assert few < every / 2
    assert sizes.count(every) < sizes.count(few) / 2


def test_a_gain_that_costs_too_much_is_refused(leaning, audit, monkeypatch):
    """Each policy mends a third of what goes against the cue and spoils two thirds of the rest."""

    def right(self, policy, _maps):
        third = (np.cumsum(self.against) + np.cumsum(~self.against)) // 2 % 3 == 0
        return ~self.against if policy.does_nothing else third

    monkeypatch.setattr(Validation, "right", right)
    assert tuned(leaning, audit) == Policy.identity()
    assert tuned(leaning, audit, max_loss=0.05) == Policy.identity()
    assert tuned(leaning, audit, max_loss=0.25) != Policy.identity()


@pytest.mark.parametrize(("mended", "believed"), [(0, False), (1, True)])
def test_a_gain_on_counterparts_alone_is_not_believed(leaning, audit, monkeypatch, mended, believed):
    """Every counterpart is mended; of the images that really go against the cue, so many more than are spoilt."""
    real = sum(image.label != image.cue for image in HELD_OUT)

    def right(self, policy, _maps):
        answers = ~self.against
        against = np.flatnonzero(self.against)
        answers[against[0]] = policy.does_nothing  # spoilt
        if not policy.does_nothing:
            answers[against[1 : 2 + mended]] = True
            answers[against[real:]] = True
        return answers

    monkeypatch.setattr(Validation, "right", right)
    assert (tuned(leaning, audit) != Policy.identity()) is believed


def test_the_average_counts_groups_alike(leaning, audit, monkeypatch):
    """All that goes against the cue is mended, a third of the rest spoilt: fewer right answers, but not by group."""

    def right(self, policy, _maps):
        return ~self.against if policy.does_nothing else self.against | (np.arange(len(self.groups)) // 2 % 3 > 0)

    monkeypatch.setattr(Validation, "right", right)
    assert tuned(leaning, audit) != Policy.identity()
    assert tuned(leaning, audit, average="images") == Policy.identity()
    assert tuned(leaning, audit, average="images", max_loss=0.3) != Policy.identity()


def test_bad_input(leaning, audit):
    with pytest.raises(InputError, match=r"max_loss must lie in \[0, 1\], got -0.1"):
        tuned(leaning, audit, max_loss=-0.1)
    with pytest.raises(InputError, match=r"batch_size must be a whole number, at least 1, got 0"):
        tuned(leaning, audit, batch_size=0)
    with pytest.raises(InputError, match="300 of 300 images have no label"):
        tune_prompt(leaning, audit, pixels_of(HELD_OUT), normalize=None)
    with pytest.raises(InputError, match="expected a label for each of 300 images, got 2"):
        tune_prompt(leaning, audit, pixels_of(HELD_OUT), [0, 1], normalize=None)
    named = [("plain", "striped")[label] for label in labels_of(HELD_OUT)]
    with pytest.raises(InputError, match="harmful cues are of '1', but the labels are 'plain', 'striped'; name the"):
        tune_prompt(leaning, audit, pixels_of(HELD_OUT), named, normalize=None)
    other = Leaning(on_object=1, on_cue=2).eval()
    torch.nn.init.zeros_(other.place)
    with pytest.raises(InputError, match="the audit is of a model with other weights"):
        tuned(other, audit)
