"""Effects of a cue against their controls, on a model whose answer is known."""

import numpy as np
import pytest
import torch

from oracles.leaning import COLS, ROWS, SIDE, Leaning, pictures
from siftlens.attention import find_layout
from siftlens.auditing.bench import Bench
from siftlens.auditing.causal import donors_of, measure_cue
from siftlens.auditing.reader import SampleReader
from siftlens.auditing.tokens import TokenAccess
from siftlens.data import open_images
from siftlens.models.given import as_loaded

PICTURES = pictures(60)


def measured(model, there=None, neutral=None, images=PICTURES, donors=donors_of, most=256):
    source = open_images([picture.pixels for picture in images])
    loaded = as_loaded(model.eval(), source, None, None)
    blank = torch.zeros(1, 3, ROWS * SIDE, COLS * SIDE)
    layout = find_layout(model, blank)
    there = np.array([picture.cue_map.ravel() for picture in images]) if there is None else there
    carries, mine = there.any(axis=1), np.array([picture.label == 1 for picture in images])
    return measure_cue(
        Bench(SampleReader(loaded, tuple(source), 16), layout, TokenAccess(model, layout, blank), 0),
        there,
        ~there if neutral is None else neutral,
        *(
            np.flatnonzero(part)
            for part in (mine & carries, donors(there.mean(axis=1), ~carries, mine), ~mine & ~carries)
        ),
        logit=1,
        most=most,
        seed=0,
    )


def test_a_cue_that_counts():
    effects = measured(Leaning(on_object=0, on_cue=2))
    for effect in (effects.removal, effects.swap, effects.transplant):
        assert np.nanmean(effect) == pytest.approx(2 * 2 * 190 / 255, rel=0.15)
    assert len(effects.images) == len(effects.removal) == len(effects.swap) > 20


def test_a_cue_that_does_not_count():
    effects = measured(Leaning(on_object=0, on_cue=0, on_count=0))
    for effect in (effects.removal, effects.swap, effects.transplant):
        assert np.nanmax(np.abs(effect)) < 1e-4


def test_what_any_patch_does_is_no_effect_of_the_cue():
    """Fails without the control: to lose two tokens, whichever, costs 2 / 35 of 40."""
    effects = measured(Leaning(on_object=0, on_cue=0, on_count=40))
    assert np.abs(effects.removal).max() < 0.01


def test_the_control_spares_what_goes_with_the_class():
    """Fails where the control may take the object, which counts for more than the cue."""
    model = Leaning(on_object=4, on_cue=1)
    neutral = np.array([~(picture.cue_map | picture.object_map).ravel() for picture in PICTURES])
    spared, taken = measured(model, neutral=neutral).removal, measured(model).removal
    assert spared.mean() == pytest.approx(2 * 190 / 255, rel=0.15)
    assert taken.mean() < spared.mean() - 0.1


def test_without_neutral_patches_any_others_are_the_control():
    none = measured(Leaning(on_object=0, on_cue=2), neutral=np.zeros((60, ROWS * COLS), bool))
    np.testing.assert_array_equal(none.removal, measured(Leaning(on_object=0, on_cue=2)).removal)
    assert len(none.images) > 20


def test_a_cue_that_fills_the_image_leaves_no_room():
    effects = measured(Leaning(), there=np.ones((60, ROWS * COLS), bool))
    assert len(effects.images) == len(effects.transplant) == effects.room == 0
    assert effects.passes == 0


def test_room_is_a_share_of_all_that_carry_the_cue_however_few_are_tested():
    effects = measured(Leaning(on_object=0, on_cue=2), most=5)
    assert len(effects.images) == 5 and effects.room == 1


def test_what_other_classes_show_is_no_effect_of_the_cue():
    """A mark at the middle, where objects stand: donors of any class would bring the other class's object."""
    many, mark = pictures(240), np.zeros((ROWS, COLS), bool)
    mark[1:4, 2:5] = True
    marked = np.array([picture.label == 1 and place % 4 == 1 for place, picture in enumerate(many)])
    there, model = marked[:, None] & mark.ravel(), Leaning(on_object=4, on_cue=0)
    of_class, of_any = (
        measured(model, there, images=many, donors=donors).swap.mean()
        for donors in (donors_of, lambda _shares, lacking, _mine: lacking)
    )
    assert of_any > 4 and abs(of_class) < of_any / 2


def test_donors_hold_as_little_of_the_cue_as_other_classes_do():
    mine, shares = np.arange(40) < 20, np.where(np.arange(40) < 20, 0.3, np.linspace(0, 0.2, 40))
    for count, of_class in ((3, False), (4, True)):
        shares[:count] = 0.1
        few = np.arange(40) < count
        assert np.array_equal(donors_of(shares, np.ones(40, bool), mine), few if of_class else np.ones(40, bool))


def test_of_a_large_cue_the_rest_does_not_stand_in():
    """Blue is worth 20 wherever it is, so a part of it could go without effect."""

    class Saturated(Leaning):
        def forward(self, images):
            return 20 * torch.tanh(super().forward(images))

    there = np.array([~picture.object_map.ravel() for picture in PICTURES])
    pixels = [picture.pixels.copy() for picture in PICTURES]
    blue = np.array((20, 20, 200), np.uint8)
    for picture, image in zip(PICTURES, pixels, strict=True):
        image[~picture.object_map.repeat(SIDE, 0).repeat(SIDE, 1)] = blue
        image[picture.object_map.repeat(SIDE, 0).repeat(SIDE, 1)] = 120
    source = open_images(pixels)
    model = Saturated(on_object=1, on_cue=0).eval()
    blank = torch.zeros(1, 3, ROWS * SIDE, COLS * SIDE)
    layout = find_layout(model, blank)
    everything = np.arange(len(pixels))
    effects = measure_cue(
        Bench(
            SampleReader(as_loaded(model, source, None, None), tuple(source), 16),
            layout,
            TokenAccess(model, layout, blank),
            0,
        ),
        there,
        ~there,
        everything,
        everything[:0],
        everything[:0],
        logit=1,
        most=256,
        seed=0,
    )
    assert effects.removal.mean() > 10
    assert np.isnan(effects.swap).all()
