import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from siftlens.core import SiftlensError
from siftlens.patchmaps import parcels, workers
from siftlens.patchmaps.parcels import Shelf, pack, unpack
from siftlens.patchmaps.workers import Crashed, in_order

LARGE = np.arange(3 * 40_000, dtype=np.uint8).reshape(3, 40_000)
SMALL = np.arange(7.0)


@pytest.fixture(autouse=True)
def memory(tmp_path, monkeypatch):
    """What shared memory holds; a folder of files stands in for it, which nobody else uses."""
    monkeypatch.setattr(parcels, "_SHARED_MEMORY", tmp_path)
    return lambda: list(tmp_path.iterdir())


@pytest.fixture
def shelf(memory):
    shelf = Shelf()
    shelf.open()
    yield shelf
    shelf.clear()


def expect_same(result):
    small, large, word = result
    assert word == "word"
    np.testing.assert_array_equal(small, SMALL)
    np.testing.assert_array_equal(large, LARGE)


def test_large_arrays_go_through_shared_memory_and_leave_nothing_there(shelf):
    parcel = pack((SMALL, LARGE, "word"), shelf.folder)
    (file,) = parcel.files
    assert file.stat().st_size == LARGE.nbytes
    assert len(parcel.pickled) < 1000
    assert list(shelf.folder.iterdir()) == [file]
    result = unpack(pickle.loads(pickle.dumps(parcel)))
    expect_same(result)
    assert not list(shelf.folder.iterdir())
    result[1][0, 0] = 9  # it can be written to, as any other array
    assert result[1][0, 0] == 9


@pytest.mark.parametrize("why", ["no shared memory", "full"])
def test_without_room_the_pipe_takes_them(why, shelf, monkeypatch):
    def full(path: Path, array: memoryview) -> None:
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    parcel = pack((SMALL, LARGE, "word"), None if why == "no shared memory" else shelf.folder)
    assert parcel.files == ()
    assert not list(shelf.folder.iterdir())
    expect_same(unpack(parcel))


def test_a_system_without_shared_memory_has_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(parcels, "_SHARED_MEMORY", tmp_path / "missing")
    shelf = Shelf()
    shelf.open()
    assert shelf.folder is None
    shelf.clear()


def results(tasks):
    def work(number: int) -> np.ndarray:
        return np.full(100_000, number)

    return in_order(work, tasks, workers=1, window=3, initializer=int, initargs=())


def test_what_somebody_else_cleans_up_is_made_again(memory):
    made = results(range(5))
    assert next(made)[0] == 0
    (folder,) = memory()
    while not list(folder.iterdir()):
        time.sleep(0.01)
    for file in folder.iterdir():
        file.unlink()
    assert [(len(array), array[0]) for array in made] == [(100_000, n) for n in range(1, 5)]
    assert not memory()


@pytest.mark.parametrize("cleaned", [False, True])
def test_finished_results_outlive_the_death_of_a_worker(cleaned, memory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("calls")

    def work(number: int) -> np.ndarray:
        (folder / f"{number}-{os.getpid()}").touch()
        if number == 0:
            while len(list(folder.glob("[123]-*"))) < 3:
                time.sleep(0.01)
            time.sleep(0.2)  # the other process waits for more
            for shared in memory() if cleaned else ():
                shutil.rmtree(shared)
            os.kill(os.getpid(), signal.SIGKILL)
        return np.full(100_000, number)

    made = list(in_order(work, range(4), workers=2, window=4, initializer=int, initargs=()))
    assert made[0] == Crashed(0)
    assert [array[0] for array in made[1:]] == [1, 2, 3]
    assert len(list(folder.glob("0-*"))) == 2
    assert len(list(folder.glob("[123]-*"))) == (6 if cleaned else 3)
    assert not memory()


def test_what_dead_workers_left_half_written_goes(shelf):
    kept, left = pack((SMALL, LARGE, "word"), shelf.folder), pack(LARGE, shelf.folder)
    shelf.keep(set(kept.files))
    assert not left.files[0].exists()
    expect_same(unpack(kept))


def test_closing_leaves_nothing_behind(memory):
    made = results(range(9))
    next(made)
    assert len(memory()) == 1
    made.close()
    assert not memory()


def test_control_c_while_it_begins_leaves_nothing_behind(memory, monkeypatch):
    """Though another thread may take the signal."""
    make, over = tempfile.mkdtemp, threading.Event()
    threading.Thread(target=over.wait, daemon=True).start()

    def interrupted(**where: object) -> str:
        folder = make(**where)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.2)  # for the other thread to take it
        return folder

    monkeypatch.setattr(tempfile, "mkdtemp", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            next(results(range(9)))
    finally:
        signal.signal(signal.SIGINT, before)
        over.set()
    assert not memory()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
def test_a_killed_process_leaves_nothing_behind():
    code = """
import time
from siftlens.patchmaps.parcels import Shelf, pack
import numpy as np
shelf = Shelf()
shelf.open()
pack(np.zeros(100_000), shelf.folder)
print(shelf.folder, flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    folder = Path(process.stdout.readline().strip())
    assert list(folder.iterdir())
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    given_up = time.monotonic() + 30
    while folder.exists() and time.monotonic() < given_up:
        time.sleep(0.05)
    assert not folder.exists()


WORKING = """
import sys, time
from siftlens.patchmaps.workers import in_order
import numpy as np

def work(number):
    if number:
        time.sleep(600)
    return np.zeros(100_000)

results = in_order(work, range(9), workers=2, window=4, initializer=int, initargs=())
next(results)
print("started", flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_process_that_they_work_for(signal_number):
    shared = Path("/dev/shm")
    before = set(shared.iterdir())
    process = subprocess.Popen([sys.executable, "-c", WORKING], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "started\n"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        made = set(shared.glob("siftlens-*")) - before
    finally:
        process.send_signal(signal_number)
        process.wait()
        process.stdout.close()
    assert made
    assert len(children) > 2  # two workers, and what cleans up after them

    def left():
        return made & set(shared.iterdir()), [child for child in children if Path(f"/proc/{child}").exists()]

    given_up = time.monotonic() + 60
    while any(left()) and time.monotonic() < given_up:
        time.sleep(0.05)
    assert left() == (set(), [])


def test_shared_memory_that_takes_nothing_is_told(memory, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(workers, "ProcessPoolExecutor", full)
    with pytest.raises(SiftlensError, match=r"cannot be started \(no space left on device\): .* \(workers=0\)"):
        next(results(range(3)))
    assert not memory()
