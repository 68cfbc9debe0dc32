"""How much patches count under a policy, for pictures: against the definition by hand."""

import math

import numpy as np
import pandas as pd
import torch

from siftlens.core import PatchGrid
from siftlens.prompting import Bias, Contrast, PixelMask, Policy, TokenChoice
from siftlens.prompting.effect import Picture, PromptEffect, _Selection, faded, patch_counts

MAPS = torch.tensor([[0.0, -1.0, 0.5, 0.25]])


def test_how_much_patches_count():
    def counts(**parts):
        return patch_counts(Policy(**parts), MAPS)[0].tolist()

    assert counts() == [1, 1, 1, 1]
    true = [math.exp(-1), math.exp(-3), 1, math.exp(-0.5)]
    assert np.allclose(counts(bias=(Bias(1.5), Bias(0.5, layers=(0,)))), true)
    assert counts(tokens=TokenChoice(0.5)) == [0, 0, 1, 1]
    assert counts(pixels=PixelMask(0.25)) == [0, 0, 1, 0]
    assert np.allclose(counts(contrast=Contrast(1.0, 0.5)), [0.5, 0.5, 1, 1])


def test_pictures_are_of_each_kind_of_change_alike():
    kinds = ["mended"] * 9 + ["spoilt"] * 4 + ["other"]
    chosen = _Selection(6)
    for row, kind in enumerate(kinds):
        if chosen.wants(kind):
            chosen.add(kind, Picture(row, b"", b""))
    assert [(kinds[one.row], one.row) for one in chosen.chosen] == [
        *[("mended", row) for row in (0, 1)],
        *[("spoilt", row) for row in (9, 10, 11)],
        ("other", 13),
    ]


def test_an_effect_does_not_print_its_pictures():
    effect = PromptEffect(pd.DataFrame(), (Picture(0, b"before", b"after"),), Policy(), {}, PatchGrid(2, 2, 2, 2))
    assert "before" not in repr(effect)


def test_an_even_map_spares_the_image_but_from_token_choice():
    for part in ({"pixels": PixelMask(0.25)}, {"contrast": Contrast(1.0, 0.5)}, {"bias": (Bias(3.0),)}):
        assert patch_counts(Policy(**part), torch.full((1, 4), 2.0)).tolist() == [[1, 1, 1, 1]]
    assert patch_counts(Policy(tokens=TokenChoice(0.5)), torch.zeros(1, 4)).sum() == 2


def test_what_does_not_count_is_grey():
    pixels = np.full((5, 4, 3), 40, np.uint8)
    shown = faded(pixels, np.array([1.0, 0.0, 0.5, 1.0]), PatchGrid(2, 2, 2, 2))
    assert shown[0, 0].tolist() == [40] * 3 and shown[0, 2].tolist() == [200] * 3
    assert shown[2, 0].tolist() == [120] * 3
    assert shown[4].tolist() == [[200] * 3] * 4  # no patch covers it
