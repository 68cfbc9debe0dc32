"""Probes: k-NN against loops, classes that can be told and classes that cannot."""

import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from siftlens.core import InputError
from siftlens.models import load_model
from siftlens.pretraining.features import features, frozen_features
from siftlens.pretraining.labelled import hold_labelled
from siftlens.pretraining.neighbours import knn_predict, labels_of
from siftlens.pretraining.probes import ProbeResult, probe

COLOURS = {"blue": (20, 40, 200), "green": (30, 190, 50), "red": (210, 30, 40)}
SIZE = 32


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Noisy pictures whose colour is their class: 14 to learn from and 9 to be tested on for each."""
    root = tmp_path_factory.mktemp("labelled")
    random = np.random.default_rng(1)
    for split, count in (("train", 14), ("val", 9)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                noise = random.normal(0, 40, (SIZE, SIZE, 3))
                pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def model():
    return load_model("timm/test_vit", random_init=True, size=SIZE)


@pytest.fixture(scope="module")
def images(model, folders, tmp_path_factory):
    return hold_labelled(model, folders / "train", folders / "val", spill=tmp_path_factory.mktemp("spill"))


def knn_by_loops(known, labels, asked, leave_one_out=False):
    found = []
    for place, query in enumerate(asked.double()):
        similar = [
            (float(F.cosine_similarity(query, one, dim=0)), int(label))
            for other, (one, label) in enumerate(zip(known.double(), labels, strict=True))
            if not (leave_one_out and other == place)
        ]
        votes = {}
        for s, label in sorted(similar, reverse=True)[:20]:
            votes[label] = votes.get(label, 0) + np.exp(s / 0.07)
        found.append(max(votes, key=votes.get))
    return found


@pytest.mark.parametrize("leave_one_out", [False, True])
def test_knn_is_the_weighted_vote_of_20_neighbours(leave_one_out):
    generator = torch.Generator().manual_seed(3)
    known, labels = torch.randn(53, 7, generator=generator), torch.randint(0, 5, (53,), generator=generator)
    asked = known if leave_one_out else torch.randn(31, 7, generator=generator)
    found = knn_predict(known, labels, asked, leave_one_out=leave_one_out)
    assert found.tolist() == knn_by_loops(known, labels, asked, leave_one_out)


def test_knn_of_many_queries_leaves_out_each_ones_own():
    known = F.normalize(torch.randn(1100, 5), dim=1)
    labels = torch.arange(1100)
    assert not (knn_predict(known, labels, known, leave_one_out=True) == labels).any()
    assert (knn_predict(known, labels, known) == labels).float().mean() > 0.9


def test_classes_are_folders_in_order(images):
    labels, classes = labels_of(("b", "a", "b", "c"))
    assert (labels.tolist(), classes) == ([1, 0, 1, 2], ("a", "b", "c"))
    assert images.classes == ("blue", "green", "red")
    assert images.answers.tolist() == [0] * 9 + [1] * 9 + [2] * 9


def test_features_are_the_mean_patch_token(model):
    x = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = model.module.forward_features(x)
        torch.testing.assert_close(features(model.module, x), tokens[:, 1:].mean(1))
        other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * SIZE**2, 5))
        assert torch.equal(features(other, x), other(x))


def test_frozen_features_are_of_normalised_pixels(model, images):
    with torch.no_grad():
        x = (images.train.pixels[:3] / 255 - 0.5) / 0.5
        expected = features(model.module, x)
    assert model.normalization.mean == (0.5, 0.5, 0.5)
    torch.testing.assert_close(frozen_features(model, images.train.pixels)[:3], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "epochs"), [("linear", 30), ("knn", None), ("finetune", 40)])
def test_colours_are_told_apart_and_the_model_is_left_as_it_was(model, images, method, epochs):
    before = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
    result = probe(model, images, method, epochs=epochs)
    assert result.accuracy > 0.9
    assert (result.train, result.classes, len(result.correct)) == (42, 3, 27)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.module.state_dict().items())


@pytest.mark.parametrize("method", ["linear", "knn"])
def test_meaningless_labels_are_not_told(model, images, method):
    answers = images.answers[torch.randperm(27, generator=torch.Generator().manual_seed(0))]
    meaningless = type(images)(images.train, images.labels, images.validation, answers, images.classes)
    assert probe(model, meaningless, method).accuracy < 0.65


def test_the_protocol_is_stated(model, images):
    linear = probe(model, images, "linear", epochs=7, seed=3).protocol
    assert "7 epochs, the last one reported, seed 3" in linear
    assert "k = 20" in probe(model, images, "knn").protocol


def test_halves_share_the_images_by_content():
    contents = tuple(f"{n:032x}" for n in (2, 3, 4, 5, 7))
    result = ProbeResult("knn", np.array([True, True, False, True, False]), contents, 9, 2, "")
    assert result.halves == (0.5, pytest.approx(2 / 3))
    assert result.accuracy == pytest.approx(0.6)


def test_folders_that_do_not_fit_are_refused(model, folders, tmp_path):
    with pytest.raises(InputError, match="needs a folder per class, got 1 in .*blue; sort the images into folders"):
        hold_labelled(model, folders / "train" / "blue", folders / "val", spill=tmp_path)
    (tmp_path / "val" / "violet").mkdir(parents=True)
    Image.new("RGB", (40, 40), "violet").save(tmp_path / "val" / "violet" / "one.png")
    with pytest.raises(InputError, match="have classes that training has not: violet"):
        hold_labelled(model, folders / "train", tmp_path / "val", spill=tmp_path)


def test_images_in_no_class_folder_are_refused(model, folders, tmp_path):
    for split in ("train", "val"):
        shutil.copytree(folders / split, tmp_path / split)
    stray = tmp_path / "val" / "stray.png"
    shutil.copy(folders / "val" / "red" / "0.png", stray)
    with pytest.raises(InputError, match=r"1 images of .*val lie in no class folder, the first stray\.png"):
        hold_labelled(model, tmp_path / "train", tmp_path / "val", spill=tmp_path)
    stray.rename(tmp_path / "train" / "stray.png")
    with pytest.raises(InputError, match=r"1 images of .*train lie in no class folder, the first stray\.png"):
        hold_labelled(model, tmp_path / "train", tmp_path / "val", spill=tmp_path)


def test_testing_on_what_was_learned_is_told(model, folders, tmp_path):
    with pytest.warns(UserWarning, match="27 of 27 validation images are among those to learn from"):
        hold_labelled(model, folders / "val", folders / "val", spill=tmp_path)


@pytest.mark.parametrize("method", ["linear", "finetune"])
def test_a_probe_is_a_function_of_its_seed(model, images, method):
    guessed = type(images)(
        images.train, images.labels.flip(0).roll(5), images.validation, images.answers, images.classes
    )  # so hard that luck would show
    first, again = (probe(model, guessed, method, epochs=2, seed=0).correct for _ in range(2))
    assert (first == again).all()


def test_epochs_without_training_are_refused(model, images):
    with pytest.raises(InputError, match="k-NN trains nothing; leave the 3 epochs out"):
        probe(model, images, "knn", epochs=3)


def test_unknown_methods_and_no_epochs_are_refused(model, images):
    with pytest.raises(InputError, match="must be one of linear, knn, finetune, got 'svm'"):
        probe(model, images, "svm")
    with pytest.raises(InputError, match="epochs must be a whole number, at least 1, got 0"):
        probe(model, images, "linear", epochs=0)
