"""timm's models: names, data configuration, weights, sizes. timm's own test architectures are tiny."""

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config

from siftlens.core import ModelError
from siftlens.models import load_model

NAME = "test_vit"


def seeded(**settings) -> torch.nn.Module:
    torch.manual_seed(13)
    return timm.create_model(NAME, pretrained=False, **settings).eval()


def saved(module: torch.nn.Module, folder) -> str:
    path = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, path)
    return str(path)


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("name", ["test_vit", "vit_tiny_patch16_224", "convnext_tiny.fb_in22k_ft_in1k_384", "resnet18"])
def test_an_image_becomes_the_input_that_timm_would_make(name):
    model = load_model(f"timm/{name}", random_init=True)
    config = resolve_data_config({}, model=model.module)
    assert model.normalization.mean == tuple(config["mean"])
    assert model.normalization.std == tuple(config["std"])
    noise = torch.randint(0, 256, (37, 53, 3), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    image = Image.fromarray(noise.numpy()).resize((530, 370), Image.Resampling.BICUBIC)
    expected = create_transform(**config)(image) * torch.tensor(config["std"]).view(3, 1, 1)
    expected = (expected + torch.tensor(config["mean"]).view(3, 1, 1)) * 255
    pixels = torch.from_numpy(model.preprocessing.apply(image).copy()).permute(2, 0, 1)
    torch.testing.assert_close(pixels.float(), expected, rtol=0, atol=0.01)


def test_unknown_names_get_the_nearest():
    with pytest.raises(
        ModelError, match=r"timm has no model 'vit_tiny_patch16_242'; did you mean timm/vit_tiny_patch16_224"
    ):
        load_model("timm/vit_tiny_patch16_242")
    with pytest.raises(ModelError, match="timm has no model 'zzzzzzzzzz'; check its name"):
        load_model("timm/zzzzzzzzzz")
    with pytest.raises(ModelError, match=r"no model 'test_vit\.r160_in2k'; did you mean timm/test_vit\.r160_in1k\?"):
        load_model("timm/test_vit.r160_in2k")


def test_without_a_network_it_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    expected = "pretrained weights of timm/test_vit cannot be had .* give --weights FILE or --random-init, or connect"
    with pytest.raises(ModelError, match=expected) as caught:
        load_model("timm/test_vit")
    assert "\n" not in str(caught.value)


def test_a_name_without_published_weights():
    with pytest.raises(ModelError, match=r"cannot be had \(No pretrained weights exist for vit_small_patch16_18x2_224"):
        load_model("timm/vit_small_patch16_18x2_224")


def test_a_local_directory(tmp_path):
    module = seeded(num_classes=7)
    timm.models.save_for_hf(module, tmp_path)
    model = load_model(f"timm/local-dir:{tmp_path}")
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(model.module(x), module(x))
    assert model.weights == "pretrained"


def test_weights_of_a_fine_tuned_model_bring_their_number_of_classes(tmp_path):
    module = seeded(num_classes=7)
    model = load_model(f"timm/{NAME}", weights=saved(module, tmp_path))
    x = torch.randn(2, 3, 160, 160)
    torch.testing.assert_close(model.module(x), module(x), rtol=0, atol=0)


def test_weights_without_a_head_give_features(tmp_path):
    path = saved(seeded(num_classes=0), tmp_path)
    model = load_model(f"timm/{NAME}", weights=path)
    assert model.module(torch.randn(2, 3, 160, 160)).shape == (2, 64)


def test_weights_of_another_architecture(tmp_path):
    torch.manual_seed(1)
    path = saved(timm.create_model("test_vit2"), tmp_path)
    with pytest.raises(
        ModelError,
        match=r"do not fit the model: 3 missing \(cls_token, .*; \d+ unexpected \(blocks\.[^)]* and \d+ more\)",
    ):
        load_model(f"timm/{NAME}", weights=path)


def test_another_size_interpolates_positions_as_timm_does(tmp_path):
    module = seeded(num_classes=7)
    path = saved(module, tmp_path)
    model = load_model(f"timm/{NAME}", weights=path, size=(96, 176))
    module.set_input_size(img_size=(96, 176))
    x = torch.randn(2, 3, 96, 176)
    torch.testing.assert_close(model.module(x), module(x), rtol=0, atol=0)
    assert (model.preprocessing.height, model.preprocessing.width) == (96, 176)
    assert model.preprocessing.resize_to == int(96 / 0.95)


def test_weights_that_are_of_the_size_asked_for_are_taken_as_they_are(tmp_path):
    module = seeded(num_classes=7, img_size=(96, 176))
    path = saved(module, tmp_path)
    model = load_model(f"timm/{NAME}", weights=path, size=(96, 176))
    x = torch.randn(2, 3, 96, 176)
    torch.testing.assert_close(model.module(x), module(x), rtol=0, atol=0)
    with pytest.raises(ModelError, match=r"1 of another shape \(pos_embed is 1x67x64, not 1x101x64\)"):
        load_model(f"timm/{NAME}", weights=path)


@pytest.mark.parametrize(
    "name", ["test_vit", "eva02_tiny_patch14_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"]
)
def test_rectangles(name):
    if name.startswith("beit") and not hasattr(timm.models.Beit, "set_input_size"):
        pytest.skip(f"timm {timm.__version__} cannot resize BEiT")
    size = (42, 70) if "patch14" in name else (48, 80)
    model = load_model(f"timm/{name}", random_init=True, size=size)
    assert model.module(torch.randn(1, 3, *size)).ndim == 2


def test_part_of_a_patch_is_refused():
    with pytest.raises(ModelError, match=r"multiples of its patches of 16x16 px, got 70x96; the nearest is 64x96"):
        load_model(f"timm/{NAME}", random_init=True, size=(70, 96))


def test_a_convolutional_network_loads_and_is_found_out_when_its_attention_is_read():
    from siftlens.attention import find_layout
    from siftlens.core import CaptureError

    model = load_model("timm/test_resnet", random_init=True, size=(70, 96))
    x = torch.zeros(1, 3, 70, 96)
    with pytest.raises(CaptureError, match="attention"):
        find_layout(model.module, x)
