"""Disks that fill up and shares that go away in the middle of a run."""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from hostile.corpus import picture
from siftlens.cli.app import app
from siftlens.core import InputError, PatchGrid
from siftlens.data import PROGRESS, STATE, Preprocessing, Unreadable, open_images
from siftlens.interrelation.main_pass import MainPass
from siftlens.patchmaps import PrepareSettings, Shrinking, prepare_images
from siftlens.pretraining.images import hold

decode = sys.modules["siftlens.data.decode"]  # the module; the package has a function of this name
ANALYZE = ("analyze", "--model", "model.py:make", "--images", "photos", "--batch-size", "2", "--workers", "0")


@pytest.fixture
def photos(place, monkeypatch):
    usual = MainPass.go
    monkeypatch.setattr(MainPass, "go", lambda *given, **named: usual(*given, **named | {"commit_seconds": 0}))
    for number in range(12):
        path = place / "photos" / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        picture(number).save(path)
    return place / "photos"


@pytest.fixture
def small_disk(place):
    """A folder that holds little, and a function that makes it larger."""
    disk = place / "disk"
    disk.mkdir()

    def mount(size: str, *options: str) -> bool:
        command = ["mount", "-t", "tmpfs", "-o", ",".join([f"size={size}", *options]), "siftlens", disk]
        return sys.platform == "linux" and subprocess.run(command, capture_output=True).returncode == 0

    if not mount("64k"):
        pytest.skip("needs the right to mount a small disk")
    try:
        yield disk, lambda size: mount(size, "remount")
    finally:
        subprocess.run(["umount", disk], check=True)


def assert_same_study(one: Path, other: Path) -> None:
    for table in ("heads", "layers", "images"):
        pd.testing.assert_frame_equal(
            pd.read_parquet(one / f"{table}.parquet"), pd.read_parquet(other / f"{table}.parquet")
        )
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def test_a_disk_that_fills_up_at_any_moment_leaves_the_last_state(place, siftlens_cli, photos, small_disk, monkeypatch):
    disk, grow = small_disk
    assert siftlens_cli(*ANALYZE, out="whole").code == 0
    usual, committed = MainPass.results, []

    def squeeze(self):
        used = sum(path.stat().st_size for path in disk.rglob("*") if path.is_file())
        assert grow(f"{used // 1024 + 60}k")
        return usual(self)

    for size in (
        "64k",
        "2000k",
        "64m",
    ):  # room for no commit, for one and not the next, for all but not for the results
        assert grow(size)
        with monkeypatch.context() as patch:
            patch.setattr(MainPass, "results", squeeze)
            result = siftlens_cli(*ANALYZE, "--resume", out="disk")
        told = result.failed("cannot write disk.*: the disk is full; free some space")
        state = disk / PROGRESS / STATE
        assert ("--resume goes on from the last state in disk" in told) == state.exists()
        committed.append(json.loads(state.read_text())["refs"] if state.exists() else 0)
        assert not (disk / "run.json").exists()
    assert committed == [0, 2, 12]
    assert grow("64m")
    assert siftlens_cli(*ANALYZE, "--resume", out="disk").code == 0
    assert_same_study(disk, place / "whole")


def test_pixels_that_are_kept_in_a_file_need_their_room_before(photos, small_disk):
    disk, grow = small_disk
    squares = Shrinking(64, 64)
    spill = disk / "images.npy"
    with pytest.warns(UserWarning, match="has no room: each is decoded anew whenever it is needed"):
        streamed = hold(photos, squares, spill=spill, in_file=True)  # mapped, it would end in SIGBUS
    assert not spill.exists()
    with pytest.raises(InputError, match=r"cannot write .*images\.npy: the disk is full; free some space"):
        hold([np.zeros((64, 64, 3), np.uint8)] * 12, squares, spill=spill, in_file=True)
    assert grow("1m")
    held = hold(photos, squares, spill=spill, in_file=True)
    assert len(held) == 12
    assert (held.pixels[:] == streamed.pixels[:]).all()


