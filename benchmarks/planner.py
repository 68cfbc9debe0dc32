"""What a million, a hundred million and ten billion images need, computed from what was measured of a few hundred.

    python benchmarks/planner.py

Reads `benchmarks/results/scale.json` and `memory.json`, and writes the tables and figures of `docs/scale.md`; measures
nothing.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib.pyplot as plt

import figures
from scale import BATCH, SLOWEST

PAGE = figures.ROOT / "docs" / "scale.md"
IMAGES = (10**6, 10**8, 10**10)
DAY = 86400.0  # s
GPU = 1000.0  # images/s of one GPU with the reading of its attention: assumed, for none was measured here
AHEAD = 2  # batches under way per process, as in the engine
STORED = 110e3  # bytes of one image file: assumed, that of ImageNet; the measured ones are thumbnails


def rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Images per second: a core that decodes and detects, a core that runs the model, the process that sums."""
    arms, cores = result["model"]["arms"], result["cores"]
    return {
        "detect": arms["decoding and detection alone"]["images_per_second"] / cores,
        "model": arms[SLOWEST]["images_per_second"] / cores,
        "sum": 1 / result["per_image"]["sums_seconds"],
    }


def amount(value: float, unit: str) -> str:
    """With two digits, in the unit's thousands; days as they are."""
    if unit == "B":
        for prefix in ("", "k", "M", "G", "T", "P", "E"):
            if value < 1000:
                return f"{value:.3g} {prefix}B"
            value /= 1000
    return f"{float(f'{value:.2g}'):,.0f}" if value >= 10 else f"{value:.2g}"


def plan(result: Mapping[str, Any]) -> str:
    """Needs by number of images."""
    each, rate = result["per_image"], rates(result)
    rows: dict[str, Callable[[int], str]] = {
        "decode and detect, core-days": lambda n: amount(n / rate["detect"] / DAY, ""),
        "the model on CPU cores, core-days": lambda n: amount(n / rate["model"] / DAY, ""),
        f"the model on GPUs of {GPU:.0f} images/s (assumed), GPU-days": lambda n: amount(n / GPU / DAY, ""),
        "adding up, in one process, days": lambda n: amount(n / rate["sum"] / DAY, ""),
        f"images read, at {STORED / 1e3:.0f} kB each (assumed)": lambda n: amount(n * STORED, "B"),
        "between processes: images made ready": lambda n: amount(n * each["prepared_bytes"], "B"),
        "between processes: to the one that adds up": lambda n: amount(n * each["part_bytes"], "B"),
        "keypoint cache": lambda n: amount(n * each["cache_bytes"], "B"),
        "statistics of every image, on disk": lambda n: amount(n * each["row_bytes"], "B"),
        "the list of images, in memory": lambda n: amount(n * each["ref_bytes"], "B"),
    }
    lines = "".join(f"\n| {name} | {' | '.join(need(n) for n in IMAGES)} |" for name, need in rows.items())
    head = f"| | {' | '.join(f'{n:,}' for n in IMAGES)} |\n|---|{'---:|' * len(IMAGES)}"
    return f"{head}{lines}\n\n{figures.source(result)}"


def bottleneck(result: Mapping[str, Any]) -> str:
    """Where it moves as machines are added."""
    each, rate, most = result["per_image"], rates(result), 10**10
    bits = (each["prepared_bytes"] + each["part_bytes"]) * 8
    one_in, cores = 1 + rate["detect"] / rate["model"], math.ceil(GPU / rate["detect"])
    alike = rate["sum"] / rate["model"]
    years, listed, rows = most / rate["sum"] / DAY / 365, most * each["ref_bytes"], most * each["row_bytes"]
    return "\n".join(
        [
            f"- **One machine without a GPU: the model.** A core runs {rate['model']:.1f} images/s of it, and decodes "
            f"and detects {rate['detect']:.0f}: of {one_in:.0f} cores, one is enough to detect.",
            f"- **A GPU: detection.** One of {GPU:.0f} images/s (assumed) needs {cores} cores that detect, or a "
            f"warm cache; and {GPU * bits / 1e9:.1f} Gbit/s between machines where these are others.",
            f"- **Many workers: adding up.** One process adds {rate['sum']:.0f} images/s, which is what {alike:.0f} "
            f"cores make that run the model, or {rate['sum'] / GPU:.2g} such GPUs. More would wait for it.",
            f"- **Ten billion: not one run.** Adding up alone would take {years:.2g} years, the list of images "
            f"{amount(listed, 'B')} of memory, and the statistics of every image {amount(rows, 'B')} of disk.",
        ]
    )


