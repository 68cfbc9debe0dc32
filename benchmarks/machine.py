"""What every benchmark shares: the machine's description, peak memory, and results written whole."""

import ctypes
import gc
import json
import os
import platform
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

RESULTS = Path(__file__).parent / "results"
LOAD = round(os.getloadavg()[0], 2)  # before a benchmark begins; results up to 2026-11-22 have it from their end


def describe_machine() -> dict[str, Any]:
    """Processor, threads and versions."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "load_before": LOAD,
    }


def reset_peak_memory() -> None:
    """Give freed memory back to the system, and let the peak of resident memory start again from now (Linux)."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def memory_mb(field: str) -> float:
    """Resident memory in MB: `VmRSS` now, `VmHWM` at its peak."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


class _Mallinfo(ctypes.Structure):
    """What `mallinfo2` of glibc 2.33 or later returns (mallinfo(3)); bytes or counts."""

    _names = ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")
    _fields_ = tuple((name, ctypes.c_size_t) for name in _names)


def allocated_mb() -> float:
    """Memory in MB that was asked of the C allocator and not freed: what grows if, and only if, something leaks."""
    mallinfo = ctypes.CDLL("libc.so.6").mallinfo2
    mallinfo.restype = _Mallinfo
    info = mallinfo()
    return (info.uordblks + info.hblkhd) / 2**20


def take_turns(arms: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each arm in each round, one warm-up round before; arms take turns, so that drift hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds + 1):
        for name, arm in arms.items():
            start = time.perf_counter()
            arm()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratios(seconds: Mapping[str, list[float]], to: str) -> dict[str, dict[str, float]]:
    """Median over rounds of each arm's time over that of `to` in the same round, with the extremes."""
    result = {}
    for name, times in seconds.items():
        each = np.divide(times, seconds[to])
        result[name] = {
            "seconds": round(statistics.median(times), 4),
            "ratio": round(float(np.median(each)), 3),
            "lowest": round(float(each.min()), 3),
            "highest": round(float(each.max()), 3),
        }
    return result


def command() -> str:
    """The command line of this benchmark."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def load_result(name: str) -> dict[str, Any]:
    """A result that `save_result` wrote."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return result


def save_result(name: str, result: Mapping[str, Any]) -> Path:
    """Write a result with the machine and the command beside it; whole or not at all."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    whole = {
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe_machine(),
        **result,
    }
    part = path.with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1) + "\n")
    part.replace(path)
    return path
