"""A prompted model stands where the model stood: its maps, its files, and whose audit it takes."""

import copy
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import siftlens
from oracles.leaning import COLS, ROWS, SIDE, Leaning, pictures
from oracles.zoo import ZOO, model_of
from siftlens.core import CaptureError, InputError, PatchGrid, SiftlensError, StudyError
from siftlens.patchmaps import patch_weights, rival_maps
from siftlens.prompting import (
    Bias,
    Contrast,
    Mixture,
    PixelMask,
    Policy,
    TokenChoice,
    load_prompted,
    mixed_maps,
    prompt,
    prompted,
)
from siftlens.prompting.plan import Plan

GRID = PatchGrid(ROWS, COLS, SIDE, SIDE)
PICTURES = pictures(240)
PIXELS = [picture.pixels for picture in PICTURES]
SUPPRESS = Policy(bias=(Bias(20.0),), maps=Mixture(cues=1.0))


def images(count=4):
    return torch.stack([torch.from_numpy(pixels).permute(2, 0, 1) / 255 for pixels in PIXELS[:count]])


@pytest.fixture(scope="module")
def leaning():
    return Leaning(on_object=1, on_cue=2).eval()


@pytest.fixture(scope="module")
def audit(leaning):
    labels = [picture.label for picture in PICTURES]
    return siftlens.audit(leaning, PIXELS, labels, normalize=None, vocabularies=("colour",))


@pytest.fixture(scope="module")
def of_tokens(leaning):
    labels = [picture.label for picture in PICTURES]
    return siftlens.audit(leaning, PIXELS, labels, normalize=None, vocabularies=("token",))


def test_keypoints_gradient_and_centre():
    grid = PatchGrid(3, 4, 16, 16)
    random = np.random.default_rng(0)
    pixels = [random.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(2)]
    for name in ("keypoints", "gradient", "centre"):
        found = mixed_maps(pixels, grid, Mixture(**{name: 3.0}))
        for row, image in zip(found.double().numpy(), pixels, strict=True):
            gradient, centre, *_ = rival_maps(image, grid)
            count = np.log1p(patch_weights(siftlens.detect(image), grid))
            true = {"keypoints": count / count.max(), "gradient": np.sqrt(gradient / gradient.max()), "centre": centre}
            assert np.allclose(row, true[name].ravel(), atol=1e-6)
    both = mixed_maps(pixels, grid, Mixture(keypoints=3.0, centre=1.0))
    parts = [mixed_maps(pixels, grid, Mixture(**{name: 1.0})) for name in ("keypoints", "centre")]
    assert torch.allclose(both, (3 * parts[0] + parts[1]) / 4, atol=1e-6)


def test_an_image_without_keypoints_has_an_even_map():
    flat = [np.full((48, 64, 3), 128, np.uint8)]
    assert not mixed_maps(flat, PatchGrid(3, 4, 16, 16), Mixture(keypoints=1, gradient=1)).any()


def test_harmful_cues_are_marked(audit):
    assert "harmful reliance" in set(audit.cues["verdict"])
    maps = mixed_maps(PIXELS, GRID, Mixture(cues=2.0), audit).reshape(-1, ROWS, COLS).numpy()
    true = np.stack([picture.cue_map for picture in PICTURES])
    assert set(np.unique(maps)) == {-1, 0}
    assert ((maps == -1) == true).mean() > 0.99
    row = int(np.flatnonzero(audit.cues["verdict"] == "harmful reliance")[0])
    assert np.array_equal(maps, mixed_maps(PIXELS, GRID, Mixture(cues=1, rows=(row,)), audit).reshape(maps.shape))


def test_suppressing_the_cue_turns_answers_to_the_object(leaning, audit):
    """This model's attention hardly matters, so it is shown by tokens: without the cue's, it sees the object."""
    policy = Policy(tokens=TokenChoice(0.8), maps=Mixture(cues=1.0))
    x, labels = images(240), np.array([picture.label for picture in PICTURES])
    against = np.array([picture.cue != picture.label for picture in PICTURES])
    with torch.no_grad():
        before = leaning(x).argmax(1).numpy() == labels
        after = prompted(leaning, policy, normalize=None, audit=audit)(x).argmax(1).numpy() == labels
    assert before[against].mean() < 0.6
    assert after[against].mean() > 0.9


