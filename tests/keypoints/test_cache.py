import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from siftlens.data import content_hash
from siftlens.keypoints import KeypointCache, Keypoints, SiftSettings, detect
from siftlens.keypoints.cache import default_folder
from siftlens.keypoints.points import pack

PIXELS = np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)
CONTENT = content_hash(PIXELS)
USUAL = SiftSettings()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "below" / "keypoints.sqlite"


def filled(path: Path, count: int = 1) -> Keypoints:
    found = detect(PIXELS)
    with KeypointCache(path) as cache:
        for number in range(count):
            cache.put(CONTENT if not number else f"{number}", USUAL, found)
    return found


def assert_same(one: Keypoints | None, other: Keypoints) -> None:
    assert one is not None
    for name in ("x", "y", "size", "response", "angle", "octave"):
        assert getattr(one, name).tobytes() == getattr(other, name).tobytes()
    assert (one.height, one.width, one.descriptors) == (other.height, other.width, None)


def test_what_was_put_comes_back_bit_for_bit(path: Path):
    found = detect(PIXELS)
    cache = KeypointCache(path)
    assert cache.get(CONTENT, USUAL) is None
    cache.put(CONTENT, USUAL, found)
    assert_same(cache.get(CONTENT, USUAL), found)
    cache.close()
    for read_only in (False, True):
        with KeypointCache(path, read_only=read_only) as again:
            assert_same(again.get(CONTENT, USUAL), found)


def test_other_content_settings_or_opencv_are_not_known(path: Path, monkeypatch: pytest.MonkeyPatch):
    filled(path)
    with KeypointCache(path) as cache:
        assert cache.get(content_hash(PIXELS.transpose(1, 0, 2)), USUAL) is None
        for name, value in {
            "n_octave_layers": 4,
            "contrast_threshold": 0.05,
            "edge_threshold": 9.0,
            "sigma": 1.7,
        }.items():
            assert cache.get(CONTENT, SiftSettings(**{name: value})) is None
        monkeypatch.setattr(cv2, "__version__", "4.10.0")
        assert cache.get(CONTENT, USUAL) is None


def test_no_keypoints_are_remembered_as_such(path: Path):
    blank = detect(np.zeros((97, 131), np.uint8))
    with KeypointCache(path) as cache:
        cache.put("blank", USUAL, blank)
    with KeypointCache(path) as cache:
        assert_same(cache.get("blank", USUAL), blank)


def test_writes_are_gathered_and_reach_the_disk_without_closing(path: Path):
    found, cache = detect(PIXELS), KeypointCache(path)
    for number in range(200):
        cache.put(f"{number}", USUAL, found)
    with KeypointCache(path, read_only=True) as other:
        assert_same(other.get("0", USUAL), found)
        assert other.get("199", USUAL) is None
        cache.flush()
        assert_same(other.get("199", USUAL), found)
    cache.close()


def test_a_foreign_file_is_begun_anew(path: Path):
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be one" * 100)
    with pytest.warns(RuntimeWarning, match="the keypoint cache .* was damaged and is begun anew"):
        cache = KeypointCache(path)
    cache.close()
    assert_same_after_filling(path)


def test_an_empty_or_cut_file(path: Path):
    path.parent.mkdir()
    path.touch()
    assert_same_after_filling(path)
    filled(path, 300)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.warns(RuntimeWarning, match="damaged and is begun anew"):
        with KeypointCache(path) as cache:
            for number in range(300):
                cache.get(f"{number}", USUAL)
            cache.put(CONTENT, USUAL, detect(PIXELS))
    assert_same_after_filling(path)


def assert_same_after_filling(path: Path) -> None:
    found = filled(path)
    with KeypointCache(path) as cache:
        assert_same(cache.get(CONTENT, USUAL), found)