def share(row: Mapping[str, Any], other: str) -> str:
    return f"{row[f'of {other}']:.0%}" if f"of {other}" in row else ""


def bursts(arm: str, images: int, cores: int) -> bool:
    """Whether batches of several workers, which come in their order, came too few at a time to tell a speed."""
    found = re.search(r"(\d+) workers", arm)
    return found is not None and images < 4 * AHEAD * (cores + int(found[1])) * BATCH


def engines(result: Mapping[str, Any]) -> str:
    """The engines beside the slowest stage."""
    parts = []
    titles = {
        "model": "The model is the bottleneck",
        "detection": "Detection is the bottleneck",
    }
    for name, title in titles.items():
        load = result[name]
        if not set(load["arms"]) - {SLOWEST}:
            continue  # nothing to compare yet
        head = (
            f"**{title}**: {load['model']}, {load['images']} images\n\n"
            "| | images/s | of the slowest stage | of the local engine | before the first batch, s |\n"
            "|---|---:|---:|---:|---:|"
        )
        for arm, row in load["arms"].items():
            speeds = [f"{row['images_per_second']:.1f}", *(share(row, other) for other in (SLOWEST, "local"))]
            if bursts(arm, load["images"], result["cores"]):
                speeds = ["not told"] * 3
            begun = f"{row['start_seconds']:.1f}" if "start_seconds" in row else ""
            head += f"\n| {arm} | {' | '.join(speeds)} | {begun} |"
        parts.append(head)
    return "\n\n".join([*parts, figures.source(result)])


def workers(result: Mapping[str, Any]) -> str:
    """Speed against the number of workers, where detection is the bottleneck; beside it what so many cores detect."""
    arms, cores = result["detection"]["arms"], result["cores"]
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    alone = arms[SLOWEST]["images_per_second"] / cores
    axis.plot(range(1, cores + 1), [alone * count for count in range(1, cores + 1)], "k:", label="detection alone")
    named = {
        "local, workers that detect": {1: "local, 1 worker", cores: "local"},
        "Ray, workers that run the model": {1: "ray, 1 worker", 2: "ray, 2 workers"},
    }
    for engine, names in named.items():
        known = {count: arms[name]["images_per_second"] for count, name in names.items() if name in arms}
        axis.plot(list(known), list(known.values()), "o-", label=engine)
    axis.set(xlabel="workers", ylabel="images/s", xticks=range(1, cores + 1), ylim=(0, None))
    axis.legend(frameon=False)
    return figures.save(figure, "workers", "Images per second against the number of workers")


def memory(result: Mapping[str, Any]) -> str:
    """The curve, and what it says."""
    minutes, first, last = result["seconds"] / 60, result["first_tenth_mb"], result["last_tenth_mb"]
    return (
        "![Resident memory against images done](images/memory.svg)\n\n"
        f"{result['images']:,} images were reached in {minutes:.0f} min: resident memory was {first:.0f} MB "
        f"(median) over the first tenth and {last:.0f} MB over the last, {result['peak_mb']:.0f} MB at most. "
        f"{figures.source(result)}"
    )


def main() -> None:
    scale = figures.load("scale")
    parts = {"plan": plan(scale), "bottleneck": bottleneck(scale), "engines": engines(scale), "workers": workers(scale)}
    figures.fill(PAGE, parts | {"memory": memory(figures.load("memory"))})


if __name__ == "__main__":
    main()
