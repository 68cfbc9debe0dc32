"""Work in turns for a long time in one process: does anything grow, does anything stay behind?

    python benchmarks/soak.py --minutes 90

analyze (without and with a worker process), read_attention, audit, prompt and compare, on drawn images that are new in
every round, with the two models that ship with the package. After every round: resident memory (what was freed is given
back first), what of it is in use by the allocators of C, Arrow and Python, live Python objects, open files, threads,
child processes, hooks on the models, attention paths switched off, files left in the temporary folder.

Writes benchmarks/results/soak.json, round by round, whole each time.
"""

import argparse
import gc
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import machine
import siftlens
from siftlens.data import DrawnMaterial, Planted
from siftlens.models import LoadedModel
from siftlens.models.demo_shortcut import SHORTCUT_SIZE
from siftlens.prompting import Bias, Mixture, TokenChoice

IMAGES = 128  # of each round; fewer hold too few of a class for an audit
ANALYSED = 48  # of these
WARM_UP = 3  # rounds, in which libraries fill their caches
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def play(models: dict[str, LoadedModel], number: int, place: Path) -> None:
    """One round: every job once, on images of its own."""
    folder = place / f"round-{number}"
    planted = Planted(DrawnMaterial(), cue="glyph", correlation=0.95, size=SHORTCUT_SIZE, seed=number)
    planted.split("heldout", IMAGES).write(folder / "planted")
    images = folder / "planted" / "images"
    studies = []
    for workers, (name, model) in enumerate(models.items()):
        study = siftlens.analyze(
            model, images, limit=ANALYSED, batch_size=16, seed=number, workers=workers, out=folder / name
        )
        study.arrays.close()
        studies.append(folder / name)
    siftlens.compare(studies, out=folder / "compared")
    _read(models, number)
    shortcut = models["demo-shortcut"]
    audit = siftlens.audit(shortcut, images, seed=number)
    audit.save(folder / "audit")
    found = siftlens.load_audit(folder / "audit")
    maps = Mixture(keypoints=1.0, cues=1.0, rows=(0,)) if len(found.cues) else Mixture(keypoints=1.0)
    policy = siftlens.Policy(bias=(Bias(2.0),), tokens=TokenChoice(0.8), maps=maps)
    siftlens.try_prompt(shortcut, policy, images, audit=found, limit=ANALYSED, out=folder / "prompted")
    siftlens.load_prompted(folder / "prompted", shortcut)


def _read(models: dict[str, LoadedModel], number: int) -> None:
    """Read attention, and leave one reading by an exception."""
    random = torch.Generator().manual_seed(number)
    for model in models.values():
        side = model.preprocessing.height
        x = torch.randn(5, 3, side, side, generator=random)
        with torch.no_grad(), siftlens.read_attention(model.module, torch.ones((side // 8) ** 2, 3), entropy=True):
            model.module(x)
        try:
            with torch.no_grad(), siftlens.read_attention(model.module, torch.ones((side // 8) ** 2, 3)):
                model.module(x)
                raise InterruptedError
        except InterruptedError:
            pass


def state(models: dict[str, LoadedModel], place: Path) -> dict[str, Any]:
    """What could grow or stay behind, in this process and under it."""
    gc.collect()
    machine.reset_peak_memory()
    return {
        "resident_mb": round(machine.memory_mb("VmRSS"), 1),
        "allocated_mb": round(machine.allocated_mb(), 2),
        "arrow_mb": round(pa.total_allocated_bytes() / 2**20, 2),
        "python_blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "open_files": _count("/proc/self/fd"),
        "threads": threading.active_count(),
        "children": sum(len((task / "children").read_text().split()) for task in Path("/proc/self/task").iterdir()),
        "hooks": sum(
            len(getattr(module, kind))
            for model in models.values()
            for module in model.module.modules()
            for kind in _HOOKS
        ),
        "switched_off": int(not torch.backends.mha.get_fastpath_enabled()) + torch._C._len_torch_function_stack(),
        "temporary_files": _count(place),
    }


def _count(folder: str | Path) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def judge(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Growth after the warm-up: the slope of a straight line through memory and objects, the rest's first and last."""
    steady = rounds[WARM_UP:] if len(rounds) > WARM_UP + 2 else rounds
    hours = np.array([row["seconds"] for row in steady]) / 3600
    found: dict[str, Any] = {"rounds": len(rounds), "minutes": round(rounds[-1]["seconds"] / 60, 1)}
    for name in ("resident_mb", "allocated_mb", "arrow_mb", "python_blocks", "objects"):
        values = np.array([row[name] for row in steady], float)
        found[name] = {
            "first": float(values[0]),
            "last": float(values[-1]),
            "highest": float(values.max()),
            "per_round": round(float(np.polyfit(np.arange(len(values)), values, 1)[0]), 4) if len(values) > 1 else None,
            "per_hour": round(float(np.polyfit(hours, values, 1)[0]), 2) if len(values) > 1 else None,
        }
    for name in ("open_files", "threads", "children", "hooks", "switched_off", "temporary_files"):
        found[name] = {"first": steady[0][name], "last": steady[-1][name], "highest": max(row[name] for row in steady)}
    return found


def soak(minutes: float, done: Callable[[dict[str, Any]], Any] = lambda _: None) -> dict[str, Any]:
    """Play rounds until the time is over, two at least; `done` is called with the result so far."""
    models = {name: siftlens.load_model(name) for name in ("demo", "demo-shortcut")}
    rounds: list[dict[str, Any]] = []
    start = time.perf_counter()
    while len(rounds) < 2 or time.perf_counter() - start < 60 * minutes:
        with tempfile.TemporaryDirectory() as scratch:
            os.environ["SIFTLENS_CACHE"] = scratch
            play(models, len(rounds), Path(scratch))
        rounds.append({"seconds": round(time.perf_counter() - start, 1)} | state(models, Path(tempfile.gettempdir())))
        result = {"images_per_round": IMAGES, "after_warm_up": judge(rounds), "rounds": rounds}
        done(result)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=90)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as own:  # so that files left behind can be told from other programs' files
        tempfile.tempdir = own
        result = soak(options.minutes, lambda result: machine.save_result("soak", result))
    print(json.dumps(result["after_warm_up"], indent=1))


if __name__ == "__main__":
    main()
