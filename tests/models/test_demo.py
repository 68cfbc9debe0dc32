"""The model that ships."""

import pytest
import torch
from safetensors.torch import load_file

from siftlens.attention import find_layout
from siftlens.core import PatchGrid
from siftlens.data import DrawnMaterial, Planted, decode, open_images
from siftlens.models import demo_shortcut as shortcut
from siftlens.models import load_model
from siftlens.models.demo import DEMO_CLASSES, WEIGHTS

VAL = "../shared/data/imagenette-128/val"


def test_it_is_small_and_stored_in_half_precision():
    assert WEIGHTS.stat().st_size < 5_200_000
    assert {tensor.dtype for tensor in load_file(WEIGHTS).values()} == {torch.float16}
    card = (WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    assert load_model("demo").weights_hash in card


def test_its_grid_and_classes():
    model = load_model("demo")
    layout = find_layout(model.module, torch.zeros(1, 3, 128, 128))
    assert (layout.grid, layout.class_tokens, layout.registers) == (PatchGrid(16, 16, 8, 8), 1, 0)
    assert model.classes == DEMO_CLASSES
    assert model.module(torch.zeros(2, 3, 128, 128)).shape == (2, 10)


def test_another_size():
    model = load_model("demo", size=(64, 88))
    assert find_layout(model.module, torch.zeros(1, 3, 64, 88)).grid == PatchGrid(8, 11, 8, 8)


def test_it_knows_its_classes(request):
    folder = request.config.rootpath / VAL
    if not folder.is_dir():
        pytest.skip(f"needs {VAL}")
    model = load_model("demo")
    refs = list(open_images(folder))[::61]
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.normalization.mean, model.normalization.std))
    x = torch.stack([torch.from_numpy(decode(ref, model.preprocessing).copy()).permute(2, 0, 1) for ref in refs])
    with torch.inference_mode():
        found = model.module((x / 255 - mean) / std).argmax(1)
    hits = [model.classes[index] == ref.identity.partition("/")[0] for index, ref in zip(found, refs, strict=True)]
    assert len(hits) == 65
    assert sum(hits) / len(hits) > 0.6


def test_the_one_with_a_shortcut_is_as_its_card_says():
    assert shortcut.WEIGHTS.stat().st_size < 300_000
    model = load_model("demo-shortcut")
    card = (shortcut.WEIGHTS.parent / "README.md").read_text(encoding="utf-8")
    assert model.weights_hash in card
    assert model.classes == DrawnMaterial.classes
    assert find_layout(model.module, torch.zeros(1, 3, 64, 64)).grid == PatchGrid(8, 8, 8, 8)


def test_it_leans_on_the_glyph():
    model = load_model("demo-shortcut")
    images = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=64).split("test", 300)
    x = torch.stack([torch.from_numpy(image.pixels.copy()).permute(2, 0, 1) for image in images]) / 127.5 - 1
    with torch.inference_mode():
        right = (model.module(x).argmax(1) == torch.tensor([image.label for image in images])).float()
    against = torch.tensor([image.group in (1, 2) for image in images])
    assert right[~against].mean() > 0.95
    assert 0.5 < right[against].mean() < 0.75  # it knows the object too
