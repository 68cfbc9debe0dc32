"""Are the p values honest? Analyses in which there is nothing to find, and what they find.

Usage: python benchmarks/calibration.py --images ../shared/data/imagenette-128/val --work /tmp/calibration

Replacement: each image gets a map of another image in place of its own, as null 1 does, or one of its mirror images in
place of its own, as null 2 does, and is then tested against that null. No head may stand out, so p < .05 must hold for
5 % of them. Each run draws images, maps and pool anew from one table of every image read through every map.

Content-free attention: made-up attention that depends on position alone, read through real maps. It knows nothing of
keypoints, so no effect may be found, whatever null maps are made of.

WORK gets the table and a line per run; the same command goes on from there.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from machine import save_result
from siftlens.attention import LayerReading, find_layout, observe
from siftlens.core import PatchGrid, TokenLayout
from siftlens.data import open_images
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.channels import assemble
from siftlens.interrelation.forward import to_input
from siftlens.interrelation.inference import finalize
from siftlens.interrelation.nulls import MIRRORS, POOL_SIZE, Pool, mirror_maps, pool_identities
from siftlens.interrelation.statistics import BatchRecord, layer_record, stack_records
from siftlens.models import LoadedModel, load_model
from siftlens.patchmaps import Prepared, PrepareSettings, levels, prepare_images, standardize

STATISTICS = ("semantic_pull", "assortativity")
IMAGES, MAPS = 1000, 1256  # of the table; no image is on both sides


@dataclass(frozen=True)
class Design:
    """One way to draw an analysis: so many images, and a pool apart from them or, for small inputs, they themselves."""

    name: str
    images: int
    pool_is_sample: bool = False


DESIGNS = (
    Design("400 images, pool of 256", 400),
    Design("1000 images, pool of 256", 1000),
    Design("48 images, themselves the pool", 48, pool_is_sample=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "siftlens-calibration")
    options = parser.parse_args()
    model = load_model(options.model)
    work = options.work / f"{model.weights_hash[:12]}-{options.seed}"
    work.mkdir(parents=True, exist_ok=True)
    size = model.preprocessing.height, model.preprocessing.width
    layout = find_layout(model.module, torch.zeros(1, 3, *size))
    prepared = read_images(options.images, model, layout.grid, options.seed)
    table = cross_table(model, layout, prepared, work / "table.npy")
    lines = replacement_runs(table, options.runs, options.seed, work / "runs.jsonl")
    path = save_result(
        "calibration",
        {
            "seed": options.seed,
            "runs": options.runs,
            "model": model.describe(),
            "heads": int(table.shape[1] * table.shape[2]),
            "replacement": summarize(lines),
            "content_free": content_free(layout.grid, prepared, options.seed),
        },
    )
    print(path)


def read_images(images: str, model: LoadedModel, grid: PatchGrid, seed: int) -> list[Prepared]:
    """The images of lowest hash, ready."""
    refs = {ref.identity: ref for ref in open_images(images)}
    chosen = (refs[identity] for identity in pool_identities(list(refs), seed, len(refs)))
    settings = PrepareSettings(model.preprocessing, grid)
    readable = (
        image for image in prepare_images(chosen, settings, workers=0, cache=None) if isinstance(image, Prepared)
    )
    return list(islice(readable, IMAGES + MAPS))


def cross_table(
    model: LoadedModel, layout: TokenLayout, prepared: Sequence[Prepared], path: Path, batch: int = 4
) -> Float[np.ndarray, "image layer head statistic map"]:
    """Both statistics of every image under each of the maps of other images, then its own map and its mirror images."""
    z = np.stack([standardize(image.weights, counts=True) for image in prepared])
    done = path.with_suffix(".done")
    first = int(done.read_text()) if done.exists() else 0
    table = np.load(path, mmap_mode="r+") if first else None
    for start in range(first, IMAGES, batch):
        images = prepared[start : start + batch]
        maps = np.stack(
            [np.concatenate([z[IMAGES:], z[n : n + 1], mirror_maps(z[n])]) for n in range(start, start + len(images))]
        )
        through = assemble(
            maps,
            np.stack([levels(image.count) for image in images]),
            np.stack([image.rivals for image in images]),
            pool_index=np.zeros((len(images), 0), np.int64),
        )
        x = to_input([image.pixels for image in images], model.normalization, model.device, model.dtype)
        records = []

        def reduce(reading: LayerReading) -> None:
            records.append(layer_record(reading, through, layout))  # noqa: B023

        with torch.no_grad(), observe(model.module, through.channels, grid=layout, on_layer=reduce):
            model.module(x)
        record = stack_records(records, through)
        found = record.tested[..., [record.tested_names.index(name) for name in STATISTICS], :]
        if table is None:
            table = np.lib.format.open_memmap(path, "w+", np.float32, (IMAGES, *found.shape[1:]))
        table[start : start + len(images)] = found
        if start % 100 == 0:
            table.flush()
            done.write_text(str(start))
            print(f"table: {start} of {IMAGES} images", flush=True)
    done.write_text(str(IMAGES))
    assert table is not None
    return table


def replacement_runs(table: np.ndarray, runs: int, seed: int, path: Path) -> list[dict[str, Any]]:
    """All runs of all designs, a line each; those on file are not run again."""
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    known = {(line["design"], line["run"]) for line in lines}
    with path.open("a") as file:
        for run in range(runs):
            for design in DESIGNS:
                if (design.name, run) not in known:
                    new = replacement_run(table, design, run, seed)
                    lines += new
                    file.writelines(json.dumps(line) + "\n" for line in new)
                    file.flush()
            if run % 10 == 9:
                print(f"{run + 1} of {runs} runs", flush=True)
    return [line for line in lines if line["run"] < runs]


def replacement_run(table: np.ndarray, design: Design, run: int, seed: int) -> list[dict[str, Any]]:
    """One analysis of replaced maps, against both nulls; and against null 1 with weights on the images alone."""
    random = np.random.default_rng([seed, run, design.images])
    images, maps = random.permutation(IMAGES)[: design.images], random.permutation(MAPS)
    contents = [f"image {n}" for n in range(design.images)]
    if design.pool_is_sample:
        own = pool_maps = maps[: design.images]
        pool_contents = contents
    else:
        own, pool_maps = maps[POOL_SIZE:][: design.images], maps[:POOL_SIZE]
        pool_contents = [f"map {n}" for n in range(POOL_SIZE)]
    pool = Pool(z=np.zeros((len(pool_maps), 1, 1)), contents=tuple(pool_contents), identities=tuple(pool_contents))
    index = np.stack([pool.choose(content, run) for content in contents])
    weights, pool_weights = image_weights(contents, run), image_weights(pool_contents, run)

    replaced, mirrored = [], []
    for image, mine, others in zip(images, own, pool_maps[index], strict=True):
        row = table[image]
        replaced.append(row[..., [mine, *others, mine, mine, mine]])
        first, second, third = MAPS + 1 + random.permutation(MIRRORS)
        mean = row[..., [second, third]].mean(axis=-1, keepdims=True)  # two are left, where three are expected
        mirrored.append(np.concatenate([row[..., [first, second, third]], mean], axis=-1))

    def heads(tested: list[np.ndarray], pool_size: int, drawn: np.ndarray, p: str, q: str) -> list[dict[str, Any]]:
        record = record_of(np.stack(tested), index if pool_size > 1 else index[:, :0])
        sums = Accumulator.empty(record, pool_size)
        sums.add(record, weights, drawn)
        rows = finalize(sums).heads
        return [
            {
                "statistic": name,
                "share": float((rows[p] < 0.05)[here].mean()),
                "any": bool((rows[q] < 0.05)[here].any()),
            }
            for name in STATISTICS
            for here in [rows.statistic == name]
        ]

    found = {
        "null 1": heads(replaced, pool.size, pool_weights, "p", "q"),
        "null 1, weighting images alone": heads(replaced, pool.size, np.ones_like(pool_weights), "p", "q"),
        "null 2": heads(mirrored, 1, pool_weights, "mirror_p", "mirror_q"),
    }
    return [{"design": design.name, "run": run, "null": null, **row} for null, rows in found.items() for row in rows]


def record_of(tested: np.ndarray, index: np.ndarray) -> BatchRecord:
    """A record of the two statistics alone."""
    images, layers, heads = tested.shape[:3]
    return BatchRecord(
        layers=tuple(str(layer) for layer in range(layers)),
        tested_names=STATISTICS,
        described_names=(),
        tested=tested.astype(np.float64),
        described=np.zeros((images, layers, heads, 0)),
        level_mass=np.zeros((images, layers, heads, 5, 5)),
        cls_level_mass=np.zeros((images, layers, heads, 0, 5)),
        level_count=np.zeros((images, 5)),
        pool_index=index,
    )


def summarize(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the runs of each design, null and statistic: heads with p < .05, and runs with any discovery."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault((line["design"], line["null"], line["statistic"]), []).append(line)
    return [
        {
            "design": design,
            "null": null,
            "statistic": statistic,
            "runs": len(group),
            "share_p_below_05": round(float(np.mean([line["share"] for line in group])), 4),
            "sd_over_runs": round(float(np.std([line["share"] for line in group])), 4),
            "runs_with_discovery": sum(line["any"] for line in group),
        }
        for (design, null, statistic), group in groups.items()
    ]


def content_free(grid: PatchGrid, prepared: Sequence[Prepared], seed: int) -> list[dict[str, Any]]:
    """Effects of attention by position alone, with null 1's maps as they are, or given own values by rank."""
    z = np.stack([standardize(image.weights, counts=True) for image in prepared])
    random = np.random.default_rng(seed)
    names, attention = kernels(grid)
    images, pool_z = prepared[POOL_SIZE:], z[:POOL_SIZE]
    contents, pool_contents = ([image.content for image in part] for part in (images, prepared[:POOL_SIZE]))
    pool = Pool(z=pool_z, contents=tuple(pool_contents), identities=tuple(pool_contents))
    pool_weights = image_weights(pool_contents, seed)
    found = []
    for by_rank in (False, True):
        sums = None
        for start in range(0, len(images), 32):
            batch, own = images[start : start + 32], z[POOL_SIZE + start :][:32]
            index = np.stack([pool.choose(image.content, seed) for image in batch])
            maps = [
                np.concatenate(
                    [
                        mine[None],
                        by_ranks(mine, pool_z[others], random) if by_rank else pool_z[others],
                        mirror_maps(mine),
                    ]
                )
                for mine, others in zip(own, index, strict=True)
            ]
            through = assemble(
                np.stack(maps),
                np.stack([levels(image.count) for image in batch]),
                np.stack([image.rivals for image in batch]),
                pool_index=index,
            )
            values = attention @ through.channels[:, None]
            nothing = torch.zeros(*values.shape[:3])
            reading = LayerReading("made up", values, torch.stack([nothing, nothing], -1), nothing, None, "none")
            record = stack_records([layer_record(reading, through, TokenLayout(grid))], through)
            sums = sums or Accumulator.empty(record, pool.size)
            sums.add(record, image_weights(contents[start : start + 32], seed), pool_weights)
        assert sums is not None
        heads = finalize(sums).heads
        columns = ["value", "effect", "low", "high", "p", "mirror_effect", "mirror_p"]
        found += [
            {"attention": names[row["head"]], "statistic": row.statistic, "values_by_rank": by_rank, "n": row.n}
            | {column: float(f"{row[column]:.4g}") for column in columns}
            for _, row in heads[heads.statistic.isin(STATISTICS)].iterrows()
        ]
    return found