def test_a_limit_on_files_is_told_in_one_line(place, siftlens_cli, photos):
    assert siftlens_cli(*ANALYZE, out="whole").code == 0  # fills the cache too, which would complain as well
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (2_000, 100_000):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            result = siftlens_cli(*ANALYZE, "--resume", out="out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        result.failed("cannot write out.*: .*; choose another folder")
    assert siftlens_cli(*ANALYZE, "--resume", out="out").code == 0
    assert_same_study(place / "out", place / "whole")


def test_a_share_that_goes_away_stops_the_run_and_comes_back(place, siftlens_cli, photos, monkeypatch):
    assert siftlens_cli(*ANALYZE, out="whole").code == 0
    decoded = []
    usual = MainPass._add

    def leave(self, part):
        decoded.append(part)
        if len(decoded) == 3:
            photos.rename(place / "elsewhere")
        return usual(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(MainPass, "_add", leave)
        result = CliRunner().invoke(app, [*ANALYZE, "--out", "out"])  # not siftlens_cli, which minds moved files
    assert result.exit_code == 2
    assert result.stderr == (
        "siftlens: error: the folder of the images, photos, cannot be read any more (no such file or directory); "
        "see that it is there again (a share: that it is mounted), and run again; "
        "--resume goes on from the last state in out\n"
    )
    (place / "elsewhere").rename(photos)
    assert siftlens_cli(*ANALYZE, "--resume", out="out").code == 0
    assert (place / "out" / "quarantine.csv").read_text() == "identity,reason\n"
    assert_same_study(place / "out", place / "whole")


def test_a_share_that_leaves_an_empty_folder_behind_is_told_from_files_that_are_gone(photos):
    ref, other, *_ = open_images(photos)
    away = photos.rename(photos.with_name("away"))
    photos.mkdir()  # as where it was mounted
    with pytest.raises(InputError, match=r"photos, cannot be read any more \(it is empty now\)"):
        decode.decode(ref, Preprocessing(64, 64))
    photos.rmdir()
    away.rename(photos)
    ref.source.unlink()
    with pytest.raises(Unreadable, match="no such file"):
        decode.decode(ref, Preprocessing(64, 64))
    assert decode.decode(other, Preprocessing(64, 64)).shape == (64, 64, 3)


def test_a_table_of_images_that_goes_away_stops_the_run(photos, tmp_path):
    pq.write_table(pa.table({"image": [path.read_bytes() for path in photos.iterdir()]}), tmp_path / "x.parquet")
    ref = next(iter(open_images(tmp_path / "x.parquet")))
    (tmp_path / "x.parquet").unlink()
    with pytest.raises(InputError, match=r"the file of the images, .*x\.parquet, cannot be read any more"):
        decode.decode(ref, Preprocessing(64, 64))


def test_masks_that_go_away_are_not_images_without_masks(photos, place):
    masks = place / "masks"
    masks.mkdir()
    refs = list(open_images(photos))
    for ref in refs[1:]:
        with Image.open(ref.source) as image:
            Image.new("L", image.size, 255).save(masks / ref.identity)
    settings = PrepareSettings(Preprocessing(64, 64), PatchGrid(4, 4, 16, 16), masks=masks)

    def masked():
        return [image.mask is not None for image in prepare_images(refs, settings, workers=0, cache=None)]

    assert masked() == [False] + [True] * 11
    masks.rename(place / "away")
    with pytest.raises(InputError, match=r"the folder of the masks, .*masks, cannot be read any more \(no such file"):
        masked()
    masks.mkdir()
    with pytest.raises(InputError, match=r"masks, cannot be read any more \(it is empty now\)"):
        masked()


def test_a_share_that_answers_with_errors_stops_detection(place, siftlens_cli, photos, monkeypatch):
    command = ("keypoints", "--images", "photos", "--size", 64, "--workers", 0)
    usual, broken = decode.opened, []

    def opened(source):
        if source.name == "07.png":
            broken.append(source)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return usual(source)

    look = os.scandir

    def scandir(folder):
        if not broken:
            return look(folder)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(decode, "opened", opened)
        result = siftlens_cli(*command, out="one.safetensors")  # one bad sector
        assert result.code == 0
        assert result.err == "set aside  07.png: input/output error\n"
        broken.clear()
        patch.setattr(decode.os, "scandir", scandir)
        result = CliRunner().invoke(app, [*map(str, command), "--out", "all.safetensors"])
    assert result.exit_code == 2
    assert "photos, cannot be read any more (input/output error)" in result.stderr
    assert [path.name for path in place.glob("all*")] == ["all.safetensors.partial"]  # what was found so far
