"""Which words, and which measure of use, put the planted cue first? Before any intervention, on the study's models.

Usage: python benchmarks/audit_ways.py --work /tmp/audit-study --seeds 4
       python benchmarks/audit_ways.py --cutouts CUTOUTS --scenes SCENES --cues scene --balanced 98304 --biased 4096

The models are those of `audit_study.py`, at correlation 0.95. On the discover half, every vocabulary alone (SIFT,
colour, the model's tokens, and random words, which see nothing) is combined with every measure of use: expected
gradients, the plain gradient times the input, attention rollout (Abnar and Zuidema, 2020), and none. Of the class's
candidates (of a scene, of the better class), AUROC of the first one's patches against the planted ones, and of the best
of five. Rows are added to benchmarks/results/audit-ways.json; a model that is in it is not run again.
"""

import argparse
import itertools
import json
from functools import partial
from typing import Any

import numpy as np
import torch

from audit_study import PATCH, coverage, rounded
from machine import RESULTS, save_result
from planted_models import add_options, chosen, trained
from siftlens.attention import attention_maps
from siftlens.auditing.candidates import find_candidates
from siftlens.auditing.margins import margins
from siftlens.auditing.run import Run
from siftlens.auditing.sample import enough
from siftlens.auditing.settings import AuditSettings
from siftlens.auditing.vocabulary import WORDS
from siftlens.data import CUES, Planted, open_images
from siftlens.models.given import as_loaded

NAME = "audit-ways"
CORRELATION = 0.95
IMAGES = 600
BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--cues", nargs="+", default=["glyph", "patch"], choices=CUES[:3])
    parser.add_argument("--seeds", type=int, default=4)
    arguments = parser.parse_args()
    material, recipe = chosen(arguments)
    path = RESULTS / f"{NAME}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for seed, cue in itertools.product(range(arguments.seeds), arguments.cues):
        key = {"material": type(material).__name__, "cue": cue, "seed": seed}
        if any(key.items() <= row.items() for row in rows):
            continue
        planted = Planted(material, cue, CORRELATION, size=64, seed=seed)
        rows += [key | row for row in compared(planted, trained(planted, recipe, arguments.work / "models"))]
        print(save_result(NAME, {"correlation": CORRELATION, "images": IMAGES, "rows": rows}), key, flush=True)
    print(table(rows))


def compared(planted: Planted, model: torch.nn.Module) -> list[dict[str, Any]]:
    """A row for each vocabulary and measure of use."""
    images = planted.split("heldout", IMAGES)[:]
    labels = np.array([image.label for image in images])
    source = open_images([image.pixels for image in images])
    settings = AuditSettings(seed=planted.seed)
    run = Run(as_loaded(model, source, "inception", None), source, labels.tolist(), settings, lambda *_: None)
    seen, half = run.see(run.vocabulary(), partial(map, run.bench)), run.sample.discover
    random = np.random.default_rng(planted.seed)
    words = seen.words | {"random": random.integers(0, WORDS, seen.attribution.shape).astype(np.int16)}
    x = torch.from_numpy(np.stack([image.pixels for image in images])).permute(0, 3, 1, 2).float() / 127.5 - 1
    uses = {
        "expected gradients": seen.attribution,
        "gradient x input": gradient(run, x, labels),
        "rollout": rollout(run, x),
        "none": np.ones_like(seen.attribution) + 1e-3 * random.random(seen.attribution.shape),
    }
    grid = run.bench.layout.grid
    cover = np.stack([coverage(image.cue_map, (grid.rows, grid.cols)).ravel() >= PATCH for image in images])
    rows = []
    for kind, (use, attribution) in itertools.product(words, uses.items()):
        found = find_candidates({kind: words[kind][half]}, labels[half], attribution[half], enough(run.sample), grid)
        # A glyph or a flat patch is planted in class 1 alone; either class has a scene of its own.
        mine = [one for one in found if planted.cue == "scene" or one.label == 1]
        scores = []
        for one in mine:
            carried = np.array([image.cue == one.label if planted.cue == "scene" else True for image in images])
            truth, there = cover & carried[:, None], one.patches(words[kind])
            scores.append((one.label, float(there[truth].mean() + 1 - there[~truth].mean()) / 2))
        first = [next((score for label, score in scores if label == wanted), 0.5) for wanted in dict(scores)]
        rows.append(
            {
                "words": kind,
                "use": use,
                "first": rounded(max(first, default=0.5)),
                "best": rounded(max((score for _, score in scores), default=0.5)),
            }
        )
    return rows


def gradient(run: Run, x: torch.Tensor, labels: np.ndarray) -> np.ndarray:
    """Gradient of the margin of the image's class times the token before the first block, by patch."""
    parts = []
    for start in range(0, len(x), BATCH):
        held: list[torch.Tensor] = []

        def keep(tokens: torch.Tensor, held: list[torch.Tensor] = held) -> torch.Tensor:
            held.append(tokens.detach().requires_grad_(True))
            return held[0]

        classes = torch.from_numpy(run.logit[labels[start : start + BATCH]])
        with torch.enable_grad(), run.bench.access.changed(keep):
            total = margins(run.model.module(x[start : start + BATCH]), classes).sum()
            (slope,) = torch.autograd.grad(total, held[0])
        parts.append((slope * held[0].detach()).sum(dim=2)[:, run.bench.layout.prefix :].numpy())
    return np.concatenate(parts)


@torch.no_grad()
def rollout(run: Run, x: torch.Tensor) -> np.ndarray:
    """How much of each patch reaches the class token, half of every layer being the skip connection."""
    parts = []
    for start in range(0, len(x), BATCH):
        maps = attention_maps(run.model.module, x[start : start + BATCH])
        flow = torch.eye(next(iter(maps.values())).shape[-1])
        for layer in sorted(maps):
            flow = (maps[layer].mean(dim=1) + torch.eye(flow.shape[-1])) / 2 @ flow
        parts.append(flow[:, 0, run.bench.layout.prefix :].numpy())
    return np.concatenate(parts)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over models, as Markdown."""
    uses = list(dict.fromkeys(row["use"] for row in rows))
    lines = [f"| images, cue | words | {' | '.join(uses)} |", f"|---|---|{'---:|' * len(uses)}"]
    keys = dict.fromkeys((row["material"], row["cue"], row["words"]) for row in rows)
    for material, cue, words in sorted(keys):
        cells = []
        for use in uses:
            mine = [
                row
                for row in rows
                if (row["material"], row["cue"], row["words"], row["use"]) == (material, cue, words, use)
            ]
            first, best = (np.mean([row[name] for row in mine]) for name in ("first", "best"))
            cells.append(f"{first:.2f} / {best:.2f}")
        models = len(mine)
        where = "drawn" if material == "DrawnMaterial" else "real"
        lines.append(f"| {where}, {cue} ({models}) | {words} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
