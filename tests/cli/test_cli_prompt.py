"""`siftlens prompt` as a user meets it: whole outputs, exit codes, and what lies in the folder."""

import json
from pathlib import Path

import pandas as pd
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
DROP = '{"tokens": {"keep": 0.8}, "maps": {"cues": 1}}'


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images, a model file, and an audit of the model."""
    folder = tmp_path_factory.mktemp("prompt")
    for number, picture in enumerate(leaning.pictures(240)):
        path = folder / "images" / leaning.CLASSES[picture.label] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(path)
    (folder / "model.py").write_text(FACTORY.format(folder=str(Path(leaning.__file__).parent.parent)))
    model = siftlens.load_model(f"{folder}/model.py:factory")
    siftlens.audit(model, folder / "images", vocabularies=("colour",)).save(folder / "audit")
    return folder


def run(place, *arguments):
    found = CliRunner().invoke(app, ["prompt", "--model", f"{place}/model.py:factory", *map(str, arguments)])
    return found.exit_code, found.stdout, found.stderr


def test_before_and_after(place, tmp_path):
    out = tmp_path / "out"
    broken = place / "images" / "green" / "broken.png"
    broken.write_bytes(b"x")
    code, told, err = run(
        place, "--images", place / "images", "--policy", DROP, "--audit", place / "audit", "--out", out
    )
    broken.unlink()
    assert (code, err) == (0, "")
    table = pd.read_parquet(out / "predictions.parquet")
    changed = table["changed"]
    assert (table["after_p_before"] < table["before_p"])[changed].all()
    assert (table["after_p_before"] == table["before_p"])[~changed].all()
    mended = int((changed & (table["after"] == table["label"])).sum())
    before, after = ((table[name] == table["label"]).mean() for name in ("before", "after"))
    assert mended > 10 and after > before
    spoilt = int(changed.sum()) - mended
    groups = [table["label"], table["cues"] != ""]
    worst = [(table[name] == table["label"]).groupby(groups).mean().min() for name in ("before", "after")]
    assert worst[1] > worst[0] + 0.2
    assert told.splitlines() == [
        f"report     {out / 'index.html'}",
        "images     240, and 1 set aside",
        f"changed    {mended + spoilt} answers ({(mended + spoilt) / 240:.1%})",
        f"accuracy   {before:.1%} before, {after:.1%} after: {mended} mended, {spoilt} spoilt",
        f"worst      {worst[0]:.1%} before, {worst[1]:.1%} after, of the classes with and without a suppressed cue",
    ]
    assert {path.name for path in out.iterdir()} == {"index.html", "predictions.parquet", "prompt.json", "audit"}
    cues = table.loc[changed & (table["label"] == "green"), "cues"]
    assert cues.str.contains("indigo").all()
    model = siftlens.load_model(f"{place}/model.py:factory")
    assert siftlens.load_prompted(out, model).policy == siftlens.Policy.from_json(DROP)
    assert run(place, "--images", place / "images", "--policy", DROP, "--out", out) == (
        2,
        "",
        f"siftlens: error: {out} holds a finished prompt; choose another folder, or remove that one first\n",
    )


def test_a_policy_from_a_file_that_does_nothing(place, tmp_path):
    file = tmp_path / "policy.json"
    file.write_text(json.dumps({}))
    code, told, _ = run(
        place, "--images", place / "images", "--policy", file, "--out", tmp_path / "out", "--limit", "30"
    )
    assert code == 0
    assert told.splitlines()[1:3] == ["images     30", "changed    0 answers (0.0%)"]
    assert told.splitlines()[4].endswith("after, of the classes")
    assert "Nothing is done: this is the model as it is." in (tmp_path / "out" / "index.html").read_text()
    record = tmp_path / "out" / "prompt.json"  # of the prompt itself, which is a policy among other things
    again = ("--images", place / "images", "--policy", record, "--out", tmp_path / "again", "--limit", "30")
    assert run(place, *again)[0] == 0
    assert (
        json.loads((tmp_path / "again" / "prompt.json").read_text())["policy"]
        == json.loads(record.read_text())["policy"]
    )


def test_images_are_looked_for_before_a_model(place, tmp_path):
    arguments = ("--model", "timm/none_of_this_name", "--images", "nowhere", "--policy", "{}")
    code, out, err = run(place, *arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err.startswith("siftlens: error: no images at nowhere")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["--policy", "nowhere.json"],
            "--policy must be a JSON object or a file of one, there is no file 'nowhere.json'",
        ),
        (["--policy", '{"bias": [{"strength": 1000}]}'], "Bias.strength must lie in [-100, 100], got 1000"),
        (["--policy", DROP], "the policy's maps are made of an audit's cues; pass audit= (--audit DIR)"),
        (["--policy", '{"bias": [{"strength": 1, "layers": [7]}]}'], "the model has layers 0 to 1, got 7"),
        (["--policy", "{}", "--audit", "nowhere"], "expected the folder of an audit, but nowhere has no audit.json"),
    ],
)
def test_bad_input(place, tmp_path, arguments, told):
    code, out, err = run(place, "--images", place / "images", *arguments, "--out", tmp_path / "out")
    assert (code, out) == (2, "") and err == f"siftlens: error: {told}\n"
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_head_has_no_answers(place, tmp_path):
    (place / "headless.py").write_text(
        "import timm, torch\n"
        "def factory():\n"
        "    model = timm.create_model('test_vit', num_classes=0, img_size=32)\n"
        "    model.size, model.normalize = 32, 'imagenet'\n"
        "    return model\n"
    )
    policy = '{"bias": [{"strength": 1}], "maps": {"centre": 1}}'
    arguments = ("--images", place / "images", "--policy", policy, "--out", tmp_path / "out")
    code, out, err = run(place, *arguments, "--model", f"{place}/headless.py:factory")
    assert (code, out) == (2, "")
    assert (
        "expected a class head, logits of shape (2, at least 2 classes), got (2, 64) from a model of 0 classes" in err
    )
    assert not (tmp_path / "out").exists()


def test_an_audit_in_the_way_is_told_before_the_images_are_looked_at(place, tmp_path):
    """As a run leaves it that was killed after its audit and before its prompt."""
    model = siftlens.load_model(f"{place}/model.py:factory")
    siftlens.load_audit(place / "audit").save(tmp_path / "out" / "audit")
    seen = []
    with pytest.raises(siftlens.InputError, match=r"audit holds a finished audit; choose another folder, or remove"):
        siftlens.try_prompt(
            model,
            siftlens.Policy.from_json(DROP),
            place / "images",
            audit=siftlens.load_audit(place / "audit"),
            out=tmp_path / "out",
            progress=lambda *told: seen.append(told),
        )
    assert not seen and sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit"]
