"""`siftlens.compare` on studies in memory and on disk."""

import errno

import pandas as pd
import pytest
from PIL import Image

import siftlens
from oracles.studies import made_up
from siftlens.core import InputError, StudyError
from siftlens.data import open_images
from siftlens.study import Study


@pytest.fixture
def studies(tmp_path):
    """Folders of two studies of the same images."""
    folders = [tmp_path / "runs" / name for name in ("early", "late")]
    for folder, result in zip(folders, (made_up(), made_up(seed=8, pull=0.6)), strict=True):
        Study(result).save(folder)
    return folders


def test_a_comparison_is_written_and_told(studies, tmp_path):
    found = siftlens.compare(studies, out=tmp_path / "out")
    assert [study.name for study in found.studies] == ["early", "late"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".siftlens",
        "comparison.parquet",
        "index.html",
    ]
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "comparison.parquet"), found.table)
    assert "<em>early</em>" in (tmp_path / "out" / "index.html").read_text("utf-8")
    again = siftlens.compare(studies[::-1], out=tmp_path / "out")
    assert again.reference.name == "late"
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_files_of_another_origin_are_left_alone(studies, tmp_path):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "index.html").write_text("mine")
    study = siftlens.load_study(studies[0])
    for write in (lambda: siftlens.compare(studies, out=out), lambda: study.save(out)):
        with pytest.raises(InputError, match="holds index.html already; choose another folder, or remove that file"):
            write()
    assert [path.read_text() for path in out.iterdir()] == ["mine"]


def test_what_siftlens_wrote_is_left_out_of_the_images(studies, tmp_path):
    mine = tmp_path / "figures" / "mine.png"
    for place in (tmp_path / "a.png", mine):
        place.parent.mkdir(exist_ok=True)
        Image.new("RGB", (32, 32)).save(place)
    siftlens.compare(studies, out=tmp_path / "compared")
    siftlens.load_study(studies[0]).export(tmp_path / "exported")
    assert (tmp_path / "exported" / "figures" / "levels.png").exists()
    assert [ref.identity for ref in open_images(tmp_path)] == ["a.png", "figures/mine.png"]
    siftlens.load_study(studies[0]).export(tmp_path)  # into a folder in use, which stays the user's
    assert "figures/mine.png" in [ref.identity for ref in open_images(tmp_path)]


def test_studies_in_memory_are_the_ones_on_disk(studies):
    from_disk = siftlens.compare(studies)
    loaded = siftlens.compare([Study(made_up()), siftlens.load_study(studies[1])])
    assert [study.name for study in loaded.studies] == ["synthetic ViT", "synthetic ViT (2)"]
    drop = {"columns": "study"}
    pd.testing.assert_frame_equal(from_disk.table.drop(**drop), loaded.table.drop(**drop))


def test_a_path_is_no_list_of_studies(studies):
    with pytest.raises(InputError, match="expected a list of at least two studies, got one path"):
        siftlens.compare(str(studies[0]))


def test_a_study_is_never_overwritten(studies):
    before = (studies[0] / "index.html").read_bytes()
    with pytest.raises(InputError, match="early holds a finished study; choose another folder"):
        siftlens.compare(studies, out=studies[0])
    assert (studies[0] / "index.html").read_bytes() == before


def test_a_missing_or_damaged_study_is_named(studies, tmp_path):
    with pytest.raises(StudyError, match="nowhere does not exist"):
        siftlens.compare([studies[0], tmp_path / "nowhere"])
    whole = (studies[1] / "arrays.nc").read_bytes()
    (studies[1] / "arrays.nc").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StudyError, match=r"late/arrays\.nc is damaged or cut off"):
        siftlens.compare(studies, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_studies_may_be_read_only(studies, tmp_path):
    for folder in studies:
        for path in folder.iterdir():
            path.chmod(0o444)
        folder.chmod(0o555)
    try:
        assert siftlens.compare(studies, out=tmp_path / "out").images == 37
    finally:
        for folder in studies:
            folder.chmod(0o755)


def test_a_full_disk_leaves_the_earlier_page(studies, tmp_path, monkeypatch):
    out = tmp_path / "out"
    siftlens.compare(studies, out=out)
    before = (out / "index.html").read_bytes()

    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(InputError, match="cannot write .*index.html: the disk is full; free some space"):
        siftlens.compare(studies[::-1], out=out)
    assert (out / "index.html").read_bytes() == before
    assert len(list(out.iterdir())) == 3
