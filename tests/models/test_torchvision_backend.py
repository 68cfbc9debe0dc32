"""torchvision's models, on a small one that is put into its list."""

import pytest
import torch
from torchvision.models import VisionTransformer, Weights, WeightsEnum
from torchvision.models._api import BUILTIN_MODELS
from torchvision.models.vision_transformer import interpolate_embeddings
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms.functional import InterpolationMode

from siftlens.core import ModelError
from siftlens.models import load_model

SETTINGS = {"num_layers": 2, "num_heads": 3, "hidden_dim": 33, "mlp_dim": 37}


def seeded(size: int = 20, classes: int = 7) -> VisionTransformer:
    torch.manual_seed(19)
    module = VisionTransformer(size, 4, num_classes=classes, **SETTINGS)
    torch.nn.init.normal_(module.heads.head.weight)
    return module.eval()


@pytest.fixture(autouse=True)
def small(tmp_path, monkeypatch):
    """Puts a small vision transformer, with weights behind a file address, into torchvision's list."""
    torch.save(seeded().state_dict(), tmp_path / "small.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    class SmallWeights(WeightsEnum):
        V1 = Weights(
            url=(tmp_path / "small.pth").as_uri(),
            transforms=lambda: ImageClassification(
                crop_size=20, resize_size=24, interpolation=InterpolationMode.BICUBIC
            ),
            meta={"categories": list("abcdefg")},
        )
        DEFAULT = V1

    def vit_small(*, weights: SmallWeights | None = None, image_size: int = 20, num_classes: int = 7):
        assert weights is None
        return VisionTransformer(image_size, 4, num_classes=num_classes, **SETTINGS)

    vit_small.__module__ = "torchvision.models.small"
    monkeypatch.setitem(BUILTIN_MODELS, "vit_small", vit_small)
    monkeypatch.setattr("torchvision.models.get_model_weights", lambda name: SmallWeights)
    monkeypatch.setattr("torchvision.models.list_models", lambda module: ["vit_b_16", "vit_small"])
    return tmp_path / "small.pth"


def test_published_weights_transforms_and_classes():
    model = load_model("torchvision/vit_small")
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(model.module(x), seeded()(x))
    found = model.preprocessing
    assert (found.height, found.width, found.resize, found.resize_to) == (20, 20, "shorter_side", 24)
    assert found.interpolation == "bicubic"
    assert model.normalization.mean == (0.485, 0.456, 0.406)
    assert model.classes == tuple("abcdefg")


def test_another_size_interpolates_positions_as_torchvision_does():
    model = load_model("torchvision/vit_small", size=28)
    expected = seeded(28)
    expected.load_state_dict(interpolate_embeddings(28, 4, seeded().state_dict()))
    x = torch.randn(2, 3, 28, 28)
    torch.testing.assert_close(model.module(x), expected(x))
    assert (model.preprocessing.height, model.preprocessing.resize_to) == (28, 33)


def test_random_weights_at_another_size():
    assert load_model("torchvision/vit_small", size=28, random_init=True).module(torch.randn(1, 3, 28, 28)).shape == (
        1,
        7,
    )


def test_weights_from_a_file_bring_their_number_of_classes(tmp_path):
    given = seeded(classes=5)
    torch.save({"model": given.state_dict()}, tmp_path / "mine.pth")
    model = load_model("torchvision/vit_small", weights=tmp_path / "mine.pth")
    x = torch.randn(2, 3, 20, 20)
    torch.testing.assert_close(model.module(x), given(x))
    assert model.classes is None


def test_weights_that_do_not_fit(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "mine.pth")
    with pytest.raises(
        ModelError, match=r"do not fit the model: \d+ missing \(class_token, .* 1 unexpected \(weight\)"
    ):
        load_model("torchvision/vit_small", weights=tmp_path / "mine.pth")
    with pytest.raises(ModelError, match=r"do not fit the model: no position embedding \('encoder\.pos_embedding'\)"):
        load_model("torchvision/vit_small", weights=tmp_path / "mine.pth", size=28)


def test_sizes_that_cannot_be():
    with pytest.raises(ModelError, match="torchvision/vit_small takes square inputs, got 20x28; timm and transformers"):
        load_model("torchvision/vit_small", random_init=True, size=(20, 28))
    with pytest.raises(ModelError, match="multiples of its patches of 4x4 px, got 21x21; the nearest is 20x20"):
        load_model("torchvision/vit_small", random_init=True, size=21)


def test_unknown_name():
    with pytest.raises(ModelError, match=r"torchvision has no model 'vit_b_61'; did you mean torchvision/vit_b_16"):
        load_model("torchvision/vit_b_61")


def test_without_a_network_it_says_what_to_do(small):
    small.unlink()
    with pytest.raises(ModelError, match=r"weights of torchvision/vit_small cannot be had \(.*give --weights FILE"):
        load_model("torchvision/vit_small")
