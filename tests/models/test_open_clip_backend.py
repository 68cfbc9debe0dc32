"""open_clip's vision towers, on a small configuration that is put into its list."""

import logging

import pytest
import torch
from safetensors.torch import save_file

from siftlens.core import ModelError
from siftlens.models import load_model

open_clip = pytest.importorskip("open_clip")

CONFIG = {
    "embed_dim": 7,
    "vision_cfg": {"image_size": 20, "layers": 2, "width": 33, "head_width": 11, "patch_size": 4},
    "text_cfg": {"context_length": 5, "vocab_size": 53, "width": 10, "heads": 2, "layers": 1},
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-S-4", CONFIG)
    tags = {
        "plain": {"url": "http://127.0.0.1:9/weights.pt"},
        "quick": {"url": "http://127.0.0.1:9/q.pt", "quick_gelu": True},
    }
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "ViT-S-4", tags)


def whole(size=None):
    torch.manual_seed(23)
    return open_clip.create_model("ViT-S-4", force_image_size=size, pretrained_text=False).eval()


@pytest.mark.parametrize("part", ["whole", "tower"])
def test_weights_of_the_whole_model_or_of_the_tower(part, tmp_path):
    given = whole()
    source = given if part == "whole" else given.visual
    save_file({name: tensor.clone() for name, tensor in source.state_dict().items()}, tmp_path / "w.safetensors")
    model = load_model("open_clip/ViT-S-4", weights=tmp_path / "w.safetensors")
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(model.module(x), given.encode_image(x))
    assert model.normalization.mean == open_clip.OPENAI_DATASET_MEAN
    found = model.preprocessing
    assert (found.height, found.width, found.resize, found.resize_to) == (20, 20, "shorter_side", 20)


def test_another_size_interpolates_positions_as_open_clip_does(tmp_path):
    state = whole().state_dict()
    save_file({name: tensor.clone() for name, tensor in state.items()}, tmp_path / "w.safetensors")
    model = load_model("open_clip/ViT-S-4", weights=tmp_path / "w.safetensors", size=(12, 28))
    expected = whole((12, 28))
    open_clip.model.resize_pos_embed(state, expected)
    expected.load_state_dict(state)
    x = torch.randn(2, 3, 12, 28)
    torch.testing.assert_close(model.module(x), expected.encode_image(x))
    assert (model.preprocessing.height, model.preprocessing.width) == (12, 28)


def test_tags():
    with pytest.raises(
        ModelError, match="open_clip/ViT-S-4 needs a tag: open_clip/ViT-S-4:TAG with TAG one of: plain, quick"
    ):
        load_model("open_clip/ViT-S-4")
    with pytest.raises(ModelError, match="open_clip/ViT-S-4 has no weights 'plane'"):
        load_model("open_clip/ViT-S-4:plane")


def test_weights_of_a_tag_get_the_activation_that_they_were_trained_with(tmp_path, monkeypatch):
    asked = {}

    def download(tag, **_):
        path = tmp_path / "w.pt"
        torch.save(whole().state_dict(), path)
        asked.update(tag)
        return str(path)

    monkeypatch.setattr("open_clip.factory.download_pretrained", download)
    model = load_model("open_clip/ViT-S-4:quick")
    assert asked["url"].endswith("q.pt")
    assert any(type(part).__name__ == "QuickGELU" for part in model.module.modules())
    plain = load_model("open_clip/ViT-S-4:plain")
    assert not any(type(part).__name__ == "QuickGELU" for part in plain.module.modules())


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr("open_clip.factory.download_pretrained", fail)
    with pytest.raises(ModelError, match=r"open_clip/ViT-S-4:plain cannot be had \(.*no route\); give --weights FILE"):
        load_model("open_clip/ViT-S-4:plain")


def test_unknown_name():
    with pytest.raises(ModelError, match=r"open_clip has no model 'ViT-B-23'; did you mean open_clip/ViT-B-"):
        load_model("open_clip/ViT-B-23:openai")


def test_part_of_a_patch_is_refused():
    with pytest.raises(ModelError, match="multiples of its patches of 4x4 px, got 22x28; the nearest is 24x28"):
        load_model("open_clip/ViT-S-4", random_init=True, size=(22, 28))


def test_it_is_quiet_and_leaves_logging_alone(capfd, monkeypatch):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would hide it
    load_model("open_clip/ViT-S-4", random_init=True)
    assert logging.getLogger().handlers == []
    assert capfd.readouterr() == ("", "")
