"""Look inside the encoders of the study: where does their attention go, with and without guided masks?

    python benchmarks/pretraining_inside.py --data ../shared/data/imagenette-128/val --work /tmp/study

Analyses the encoders that `pretraining_study.py run` left in WORK at `--epochs`, and each seed's untrained one, on the
same images, and compares each with that of random masks of its seed. Writes benchmarks/results/pretraining-inside.json
and the tables of docs/pretraining-inside.md.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import figures
import machine
import siftlens
from pretraining_arms import ARMS, BASE, settings_of
from pretraining_study import SEEDS, loaded, name_of
from pretraining_summary import CONTROLS, mean_of
from siftlens.pretraining.build import build

PAGE = figures.ROOT / "docs" / "pretraining-inside.md"
STATISTICS = {
    "semantic_pull": "attention toward keypoint-rich patches, in standard deviations of the map",
    "partial_pull": "the same beyond gradient energy and closeness to the centre",
    "assortativity": "whether rich patches attend to rich ones and poor to poor, as a correlation",
}


def encoders(work: Path, epochs: int, seed: int) -> dict[str, Any]:
    """What there is, random masks first: the reference."""
    paths = {arm: work / f"{name_of(arm, epochs, seed)}.safetensors" for arm in ARMS}
    there = {arm: path for arm, path in paths.items() if path.exists()}
    return {**there, "untrained": build(settings_of("random", seed=seed))[0].encoder}


def look(data: Path, found: dict[str, Any], limit: int, folder: Path) -> dict[str, Any]:
    """Per encoder and statistic, the mean effect over heads of each layer."""
    effects = {}
    for name, encoder in found.items():
        study = siftlens.analyze(loaded(encoder), str(data), limit=limit, workers=0, out=folder / name, resume=True)
        layers = study.layers.sort_values("layer")
        effects[name] = {
            statistic: layers.loc[layers["statistic"] == statistic, "effect"].round(4).tolist()
            for statistic in STATISTICS
        }
        print(folder.name, name, flush=True)
    return effects


def table(seeds: list[dict[str, Any]], statistic: str) -> str:
    """Encoders in rows, layers in columns: the mean over heads and seeds, and the difference from random masks.

    Then each guided arm less its control: what is due to the keypoints being the image's own.
    """
    names = [name for name in seeds[0] if all(name in seed for seed in seeds)]
    effects = {name: np.array([seed[name][statistic] for seed in seeds]) for name in names}  # (seed, layer)
    first = effects[names[0]]
    told = "| |" + "".join(f" layer {layer} |" for layer in range(first.shape[1]))
    told += "\n|---|" + "---:|" * first.shape[1]
    for name, found in effects.items():
        means = [f"{mean:+.3f}" for mean in found.mean(axis=0)]
        if name != names[0]:
            means = [
                f"{mean}; {mean_of(gap).told(3, sign='+')}" for mean, gap in zip(means, (found - first).T, strict=True)
            ]
        told += f"\n| {name} | {' | '.join(means)} |"
    for arm, control in CONTROLS:
        if arm in effects and control in effects:
            gaps = [mean_of(gap).told(3, sign="+") for gap in (effects[arm] - effects[control]).T]
            told += f"\n| {arm} less {control} | {' | '.join(gaps)} |"
    return told


def page(result: dict[str, Any]) -> str:
    """The tables, with where they come from."""
    parts = [
        f"**{statistic}**, {words}\n\n{table(result['seeds'], statistic)}" for statistic, words in STATISTICS.items()
    ]
    return "\n\n".join(
        [
            f"Schedules of {result['epochs']} epochs, {len(result['seeds'])} seeds, {result['images']} validation "
            "images. Mean over heads and seeds; after it the difference from random masks of the same seed, with its "
            "95 % interval over seeds (Student's t, not corrected for the number of differences).",
            *parts,
            figures.source(result),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--work", type=Path, required=True, help="the study's folder")
    parser.add_argument("--epochs", type=int, default=BASE.epochs, help="of the encoders' schedules")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--limit", type=int, default=500, help="images")
    given = parser.parse_args()
    seeds = []
    for seed in range(given.seeds):
        folder = given.work / f"inside-e{given.epochs}-s{seed}-{given.limit}"  # from which an interrupted call goes on
        seeds.append(look(given.data, encoders(given.work, given.epochs, seed), given.limit, folder))
    machine.save_result("pretraining-inside", {"epochs": given.epochs, "images": given.limit, "seeds": seeds})
    figures.fill(PAGE, {"pretraining-inside": page(figures.load("pretraining-inside"))})


if __name__ == "__main__":
    main()
