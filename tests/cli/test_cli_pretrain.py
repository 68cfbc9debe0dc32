"""keypoints, pretrain, probe and analyze, one after the other, as a user meets them."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from siftlens.cli.app import app
from siftlens.pretraining import PretrainSettings
from siftlens.pretraining.optimizers import OPTIMIZERS

pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with 16 pictures in two folders, one file that is no image among them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    random = np.random.default_rng(5)
    for number in range(16):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(random.integers(0, 255, (10, 12, 3), dtype=np.uint8))
        small.resize((72, 60), Image.Resampling.NEAREST).save(path)
    (tmp_path / "photos" / "b" / "notes.txt").write_text("not an image")
    return tmp_path


def siftlens_cli(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


SMALL = ("--model", "test_vit", "--size", 48, "--epochs", 2, "--batch-size", 8, "--device", "cpu")
DECODER = ("--decoder-width", 24, "--decoder-depth", 1)


@pytest.mark.filterwarnings("default:16 of 16 validation images")
def test_from_a_folder_to_a_tested_encoder(place):
    found = siftlens_cli("keypoints", "--images", "photos", "--out", "points", "--size", 48, "--workers", 0)
    assert found.exit_code == 0, found.output
    assert re.fullmatch(
        r"keypoints  points, \d+ per image, \d\.\d KB each\nimages     16, and 1 set aside\n", found.stdout
    )
    assert "set aside  b/notes.txt: not an image of a kind that is read" in found.stderr

    guided = ("--keypoints", "points", "--policy", "keypoint-high", "--decode", 0.5, "--ranked", 0.5)
    trained = siftlens_cli("pretrain", "--images", "photos", "--out", "out", *SMALL, *DECODER, *guided)
    assert trained.exit_code == 0, trained.output
    assert re.fullmatch(
        r"encoder    out/encoder\.safetensors\n"
        r"images     16, and 1 set aside \(run\.json\)\n"
        r"loss       \d\.\d{4} in the last epoch; \d+ images/s\n"
        r"k-NN       \d+\.\d%, each image by the others\n"
        r"look       siftlens analyze --model timm/test_vit --weights out/encoder\.safetensors --size 48 \.\.\.\n",
        trained.stdout,
    )

    encoder = ("--model", "timm/test_vit", "--weights", "out/encoder.safetensors", "--size", 48)
    tested = siftlens_cli("probe", *encoder, "--train", "photos", "--val", "photos", "--epochs", 3)
    assert tested.exit_code == 0, tested.output
    assert tested.stderr == "siftlens: warning: 16 of 16 validation images are among those to learn from\n"
    assert re.fullmatch(
        r"accuracy   \d+\.\d% of 16 images, 2 classes\n"
        r"learned    from 16 images; 2 set aside\n"
        r"protocol   a linear layer on frozen, .* 3 epochs, the last one reported, seed 0\n",
        tested.stdout,
    )

    analysed = siftlens_cli("analyze", *encoder, "--images", "photos", "--out", "study", "--workers", 0)
    assert analysed.exit_code == 0, analysed.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--policy", "hints"), "guidance by keypoints needs their file"),
        (("--policy", "hints", "--keypoints", "photos/b/notes.txt"), "is cut off, damaged, or holds no keypoints"),
        (("--mask-ratio", "1.5"), "the mask ratio must lie between 0 and 1, got 1.5"),
        (("--images", "nowhere"), "no images at nowhere"),
        (("--out", "photos/out"), "photos/out lies in photos, where its pictures would be trained on"),
        (("--model", "resnet18"), "timm/resnet18 is no vision transformer; choose one, such as vit_small_patch16_224"),
        (
            ("--ranked", "0.5"),
            "--ranked chooses among decoded patches, and all are decoded; name a share with --decode",
        ),
        (
            ("--first-part", "0.5"),
            "--first-part is the share of the training with smaller views, and none are; name their size with "
            "--first-size",
        ),
        (("--first-size", "48"), "first_size must be positive and smaller than size, 48 px, got 48"),
        (("--first-size", "24"), "first views of 24 px are no whole number of patches of 16x16 px"),
        (("--first-size", "16"), "first views of 16 px are one patch"),
        (("--first-size", "32", "--first-part", "1"), "first_part must lie between 0 and 1, got 1"),
        (("--batch-size", "32"), "a batch of 32 needs as many images, got 16; choose a smaller --batch-size"),
        (
            ("--size", "64"),
            "none of the 17 images could be used; the first: a/00.png: 72x60 px: smaller than the squares",
        ),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_2(place, arguments, message):
    result = siftlens_cli("pretrain", "--images", "photos", "--out", "out", *SMALL, *DECODER, *arguments)
    assert result.exit_code == (1 if message.startswith("none of the 17") else 2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(("arguments", "part"), [((), 0.6), (("--first-part", 0.3), 0.3)])
def test_first_views_reach_the_run(place, arguments, part):
    command = ("pretrain", "--images", "photos", "--out", "out", *SMALL, *DECODER, "--first-size", 32)
    trained = siftlens_cli(*command, *arguments)
    assert trained.exit_code == 0, trained.output
    settings = json.loads((place / "out" / "run.json").read_text())["settings"]
    assert (settings["first_size"], settings["first_part"]) == (32, part)


@pytest.mark.parametrize(
    ("arguments", "optimizer"), [((), "muon"), *((("--optimizer", name), name) for name in OPTIMIZERS)]
)
def test_the_optimizer_reaches_the_run(place, arguments, optimizer):
    trained = siftlens_cli("pretrain", "--images", "photos", "--out", "out", *SMALL, *DECODER, *arguments)
    assert trained.exit_code == 0, trained.output
    settings = json.loads((place / "out" / "run.json").read_text())["settings"]
    assert (settings["optimizer"], settings["learning_rate"]) == (optimizer, PretrainSettings.learning_rate)


def test_a_run_is_not_overwritten_and_resumed_when_asked(place):
    command = ("pretrain", "--images", "photos", "--out", "out", *SMALL, *DECODER)
    assert siftlens_cli(*command).exit_code == 0
    again = siftlens_cli(*command)
    assert (again.exit_code, again.stdout) == (2, "")
    assert "out holds a run already; go on with it (--resume), or choose another folder" in again.stderr
    resumed = siftlens_cli(*command, "--resume")
    assert resumed.exit_code == 0
    assert "loss" not in resumed.stdout
    assert "none were left to do" in resumed.stdout
    changed = siftlens_cli(*command, "--resume", "--seed", 1)
    assert (changed.exit_code, changed.stdout) == (2, "")
    assert "had other settings: seed was 0 and is 1" in changed.stderr


def test_of_several_processes_the_first_speaks(place, monkeypatch):
    command = ("pretrain", "--images", "photos", *SMALL, *DECODER, "--out")
    told = {}
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        told[rank] = siftlens_cli(*command, rank)
    assert told["0"].stdout.startswith("encoder ")
    assert (told["1"].exit_code, told["1"].stdout) == (0, "")
