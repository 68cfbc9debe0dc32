import ctypes
import platform
import sys
from pathlib import Path

import pytest

from siftlens.interrelation.memory import give_back


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps freed memory")
def test_freed_memory_goes_back_to_the_system():
    blocks = [bytearray(100_000) for _ in range(1000)]
    before = resident()
    del blocks[:-1]  # the last one keeps all below it from the system
    give_back()
    assert before - resident() > 50_000_000


def test_other_systems_have_nothing_to_give_back(monkeypatch):
    asked = []
    monkeypatch.setattr(ctypes, "CDLL", asked.append)
    monkeypatch.setattr(sys, "platform", "darwin")
    give_back()
    assert asked == []
