r"""Does prompting by an audit undo a shortcut? One small model with a planted cue for each run.

Usage: python benchmarks/prompt_study.py --work WORK --seeds 6
       python benchmarks/prompt_study.py --work WORK --seeds 6 --cutouts CUTOUTS --scenes SCENES --balanced 98304 \
           --biased 4096 --shared 5
       python benchmarks/prompt_study.py --summary

Every run is a material, a cue, a correlation and a seed. Its model is kept in WORK/models, its result in
benchmarks/results/prompting, and skipped when it is there: an interrupted study goes on by the same command. Each model
sees the balanced split first, then the biased one. It is audited on held-out images (no masks, no group labels) and the
prompt tuned on further ones; all figures are of the test split, which neither ever sees. First printed is the
head-room: what the oracle's map gains in the worst group.

Arms: random, centre, gradient energy, keypoints, keypoints and centre, the audited cue, and two oracles (the object's
mask, the planted cue's), each by bias, token choice, contrast, early pixel masking and a foveal mask; and the tuned
prompt. All but cue and oracles mark equal areas: a bias favours the best third of the patches. Correlation 0.5 is an
unbiased model, on which the tuned prompt should do nothing. The heads of each model are also switched off one by one,
beside what the analysis says of them.
"""

import argparse
import itertools
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import siftlens
from figures import fill
from machine import RESULTS, save_result
from planted_models import Recipe, add_options, chosen, trained
from prompt_arms import (
    FOVEAL,
    MARKED,
    OPERATORS,
    ORACLES,
    ablated_heads,
    answers,
    arm_maps,
    best_third,
    by_group,
    foveal_answers,
    plan_for,
    right,
    token_words,
)
from prompt_summary import summarize
from prompt_tables import tables
from siftlens.data import Planted, PlantedImage, atomic_path
from siftlens.prompting.maps import harmful_rows

CUES = ("scene", "glyph", "patch")
RUNS = RESULTS / "prompting"
PAGE = Path(__file__).parent.parent / "docs" / "prompt-study.md"
CORRELATIONS = (0.5, 0.9, 0.95, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--cues", nargs="+", default=list(CUES), choices=CUES)
    parser.add_argument("--correlations", nargs="+", type=float, default=list(CORRELATIONS))
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--audited", type=int, default=600, help="images of the audit")
    parser.add_argument("--validated", type=int, default=600, help="images to tune on")
    parser.add_argument("--tested", type=int, default=400, help="images of the figures")
    parser.add_argument("--size", type=int, default=64, help="px")
    parser.add_argument(
        "--summary", action="store_true", help="only sum the finished runs up, in results/prompting.json and the docs"
    )
    options = parser.parse_args()
    if options.summary:
        found = [json.loads(path.read_text()) for path in sorted(RUNS.glob("*.json"))]
        summary = summarize(found)
        print(save_result("prompting", summary))
        fill(PAGE, tables(summary))
        return
    material, recipe = chosen(options)
    # Seeds outermost: whenever it is stopped, every cue and correlation has about as many runs.
    for seed, cue, correlation in itertools.product(range(options.seeds), options.cues, options.correlations):
        planted = Planted(material, cue, correlation, size=options.size, seed=seed)
        path = RUNS / f"{type(material).__name__}-{cue}-{correlation}-{seed}.json"
        if path.exists():
            continue
        start = time.perf_counter()
        found = run(planted, recipe, options)
        with atomic_path(path) as target:
            target.write_text(json.dumps(found) + "\n")
        print(path.stem, told(found), f"{time.perf_counter() - start:.0f} s", flush=True)


def run(planted: Planted, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Train, audit, tune, and compare all arms on the test split."""
    model = trained(planted, recipe, options.work / "models")
    clock = time.perf_counter()
    held_out = planted.split("heldout", options.audited + options.validated)
    audited, validation = held_out[: options.audited], held_out[options.audited :]
    audit = siftlens.audit(model, pixels_of(audited), labels_of(audited), normalize="inception", seed=planted.seed)
    audit_seconds, clock = time.perf_counter() - clock, time.perf_counter()
    policy = siftlens.tune_prompt(model, audit, pixels_of(validation), labels_of(validation), normalize="inception")
    tune_seconds = time.perf_counter() - clock
    test = planted.split("test", options.tested)[:]
    plan = plan_for(model, planted)
    maps = arm_maps(test, plan.layout.grid, audit, token_words(model, test, audit, plan), planted.seed)
    plain = right(test, lambda x, _: model(x))
    tuned = siftlens.prompted(model, policy, normalize="inception", audit=audit)
    under_tuned = right(test, lambda x, _: tuned(x))
    arms: dict[str, dict[str, list[float]]] = {}
    for arm, of_arm in maps.items():
        if of_arm is None:  # no harm was found: the audited cue does nothing
            arms[arm] = dict.fromkeys([*OPERATORS, FOVEAL], by_group(test, plain))
            continue
        marked = of_arm if arm in MARKED else best_third(of_arm)
        arms[arm] = {
            name: by_group(test, answers(model, test, operator, marked if operator.biased else of_arm))
            for name, operator in OPERATORS.items()
        }
        arms[arm][FOVEAL] = by_group(test, foveal_answers(model, test, marked, plan))
    return {
        "material": type(planted.material).__name__,
        "cue": planted.cue,
        "correlation": planted.correlation,
        "seed": planted.seed,
        "recipe": vars(recipe) | {"size": planted.size},
        "images": {"audited": len(audited), "validated": len(validation), "tested": len(test)},
        "seconds": {"audit": round(audit_seconds, 1), "tune": round(tune_seconds, 1)},
        "harmful_cues": [audit.cue(row).name for row in harmful_rows(audit)],
        "none": by_group(test, plain),
        "arms": arms,
        "tuned": {"policy": json.loads(policy.to_json()), "groups": by_group(test, under_tuned)},
        "changed_by_tuned": {
            "mended": int((under_tuned & ~plain).sum()),
            "spoilt": int((plain & ~under_tuned).sum()),
        },
        "heads": ablated_heads(model, test, plan, maps),
    }


def told(found: dict[str, Any]) -> str:
    """The head-room first, then what the audit's prompts make of it: gains of the worst group."""
    worst = min(found["none"])
    lines = [f"worst group {worst:.2f}; gain of the oracle"]
    for name in (*OPERATORS, FOVEAL):
        best = max(min(found["arms"][arm][name]) for arm in ORACLES) - worst
        lines.append(f"{name} {best:+.2f} (audited {min(found['arms']['audited cue'][name]) - worst:+.2f})")
    return ", ".join([*lines, f"tuned {min(found['tuned']['groups']) - worst:+.2f}"])


def pixels_of(images: list[PlantedImage]) -> list[np.ndarray]:
    return [image.pixels for image in images]


def labels_of(images: list[PlantedImage]) -> list[int]:
    return [image.label for image in images]


if __name__ == "__main__":
    main()
