"""Draw the curves and write the tables of the documentation from the results in `benchmarks/results/`.

    python benchmarks/figures.py

Writes `docs/images/*.svg` and the tables between the markers in `docs/benchmarks.md`; measures nothing.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
PAGE = ROOT / "docs" / "benchmarks.md"

matplotlib.use("svg")
plt.rcParams |= {
    "svg.hashsalt": "siftlens",  # the same figure is the same file
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
}


def load(name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return result


def source(result: Mapping[str, Any]) -> str:
    """Where figures come from, in a line under their table."""
    machine = result["machine"]
    hardware = machine["gpu"] or f"{machine['processor']}, {machine['threads']} threads"
    return f"`{result['command']}`, {result['date']}, {hardware}, torch {machine['torch']}."


def attention_table(result: Mapping[str, Any]) -> str:
    """Time, memory and error of every arm, setting by setting."""
    parts = []
    for setting in result["settings"].values():
        parts.append(
            f"**{setting['model']}, {setting['pixels']} px, batch {setting['batch']}, {setting['tokens']} tokens** "
            f"({setting['rounds']} rounds)\n\n"
            "| | images/s | time | live memory, MB | live memory | resident memory | whole process |\n"
            "|---|---:|---:|---:|---:|---:|---:|"
        )
        parts[-1] += "".join(
            f"\n| {arm} | {row['images_per_second']:.2f} | {row['ratio']:.2f}x"
            f" ({row['lowest']:.2f}-{row['highest']:.2f}) | {row['peak_memory_mb']:.0f} | {row['memory_ratio']:.2f}x"
            f" | {row['resident_ratio']:.2f}x | {of_process(row)} |"
            for arm, row in setting["arms"].items()
        )
    return "\n\n".join([*parts, commands(result)])


def of_process(row: Mapping[str, Any]) -> str:
    """Memory of the whole process; rows up to 2026-11-22 have none."""
    return f"{row['process_ratio']:.2f}x" if "process_ratio" in row else "not measured"


def error_table(result: Mapping[str, Any]) -> str:
    """Largest error of every arm, setting by setting."""
    settings = result["settings"]
    table = f"| | {' | '.join(settings)} |\n|---|{'---:|' * len(settings)}"
    for arm in next(iter(settings.values())):
        table += f"\n| {arm} | {' | '.join(f'{errors[arm]:.0e}' for errors in settings.values())} |"
    return f"{table}\n\n{source(result)}"


def commands(result: Mapping[str, Any]) -> str:
    """Where settings come from: those of the last command, and those that it left as they were."""
    left = [
        (name, setting.get("command"))
        for name, setting in result["settings"].items()
        if setting.get("command") != result["command"]
    ]
    told = (
        f"{name}: `{command}`." if command else f"{name}: measured before, its command was not kept with it."
        for name, command in left
    )
    return " ".join([source(result), *told])


def scaling_figure(result: Mapping[str, Any]) -> str:
    """Cost of reading against channels, pixels and heads."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), sharey=True, layout="constrained")
    channels = {int(k): v["ratio"] for k, v in result["channels"].items() if k != "plain"}
    axes[0].plot(list(channels), list(channels.values()), "o-", color="#1f5a96")
    axes[0].set_xlabel("channels (one call carries 64)")
    axes[0].set_ylabel("time / plain forward pass")
    for axis, name in zip(axes[1:], ("pixels", "heads"), strict=True):
        table = result[name]
        for arm, colour in (("58 channels", "#1f5a96"), ("with entropy", "#b3541e")):
            axis.plot(
                [int(k) for k in table], [row[arm]["ratio"] for row in table.values()], "o-", color=colour, label=arm
            )
        axis.set_xlabel({"pixels": "image side, px", "heads": "heads of a 768-wide model"}[name])
    axes[1].legend(frameon=False)
    for axis in axes:
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set_ylim(bottom=0.9)
    return (
        save(figure, "scaling", "Cost of reading attention, against channels, pixels and heads")
        + "\n\n"
        + source(result)
    )


