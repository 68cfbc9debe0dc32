"""Stop an analysis, or an audit, at random moments, go on, and compare with one that nothing disturbed.

    python benchmarks/stops.py --moments 40 --save
    python benchmarks/stops.py --moments 40 --save --audit

Every other moment is drawn from the whole length of a run, beginning and saving included, the others from the part of
it in which images are gone through, or an audit's steps. Half of the stops of either kind are SIGKILL to the process
alone, as the system's memory killer sends it, the others SIGINT to all its processes, as Ctrl-C in a terminal. After it
the run must go on from the last commit, repeat nothing of what was committed, end with the same numbers to the last
bit, and leave the same files, no process, and nothing in shared memory. An analysis has two worker processes.

Prints what was found; with --save writes benchmarks/results/stops.json or stops-audit.json. Exits with 1 where a stop
was not survived.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import machine
import siftlens
from siftlens.auditing.bench import Bench
from siftlens.data import PROGRESS, STATE, DrawnMaterial, Planted
from siftlens.interrelation import run as running
from siftlens.models import LoadedModel
from siftlens.models.demo_shortcut import SHORTCUT_SIZE
from siftlens.patchmaps import parcels

IMAGES, BATCH = 192, 4
SHARED_MEMORY = Path("/dev/shm")  # within it each measurement has a folder of its own: others may run beside it
GRACE = 10  # seconds in which a killed process's helpers must have ended


@dataclass(frozen=True)
class Command:
    """What is stopped.

    Attributes:
        run: one run into a folder, which notes in a log what it does, and when; commits as often as it can.
        finished: file that a finished one has.
        tables: names of its tables.
        committed: how much is committed in a folder.
        whole: how much is in the end, given what a whole run noted.
        repeats: whether a run repeated some of that, given what it noted, what was committed, and the whole.
    """

    run: Callable[..., None]
    finished: str
    tables: tuple[str, ...]
    committed: Callable[[Path], int]
    whole: Callable[[list[int]], int]
    repeats: Callable[[list[int], int, int], bool]


def analyse(model: LoadedModel, images: Path, out: Path, log: Path, *, resume: bool) -> None:
    """One analysis; notes how many images are done."""
    running.run.__kwdefaults__["commit_seconds"] = 0
    with log.open("ab", buffering=0) as file:

        def progress(stage: str, done: int, total: int) -> None:
            del total
            if stage == "images":
                file.write(_note(done))

        siftlens.analyze(
            model, images, batch_size=BATCH, workers=2, cache=False, out=out, resume=resume, progress=progress
        ).arrays.close()


def audit(model: LoadedModel, images: Path, out: Path, log: Path, *, resume: bool) -> None:
    """One audit; notes its steps."""
    with log.open("ab", buffering=0) as file:
        do = Bench.__call__

        def noted(bench: Bench, step: Callable[[Bench], Any]) -> Any:
            file.write(_note(1))
            return do(bench, step)

        Bench.__call__ = noted  # in a process of its own
        siftlens.audit(model, images, batch_size=BATCH, out=out, resume=resume)


ANALYSIS = Command(
    analyse,
    "run.json",
    ("heads", "layers", "images"),
    lambda out: json.loads(text)["refs"] if (text := _state(out)) else 0,
    max,
    lambda noted, committed, _: bool(noted) and noted[0] != committed,
)
AUDIT = Command(
    audit,
    "audit.json",
    ("cues", "images", "properties", "shown", "pictures"),
    lambda out: len(list((out / PROGRESS).glob("*.safetensors"))),
    len,
    lambda noted, committed, whole: len(noted) + committed > whole,
)


def _state(out: Path) -> str:
    state = out / PROGRESS / STATE
    return state.read_text() if state.exists() else ""


def _note(what: int) -> bytes:
    return f"{what} {time.monotonic()}\n".encode()


def _noted(log: Path) -> list[int]:
    return [int(line.split()[0]) for line in _lines(log)]


def _when(log: Path) -> list[float]:
    return [float(line.split()[1]) for line in _lines(log)]


def _lines(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def in_child(work: Callable[[], None]) -> int:
    """Start work in a copy of this process, which has everything imported, and leads a process group."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        os.setpgid(0, 0)
        os.dup2(2, 1)  # workers of a killed run complain
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


