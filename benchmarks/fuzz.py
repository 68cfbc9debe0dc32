"""Read damaged files of every kind: does anything but an error of siftlens come out?

    python benchmarks/fuzz.py --inputs 2000 --seed 0        2000 inputs per kind of file

Good files are made, damaged by `fuzz_mutations.py`, and read as `fuzz_targets.py` says, in a child process with limited
memory: where a native decoder brings it down, or one input takes longer than a minute, that input counts as a finding
and a new child goes on. `--only KIND --first N --inputs 1` repeats input number N.

Prints what was found, and writes benchmarks/results/fuzz.json.
"""

import argparse
import faulthandler
import multiprocessing
import os
import resource
import shutil
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

import machine
from fuzz_mutations import damaged
from fuzz_targets import Target, make, targets
from siftlens.core import SiftlensError
from siftlens.data import Unreadable

MEMORY = 6 * 2**30  # bytes that a child may allocate
CHILDREN = multiprocessing.get_context("fork")  # a new interpreter takes longer to start than most inputs
PATIENCE = 60.0  # s for one input


def attack(target: Target, good: Path, seed: int, numbers: range, told: Connection) -> None:
    """Read damaged files, and tell of each what came of it and how long it took."""
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    whole = (good / target.file).read_bytes()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(good, Path(scratch) / "good"))
        before = _listing(folder, target)
        for number in numbers:
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            start = time.process_time()
            outcome = attempt(target, folder, whole, seed, number)
            faulthandler.cancel_dump_traceback_later()
            outcome["seconds"] = round(time.process_time() - start, 3)
            if (now := _listing(folder, target)) != before:
                outcome |= {"came": "stray files", "told": str(sorted(now ^ before))}
                before = now
            told.send(outcome)


def attempt(target: Target, folder: Path, whole: bytes, seed: int, number: int) -> dict[str, Any]:
    """What comes of one damaged file: "read", "refused", or the name of what escaped, with its line and place."""
    random = np.random.default_rng((seed, zlib.crc32(target.name.encode()), number))
    (folder / target.file).write_bytes(damaged(whole, random, is_json=target.is_json))
    try:
        target.read(folder)
    except (SiftlensError, Unreadable) as error:
        told = str(error)
        return {
            "came": "refused" if told.strip() and "\n" not in told else "refused in several lines",
            "told": told[:300],
        }
    except BaseException as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/siftlens/" in frame.filename]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
        return {"came": type(error).__name__, "told": " ".join(str(error).split())[:300], "place": place}
    return {"came": "read"}


def _listing(folder: Path, target: Target) -> set[str]:
    """Files there are, but for those that the reader keeps beside the file."""
    beside = (folder / target.file).parent
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.parent != beside}


def fuzz(target: Target, good: Path, seed: int, numbers: range) -> dict[str, Any]:
    """All inputs of one kind, in as many child processes as it takes."""
    came: Counter[str] = Counter()
    findings: dict[str, dict[str, Any]] = {}
    slowest, left = 0.0, numbers
    while left:
        for outcome in _outcomes(target, good, seed, left):
            came[outcome["came"]] += 1
            slowest = max(slowest, outcome["seconds"])
            if outcome["came"] not in ("read", "refused"):
                key = f"{outcome['came']} {outcome.get('place', '')}"
                findings.setdefault(key, outcome | {"number": left[0], "times": 0})["times"] += 1
            left = left[1:]
    return {"inputs": len(numbers), "came": dict(came), "slowest_seconds": slowest, "findings": [*findings.values()]}


def _outcomes(target: Target, good: Path, seed: int, numbers: range) -> Iterator[dict[str, Any]]:
    """What comes of inputs in one child process, up to the one that it does not survive."""
    listening, told = CHILDREN.Pipe(duplex=False)
    child = CHILDREN.Process(target=attack, args=(target, good, seed, numbers, told))
    child.start()
    told.close()
    done = 0
    with suppress(EOFError):
        while True:
            yield listening.recv()
            done += 1
    child.join()
    if done < len(numbers):  # exit code 1: faulthandler's, or an error of this very script
        came = "hang" if child.exitcode == 1 else f"crash ({child.exitcode})"
        yield {"came": came, "told": "", "seconds": PATIENCE if child.exitcode == 1 else 0.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=2000, help="per kind of file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--only", help="a part of the name of a kind")
    options = parser.parse_args()
    chosen = [target for target in targets() if (options.only or "") in target.name]
    numbers = range(options.first, options.first + options.inputs)
    start, kinds = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["SIFTLENS_CACHE"] = scratch
        good = Path(scratch) / "good"
        maker = CHILDREN.Process(target=make, args=(good,))  # so that this process stays fit to be forked
        maker.start()
        maker.join()
        for target in chosen:
            found = kinds[target.name] = fuzz(target, good, options.seed, numbers)
            print(f"{target.name:34} {found['came']} {time.perf_counter() - start:.0f} s", flush=True)
            for finding in found["findings"]:
                print(f"    {finding}", flush=True)
    total: Counter[str] = sum((Counter(found["came"]) for found in kinds.values()), Counter())
    print(f"{sum(total.values())} inputs, seed {options.seed}: {dict(total)}")
    if not options.only:
        seconds = round(time.perf_counter() - start)
        print(machine.save_result("fuzz", {"seed": options.seed, "seconds": seconds, "total": total, "kinds": kinds}))


if __name__ == "__main__":
    main()
