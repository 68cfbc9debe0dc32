"""transformers' models from directories with small random weights; nothing is downloaded."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from siftlens.attention import find_layout
from siftlens.core import ModelError, PatchGrid
from siftlens.models import load_model

transformers = pytest.importorskip("transformers")

VISION = {
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "hidden_size": 36,
    "intermediate_size": 37,
    "patch_size": 4,
    "image_size": 20,
}
TEXT = {
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "hidden_size": 10,
    "intermediate_size": 11,
    "vocab_size": 53,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODER = {
    "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2,
    "decoder_hidden_size": 20,
    "decoder_intermediate_size": 7,
}
CLASSES = {"num_labels": 7}
# Class, settings, tokens before the patches, shape of the output for one image of SIZE.
MODELS = {
    "vit": ("ViTForImageClassification", VISION | CLASSES, 1, (7,)),
    "vit-features": ("ViTModel", VISION, 1, (22, 36)),
    "deit": ("DeiTForImageClassificationWithTeacher", VISION | CLASSES, 2, (7,)),
    "dinov2": ("Dinov2Model", VISION, 1, (22, 36)),
    "registers": ("Dinov2WithRegistersForImageClassification", VISION | CLASSES | {"num_register_tokens": 4}, 5, (7,)),
    "dinov3": ("DINOv3ViTModel", VISION | {"num_register_tokens": 4}, 5, (26, 36)),
    "clip": ("CLIPModel", {"text_config": TEXT, "vision_config": VISION}, 1, (22, 36)),
    "clip-vision": ("CLIPVisionModelWithProjection", VISION, 1, (22, 36)),
    "siglip": ("SiglipModel", {"text_config": TEXT, "vision_config": VISION}, 0, (21, 36)),
    "beit": ("BeitForImageClassification", VISION | CLASSES | {"use_relative_position_bias": True}, 1, (7,)),
    "mae": ("ViTMAEForPreTraining", VISION | DECODER, 1, (22, 36)),
}
SIZE = (12, 28)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    transformers.utils.logging.disable_progress_bar()


def directory(name: str, folder, **changes):
    kind, settings, *_ = MODELS[name]
    kind = getattr(transformers, kind)
    torch.manual_seed(17)
    kind(kind.config_class(**(settings | changes))).eval().save_pretrained(folder)
    return folder


def processor(folder, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "X", **settings}))


@pytest.mark.parametrize("name", MODELS)
def test_another_size_comes_out_with_the_right_tokens(name, tmp_path):
    model = load_model(f"hf/{directory(name, tmp_path)}", size=SIZE)
    _, _, prefix, shape = MODELS[name]
    layout = find_layout(model.module, torch.zeros(1, 3, *SIZE))
    assert layout.grid == PatchGrid(3, 7, 4, 4)
    assert layout.prefix == prefix
    assert model.module(torch.randn(2, 3, *SIZE)).shape == (2, *shape)


@pytest.mark.parametrize("name", MODELS)
def test_weights_from_a_file_are_those_of_the_directory(name, tmp_path):
    directory(name, tmp_path)
    own = load_model(f"hf/{tmp_path}")
    given = load_model(f"hf/{tmp_path}", weights=tmp_path / "model.safetensors")
    assert own.weights_hash == given.weights_hash != load_model(f"hf/{tmp_path}", random_init=True).weights_hash


def test_logits_are_those_of_the_model(tmp_path):
    directory("vit", tmp_path)
    x = torch.randn(2, 3, 20, 20)
    expected = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()(x).logits
    torch.testing.assert_close(load_model(f"hf/{tmp_path}").module(x), expected, rtol=0, atol=0)


def test_masked_autoencoder_sees_every_patch_in_order(tmp_path):
    """With nothing masked the encoder is a plain ViT: the same weights in one give the same tokens."""
    model = load_model(f"hf/{directory('mae', tmp_path)}").module
    plain = transformers.ViTModel(transformers.ViTConfig(**VISION), add_pooling_layer=False).eval()
    plain.load_state_dict(model.tower.state_dict())
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(model(x), plain(x).last_hidden_state)
    torch.testing.assert_close(model(x), model(x), rtol=0, atol=0)


def test_a_configuration_alone_does_for_random_weights_and_for_a_file(tmp_path):
    directory("vit", tmp_path)
    whole = load_model(f"hf/{tmp_path}")
    weights = tmp_path / "elsewhere.safetensors"
    (tmp_path / "model.safetensors").rename(weights)
    assert load_model(f"hf/{tmp_path}", weights=weights).weights_hash == whole.weights_hash
    one, same, other = (load_model(f"hf/{tmp_path}", random_init=True, seed=n).weights_hash for n in (1, 1, 2))
    assert one == same != other
    with pytest.raises(ModelError, match=r"pretrained weights of hf/.* cannot be had \(.*give --weights FILE"):
        load_model(f"hf/{tmp_path}")


def test_attention_is_fused(tmp_path):
    model = load_model(f"hf/{directory('vit', tmp_path)}")
    assert model.module.tower.config._attn_implementation == "sdpa"


def test_weights_stored_in_half_precision_are_run_in_single(tmp_path):
    """Rotary frequencies too, which are no weights."""
    directory("dinov3", tmp_path)
    transformers.DINOv3ViTModel.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    model = load_model(f"hf/{tmp_path}")
    assert model.dtype == torch.float32
    x = torch.randn(2, 3, 20, 20)
    expected = transformers.DINOv3ViTModel.from_pretrained(tmp_path, dtype=torch.float32).eval()(x)
    torch.testing.assert_close(model.module(x), expected.last_hidden_state, rtol=0, atol=0)


def test_classes_are_named_where_the_model_names_them(tmp_path):
    names = {0: "cat", 1: "dog"}
    model = load_model(f"hf/{directory('vit', tmp_path, num_labels=2, id2label=names)}")
    assert model.classes == ("cat", "dog")
    assert load_model(f"hf/{directory('vit', tmp_path / 'unnamed')}").classes is None


def test_a_deeper_model_s_weights_are_refused(tmp_path):
    deep = directory("vit", tmp_path / "deep", num_hidden_layers=3)
    flat = directory("vit", tmp_path / "flat")
    with pytest.raises(ModelError, match=r"do not fit the model: 16 unexpected \(vit\.\S*layers?\.2\."):
        load_model(f"hf/{flat}", weights=deep / "model.safetensors")
    with pytest.raises(ModelError, match=r"do not fit the model: 16 missing \(vit\.\S*layers?\.2\."):
        load_model(f"hf/{deep}", weights=flat / "model.safetensors")
    (deep / "model.safetensors").write_bytes((flat / "model.safetensors").read_bytes())
    with pytest.raises(ModelError, match=r"do not fit the model: 16 missing"):
        load_model(f"hf/{deep}")


def test_weights_of_another_shape_are_named(tmp_path):
    directory("vit", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    state["classifier.bias"] = torch.zeros(5)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(ModelError, match=r"1 of another shape \(classifier\.bias is 5, not 7\)"):
        load_model(f"hf/{tmp_path}", weights=tmp_path / "other.safetensors")


def test_what_is_no_vision_transformer_is_refused(tmp_path):
    transformers.BertModel(
        transformers.BertConfig(num_hidden_layers=1, hidden_size=12, num_attention_heads=2, vocab_size=31)
    ).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="is a bert, which has no fixed grid of patches; choose a vision transformer"):
        load_model(f"hf/{tmp_path}")


def test_nothing_there(tmp_path):
    with pytest.raises(ModelError, match=r"must be a repository or a directory with a config\.json, there is none at"):
        load_model(f"hf/{tmp_path}/nowhere")
    with pytest.raises(
        ModelError, match=r"cannot be had \(Unrecognized model .*\); give a directory with a config\.json"
    ):
        load_model(f"hf/{tmp_path}")
    with pytest.raises(ModelError, match=r"hf/nobody/nothing cannot be had \(.*a connection to the network") as caught:
        load_model("hf/nobody/nothing")
    assert "\n" not in str(caught.value)


def test_part_of_a_patch_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"multiples of its patches of 4x4 px, got 13x28; the nearest is 12x28"):
        load_model(f"hf/{directory('vit', tmp_path)}", size=(13, 28))


def test_settings_of_transformers_are_left_as_they_were(tmp_path):
    before = transformers.logging.get_verbosity()
    directory("clip", tmp_path)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.enable_progress_bar()
    load_model(f"hf/{tmp_path}")
    assert transformers.logging.get_verbosity() == transformers.logging.WARNING
    transformers.logging.set_verbosity(before)
    assert transformers.utils.logging.is_progress_bar_enabled()


STEPS = {
    "squash": (
        {
            "size": {"height": 24, "width": 28},
            "resample": 2,
            "image_mean": [0.1, 0.2, 0.3],
            "image_std": [0.4, 0.5, 0.6],
        },
        (24, 28, "squash", 24, "bilinear"),
        (0.1, 0.2, 0.3),
    ),
    "old squash": (
        {"size": 24, "image_mean": [0.5] * 3, "image_std": [0.5] * 3},
        (24, 24, "squash", 24, "bicubic"),
        (0.5,) * 3,
    ),
    "crop": (
        {
            "size": {"shortest_edge": 32},
            "do_center_crop": True,
            "crop_size": {"height": 28, "width": 28},
            "resample": 3,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        (28, 28, "shorter_side", 32, "bicubic"),
        (0.5,) * 3,
    ),
    "old crop": (
        {
            "size": 32,
            "do_center_crop": True,
            "crop_size": 28,
            "do_normalize": False,
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
        },
        (28, 28, "shorter_side", 32, "bicubic"),
        (0.0,) * 3,
    ),
}


@pytest.mark.parametrize("case", STEPS)
def test_preprocessing_is_the_models_own(case, tmp_path):
    settings, expected, mean = STEPS[case]
    processor(directory("vit", tmp_path), **settings)
    model = load_model(f"hf/{tmp_path}")
    found = model.preprocessing
    assert (found.height, found.width, found.resize, found.resize_to, found.interpolation) == expected
    assert model.normalization.mean == mean
    assert model.notes == ()


def test_a_size_keeps_the_share_that_is_cut(tmp_path):
    processor(directory("vit", tmp_path), **STEPS["crop"][0])
    found = load_model(f"hf/{tmp_path}", size=(56, 84)).preprocessing
    assert (found.height, found.width, found.resize_to) == (56, 84, 64)


def test_without_a_preprocessing_of_its_own_the_usual_is_noted(tmp_path):
    model = load_model(f"hf/{directory('clip', tmp_path)}")
    assert model.notes == ("no preprocessor_config.json: normalisation 'clip' and a centre crop were assumed",)
    assert model.normalization.mean[0] == 0.48145466
    assert model.preprocessing.height == 20