def test_its_own_maps_are_those_that_one_would_give(leaning, audit):
    x = images()
    maps = mixed_maps(PIXELS[:4], GRID, Mixture(cues=1.0), audit)
    with torch.no_grad(), prompt(leaning, SUPPRESS, maps):
        true = leaning(x)
    with torch.no_grad():
        better = prompted(leaning, SUPPRESS, normalize=None, audit=audit)
        assert torch.equal(better(x), true) and torch.equal(better(x), true)
        assert not torch.equal(better(x), leaning(x))


def test_token_words_are_read_from_the_model(leaning, of_tokens):
    policy = Policy(bias=(Bias(20.0),), maps=Mixture(cues=1.0, rows=(0,)))
    maps = prompted(leaning, policy, normalize=None, audit=of_tokens).maps(images(12))
    true = np.stack([of_tokens.cue(0).patches(pixels, leaning) for pixels in PIXELS[:12]])
    assert np.array_equal(maps.numpy() == -1, true.reshape(12, -1))
    with pytest.raises(InputError, match="a cue is made of the model's tokens"):
        mixed_maps(PIXELS, GRID, Mixture(cues=1, rows=(0,)), of_tokens)


def test_normalisation_is_undone():
    """Keypoints are of the pixels before it: the same maps whatever the model expects."""
    model = model_of(ZOO["timm-vit"])
    x = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    policy = Policy(bias=(Bias(1.0),), maps=Mixture(keypoints=1, gradient=1))
    plain = prompted(model, policy, normalize=None).maps(x)
    mean, std = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(prompted(model, policy, normalize="imagenet").maps((x - mean) / std), plain)
    with pytest.raises(InputError, match=r"expected float pixels in \[0, 1\]"):
        prompted(model, policy, normalize=None).maps(3 * x)


