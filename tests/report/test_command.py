"""The command line under "Reproduce": rebuilt where one does the same, and only there."""

import shlex

import pytest

from siftlens.auditing.settings import AuditSettings
from siftlens.report.command import audit_command, command

MODEL = {"spec": "demo", "weights": "pretrained", "size": None, "device": "cpu", "dtype": "float32"}
SETTINGS = {
    "source": "my photos/*.jpg",
    "normalize": "as loaded",
    "limit": None,
    "measure": "count",
    "weighting": "attention",
    "entropy": False,
    "exclude_outliers": False,
    "group_by": None,
    "seed": 0,
    "batch_size": 32,
    "workers": 1,
}


@pytest.fixture
def told(make_result, rerun):
    def of(*, model=None, **settings):
        run = rerun(make_result(gallery=0), model=MODEL | (model or {}), settings=SETTINGS | settings).run
        return command(run)

    return of


def test_defaults_are_left_out_and_names_are_quoted(told):
    assert told() == "siftlens analyze --model demo --images 'my photos/*.jpg' --out DIR --workers 1"


def test_everything_that_was_asked_for_is_there(told):
    model = {"spec": "timm/vit", "weights": "a b.safetensors", "size": [384, 512], "device": "cuda:1"}
    words = shlex.split(
        told(
            model=model | {"dtype": "bfloat16"},
            limit=7,
            group_by="folder",
            measure="response",
            weighting="value_norm",
            entropy=True,
            exclude_outliers=True,
            seed=3,
            batch_size=5,
        )
    )
    assert words[2:4] == ["--model", "timm/vit"]
    for pair in (
        *("--weights|a b.safetensors", "--size|384x512", "--device|cuda:1", "--dtype|bfloat16", "--limit|7"),
        *("--group-by|folder", "--measure|response", "--weighting|value_norm", "--seed|3", "--batch-size|5"),
    ):
        option, value = pair.split("|")
        assert words[words.index(option) + 1] == value
    assert {"--entropy", "--exclude-outliers"} < set(words)


def test_the_command_line_takes_every_option_that_is_written(told):
    from typer.main import get_command

    from siftlens.cli.app import app

    known = {option for parameter in get_command(app).commands["analyze"].params for option in parameter.opts}
    full = told(
        model={"weights": "random, seed 3", "size": [64, 64], "device": "mps", "dtype": "float16"},
        **dict.fromkeys(("entropy", "exclude_outliers"), True),
        limit=7,
        group_by="folder",
        measure="footprint",
        weighting="value_norm",
        seed=3,
        batch_size=5,
    )
    assert {word for word in full.split() if word.startswith("--")} <= known
    assert "--random-init" in full


@pytest.mark.parametrize(
    ("settings", "model"),
    [
        ({"source": "in memory"}, {}),
        ({"measure": "__main__.redness"}, {}),
        ({"normalize": "own"}, {}),
        ({}, {"weights": "as given"}),
        ({"seed": 1}, {"weights": "random, seed 0"}),
    ],
)
def test_where_no_command_does_the_same_none_is_told(told, settings, model):
    assert told(**settings, model=model) is None


def test_a_study_of_before_this_was_recorded_has_no_command(make_result):
    assert command(make_result(gallery=0).run) is None


@pytest.mark.parametrize(("given", "told"), [(64, ""), (16, " --batch-size 16"), (None, "")])
def test_an_audit_is_run_again_with_its_batches(given, told):
    """Its results depend on them; audits saved before they were recorded had the usual ones, as far as one knows."""
    settings = {"source": "photos", "labels": "folders", "normalize": "as loaded", **AuditSettings().described()}
    settings |= {"limit": None, "batch_size": given}
    if given is None:
        del settings["batch_size"]
    assert audit_command({"settings": settings, "model": MODEL}) == (
        f"siftlens audit --model demo --images photos --out DIR{told}"
    )
