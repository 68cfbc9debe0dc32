"""Put what `pretraining_speed.py` measured into docs/pretraining.md; measures nothing.

python benchmarks/pretraining_speed_tables.py
"""

from collections.abc import Mapping
from typing import Any

import figures
from pretraining_summary import PAGE

GUIDANCE = ("mapping and binning", "noise")
CHOICE = ("choice of decoded patches",)  # which decoding by chance needs as well


def guidance_table(result: Mapping[str, Any]) -> str:
    """Milliseconds of each part of a batch's guidance, and shares."""
    by_threads = result["guidance"]["threads"]
    told = f"| a batch of 64, ms | {' | '.join(f'{threads} thread(s)' for threads in by_threads)} |\n|---|"
    told += "---:|" * len(by_threads)
    first = next(iter(by_threads.values()))
    for name in first["milliseconds"]:
        times = " | ".join(f"{row['milliseconds'][name]:.2f}" for row in by_threads.values())
        told += f"\n| {name} | {times} |"
    for step in (name for name in first["milliseconds"] if name.startswith("step")):
        shares = [GUIDANCE, *([GUIDANCE + CHOICE] if "partial" in step else [])]
        for parts in shares:
            each = " | ".join(
                f"**{100 * share(row['milliseconds'], parts, step):.1f} %**" for row in by_threads.values()
            )
            told += f"\n| {', '.join(parts)}: share of the {step} | {each} |"
    return f"{told}\n\n{figures.source(result['guidance'])}"


def share(milliseconds: Mapping[str, float], parts: tuple[str, ...], step: str) -> float:
    """What some parts take of a step."""
    return sum(milliseconds[part] for part in parts) / milliseconds[step]


def once_table(result: Mapping[str, Any]) -> str:
    """What is done once, against what is done in every epoch."""
    study = result["study"]
    each = study["milliseconds_per_image"]
    names = {
        "decoding": "decoding and resizing a file to 128 px, once",
        "decoding and detection": "the same with detection, once, if guided",
        "view": "a view cut from memory, in every epoch",
    }
    told = "| | ms per image |\n|---|---:|"
    for name, words in names.items():
        told += f"\n| {words} | {each[name]:.3f} |"
    epoch = study["steps_per_epoch"] * study["arms"]["random"]["seconds"]
    return (
        f"{told}\n\nOf all 9469 images, decoding takes {study['decoding_seconds']:.0f} s, detection "
        f"{study['detection_seconds']:.0f} s, and an epoch of the random arm {epoch:.0f} s; decoded anew in every "
        f"epoch, images would make it {100 * study['decoding_seconds'] / epoch:.0f} % longer. {figures.source(study)}"
    )


def partial_table(result: Mapping[str, Any]) -> str:
    """Time and FLOPs of partial decoding, each over those of full decoding."""
    told = "| | share decoded | time | FLOPs | saved of what FLOPs predict |\n|---|---:|---:|---:|---:|"
    for case, rows in result["partial"]["cases"].items():
        for share, row in rows.items():
            if "reached" in row:
                told += f"\n| {case} | {share} | {span(row)} | {row['flops']:.2f} | {100 * row['reached']:.0f} % |"
    return f"{told}\n\n{of_rounds(result['partial'])}"


def libraries_table(result: Mapping[str, Any]) -> str:
    """Images per second, and the time over ours."""
    told = "| | | siftlens, images/s | lightly | transformers | time, lightly / ours | transformers / ours |\n|---|---|"
    told += "---:|" * 5
    for row in result["libraries"]["rows"]:
        found = row["libraries"]
        speeds = " | ".join(f"{library['images_per_second']:.1f}" for library in found.values())
        told += f"\n| {row['case']}, batch {row['batch']} | {row['precision']} | {speeds} "
        told += f"| {span(found['lightly'])} | {span(found['transformers'])} |"
    return f"{told}\n\n{of_rounds(result['libraries'])}"


def feed_told(result: Mapping[str, Any]) -> str:
    """Views per second by threads, in a sentence."""
    part = result["feed"]
    speeds = part["views_per_second"]
    return (
        f"One thread cuts {speeds['1']} views of 224 px in a second from squares of 256 px in memory, two cut "
        f"{speeds['2']}: medians of {part['rounds']} rounds. {figures.source(part)}"
    )


def of_rounds(part: Mapping[str, Any]) -> str:
    load = part["machine"]["load_before"]
    told = f"Median of {part['rounds']} rounds, the extremes in brackets; load of the machine before it {load:.1f}."
    return f"{told} {figures.source(part)}"


def span(row: Mapping[str, float]) -> str:
    return f"{row['ratio']:.2f} ({row['lowest']:.2f}-{row['highest']:.2f})"


PARTS = {
    "pretraining-guidance": guidance_table,
    "pretraining-once": once_table,
    "pretraining-partial": partial_table,
    "pretraining-libraries": libraries_table,
    "pretraining-feed": feed_told,
}


if __name__ == "__main__":
    result = figures.load("pretraining-speed")
    figures.fill(PAGE, {name: told(result) for name, told in PARTS.items()})