def ended(process: int) -> int:
    """Exit code; a signal as its negative number."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def left_behind(group: int, shared_memory: Path) -> list[str]:
    """What outlives a process that was stopped: others of its group, shared memory."""
    given_up = time.monotonic() + GRACE
    while True:
        shared = any(shared_memory.glob("*"))
        try:
            os.killpg(group, 0)
            processes = True
        except ProcessLookupError:
            processes = False
        if not (processes or shared) or time.monotonic() > given_up:
            return [*(["a process was left"] if processes else []), *(["shared memory was left"] if shared else [])]
        time.sleep(0.1)


def stop_once(
    command: Command, model: LoadedModel, images: Path, out: Path, whole: Path, moment: float, sign: signal.Signals
) -> dict[str, Any]:
    """Stop a run, let another go on, and say what differs from the whole one."""
    logs = [out.with_suffix(f".{number}") for number in range(2)]
    process = in_child(partial(command.run, model, images, out, logs[0], resume=False))
    time.sleep(moment)
    (os.killpg if sign == signal.SIGINT else os.kill)(process, sign)
    first = ended(process)
    left = left_behind(process, parcels._SHARED_MEMORY)
    committed, finished = command.committed(out), (out / command.finished).exists()
    second = ended(in_child(partial(command.run, model, images, out, logs[1], resume=True)))
    noted, in_all = _noted(logs[1]), command.whole(_noted(whole.with_suffix(".log")))
    faults = [
        *left,
        *(["the second run failed"] if second else []),
        *(["finished work was repeated"] if command.repeats(noted, committed, in_all) else []),
        *(["a finished run was repeated"] if finished and noted else []),
        *_differences(command, out, whole),
    ]
    return {
        "moment": round(moment, 3),
        "signal": sign.name,
        "stopped": first != 0,
        "committed": committed,
        "finished": finished,
        "faults": faults,
    }


def _differences(command: Command, out: Path, whole: Path) -> list[str]:
    """What is not the same, to the last bit, in two folders of results."""
    faults = []
    if names := {path.name for path in out.iterdir()} ^ {path.name for path in whole.iterdir()}:
        faults.append(f"other files: {', '.join(sorted(names))}")
    for table in command.tables:
        one, other = (pd.read_parquet(folder / f"{table}.parquet") for folder in (out, whole))
        if not one.equals(other):
            faults.append(f"other {table}")
    if (whole / "arrays.nc").exists():
        one, other = (siftlens.load_study(folder).arrays for folder in (out, whole))
        with one, other:
            if not one.identical(other):
                faults.append("other arrays")
    return faults


def measure(command: Command, moments: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    random = np.random.default_rng(seed)
    shared_memory = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryDirectory(dir=shared_memory) as shared:
        parcels._SHARED_MEMORY, place = Path(shared), Path(scratch)
        Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE).split("heldout", IMAGES).write(
            place
        )
        model, images = siftlens.load_model("demo-shortcut"), place / "images"
        for number in range(2):  # the first is slower
            start = time.monotonic()
            whole = place / f"whole-{number}"
            if ended(in_child(partial(command.run, model, images, whole, whole.with_suffix(".log"), resume=False))):
                sys.exit("the undisturbed run failed")
            length = time.monotonic() - start
        steps = [when - start for when in _when(whole.with_suffix(".log"))]
        stops = [
            stop_once(command, model, images, place / f"{number}", whole, moment, sign)
            for number, (moment, sign) in enumerate(_moments(moments, length, steps, random))
        ]
        found = {"images": IMAGES, "batch": BATCH, "seed": seed, "seconds": round(length, 2)}
        found |= {"steps": [round(steps[0], 2), round(steps[-1], 2)]}
        return found | {"whole": command.whole(_noted(whole.with_suffix(".log"))), "stops": stops}


def _moments(
    number: int, length: float, steps: list[float], random: np.random.Generator
) -> Iterator[tuple[float, signal.Signals]]:
    """Half over the whole run, half where its steps are; each by chance within its own part of it."""
    half = number // 2
    for first, last, count in ((0.0, length, number - half), (steps[0], steps[-1], half)):
        drawn = first + (np.arange(count) + random.random(count)) / max(count, 1) * (last - first)
        for index, moment in enumerate(drawn):
            yield float(moment), signal.SIGINT if index % 2 else signal.SIGKILL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--audit", action="store_true", help="of audits")
    options = parser.parse_args()
    result = measure(AUDIT if options.audit else ANALYSIS, options.moments, options.seed)
    for stop in result["stops"]:
        print(json.dumps(stop))
    if options.save:
        print(machine.save_result("stops-audit" if options.audit else "stops", result))
    sys.exit(any(stop["faults"] for stop in result["stops"]))


if __name__ == "__main__":
    main()