def test_damage_while_it_is_open(path: Path):
    filled(path, 300)
    cache = KeypointCache(path)
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.warns(RuntimeWarning, match="damaged and is begun anew"):
        assert cache.get(CONTENT, USUAL) is None
    cache.put(CONTENT, USUAL, detect(PIXELS))
    cache.close()
    assert_same_after_filling(path)


def test_damage_noticed_while_writing_loses_nothing(path: Path):
    filled(path, 300)
    cache = KeypointCache(path)
    cache.put("new", USUAL, detect(PIXELS))
    path.write_bytes(os.urandom(path.stat().st_size))
    with pytest.warns(RuntimeWarning, match="damaged and is begun anew"):
        cache.flush()
    cache.close()
    with KeypointCache(path) as cache:
        assert_same(cache.get("new", USUAL), detect(PIXELS))


def test_a_damaged_entry_counts_as_none_and_is_replaced(path: Path):
    found = filled(path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE keypoints SET packed = substr(packed, 1, 20)")
    database.close()
    with KeypointCache(path) as cache:
        assert cache.get(CONTENT, USUAL) is None
        cache.put(CONTENT, USUAL, found)
    with KeypointCache(path) as cache:
        assert_same(cache.get(CONTENT, USUAL), found)


def test_where_nothing_can_be_written_it_is_said_and_gone_without(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.warns(RuntimeWarning, match="the keypoint cache .* cannot be used .*; keypoints are detected anew"):
        cache = KeypointCache(tmp_path / "file" / "keypoints.sqlite")
    cache.put(CONTENT, USUAL, detect(PIXELS))
    cache.close()


def test_a_full_disk_is_said_once(path: Path):
    cache = KeypointCache(path)
    assert cache._database is not None
    cache._database.execute("PRAGMA max_page_count = 4")
    found = detect(PIXELS)
    with pytest.warns(RuntimeWarning, match=r"cannot be used \(database or disk is full\)") as told:
        for number in range(400):
            cache.put(f"{number}", USUAL, found)
        cache.close()
    assert len(told) == 1


def test_a_reader_of_nothing_is_silent(path: Path):
    with KeypointCache(path, read_only=True) as cache:
        assert cache.get(CONTENT, USUAL) is None
    assert not path.parent.exists()


def test_two_processes_write_at_once(path: Path):
    script = """
import sys
from pathlib import Path
import numpy as np
from siftlens.keypoints import KeypointCache, SiftSettings, detect
cache = KeypointCache(Path(sys.argv[1]))
found = detect(np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8))
for number in range(400):
    cache.put(f"{sys.argv[2]}-{number % 300}", SiftSettings(), found)
    if number % 20 == 0:
        cache.flush()
cache.close()
"""
    writers = [subprocess.Popen([sys.executable, "-W", "error", "-c", script, path, name]) for name in "ab"]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    found = detect(PIXELS)
    with KeypointCache(path) as cache:
        for name in "ab":
            for number in range(300):
                assert_same(cache.get(f"{name}-{number}", USUAL), found)


def test_size_on_disk(path: Path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (41, 47), np.uint8))
    found = detect(noise.resize((239, 227), Image.Resampling.BICUBIC))
    assert len(found) > 200  # as many as a photograph of 224 px has
    with KeypointCache(path) as cache:
        for number in range(500):
            cache.put(f"{number}", USUAL, found)
    assert path.stat().st_size / 500 < 1.3 * len(pack(found))


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("SIFTLENS_CACHE", str(tmp_path / "mine"))
    with KeypointCache() as cache:
        assert cache.path == tmp_path / "mine" / "keypoints.sqlite"
    monkeypatch.delenv("SIFTLENS_CACHE")
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    assert default_folder() == Path("/home/ada/.cache/siftlens")
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch")
    assert default_folder() == Path("/scratch/siftlens")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert default_folder() == Path("/home/ada/Library/Caches/siftlens")
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", "/local")
    assert default_folder() == Path("/local/siftlens/cache")
