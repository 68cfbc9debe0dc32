"""An interrupted audit goes on, does nothing twice, and ends as if nothing had happened."""

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from PIL import Image

import siftlens
from oracles.leaning import Leaning, pictures
from siftlens.auditing.bench import Bench
from siftlens.core import InputError, StudyError
from siftlens.data import PROGRESS, STATE, has_progress

PICTURES = pictures(80)
PIXELS = [picture.pixels for picture in PICTURES]
LABELS = [picture.label for picture in PICTURES]
TABLES = ("cues", "images", "properties", "shown", "pictures")


class Stop(KeyboardInterrupt):
    pass


def audited(pixels=PIXELS, labels=LABELS, on_cue=2, **settings):
    given = {"normalize": None, "vocabularies": ("colour",), "batch_size": 16}
    return siftlens.audit(Leaning(on_object=1, on_cue=on_cue).eval(), pixels, labels, **given | settings)


@pytest.fixture
def steps(monkeypatch):
    """Counts the steps done; raises at the one that `stop_at` says."""

    class Steps(list):
        stop_at = None

    done, do = Steps(), Bench.__call__

    def counted(bench, step):
        if len(done) == done.stop_at:
            raise Stop
        done.append(step)
        return do(bench, step)

    monkeypatch.setattr(Bench, "__call__", counted)
    return done


def assert_same(audit, expected):
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(audit, name), getattr(expected, name), rtol=0, atol=0)
    assert audit.info["passes_per_image"] == expected.info["passes_per_image"]


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_it_goes_on_at_the_step_where_it_stopped(tmp_path, steps, share):
    expected = audited()
    total = len(steps)
    assert len(expected.cues) > 1 and len(expected.properties) and total > 8
    steps.clear()
    steps.stop_at = int(share * total)
    with pytest.raises(Stop):
        audited(out=tmp_path / "out")
    assert has_progress(tmp_path / "out")
    steps.stop_at = None
    assert_same(audited(out=tmp_path / "out", resume=True), expected)
    assert len(steps) == total
    assert not has_progress(tmp_path / "out") and not list((tmp_path / "out").glob(".*"))
    assert_same(siftlens.load_audit(tmp_path / "out"), expected)


def test_a_finished_one_is_not_done_again(tmp_path, steps):
    expected = audited(out=tmp_path)
    steps.clear()
    (tmp_path / PROGRESS).mkdir()  # stopped between saving and this
    assert_same(audited(out=tmp_path, resume=True), expected)
    assert not steps and not (tmp_path / PROGRESS).exists()
    with pytest.raises(InputError, match="was begun with seed 0, now it is 1; resume with the same, or choose another"):
        audited(out=tmp_path, resume=True, seed=1)
    with pytest.raises(InputError, match="holds a finished audit; choose another folder"):
        audited(out=tmp_path)


@pytest.fixture
def stopped(tmp_path, steps):
    steps.stop_at = 6
    with pytest.raises(Stop):
        audited(out=tmp_path)
    steps.stop_at = None
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 1}, "was begun with seed 0, now it is 1"),
        ({"batch_size": 8}, "was begun with batch_size 16, now it is 8"),
        ({"labels": LABELS[::-1]}, "was begun with what they show "),
        ({"pixels": [*PIXELS[:-1], np.flip(PIXELS[-1], axis=1).copy()]}, "was begun with what they show "),
        ({"on_cue": 3, "vocabularies": ("token",)}, "was begun with vocabularies "),
    ],
)
def test_it_goes_on_with_the_same_only(stopped, changed, told):
    with pytest.raises(InputError, match=told):
        audited(out=stopped, resume=True, **changed)


def test_it_goes_on_where_that_is_asked_for(stopped, tmp_path):
    with pytest.raises(InputError, match=r"holds an interrupted run; add --resume \(resume=True\) to go on with it"):
        audited(out=stopped)
    with pytest.raises(InputError, match="pass out=FOLDER"):
        audited(resume=True)


def test_two_at_once_are_refused(stopped):
    with (
        FileLock(stopped / PROGRESS / "lock"),
        pytest.raises(InputError, match="another run is writing to .*; wait for it to end"),
    ):
        audited(out=stopped, resume=True)


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_what_cannot_be_read_is_told(stopped, damage):
    path = stopped / PROGRESS / "3.safetensors"
    path.write_bytes(path.read_bytes()[:-20] if damage is None else damage)
    with pytest.raises(StudyError, match=r"3.safetensors cannot be read; remove .*\.progress and run again"):
        audited(out=stopped, resume=True)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.97])
def test_one_bit_is_told(stopped, share):
    path = stopped / PROGRESS / "3.safetensors"
    whole = bytearray(path.read_bytes())
    whole[int(share * len(whole))] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StudyError, match=r"3.safetensors cannot be read"):
        audited(out=stopped, resume=True)


def test_steps_of_nobody_knows_what_are_not_used(stopped):
    (stopped / PROGRESS / STATE).unlink()
    assert_same(audited(out=stopped, seed=1), audited(seed=1))


def test_masks_that_changed_are_told(tmp_path, steps):
    for number, picture in enumerate(PICTURES):
        for kind in ("images", "masks"):
            path = tmp_path / kind / str(picture.label) / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture.pixels).save(path)
    settings = {"labels": None, "masks": tmp_path / "masks", "size": Leaning.size, "out": tmp_path / "out"}
    steps.stop_at = 3
    with pytest.raises(Stop):
        audited(tmp_path / "images", **settings)
    (tmp_path / "masks" / "new.png").touch()
    with pytest.raises(InputError, match="was begun with masks hold"):
        audited(tmp_path / "images", resume=True, **settings)


def test_an_analysis_does_not_go_on_with_it(stopped):
    with pytest.raises(StudyError, match="is not of an analysis"):
        siftlens.analyze(Leaning().eval(), PIXELS, normalize=None, out=stopped, resume=True)
