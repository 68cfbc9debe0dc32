"""Look inside the encoders of the study: where does their attention go, with and without guided masks?

    python benchmarks/pretraining_inside.py --data ../shared/data/imagenette-128/val --work /tmp/study

Analyses one seed's encoders that `pretraining_study.py run` left in WORK at `--epochs`, and the untrained one, on the
same images, and compares each with that of random masks. Writes benchmarks/results/pretraining-inside.json and the
tables of docs/pretraining-inside.md.
"""

import argparse
from pathlib import Path
from typing import Any

import figures
import machine
import siftlens
from pretraining_arms import ARMS, BASE, settings_of
from pretraining_study import loaded, name_of
from siftlens.pretraining.build import build

PAGE = figures.ROOT / "docs" / "pretraining-inside.md"
STATISTICS = {
    "semantic_pull": "attention toward keypoint-rich patches, in standard deviations of the map",
    "partial_pull": "the same beyond gradient energy and closeness to the centre",
    "assortativity": "whether rich patches attend to rich ones and poor to poor, as a correlation",
}
COLUMNS = ["layer", "value", "low", "high", "difference", "difference_low", "difference_high", "q"]


def encoders(work: Path, epochs: int, seed: int) -> dict[str, Any]:
    """What there is, random masks first: the reference."""
    paths = {arm: work / f"{name_of(arm, epochs, seed)}.safetensors" for arm in ARMS}
    there = {arm: path for arm, path in paths.items() if path.exists()}
    return {**there, "untrained": build(settings_of("random", seed=seed))[0].encoder}


def look(data: Path, found: dict[str, Any], limit: int, folder: Path) -> dict[str, Any]:
    """Per encoder and statistic, the mean effect over heads of each layer, and its difference from random masks."""
    for name, encoder in found.items():
        siftlens.analyze(loaded(encoder), str(data), limit=limit, workers=0, out=folder / name, resume=True)
        print(name, flush=True)
    first, *others = found
    comparison = siftlens.compare([folder / name for name in found])
    back = siftlens.compare([folder / others[0], folder / first])  # the reference itself is in no row of its own
    rows = {first: back, **dict.fromkeys(others, comparison)}
    return {
        name: {
            statistic: rows[name].rows(name, statistic)[COLUMNS].round(4).to_dict("records") for statistic in STATISTICS
        }
        for name in found
    }


def table(result: dict[str, Any], statistic: str) -> str:
    """Encoders in rows, layers in columns: the mean over heads, and the difference from random masks."""
    found = result["encoders"]
    first = next(iter(found))
    told = "| |" + "".join(f" layer {row['layer']:.0f} |" for row in found[first][statistic])
    told += "\n|---|" + "---:|" * len(found[first][statistic])
    for name, by_statistic in found.items():
        cells = (f"{row['value']:+.3f}" + ("" if name == first else difference(row)) for row in by_statistic[statistic])
        told += f"\n| {name} | {' | '.join(cells)} |"
    return told


def difference(row: dict[str, float]) -> str:
    star = "*" if row["q"] < 0.05 else ""
    return f" ({row['difference']:+.3f}{star})"


def page(result: dict[str, Any]) -> str:
    """The tables, with where they come from."""
    parts = [f"**{statistic}**, {words}\n\n{table(result, statistic)}" for statistic, words in STATISTICS.items()]
    return "\n\n".join(
        [
            f"Schedules of {result['epochs']} epochs, seed {result['seed']}, {result['images']} validation images. "
            "Mean over heads; in brackets the difference from random masks, * where q < 0.05 over images.",
            *parts,
            figures.source(result),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--work", type=Path, required=True, help="the study's folder")
    parser.add_argument("--epochs", type=int, default=BASE.epochs, help="of the encoders' schedules")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=500, help="images")
    given = parser.parse_args()
    folder = (
        given.work / f"inside-e{given.epochs}-s{given.seed}-{given.limit}"
    )  # from which an interrupted call goes on
    found = look(given.data, encoders(given.work, given.epochs, given.seed), given.limit, folder)
    about = {"epochs": given.epochs, "seed": given.seed, "images": given.limit}
    machine.save_result("pretraining-inside", {**about, "encoders": found})
    figures.fill(PAGE, {"pretraining-inside": page(figures.load("pretraining-inside"))})


if __name__ == "__main__":
    main()
