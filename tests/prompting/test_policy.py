"""Policies as values: what they refuse, and that nothing is lost on paper."""

import math

import pytest

from siftlens.core import InputError
from siftlens.prompting import Bias, Contrast, Mixture, PixelMask, Policy, TokenChoice

WHOLE = Policy(
    bias=(Bias(2.5, layers=(3, 1)), Bias(-1, layers=(0,), heads=(2,))),
    tokens=TokenChoice(0.5),
    pixels=PixelMask(0.75, "mean"),
    contrast=Contrast(0.5, view=0.25),
    maps=Mixture(keypoints=1, cues=2, rows=(1, 0)),
)


@pytest.mark.parametrize("policy", [WHOLE, Policy.identity(), Policy(bias=(Bias(1.0),))])
def test_there_and_back(policy):
    assert Policy.from_json(policy.to_json()) == policy


def test_order_of_layers_does_not_matter():
    assert Bias(1.0, layers=(3, 1, 3)) == Bias(1.0, layers=[1, 3])


def test_what_does_nothing():
    assert Policy.identity().does_nothing
    assert Policy(bias=(Bias(0.0),), tokens=TokenChoice(1), pixels=PixelMask(1), contrast=Contrast(0, 0.5)).does_nothing
    for name in ("bias", "tokens", "pixels", "contrast"):
        assert not Policy(**{name: getattr(WHOLE, name)}).does_nothing


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Bias(math.nan), r"Bias.strength must lie in \[-100, 100\], got nan"),
        (lambda: Bias(101), r"Bias.strength must lie in \[-100, 100\], got 101"),
        (lambda: Bias(1, layers=()), r"Bias.layers must be None or at least one index from 0, got \(\)"),
        (lambda: Bias(1, heads=(-1,)), r"Bias.heads must be None or at least one index from 0, got \(-1,\)"),
        (lambda: TokenChoice(0), r"share of the patches in \(0, 1\], got 0; 0 drops every patch"),
        (lambda: TokenChoice(1.1), r"TokenChoice.keep must be a share of the patches in \(0, 1\], got 1.1"),
        (lambda: TokenChoice(math.nan), "TokenChoice.keep must be a share .* got nan"),
        (lambda: PixelMask(0), "0 masks the whole image"),
        (lambda: PixelMask(0.5, "noise"), "fill must be one of blur, mean, got 'noise'"),
        (lambda: Contrast(-1, 0.5), r"Contrast.strength must lie in \[0, 100\], got -1"),
        (lambda: Contrast(1, 0), "Contrast.view must be a share .* 0 shows nothing"),
        (lambda: Mixture(), "Mixture needs a weight above 0 on one of keypoints, centre, gradient, cues"),
        (lambda: Mixture(centre=-1), "Mixture.centre must be a finite weight of at least 0, got -1"),
        (lambda: Mixture(cues=math.inf), "Mixture.cues must be a finite weight"),
        (lambda: Policy.from_json("{"), "a policy must be JSON"),
        (lambda: Policy.from_json('{"bias": [{"strength": %s}]}' % ("9" * 5000)), "a policy must be JSON: Exceeds"),
        (lambda: Policy.from_json('{"maps": {"keypoints": %s}}' % ("9" * 400)), "maps.keypoints must be a number"),
        (lambda: Policy.from_json("[]"), "a policy must be a JSON object of bias, tokens"),
        (lambda: Policy.from_json('{"colour": 1}'), "a policy may hold bias, tokens, .* got colour"),
        (lambda: Policy.from_json('{"bias": 2}'), "bias must be a list of objects, got 2"),
        (lambda: Policy.from_json('{"bias": [{"beta": 2}]}'), "bias may hold strength, layers, heads, got beta"),
        (lambda: Policy.from_json('{"contrast": {"strength": 1}}'), "contrast needs view, got strength"),
        (
            lambda: Policy.from_json('{"bias": [{"strength": 1, "heads": [0.5]}]}'),
            r"bias.heads must be a list of indices, got \[0.5\]",
        ),
        (lambda: Policy.from_json('{"tokens": null}'), "tokens must be a JSON object of keep, got None"),
        (lambda: Policy.from_json('{"tokens": {"keep": "half"}}'), "tokens.keep must be a number, got 'half'"),
        (lambda: Policy.from_json('{"tokens": {"keep": null}}'), "tokens.keep must be a number, got None"),
        (lambda: Policy.from_json('{"maps": {"cues": 1, "rows": 3}}'), "maps.rows must be a list of indices, got 3"),
        (lambda: Policy.from_json("[" * 100_000), "a policy must be JSON"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()
