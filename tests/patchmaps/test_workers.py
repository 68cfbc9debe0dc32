import gc
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from siftlens.core import SiftlensError
from siftlens.patchmaps.workers import Crashed, in_order

# The functions are local so that they travel to the processes by value.


def run(work, tasks, *, workers=2, window=5):
    return in_order(work, tasks, workers=workers, window=window, initializer=int, initargs=())


def test_results_keep_the_order_of_the_tasks():
    def work(number: int) -> int:
        time.sleep(0.02 * (number % 3 == 0))
        return number * number

    assert list(run(work, range(23))) == [number * number for number in range(23)]


def test_tasks_are_taken_only_a_window_ahead():
    def work(number: int) -> int:
        return number

    taken = 0

    def tasks():
        nonlocal taken
        while taken < 40:
            taken += 1
            yield taken

    for given, result in enumerate(run(work, tasks(), window=7), start=1):
        assert result == given
        assert taken <= given - 1 + 7
    assert taken == 40


def test_only_the_tasks_to_blame_are_lost_however_many():
    def work(number: int) -> int:
        if number % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    expected = [Crashed(n) if n % 2 else n for n in range(17)]
    assert list(run(work, range(17))) == expected


def test_processes_that_keep_dying_are_an_error():
    def work(number: int) -> int:
        os._exit(1)

    with pytest.raises(SiftlensError, match=r"8 worker processes died one after the other; .* \(workers=0\)"):
        list(run(work, range(99), workers=1))


def test_an_exception_of_the_work_is_raised_in_its_place():
    def work(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError("three")
        return number

    results = run(work, range(9))
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ZeroDivisionError, match="three"):
        next(results)


def test_closing_kills_the_processes():
    def work(number: int) -> int:
        if number:
            time.sleep(600)
        return os.getpid()

    results = run(work, range(9), workers=1)
    worker = next(results)
    os.kill(worker, 0)  # it lives
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 10
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


INTERRUPTED = """
import os, signal, sys, threading, time
from siftlens.patchmaps.workers import in_order

enter, taken, main = threading.Condition.__enter__, 0, threading.get_ident()

def interrupted(condition):
    global taken
    entered = enter(condition)
    if sys._getframe(1).f_code.co_name == "result" and threading.get_ident() == main:
        taken += 1
        if taken == 1:
            os.kill(os.getpid(), signal.SIGINT)
    return entered

def work(number):
    time.sleep(0.2)
    return number

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
threading.Condition.__enter__ = interrupted
try:
    list(in_order(work, range(50), workers=1, window=5, initializer=int, initargs=()))
except KeyboardInterrupt:
    print("stopped")
"""


def test_control_c_while_a_result_is_awaited_leaves_nobody_waiting_for_a_lock():
    command = [sys.executable, "-c", INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            assert process.communicate(timeout=60)[0] == "stopped\n"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_garbage_collection_leaves_alone_what_is_loaded():
    def work(_: int) -> int:
        return gc.get_freeze_count()

    assert next(run(work, range(1), workers=1)) > 1000
