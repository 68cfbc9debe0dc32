import errno
import json
import shutil

import numpy as np
import pytest

from siftlens.core import InputError, StudyError
from siftlens.data import PROGRESS, has_progress, held
from siftlens.interrelation.spool import Spool

SHAPE = (5, 3, 7)  # variable, layer, head


def rows(first, count):
    return np.arange(first, first + count, dtype=np.float32)[:, None, None, None] + np.zeros(SHAPE, np.float32)


def lines(first, count):
    return [{"identity": f'{number}\n,"é.jpg'} for number in range(first, first + count)]


def open_spool(tmp_path, *, resume=False, **settings):
    return Spool(tmp_path / PROGRESS, {"seed": 0, **settings}, resume=resume)


def committed(tmp_path):
    """Three images, one set aside and two sums, committed."""
    spool = open_spool(tmp_path)
    spool.append(rows(0, 3), lines(0, 3))
    spool.quarantine("bad.jpg", "truncated")
    spool.commit(4, {"": {"sum": np.arange(11.0)}, "dogs": {"sum": np.ones(2)}}, {"variables": ["a"]})
    return spool


def test_what_was_committed_comes_back(tmp_path):
    committed(tmp_path).close()

    spool = open_spool(tmp_path, resume=True)

    assert (spool.refs, spool.images, spool.facts) == (4, 3, {"variables": ["a"]})
    np.testing.assert_array_equal(spool.rows(), rows(0, 3))
    assert list(spool.image_lines()) == lines(0, 3)
    assert list(spool.quarantine_lines()) == [{"identity": "bad.jpg", "reason": "truncated"}]
    sums = spool.sums()
    np.testing.assert_array_equal(sums[""]["sum"], np.arange(11.0))
    np.testing.assert_array_equal(sums["dogs"]["sum"], np.ones(2))
    spool.close()


def test_what_came_after_the_last_commit_is_cut_off(tmp_path):
    spool = committed(tmp_path)
    spool.append(rows(3, 2), lines(3, 2))
    spool.quarantine("worse.jpg", "zero bytes")
    spool.close()  # flushed to disk, but no commit

    spool = open_spool(tmp_path, resume=True)
    assert (spool.refs, spool.images) == (4, 3)
    spool.append(rows(9, 1), lines(9, 1))
    spool.commit(5, {})
    np.testing.assert_array_equal(spool.rows()[:, 0, 0, 0], [0, 1, 2, 9])
    assert list(spool.image_lines()) == [*lines(0, 3), *lines(9, 1)]
    assert len(list(spool.quarantine_lines())) == 1
    spool.close()


def test_uncommitted_records_are_not_shown_either(tmp_path):
    spool = committed(tmp_path)
    spool.append(rows(3, 2), lines(3, 2))
    assert len(list(spool.image_lines())) == 3
    spool.close()


def test_a_commit_replaces_only_the_sums_that_changed(tmp_path):
    spool = committed(tmp_path)
    spool.commit(6, {"dogs": {"sum": np.full(2, 5.0)}})
    spool.close()

    spool = open_spool(tmp_path, resume=True)
    sums = spool.sums()
    np.testing.assert_array_equal(sums[""]["sum"], np.arange(11.0))
    np.testing.assert_array_equal(sums["dogs"]["sum"], [5, 5])
    assert len(list((tmp_path / PROGRESS).glob("state-*.npz"))) == 2
    spool.close()


@pytest.mark.parametrize("moment", ["state-", "state.json"])
def test_a_crash_inside_a_commit_leaves_the_one_before(tmp_path, monkeypatch, moment):
    spool = committed(tmp_path)
    spool.append(rows(3, 1), lines(3, 1))

    from siftlens.data import records
    from siftlens.interrelation import spool as logs

    real = logs.atomic_path

    def crash(path):
        if path.name.startswith(moment):
            raise KeyboardInterrupt
        return real(path)

    for module in (logs, records):
        monkeypatch.setattr(module, "atomic_path", crash)
    with pytest.raises(KeyboardInterrupt):
        spool.commit(5, {"": {"sum": np.zeros(11)}})
    spool.close()
    monkeypatch.undo()

    spool = open_spool(tmp_path, resume=True)
    assert (spool.refs, spool.images) == (4, 3)
    np.testing.assert_array_equal(spool.sums()[""]["sum"], np.arange(11.0))
    spool.close()


