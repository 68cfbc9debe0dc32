"""The images to look at: which ones, and whether their attention is the model's."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from siftlens.attention import attention_maps, find_layout
from siftlens.data import NORMALIZATIONS, Preprocessing, open_images
from siftlens.interrelation import gallery
from siftlens.interrelation.forward import to_input
from siftlens.interrelation.gallery import gallery_images
from siftlens.interrelation.gallery_budget import heads_by_importance
from siftlens.interrelation.gallery_choice import choose_images, prepared_again
from siftlens.models import LoadedModel, hash_weights
from siftlens.patchmaps import PrepareSettings, prepare_images

HEIGHT, WIDTH, PATCH, LAYERS, HEADS = 40, 56, 8, 2, 3  # 5 x 7 patches
PATCHES = 35
EVERY = ((1, 2), (0, 3), (1, 3), (0, 1), (1, 0), (0, 0), (0, 2), (1, 1))  # heads, and 3 for the mean over them
NAMED = ((1, 2), (0, 1))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    vit = VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=24, depth=LAYERS, num_heads=HEADS, num_classes=11
    )
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(12)  # attention that is not even
    return LoadedModel(
        module=vit.eval(),
        spec="test/tiny",
        name="tiny",
        preprocessing=Preprocessing(HEIGHT, WIDTH),
        normalization=NORMALIZATIONS["imagenet"],
        weights_hash=hash_weights(vit),
    )


@pytest.fixture(scope="module")
def layout(model):
    return find_layout(model.module, torch.zeros(1, 3, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(7)
    for number in range(5):
        small = Image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8))
        small.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST).save(folder / f"{number}.png")
    return open_images(folder)


@pytest.fixture(scope="module")
def settings(model, layout):
    return PrepareSettings(model.preprocessing, layout.grid, rivals=False)


@pytest.fixture(scope="module")
def prepared(source, settings):
    return list(prepare_images(source, settings, workers=0, cache=None))


def exact(model, image):
    x = to_input([image.pixels], model.normalization, "cpu", torch.float32)
    with torch.no_grad():
        maps = attention_maps(model.module, x)
    heads = {(layer, head): maps[layer][0, head].double().numpy() for layer in maps for head in range(HEADS)}
    return heads | {(layer, HEADS): maps[layer][0].double().numpy().mean(axis=0) for layer in maps}


def shown(prepared, model, layout, order=EVERY, named=NAMED):
    return gallery_images(prepared, model, layout, order, named, lambda _: None)


LAYER = (HEADS + 1) * 36**2 * 4


@pytest.mark.parametrize("budget", [1, LAYERS * LAYER, 3 * LAYERS * LAYER, 2**30])  # a layer, an image, 3, all at once
def test_the_overview_is_the_models_attention(model, layout, prepared, monkeypatch, budget):
    monkeypatch.setattr(gallery, "_MAPS_BYTES", budget)
    image = shown(prepared, model, layout)[4]
    maps = exact(model, image)
    assert image.received.shape == (LAYERS, HEADS, 5, 7)
    for layer, head in np.ndindex(LAYERS, HEADS):
        attention = maps[layer, head]
        received = attention[1:, 1:].mean(axis=0).reshape(5, 7)
        step = image.received_scale[layer, head] / 255
        np.testing.assert_allclose(image.received[layer, head] * step, received, atol=0.51 * step)
        step = image.cls_scale[layer, head] / 255
        from_cls = attention[0, 1:].reshape(5, 7)
        np.testing.assert_allclose(image.cls_attention[layer, head] * step, from_cls, atol=0.51 * step)


def test_rows_are_the_models_attention_within_the_stated_error(model, layout, prepared):
    image = shown(prepared, model, layout)[2]
    maps = exact(model, image)
    assert [tuple(place) for place in image.whole.heads] == list(NAMED)
    for index, place in enumerate(NAMED):
        error = np.abs(image.whole.shares()[index] - maps[place][1:, 1:]).max()
        assert error == pytest.approx(image.whole.error[index], rel=1e-3, abs=1e-7)
    strongest = image.strongest
    assert [tuple(place) for place in strongest.heads] == [place for place in EVERY if place not in NAMED]
    assert strongest.keys.shape == (len(EVERY) - 2, PATCHES, 16)
    for index, place in enumerate(strongest.heads):
        attention = maps[tuple(place)][1:, 1:]
        for query in range(PATCHES):
            keys = strongest.keys[index, query].tolist()
            largest = sorted(attention[query])[-16:]
            np.testing.assert_allclose(sorted(attention[query, keys]), largest, rtol=1e-5)
            assert keys == sorted(keys)
            assert strongest.held[index, query] == pytest.approx(sum(largest), rel=2**-10)
            off = np.abs(strongest.shares()[index, query] - attention[query, keys]).max()
            assert off <= strongest.error[index] + 1e-7


def test_what_does_not_fit_is_left_out_from_the_end(model, layout, prepared, monkeypatch):
    whole = shown(prepared[:1], model, layout)[0].whole
    everything = shown(prepared[:1], model, layout, named=())[0].strongest
    sizes = [len(everything.map(index).packed()) for index in range(len(EVERY))]
    overview, limit = 2 * LAYERS * HEADS * PATCHES, 2 * min(len(whole.map(index).packed()) for index in (0, 1)) - 2
    monkeypatch.setattr(gallery, "IMAGE_BYTES", overview + limit)
    image = shown(prepared[:1], model, layout)[0]
    assert image.whole is None  # one would take more than half, so named heads keep their strongest keys
    kept = [tuple(place) for place in image.strongest.heads]
    assert kept == list(EVERY[: len(kept)])
    assert sum(sizes[: len(kept)]) <= limit < sum(sizes[: len(kept) + 1])
    monkeypatch.setattr(gallery, "IMAGE_BYTES", overview)
    assert shown(prepared[:1], model, layout)[0].strongest is None


def test_all_images_together_keep_to_their_limit(model, layout, prepared, monkeypatch):
    monkeypatch.setattr(gallery, "GALLERY_BYTES", 1)
    assert [image.identity for image in shown(prepared, model, layout)] == ["0.png"]


def test_named_heads_come_first_then_means_then_the_largest_pull():
    effects = {(0, 0): 0.1, (0, 1): -0.9, (1, 0): np.nan, (1, 1): 0.3}
    table = pd.DataFrame([{"layer": a, "head": b, "effect": e} for (a, b), e in effects.items()])
    heads = pd.concat([table.assign(statistic="semantic_pull"), table.assign(statistic="entropy", effect=9.0)])
    assert heads_by_importance(heads, [(0, 0)]) == ((0, 0), (0, 2), (1, 2), (0, 1), (1, 1), (1, 0))


def study(effect, contents=None):
    """Arrays and table of images whose pull beyond the null in layer 1, head 2 is `effect`."""
    n = len(effect)
    pull = np.zeros((n, LAYERS, HEADS), np.float32)
    pull[:, 1, 2] = effect
    dims = ("image", "layer", "head")
    arrays = xr.Dataset({"semantic_pull": (dims, pull + 0.25), "semantic_pull_null": (dims, np.full_like(pull, 0.25))})
    names = [f"{place:03}" for place in range(n)]
    return arrays, pd.DataFrame({"identity": names, "content": contents or names})


def test_images_at_both_ends_of_a_named_head_come_first_then_those_by_chance():
    effect = np.random.default_rng(3).permutation(37).astype(float)
    effect[5] = np.nan
    arrays, images = study(effect)
    place = {value: index for index, value in enumerate(effect)}
    order = sorted(value for value in effect if np.isfinite(value))
    by_chance = [f"{place:03}" for place in (5, 11, 13)]
    found = choose_images(arrays, images, [(1, 2)], by_chance)
    ends = [order[-1], order[0], order[-2], order[1], order[-3], order[2]]
    assert found == (*(place[value] for value in ends), 5, 11, 13)


def test_at_most_twelve_images_of_which_eight_at_ends():
    arrays, images = study(np.arange(41.0))
    pull = np.random.default_rng(5).normal(size=(41, LAYERS, HEADS))
    arrays["semantic_pull"] = (("image", "layer", "head"), pull)
    named = [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    found = choose_images(arrays, images, named, list(images["identity"]))
    effect = pull[:, 0, 0]
    assert found[:2] == (effect.argmax(), effect.argmin())
    assert len(set(found)) == 12
    chance = [place for place in range(41) if place not in found[:8]][:4]
    assert list(found[8:]) == chance


def test_a_picture_that_comes_twice_is_shown_once():
    arrays, images = study(np.zeros(5), contents=list("aabbc"))
    assert choose_images(arrays, images, [], ["001", "000", "003", "002", "004"]) == (1, 3, 4)


def test_images_that_are_gone_or_changed_are_left_out(source, settings, prepared, tmp_path):
    images = pd.DataFrame({"identity": ["3.png", "0.png", "gone.png", "1.png"]})
    contents = {image.identity: image.content for image in prepared} | {"gone.png": "x"}
    images["content"] = images["identity"].map(contents | {"0.png": "as it was"})
    found = list(prepared_again(source, images, settings, None))
    assert [image.identity for image in found] == ["3.png", "1.png"]
    np.testing.assert_array_equal(found[0].pixels, prepared[3].pixels)


def test_a_model_without_class_token_keeps_rows_too(model, prepared):
    torch.manual_seed(3)
    vit = VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=24, depth=LAYERS, num_heads=HEADS, num_classes=11,
        class_token=False, global_pool="avg",
    )  # fmt: skip
    without = replace(model, module=vit.eval())
    layout = find_layout(without.module, torch.zeros(1, 3, HEIGHT, WIDTH))
    image = shown(prepared[:1], without, layout)[0]
    assert image.cls_attention is None
    np.testing.assert_allclose(image.whole.held, 1, atol=2e-3)
