"""`siftlens compare` and `siftlens export` as a user meets them: whole outputs and exit codes."""

import pytest
from typer.testing import CliRunner

from oracles.studies import made_up
from siftlens.cli.app import app
from siftlens.study import Study


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with two studies, the second of a model with fewer layers."""
    monkeypatch.chdir(tmp_path)
    Study(made_up()).save(tmp_path / "early")
    Study(made_up(seed=8, pull=0.6)).save(tmp_path / "late")
    Study(made_up(layers=3, seed=9)).save(tmp_path / "small")
    return tmp_path


def run(*arguments):
    found = CliRunner().invoke(app, list(arguments))
    return found.exit_code, found.stdout, found.stderr


def test_compare_writes_a_page_and_sums_it_up(place):
    assert run("compare", "early", "late", "--out", "out") == (
        0,
        """\
report     out/index.html
images     37 in common, matched by content

Pull toward keypoints, difference from early (95 % intervals, q < 0.05):
late: 5 of 5 layers differ
  layer 0: +0.23 SD [+0.16, +0.30]
  layer 1: +0.37 SD [+0.30, +0.45]
  layer 2: +0.43 SD [+0.35, +0.50]
  layer 3: +0.54 SD [+0.45, +0.63]
  layer 4: +0.63 SD [+0.57, +0.70]
""",
        "",
    )
    assert (place / "out" / "index.html").exists()


def test_layers_of_models_of_different_depth_are_told_by_depth(place):
    code, out, _ = run("compare", "early", "small", "late", "-o", "out")
    assert code == 0
    assert "small: none of 3 layers differs\nlate: " in out
    assert "\n  depth 1.00: +" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["early"], "expected at least two studies to compare, got 1"),
        (["early", "nowhere"], "expected the folder of a study, but nowhere does not exist or is no folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(place, arguments, told):
    assert run("compare", *arguments, "--out", "out") == (2, "", f"siftlens: error: {told}\n")
    assert not (place / "out").exists()


def test_export_writes_figures_and_tables(place):
    assert run("export", "small", "--out", "out") == (
        0,
        "figures    34 in out/figures\ntables     3 in out/tables\n",
        "",
    )
    assert len(list((place / "out").rglob("*.svg"))) == 17


def test_export_of_no_study_is_exit_2(place):
    code, _, told = run("export", "nowhere", "--out", "out")
    assert (code, told) == (
        2,
        "siftlens: error: expected the folder of a study, but nowhere does not exist or is no folder\n",
    )