def pipeline_table(result: Mapping[str, Any]) -> str:
    """Throughput of a whole analysis, against its parts, and memory against the number of images."""
    rows = "".join(
        f"\n| {name} | {row['images_per_second']:.1f} | {row['ratio']:.2f}x |"
        for name, row in result["throughput"].items()
    )
    table = "| | images/s | time per image / plain forward pass |\n|---|---:|---:|" + rows
    figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
    growth = result["growth"]
    axis.plot(
        [row["images"] for row in growth], [row["seconds"] for row in growth], "o-", color="#1f5a96", label="time, s"
    )
    memory = axis.twinx()
    memory.plot([row["images"] for row in growth], [row["peak_memory_mb"] for row in growth], "s--", color="#b3541e")
    memory.set_ylim(bottom=0)
    memory.grid(visible=False)
    memory.set_ylabel("peak memory, MB (dashed)", color="#b3541e")
    axis.set_xlabel("images")
    axis.set_ylabel("time, s", color="#1f5a96")
    axis.set_ylim(bottom=0)
    picture = save(figure, "growth", "Time and memory of an analysis, against the number of images")
    return f"{table}\n\n{picture}\n\n{source(result)}"


def report_table(result: Mapping[str, Any]) -> str:
    """Time, size and answers of a report, against what was set out to reach."""
    studies = result["studies"]
    lines = [
        ("images to look at", "up to 12", lambda row: f"{row['gallery']}"),
        ("choosing and reading these images", "", lambda row: f"{row['gallery_seconds']:.1f} s"),
        ("making the page", "", lambda row: f"{row['render_seconds']:.1f} s"),
        ("writing all files of the study, the page among them", "10 s", lambda row: f"{row['save_seconds']:.1f} s"),
        ("size of the page", "15 MB", lambda row: f"{row['megabytes']:.1f} MB"),
        ("largest image in it", "1.5 MB", lambda row: f"{row['largest_image_megabytes']:.2f} MB"),
        *(
            (words, limit, lambda row, key=key: f"{row[key]['median_ms']:.0f} ms ({row[key]['worst_ms']:.0f})")
            for words, limit, key in (
                ("first paint", "1000 ms", "first_paint"),
                ("click on a patch", "100 ms", "click"),
                ("slider, to another layer", "", "slider"),
                ("another image, unpacked", "", "other_image"),
            )
        ),
    ]
    table = f"| | at most wanted | {' | '.join(studies)} |\n|---|---:|{'---:|' * len(studies)}"
    for words, limit, told in lines:
        table += f"\n| {words} | {limit} | {' | '.join(told(row) for row in studies.values())} |"
    where = source(result).removesuffix(".")
    return f"{table}\n\nMedian, and the worst in brackets. {where}, {result['browser']}, seed {result['seed']}."


def save(figure: Any, name: str, alternative: str) -> str:
    IMAGES.mkdir(exist_ok=True)
    figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return f"![{alternative}](images/{name}.svg)"


PARTS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "attention-cpu": attention_table,
    "attention-cuda": attention_table,
    "attention-error-cpu": error_table,
    "scaling": scaling_figure,
    "pipeline": pipeline_table,
    "report": report_table,
}


def fill(page: Path, parts: Mapping[str, str]) -> None:
    """Put each part between its markers, where the page has them."""
    text = page.read_text()
    for name, part in parts.items():
        marker = rf"(<!-- {name} -->\n).*?(<!-- end -->)"
        text = re.sub(marker, lambda found, part=part: f"{found[1]}\n{part}\n\n{found[2]}", text, flags=re.DOTALL)
    page.write_text(text)


def main() -> None:
    results = ROOT / "benchmarks" / "results"
    fill(PAGE, {name: draw(load(name)) for name, draw in PARTS.items() if (results / f"{name}.json").exists()})


if __name__ == "__main__":
    main()