def test_an_interrupted_run_is_not_overwritten(tmp_path):
    committed(tmp_path).close()
    assert has_progress(tmp_path)
    with pytest.raises(InputError, match="holds an interrupted run; add --resume"):
        open_spool(tmp_path)


def test_other_settings_cannot_go_on(tmp_path):
    committed(tmp_path).close()
    with pytest.raises(InputError, match=r"begun with measure None, now it is 'count'; resume with the same"):
        open_spool(tmp_path, resume=True, measure="count")


def test_without_a_commit_nothing_is_left(tmp_path):
    with held(tmp_path):
        spool = open_spool(tmp_path)
        spool.append(rows(0, 3), lines(0, 3))
        spool.close()
    assert not has_progress(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_lost_its_end_is_refused(tmp_path):
    committed(tmp_path).close()
    log = tmp_path / PROGRESS / "rows.f32"
    log.write_bytes(log.read_bytes()[:-1])
    with pytest.raises(StudyError, match=r"rows\.f32 is shorter than its last commit; remove"):
        open_spool(tmp_path, resume=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"settings": {}, "format": 1}'])
def test_a_damaged_commit_is_refused(tmp_path, text):
    committed(tmp_path).close()
    (tmp_path / PROGRESS / "state.json").write_text(text)
    with pytest.raises(
        StudyError,
        match=r"state\.json (is damaged|names no format|was changed|has no checksums).*; remove .* and run again",
    ):
        open_spool(tmp_path, resume=True)


def test_a_commit_of_another_format_is_refused(tmp_path):
    committed(tmp_path).close()
    path = tmp_path / PROGRESS / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    with pytest.raises(StudyError, match="has format 99, this siftlens reads up to 1; update siftlens"):
        open_spool(tmp_path, resume=True)


def cut(whole):
    return whole[:40]


def compressed_by_another_method(whole):
    place = whole.index(b"PK\1\2") + 10
    return whole[:place] + b"\x63" + whole[place + 1 :]


@pytest.mark.parametrize("damage", [cut, compressed_by_another_method])
def test_damaged_sums_are_refused(tmp_path, damage):
    committed(tmp_path).close()
    sums = next((tmp_path / PROGRESS).glob("state-*.npz"))
    sums.write_bytes(damage(sums.read_bytes()))
    spool = open_spool(tmp_path, resume=True)
    with pytest.raises(StudyError, match=r"state-1-\d\.npz cannot be read; remove"):
        spool.sums()
    spool.close()


@pytest.mark.parametrize("name", ["images.jsonl", "quarantine.jsonl"])
def test_a_damaged_line_is_refused(tmp_path, name):
    committed(tmp_path).close()
    log = tmp_path / PROGRESS / name
    log.write_bytes(b"\xff" + log.read_bytes()[1:])
    spool = open_spool(tmp_path, resume=True)
    with pytest.raises(StudyError, match=rf"{name} is damaged; remove .* and run again"):
        [*spool.image_lines(), *spool.quarantine_lines()]
    spool.close()


def test_a_full_disk_says_so(tmp_path, monkeypatch):
    spool = committed(tmp_path)

    class Full:
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    spool._logs["rows.f32"].close()
    spool._logs["rows.f32"] = Full()
    with pytest.raises(InputError, match=r"cannot write .*: the disk is full; free some space"):
        spool.append(rows(3, 1), lines(3, 1))
    spool.close()


def test_a_path_that_is_a_file_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file.*: a file stands where a folder is needed"):
        Spool(tmp_path / "file" / PROGRESS, {})


def test_a_refused_run_lets_go_of_the_folder(tmp_path):
    committed(tmp_path).close()
    with pytest.raises(InputError, match="holds an interrupted run"):
        open_spool(tmp_path)
    open_spool(tmp_path, resume=True).close()


def test_records_and_lines_must_match(tmp_path):
    spool = committed(tmp_path)
    with pytest.raises(ValueError, match="expected a line and a record"):
        spool.append(rows(0, 2), lines(0, 3))
    with pytest.raises(ValueError, match="expected a line and a record"):
        spool.append(np.zeros((1, 5, 7, 3), np.float32), lines(0, 1))
    spool.close()


def test_a_folder_that_was_taken_away_is_told(tmp_path):
    spool = committed(tmp_path)
    shutil.rmtree(tmp_path / PROGRESS)
    spool.append(rows(3, 1), lines(3, 1))
    with pytest.raises(InputError, match="was removed or moved while it was written to, so that nothing .* run again"):
        spool.commit(5, {})
    spool.close()
    assert not has_progress(tmp_path)
