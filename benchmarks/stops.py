"""Stop an analysis at random moments, go on, and compare with one that nothing disturbed.

    python benchmarks/stops.py --moments 20 --save

Every moment is drawn from the whole length of a run, beginning and saving included; every other stop is SIGKILL, as a
power cut or the system's memory killer would be, the others SIGINT, as Ctrl-C. After it the run must go on from the
last commit, repeat nothing of what was committed, end with the same numbers to the last bit, and leave the same files.

Prints what was found; with --save writes benchmarks/results/stops.json. Exits with 1 where a stop was not survived.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import machine
import siftlens
from siftlens.data import DrawnMaterial, Planted
from siftlens.interrelation import run as running
from siftlens.interrelation.spool import SPOOL
from siftlens.models import LoadedModel
from siftlens.models.demo_shortcut import SHORTCUT_SIZE

IMAGES, BATCH = 96, 4


def analyse(model: LoadedModel, images: Path, out: Path, log: Path, *, resume: bool) -> None:
    """One analysis that commits after every batch and notes what it has done."""
    running.run.__kwdefaults__["commit_seconds"] = 0
    with log.open("ab", buffering=0) as file:

        def progress(stage: str, done: int, total: int) -> None:
            del total
            if stage == "images":
                file.write(f"{done}\n".encode())

        siftlens.analyze(
            model, images, batch_size=BATCH, workers=0, cache=False, out=out, resume=resume, progress=progress
        ).arrays.close()


def in_child(work: Callable[[], None]) -> int:
    """Start work in a copy of this process, which has everything imported."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
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


def stop_once(model: LoadedModel, images: Path, out: Path, whole: Path, moment: float, sign: int) -> dict[str, Any]:
    """Stop a run, let another go on, and say what differs from the whole one."""
    logs = [out.with_suffix(f".{number}") for number in range(2)]
    process = in_child(partial(analyse, model, images, out, logs[0], resume=False))
    time.sleep(moment)
    os.kill(process, sign)
    first = ended(process)
    state = out / SPOOL / "state.json"
    committed = json.loads(state.read_text())["refs"] if state.exists() else 0
    finished = (out / "run.json").exists()
    second = ended(in_child(partial(analyse, model, images, out, logs[1], resume=True)))
    seen = logs[1].read_text().split() if logs[1].exists() else []
    faults = [
        *(["the second run failed"] if second else []),
        *(["finished work was repeated"] if seen and int(seen[0]) != committed else []),
        *(["a finished run was repeated"] if finished and seen else []),
        *_differences(out, whole),
    ]
    return {
        "moment": round(moment, 3),
        "signal": signal.Signals(sign).name,
        "stopped": first != 0,
        "committed": committed,
        "finished": finished,
        "faults": faults,
    }


def _differences(out: Path, whole: Path) -> list[str]:
    """What is not the same, to the last bit, in two studies."""
    faults = []
    if names := {path.name for path in out.iterdir()} ^ {path.name for path in whole.iterdir()}:
        faults.append(f"other files: {', '.join(sorted(names))}")
    for table in ("heads", "layers", "images"):
        one, other = (pd.read_parquet(folder / f"{table}.parquet") for folder in (out, whole))
        if not one.equals(other):
            faults.append(f"other {table}")
    one, other = (siftlens.load_study(folder).arrays for folder in (out, whole))
    with one, other:
        if not one.identical(other):
            faults.append("other arrays")
    return faults


def measure(moments: int, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    random = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE).split("heldout", IMAGES).write(
            place
        )
        model = siftlens.load_model("demo-shortcut")
        whole = place / "whole"
        lengths = []
        for _ in range(2):  # the first is slower
            start = time.perf_counter()
            if ended(in_child(partial(analyse, model, place / "images", whole, place / "log", resume=bool(lengths)))):
                sys.exit("the undisturbed run failed")
            lengths.append(time.perf_counter() - start)
        # Spread over the whole run, each by chance within its own part of it.
        drawn = (np.arange(moments) + random.random(moments)) / moments * lengths[0]
        stops = [
            stop_once(model, place / "images", place / f"{number}", whole, float(moment), sign)
            for number, moment in enumerate(drawn)
            for sign in [signal.SIGINT if number % 2 else signal.SIGKILL]
        ]
    return {"images": IMAGES, "batch": BATCH, "seed": seed, "seconds": round(lengths[0], 2), "stops": stops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    result = measure(options.moments, options.seed)
    for stop in result["stops"]:
        print(json.dumps(stop))
    if options.save:
        print(machine.save_result("stops", result))
    sys.exit(any(stop["faults"] for stop in result["stops"]))


if __name__ == "__main__":
    main()
