"""Which images a step is made of, and that parts make the whole."""

from dataclasses import replace
from itertools import chain

import pytest
import torch

from siftlens.core import PatchGrid
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.choice import PartialDecoding
from siftlens.pretraining.feed import feed
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.settings import PretrainSettings

IMAGES, SIDE, GRID = 23, 24, PatchGrid(3, 2, 6, 9)
SETTINGS = PretrainSettings(size=18, source=SIDE, batch_size=6, epochs=2, policy=MaskPolicy("ramped", ratio=0.5))


def batches(settings: PretrainSettings = SETTINGS, guide=None) -> Batches:
    """Of images that are all of one value each, their place: a view shows which image it is of."""
    places = torch.arange(IMAGES, dtype=torch.uint8)
    pixels = places[:, None, None, None].expand(-1, 3, SIDE, SIDE)
    names = tuple(map(str, range(IMAGES)))
    return Batches(HeldImages(names, names, names, pixels), guide, GRID, settings)


def of(batch) -> list[int]:
    assert (batch.views == batch.views[:, :1, :1, :1]).all()
    return batch.views[:, 0, 0, 0].tolist()


def test_an_epoch_shows_every_image_at_most_once_and_epochs_differ():
    made = batches()
    assert (made.steps_per_epoch, made.steps) == (3, 6)
    epochs = [[of(made.part(step, 0, 1)) for step in steps] for steps in (range(3), range(3, 6))]
    for epoch in epochs:
        seen = list(chain(*epoch))
        assert len(set(seen)) == len(seen) == 18
    assert epochs[0] != epochs[1]
    assert of(batches().part(4, 0, 1)) == epochs[1][1]


def test_parts_make_the_step_image_by_image():
    settings = replace(SETTINGS, decoding=PartialDecoding(0.7, 0.5), loss_temperature=0.5)
    concentration = torch.rand(IMAGES, GRID.patches)
    made = batches(settings, lambda images, *_: concentration[images])
    whole = made.part(4, 0, 1)
    parts = [made.part(4, part, 3) for part in range(3)]
    for place, image in enumerate(of(whole)):
        part = next(part for part in parts if image in of(part))
        row = of(part).index(image)
        assert torch.equal(part.visible[row], whole.visible[place])
        assert torch.equal(part.decoded[row], whole.decoded[place])
        assert torch.equal(part.weights[row], whole.weights[place])
    assert whole.visible.shape == (6, 3)
    assert whole.decoded.shape == (6, 2)


def test_the_policy_is_told_how_far_the_run_is(monkeypatch):
    told = []
    usual = MaskPolicy.noise
    monkeypatch.setattr(
        MaskPolicy, "noise", lambda *args, **named: told.append(named["progress"]) or usual(*args, **named)
    )
    made = batches()
    for step in (0, 3, 5):
        made.part(step, 0, 1)
    assert told == [0, 0.5, 5 / 6]


@pytest.mark.parametrize("ahead", [1, 3, 8])  # 8: more than there are
def test_made_ahead_the_same_steps_come_in_the_same_order(ahead):
    def steps(*, ahead):
        made = feed(batches(), 2, rank=1, world=3, accumulate=2, ahead=ahead)
        return [[of(part) for part in parts] for parts in made]

    assert steps(ahead=ahead) == steps(ahead=0)
    assert len(steps(ahead=0)) == 4
    whole = batches()
    assert steps(ahead=ahead)[0] == [of(whole.part(2, part, 6)) for part in (1, 4)]


def test_without_weights_there_are_none():
    assert batches().part(0, 0, 1).weights is None
