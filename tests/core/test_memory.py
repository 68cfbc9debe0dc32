import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from siftlens.core.memory import give_back_memory, keep_memory

FAULTS = """
import resource
from siftlens.core.memory import keep_memory
{first}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**23)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_goes_back_to_the_system():
    blocks = [bytearray(100_000) for _ in range(1000)]
    before = resident()
    del blocks[:-1]  # the last one keeps all below it from the system
    give_back_memory()
    assert before - resident() > 50_000_000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_kept_memory_is_not_taken_anew():
    # In processes of their own: what mallopt was told holds until the end
    for first, taken in ("", True), ("keep_memory()", False):
        told = subprocess.run([sys.executable, "-c", FAULTS.format(first=first)], capture_output=True, check=True)
        assert (int(told.stdout) > 1000) == taken, first


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_what_a_huge_picture_took_goes_back():
    held = """
from siftlens.core.memory import keep_memory
from pathlib import Path
keep_memory()
blocks = [bytearray(2**24) for _ in range(40)]
del blocks
print(int(Path("/proc/self/statm").read_text().split()[1]) * 4096)
"""
    told = subprocess.run([sys.executable, "-c", held], capture_output=True, check=True)
    assert int(told.stdout) < 400e6


def test_other_systems_have_nothing_to_give_back(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    monkeypatch.setattr(sys, "platform", "darwin")
    give_back_memory()
    keep_memory()
    assert asked == []
