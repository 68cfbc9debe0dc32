import errno
import os
import resource
import stat
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from siftlens.core import InputError
from siftlens.data import atomic_path, disk_errors


def test_a_file_appears_whole_and_replaces(tmp_path: Path):
    target = tmp_path / "new" / "x.txt"
    for text in ("one", "two"):
        with atomic_path(target) as path:
            assert path.parent == target.parent
            path.write_text(text)
            assert not target.exists() or target.read_text() != text
        assert target.read_text() == text
    assert [child.name for child in target.parent.iterdir()] == ["x.txt"]


def test_what_failed_leaves_the_old_file_and_no_other(tmp_path: Path):
    target = tmp_path / "x.txt"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        with atomic_path(target) as path:
            path.write_text("half")
            raise KeyboardInterrupt
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_permissions_are_the_usual_ones(tmp_path: Path):
    usual = tmp_path / "usual"
    usual.touch()
    with atomic_path(tmp_path / "x") as path:
        path.touch()
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "the disk is full; free some space"),
        (errno.EDQUOT, "the disk is full"),
        (errno.EROFS, "writing is not permitted; choose a folder"),
        (errno.EACCES, "writing is not permitted"),
        (errno.EIO, "Input/output error; choose another folder"),
    ],
)
def test_the_disk_says_what_is_wrong(tmp_path: Path, number: int, told: str):
    target = tmp_path / "x"
    with pytest.raises(InputError, match=f"^cannot write {target}: {told}"):
        with atomic_path(target):
            raise OSError(number, os.strerror(number))
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*: a file stands where a folder is needed"):
        with atomic_path(tmp_path / "file" / "x"):
            pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_device_that_is_full():
    with pytest.raises(InputError, match="the disk is full"):
        with disk_errors(Path("/dev/full")), Path("/dev/full").open("wb") as file:
            file.write(b"x")


@pytest.mark.parametrize("full", [True, False])
def test_safetensors_tells_of_the_disk_in_words(tmp_path: Path, full: bool):
    target = tmp_path / "x"
    if full:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
        try:
            with pytest.raises(InputError, match=f"^cannot write {target}: File too large; choose another folder"):
                with atomic_path(target) as path:
                    save_file({"a": np.zeros(10_000)}, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    else:
        with pytest.raises(SafetensorError, match="^header too large$"), atomic_path(target):
            raise SafetensorError("header too large")
    assert not list(tmp_path.iterdir())


def test_other_complaints_pass():
    with pytest.raises(OSError, match="^unable to open$"):
        with disk_errors(Path("x")):
            raise OSError("unable to open")
