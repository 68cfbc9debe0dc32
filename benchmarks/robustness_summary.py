"""Write the tables and the figure of `docs/robustness.md` from the results in `benchmarks/results/`; measures nothing.

python benchmarks/robustness_summary.py
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from figures import ROOT, fill, load, save, source

PAGE = ROOT / "docs" / "robustness.md"
GROUPS = {
    "image": "photographs in ten formats",
    "tar": "a tar file of images",
    "table": "a Parquet file of images",
    "study": "a study, eight files",
    "audit": "an audit, seven files",
    "prompt": "a prompt",
    "policy": "a policy",
    "interrupted": "an interrupted analysis, five files",
    "weights.safetensors": "weights, safetensors",
    "weights.pt": "weights, as torch.save writes them",
    "legacy.pt": "weights, as it once wrote them",
    "pre-training": "the state of a pre-training",
    "keypoints.safetensors": "a file of keypoints",
    "keypoint": "the keypoint cache",
}


def fuzz_table(result: Mapping[str, Any]) -> str:
    """Inputs and what came of them, by kind of file."""
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for name, found in result["kinds"].items():
        row = sums[name.split()[0]]
        row["slowest"] = max(row["slowest"], found["slowest_seconds"])
        row["inputs"] += found["inputs"]
        for came, count in found["came"].items():
            row[came if came in ("read", "refused") else "else"] += count
    lines = [
        f"| {what} | {sums[key]['inputs']:.0f} | {sums[key]['refused']:.0f} | {sums[key]['read']:.0f} | "
        f"{sums[key]['else']:.0f} | {sums[key]['slowest']:.1f} s |"
        for key, what in GROUPS.items()
        if key in sums
    ]
    total = sum(row["inputs"] for row in sums.values())
    head = "| | inputs | refused | read | anything else | slowest |\n|---|---:|---:|---:|---:|---:|\n"
    told = f"{total:.0f} inputs, seed {result['seed']}, {result['seconds'] / 60:.0f} minutes."
    return head + "\n".join(lines) + f"\n\n{told} {source(result)}"


def stops_table(result: Mapping[str, Any]) -> str:
    """Where runs were stopped, and how they went on."""
    stops = result["stops"]
    signals = ", ".join(f"{sum(stop['signal'] == name for stop in stops)} by {name}" for name in ("SIGKILL", "SIGINT"))
    before = sum(stop["committed"] == 0 and not stop["finished"] for stop in stops)
    within = sum(0 < stop["committed"] < result.get("whole", result["images"]) for stop in stops)
    after = sum(stop["finished"] for stop in stops)
    saving = len(stops) - before - within - after
    faults = sum(bool(stop["faults"]) for stop in stops)
    return (
        f"{len(stops)} moments ({signals}): {before} before the first commit, {within} on the way, "
        f"{saving} while results were made and saved, {after} after the end. Runs that did not end with the same "
        f"numbers, repeated finished work or left anything else behind: **{faults}**.\n\n{source(result)}"
    )


def soak_figure(result: Mapping[str, Any]) -> str:
    """Memory, round by round, and what stayed behind."""
    rounds, found = result["rounds"], result["after_warm_up"]
    minutes = np.array([row["seconds"] for row in rounds]) / 60
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, label, lines in zip(
        axes,
        ("memory, MB", "Python objects"),
        ({"resident": "resident_mb", "in use by the C allocator": "allocated_mb"}, {None: "objects"}),
        strict=True,
    ):
        for (told, name), colour in zip(lines.items(), ("#1f5a96", "#b3541e"), strict=False):
            axis.plot(minutes, [row[name] for row in rounds], "o-", color=colour, markersize=3, label=told)
        axis.set_ylim(bottom=0)
        axis.set_xlabel("minutes")
        axis.set_ylabel(label)
    axes[0].legend(frameon=False)
    picture = save(figure, "soak", "Memory and objects of one process, round by round")
    resident, in_use = found["resident_mb"], found["allocated_mb"]
    rows = "\n".join(
        f"| {what} | {' | '.join(f'{found[key][when]:,.10g}' for when in ('first', 'last', 'highest'))} |"
        for key, what in (
            ("resident_mb", "resident memory, MB"),
            ("allocated_mb", "of it in use by the C allocator, MB"),
            ("arrow_mb", "in use by Arrow, MB"),
            ("python_blocks", "Python's memory blocks"),
            ("objects", "Python objects"),
            ("open_files", "open files"),
            ("children", "child processes"),
            ("threads", "threads"),
            ("hooks", "hooks on the models"),
            ("switched_off", "attention paths switched off"),
            ("temporary_files", "temporary files"),
        )
    )
    return (
        f"{found['rounds']} rounds in {found['minutes']} minutes. Resident memory changed by "
        f"{resident['per_round']:+.2f} MB a round, what is in use by {in_use['per_round']:+.2f} (straight lines, "
        f"without the first three rounds where there are more than five).\n\n{picture}\n\n"
        f"| | first | last | highest |\n|---|---:|---:|---:|\n{rows}\n\n{source(result)}"
    )


PARTS = {"fuzz": fuzz_table, "stops": stops_table, "stops-audit": stops_table, "soak": soak_figure}


def main() -> None:
    results = ROOT / "benchmarks" / "results"
    fill(PAGE, {name: draw(load(name)) for name, draw in PARTS.items() if (results / f"{name}.json").exists()})


if __name__ == "__main__":
    main()