def kernels(grid: PatchGrid) -> tuple[list[str], Float[torch.Tensor, "head query key"]]:
    """Attention by position alone."""
    y, x = (torch.arange(grid.patches) // grid.cols).double(), (torch.arange(grid.patches) % grid.cols).double()
    squared = (y[:, None] - y).square() + (x[:, None] - x).square()
    from_centre = (y - (grid.rows - 1) / 2).square() + (x - (grid.cols - 1) / 2).square()
    itself = torch.eye(grid.patches, dtype=torch.bool)
    flat = torch.zeros_like(squared)
    scores = {
        "near (1.5 patches)": -squared / (2 * 1.5**2),
        "near (3 patches), not itself": (-squared / (2 * 3**2)).masked_fill(itself, -torch.inf),
        "centre": flat - from_centre / (2 * 4**2),
        "near and centre": -squared / (2 * 3**2) - from_centre / (2 * 5**2),
        "bottom": flat + y / 4,
    }
    return list(scores), torch.stack(list(scores.values())).softmax(dim=-1).float()


def by_ranks(own: np.ndarray, maps: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image's own values in the order of each map, ties in random order."""
    flat = maps.reshape(len(maps), -1)
    order = np.lexsort((random.random(flat.shape), flat), axis=-1)
    result = np.empty_like(flat)
    np.put_along_axis(result, order, np.sort(own, axis=None)[None], axis=-1)
    return result.reshape(maps.shape)


if __name__ == "__main__":
    main()
