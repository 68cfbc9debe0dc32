"""Images that mean harm, through every command that reads images."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

import siftlens
from hostile.corpus import NAMES, SCRIPT, write_images, write_shard

ANALYZE = ("analyze", "--model", "model.py:make", "--batch-size", "8")


class Tags(HTMLParser):
    """Counts start tags, and collects attributes that run code."""

    def __init__(self, text: str):
        super().__init__()
        self.scripts, self.handlers = 0, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


def assert_harmless(page: Path, scripts: int):
    text = page.read_text("utf-8")
    tags = Tags(text)
    assert (tags.scripts, tags.handlers) == (scripts, [])
    assert SCRIPT.decode() not in text


def assert_reasons(found: dict[str, str], bad: dict[str, str]):
    assert found.keys() == bad.keys()
    for name, pattern in bad.items():
        assert re.search(pattern, found[name]), (name, found[name])
        assert found[name].isprintable()


def test_analyze_sets_aside_what_cannot_be_read_and_goes_on(place, siftlens_cli):
    good, bad = write_images(place / "photos")
    result = siftlens_cli(*ANALYZE, "--images", "photos", "--group-by", "folder", out="out")
    assert (result.code, result.err) == (0, "")
    assert f"images     {len(good)}, and {len(bad)} set aside (reasons in out/quarantine.csv)" in result.out
    study = siftlens.load_study("out")
    study.arrays.close()
    assert set(study.images["identity"]) == good
    assert_reasons(dict(zip(study.quarantine["identity"], study.quarantine["reason"], strict=True)), bad)
    assert_harmless(place / "out" / "index.html", scripts=2)


def test_the_rest_of_a_study_takes_such_names_too(place, siftlens_cli):
    good, _ = write_images(place / "photos")
    siftlens_cli(*ANALYZE, "--images", "photos/named", out="out")
    siftlens_cli(*ANALYZE, "--images", "photos/named", "--seed", 1, out="other")
    result = siftlens_cli("compare", "out", "other", out="compared")
    assert (result.code, result.err) == (0, "")
    assert f"images     {len(NAMES)} in common" in result.out
    assert_harmless(place / "compared" / "index.html", scripts=0)
    result = siftlens_cli("export", "out", out="exported")
    assert (result.code, result.err) == (0, "")
    names = pd.read_csv(place / "exported" / "tables" / "images.csv")["identity"]
    assert {f"named/{name}" for name in names} == {name for name in good if name.startswith("named/")}


def test_keypoints_and_prompt_set_aside_the_same(place, siftlens_cli):
    good, bad = write_images(place / "photos")
    result = siftlens_cli("keypoints", "--images", "photos", "--size", 64, "--workers", 0, out="kp.safetensors")
    assert result.code == 0
    assert f"images     {len(good)}, and {len(bad)} set aside" in result.out
    assert len(result.err.splitlines()) == len(bad)
    policy = '{"tokens": {"keep": 0.5}}'
    result = siftlens_cli("prompt", "-m", "model.py:make", "-i", "photos", "--policy", policy, out="prompted")
    assert (result.code, result.err) == (0, "")
    assert f"images     {len(good)}, and {len(bad)} set aside" in result.out
    assert_harmless(place / "prompted" / "index.html", scripts=0)


def test_a_tar_file_is_never_unpacked(place, siftlens_cli):
    write_shard(place / "x.tar")
    result = siftlens_cli(*ANALYZE, "--images", "x.tar", out="out")
    assert (result.code, result.err) == (0, "")
    study = siftlens.load_study("out")
    study.arrays.close()
    assert len(study.images) == 4
    assert not Path("/tmp/siftlens-owned.png").exists()
    assert_harmless(place / "out" / "index.html", scripts=2)


@pytest.mark.parametrize(
    "command",
    [
        (*ANALYZE, "--images", "broken"),
        ("audit", "--model", "model.py:make", "--images", "broken"),
        ("prompt", "--model", "model.py:make", "--images", "broken", "--policy", "{}"),
        ("pretrain", "--images", "broken", "--size", "32"),
    ],
    ids=lambda command: command[0],
)
def test_nothing_readable_says_why(place, siftlens_cli, command):
    for kind in ("a", "b"):
        (place / "broken" / kind).mkdir(parents=True)
        (place / "broken" / kind / "empty.png").write_bytes(b"")
    result = siftlens_cli(*command, out="out")
    assert result.code == 1
    assert re.search(r"none of (the )?2 images c.* the first.* [ab]/empty\.png: .*empty", result.err)


def test_names_in_an_error_are_one_printable_line(place, siftlens_cli):
    folder = place / os.fsdecode(b"\x1b[2J\xff\n<script>")
    folder.mkdir()
    (folder / os.fsdecode(b"a\x07\xfe\n.png")).write_bytes(b"")
    siftlens_cli(*ANALYZE, "--images", folder, out="out").failed("none of the 1 images could be read")
    siftlens_cli(*ANALYZE, "--images", folder / "no", out="out").failed("no images at")
    siftlens_cli(*ANALYZE, "--images", "\0", out="out").failed("no images at")


def test_folders_may_have_such_names_too(place, siftlens_cli):
    strange = os.fsdecode(b"\x1b[2J\xff\n<script>alert(1)</script>")
    write_images(place / strange)
    siftlens_cli(*ANALYZE, "--images", f"{strange}/odd", out=os.fsdecode(b"\xff")).failed(
        "name is not UTF-8; choose ano"
    )
    out = "out\x1b\n<script>"
    result = siftlens_cli(*ANALYZE, "--images", f"{strange}/odd", "--workers", 1, out=out)
    assert (result.code, result.err) == (0, "")
    assert_harmless(place / out / "index.html", scripts=2)
    siftlens_cli(*ANALYZE, "--images", f"{strange}/odd", out=out).failed("holds a finished study")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_what_may_not_be_read_is_told(place, siftlens_cli):
    write_images(place / "photos")
    (place / "photos" / "odd" / "l.png").chmod(0)
    result = siftlens_cli(*ANALYZE, "--images", "photos/odd", out="out")
    assert result.code == 0
    assert "permission denied" in (place / "out" / "quarantine.csv").read_text()
    (place / "photos" / "bad").chmod(0)
    try:
        siftlens_cli(*ANALYZE, "--images", "photos", out="other").failed("cannot read the folder .* permissions")
    finally:
        (place / "photos" / "bad").chmod(0o755)
