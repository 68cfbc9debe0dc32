"""`siftlens audit` as a user meets it: whole outputs and exit codes."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import siftlens
from oracles import leaning
from siftlens.cli.app import app

FACTORY = """
import sys
sys.path.insert(0, {folder!r})
from oracles.leaning import Leaning

def factory():
    return Leaning(on_object=1, on_cue=2)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, picture in enumerate(leaning.pictures(240)):
        for kind, pixels in (("images", picture.pixels), ("masks", picture.object_map.repeat(4, 0).repeat(4, 1) * 255)):
            path = tmp_path / kind / leaning.CLASSES[picture.label] / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)
    Path("model.py").write_text(FACTORY.format(folder=str(Path(leaning.__file__).parent.parent)))
    return tmp_path


def run(*arguments):
    found = CliRunner().invoke(app, ["audit", "--model", "model.py:factory", *arguments])
    return found.exit_code, found.stdout, found.stderr


def test_an_audit_with_masks_names_the_shortcut(place):
    (place / "images" / "green" / "broken.png").write_bytes(b"x")
    code, out, err = run("--images", "images", "--masks", "masks", "--out", "out")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "report     out/index.html"
    assert lines[1] == "images     240 in 2 classes, and 1 set aside"
    assert re.fullmatch(r"cues       \d+ tested, \d+\.\d+ forward passes per image", lines[2])
    assert lines[4] == "Confirmed spurious (outside the object, or gone elsewhere, and errors go with it):"
    assert re.match(r"  indigo 1 \(\w+\): \d+% of the answer's usual lead \(adjusted p < 0\.001, n = \d+\)", lines[5])
    files = {f"{name}.parquet" for name in ("cues", "images", "properties", "shown", "pictures")}
    files |= {"index.html", "audit.json", "codebooks.safetensors"}
    assert {path.name for path in (place / "out").iterdir()} == files
    assert siftlens.load_audit(place / "out").info["settings"]["masks"] == "masks"
    assert run("--images", "images", "--out", "out") == (
        2,
        "",
        "siftlens: error: out holds a finished audit; choose another folder, or remove that one first\n",
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--images", "images/green"], "120 of 120 images have no label: they lie in no folder, the first is "),
        (["--images", "images", "--masks", "nowhere"], "masks must be a folder, there is none at nowhere"),
        (["--images", "images", "--masks", "images/green"], "expected a mask for (green|indigo)/.*, found none"),
        (["--images", "images", "--workers", "2"], "an audit on this machine runs in one process; .* --engine ray"),
        (["--images", "images", "--address", "auto"], "an address is that of a Ray cluster; add --engine ray"),
        (["--images", "images", "--limit", "20"], "expected a class with at least 32 different images"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(place, arguments, told):
    code, out, err = run(*arguments, "--out", "out")
    assert (code, out) == (2, "")
    assert re.match(f"siftlens: error: {told}", err) and err.count("\n") == 1