class Scaled(nn.Module):
    """A model that takes more than images, and these by any name."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, scale=None, pixels=None, hint=None):
        return self.model(pixels) * scale["by"]


@pytest.mark.parametrize(
    "policy",
    [
        Policy(bias=(Bias(3.0),), maps=Mixture(centre=1)),
        Policy(tokens=TokenChoice(0.5), maps=Mixture(centre=1)),
        Policy(pixels=PixelMask(0.5), maps=Mixture(centre=1)),
        Policy(contrast=Contrast(0.5, 0.5), maps=Mixture(centre=1)),
    ],
    ids=["bias", "tokens", "pixels", "contrast"],
)
def test_models_that_take_more_than_images(policy):
    model = model_of(ZOO["timm-vit"])
    x = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    wrapped = prompted(Scaled(model).eval(), policy, normalize=None)
    with torch.no_grad():
        true = prompted(model, policy, normalize=None)(x)
        torch.testing.assert_close(wrapped({"by": 1.0}, x), true)
        torch.testing.assert_close(wrapped(pixels=x, scale={"by": 1.0}, hint=torch.zeros(3, 2)), true)
        assert not torch.equal(true, model(x))
    with pytest.raises(InputError, match="expected images, .* as the first tensor among the arguments, got none"):
        wrapped(scale={"by": 1.0})


class Writes(Scaled):
    def forward(self, pixels, hint):
        hint += 10
        return self.model(pixels) + hint.mean()


def test_a_model_that_writes_to_what_it_is_given_finds_it_as_it_was_on_every_trial():
    model = model_of(ZOO["timm-vit"])
    x, hint = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 2)
    policy = Policy(tokens=TokenChoice(0.5), maps=Mixture(centre=1))
    with torch.no_grad():
        written = prompted(Writes(model).eval(), policy, normalize=None)(x, hint)
        torch.testing.assert_close(written, prompted(model, policy, normalize=None)(x) + 10)
    assert bool((hint == 10).all())


def test_a_call_with_further_tensors_is_planned_once(monkeypatch):
    """Nothing is kept of such calls, whose tensors may be others next time."""
    planned = []
    monkeypatch.setattr("siftlens.prompting.plan.Plan", lambda *given: planned.append(given) or Plan(*given))
    wrapped = prompted(
        Scaled(model_of(ZOO["timm-vit"])).eval(), Policy(bias=(Bias(3.0),), maps=Mixture(centre=1)), normalize=None
    )
    with torch.no_grad():
        for calls in (1, 2):
            wrapped(pixels=torch.rand(3, 3, 12, 20), scale={"by": 1.0}, hint=torch.zeros(3, 2))
            assert len(planned) == calls


@pytest.mark.parametrize("open_reading", [True, False])
def test_a_prompted_model_is_not_read_from_outside(open_reading):
    model = model_of(ZOO["timm-vit"])
    x = torch.rand(3, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    better = prompted(model, Policy(bias=(Bias(3.0),), maps=Mixture(centre=1)), normalize=None)
    with pytest.raises(CaptureError, match=r"a prompt cannot begin .* take \.model, \.policy and \.maps\(images\)"):
        if open_reading:
            with siftlens.read_attention(better, torch.eye(15)):
                better(x)
        else:
            siftlens.attention_maps(better, x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_identity_changes_no_bit(dtype):
    model = model_of(ZOO["timm-vit"]).to(dtype)
    x = torch.rand(3, 3, 12, 20).to(dtype)
    with torch.no_grad():
        assert torch.equal(prompted(model, Policy.identity(), normalize=None)(x), model(x))


def test_saved_and_loaded(leaning, audit, tmp_path):
    policy = Policy(bias=(Bias(3.0, layers=(1,)),), contrast=Contrast(0.5, 0.2), maps=Mixture(cues=1.0, keypoints=0.5))
    better = prompted(leaning, policy, normalize="inception", audit=audit)
    better.save(tmp_path / "prompt")
    again = load_prompted(tmp_path / "prompt", leaning)
    x = 2 * images() - 1
    with torch.no_grad():
        assert torch.equal(again(x), better(x))
    assert again.policy == policy
    kinds = {path.suffix for path in (tmp_path / "prompt").rglob("*") if path.is_file()}
    assert kinds == {".json", ".parquet", ".safetensors"}
    with pytest.raises(InputError, match="holds a finished prompt"):
        better.save(tmp_path / "prompt")
    other = Leaning(on_object=1, on_cue=2).eval()
    torch.nn.init.zeros_(other.place)
    with pytest.raises(InputError, match="with other weights"):
        load_prompted(tmp_path / "prompt", other)
    with pytest.raises(StudyError, match=r"has no prompt.json"):
        load_prompted(tmp_path, leaning)
    (tmp_path / "prompt" / "prompt.json").write_text("{")
    with pytest.raises(StudyError, match="damaged or cut off"):
        load_prompted(tmp_path / "prompt", leaning)


def test_a_prompt_without_cues_is_for_its_weights_too(tmp_path):
    model, policy = model_of(ZOO["timm-vit"]), Policy(bias=(Bias(3.0),))
    prompted(model, policy, normalize=None).save(tmp_path)
    with pytest.raises(InputError, match="made for other weights"):
        load_prompted(tmp_path, model_of(ZOO["timm-vit"], seed=1))


def test_whose_audit_it_is(leaning, audit):
    with pytest.raises(InputError, match="made of an audit's cues; pass audit="):
        prompted(leaning, SUPPRESS, normalize=None)
    other = Leaning(on_object=1, on_cue=2).eval()
    torch.nn.init.zeros_(other.place)
    with pytest.raises(InputError, match="the audit is of a model with other weights"):
        prompted(other, SUPPRESS, normalize=None, audit=audit)
    with pytest.raises(InputError, match="the policy's maps take nothing from it; give maps.cues a weight"):
        prompted(leaning, Policy(bias=(Bias(3.0),)), normalize=None, audit=audit)
    assert prompted(leaning, Policy.identity(), normalize=None, audit=audit).audit is None
    with pytest.raises(InputError, match=r"the audit's cues are of 5x7 patches of 4x4 px, the model has 7x5 of 4x4 px"):
        mixed_maps(PIXELS, PatchGrid(7, 5, 4, 4), Mixture(cues=1), audit)
    with pytest.raises(InputError, match=r"expected rows of the \d+ cues in Mixture.rows, got 99"):
        prompted(leaning, Policy(maps=Mixture(cues=1, rows=(99,))), normalize=None, audit=audit)


def test_an_audit_without_harm_has_nothing_to_suppress():
    upright = Leaning(on_object=1, on_cue=0).eval()
    labels = [picture.label for picture in PICTURES]
    audit = siftlens.audit(upright, PIXELS, labels, normalize=None, vocabularies=("colour",))
    with pytest.raises(InputError, match=r"none of the audit's \d+ cues does harm"):
        prompted(upright, SUPPRESS, normalize=None, audit=audit)


def test_under_compile_it_runs_apart_from_the_graph():
    model = model_of(ZOO["timm-vit"])
    better = prompted(model, Policy(bias=(Bias(4.0),), maps=Mixture(centre=1)), normalize=None)
    x = torch.rand(3, 3, 12, 20)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(better, backend="eager")(x), better(x))
        outer = torch.compile(lambda y: better(y) + 1, backend="eager")
        torch.testing.assert_close(outer(x), better(x) + 1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_every_grad_mode_sees_the_same(leaning, audit, mode):
    better = prompted(leaning, Policy(bias=(Bias(3.0),), maps=Mixture(cues=1, centre=1)), normalize=None, audit=audit)
    with torch.no_grad():
        true = better(images())
    with mode():
        found = better(images())
    torch.testing.assert_close(found.detach().clone(), true, atol=1e-6, rtol=1e-6)


def test_a_copy_is_as_good():
    model = model_of(ZOO["timm-vit"])
    better = prompted(model, Policy(bias=(Bias(4.0),), maps=Mixture(centre=1)), normalize=None)
    x = torch.rand(3, 3, 12, 20)
    with torch.no_grad():
        true = better(x)
        assert torch.equal(copy.deepcopy(better)(x), true)
        assert better.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize("maps", [Mixture(centre=1.0), Mixture(cues=1.0, rows=(0,))], ids=["centre", "cues of tokens"])
def test_threads_take_turns(maps, leaning, request):
    audit = request.getfixturevalue("of_tokens") if maps.cues else None
    better = prompted(leaning, Policy(bias=(Bias(3.0),), maps=maps), normalize=None, audit=audit)
    x = images()
    with torch.no_grad():
        expected = better(x)

    def ask(_):
        with torch.no_grad():
            return better(x)

    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(given, expected) for given in pool.map(ask, range(12)))


@pytest.mark.parametrize("outer", [Policy(bias=(Bias(2.0),)), Policy(tokens=TokenChoice(0.5))], ids=["bias", "tokens"])
@pytest.mark.parametrize("inner", [Policy(bias=(Bias(2.0),)), Policy(tokens=TokenChoice(0.5))], ids=["bias", "tokens"])
def test_a_prompted_model_cannot_be_prompted_again(outer, inner, leaning):
    x = images()
    inside = prompted(leaning, replace(inner, maps=Mixture(centre=1.0)), normalize=None)
    twice = prompted(inside, replace(outer, maps=Mixture(centre=1.0)), normalize=None)
    with torch.no_grad(), pytest.raises(CaptureError, match="prompted already; leave that context, or make one policy"):
        twice(x)
    with torch.no_grad(), pytest.raises(CaptureError, match="prompted already"):
        with prompt(inside, outer, torch.rand(len(x), GRID.patches)):
            inside(x)
    with torch.no_grad():
        assert inside(x).shape == leaning(x).shape


def test_called_by_keyword_as_the_model_is():
    model, x = model_of(ZOO["hf-vit"]), torch.rand(2, 3, *ZOO["hf-vit"].size)
    better = prompted(model, Policy(bias=(Bias(5.0),), maps=Mixture(centre=1.0)), normalize=None)
    with torch.no_grad():
        by_place, by_name, plain = better(x), better(pixel_values=x, return_dict=False), model(x)
    assert torch.equal(by_place.last_hidden_state, by_name[0])
    assert not torch.equal(by_place.last_hidden_state, plain.last_hidden_state)
    with pytest.raises(InputError, match="expected images, .* among the arguments, got none"):
        better(pixel_values=None)


@pytest.mark.parametrize("policy", [Policy(contrast=Contrast(1.0, 0.5)), Policy(tokens=TokenChoice(0.5))])
def test_logits_among_other_outputs_come_with_a_way_out(policy):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vit, self.head = model_of(ZOO["hf-vit"]), torch.nn.LazyLinear(3)

        def forward(self, x):
            return Output(self.head(self.vit(x).last_hidden_state.mean(dim=1)))

    model, x = Classifier().eval(), torch.rand(2, 3, *ZOO["hf-vit"].size)
    with (
        torch.no_grad(),
        pytest.raises(SiftlensError, match=r"got Output; wrap the model .* \.logits, or"),
    ):
        model(x)
        with prompt(model, policy, torch.rand(2, 15)):
            model(x)
