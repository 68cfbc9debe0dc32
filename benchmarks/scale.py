"""What an engine costs, and how near a whole analysis comes to its slowest stage alone.

    python benchmarks/scale.py --images ../shared/data/imagenette-128/val      about 9 minutes on 2 cores

Every arm runs in a fresh process and arms take turns. Two loads: the model is the bottleneck (ViT-S/16, 224 px, random
weights, keypoints from a warm cache), or detection is (one block on 64 patches of 512 px, no cache). A pipeline's speed
is that of its later three quarters, so that what starts once (processes, a cluster, loading) is told apart from what
goes on: `start_seconds` is all before the first batch is done. Pipelines run as from the command line, which keeps idle
threads from spinning (GOMP_SPINCOUNT); one as from Python, where that is left to the user. Stages alone: the model with
the reading of its attention, on images made ready before; decoding and detection, one process per core, all at once.
"""

import argparse
import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

import machine
import siftlens
from siftlens.data import NORMALIZATIONS, Preprocessing, open_images
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.forward import model_layout
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.parts import ChunkReader
from siftlens.interrelation.reference import z_map
from siftlens.interrelation.settings import Settings
from siftlens.keypoints import KeypointCache, become_worker
from siftlens.models import LoadedModel, hash_weights
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, prepare_images

MODELS = {"model": "timm/vit_small_patch16_224", "detection": "one block of 48 channels, 512 px, patches of 64 px"}
BATCH = 32
CORES = os.cpu_count() or 1
SUMS = 5  # times that sums are timed
SLOWEST = "slowest stage alone"
FROM_PYTHON = "local, from Python"
Rows = Mapping[str, list[dict[str, float]]]
SPINS = {"GOMP_SPINCOUNT": "10000"}  # as the command line sets it
RAY = {"ray, 1 worker": ("ray", 1, CORES), "ray, 2 workers": ("ray", 2, CORES)}
# (engine, workers, threads of this process): locally workers detect, on Ray they run the model
PIPELINES = {
    "model": {"local": ("local", CORES, CORES)} | RAY,
    "detection": {
        "local": ("local", CORES, CORES),
        "local, 1 worker": ("local", 1, CORES),
        FROM_PYTHON: ("local", CORES, CORES),
    }
    | RAY,
}


def load(bottleneck: str) -> LoadedModel:
    if bottleneck == "model":
        return siftlens.load_model(MODELS[bottleneck], random_init=True)
    torch.manual_seed(0)
    vit = VisionTransformer(img_size=512, patch_size=64, embed_dim=48, depth=1, num_heads=2, num_classes=10).eval()
    mean_and_std = NORMALIZATIONS["imagenet"]
    return LoadedModel(vit, "tiny", MODELS[bottleneck], Preprocessing(512, 512), mean_and_std, hash_weights(vit))


class PassedError(Exception):
    """All images are done; the pictures of the report are not what is measured."""


def pipeline(bottleneck: str, images: str, limit: int, engine: str, workers: int, threads: int) -> dict[str, float]:
    """A whole analysis."""
    torch.set_num_threads(threads)
    samples: list[tuple[float, int]] = []

    def watch(stage: str, done: int, _: int) -> None:
        if stage == "images":
            samples.append((time.perf_counter(), done))
        if stage == "gallery":
            raise PassedError

    model, begun = load(bottleneck), time.perf_counter()
    with tempfile.TemporaryDirectory() as out, suppress(PassedError):
        siftlens.analyze(
            model,
            images,
            limit=limit,
            batch_size=BATCH,
            engine=engine,
            workers=workers,
            cache=bottleneck == "model",
            out=Path(out) / "study",
            progress=watch,
        )
    seconds = time.perf_counter() - begun
    last_time, last = samples[-1]
    first_time, first = next(sample for sample in samples if sample[1] >= limit / 4)
    started = next(when for when, done in samples if done > 0)
    return {
        "images_per_second": (last - first) / (last_time - first_time),
        "start_seconds": started - begun,
        "seconds": seconds,
    }


def prepared(
    model: LoadedModel, images: str, limit: int, cache: KeypointCache | None = None, workers: int = 0
) -> Iterator[Prepared | Quarantined]:
    settings = PrepareSettings(model.preprocessing, model_layout(model).grid)
    return prepare_images(open_images(images, limit=limit), settings, workers=workers, cache=cache)


def filled(bottleneck: str, images: str, limit: int) -> dict[str, float]:
    """The cache of keypoints, filled."""
    with KeypointCache() as cache:
        done = sum(1 for _ in prepared(load(bottleneck), images, limit, cache, CORES))
    return {"cache_bytes": cache.path.stat().st_size / done}


def reader_of(model: LoadedModel, chunk: list[Prepared]) -> ChunkReader:
    """What runs the model, with these images as the reference pool."""
    members = {image.content: image for image in chunk}
    z = np.stack([z_map(image, "count") for image in members.values()])
    identities = tuple(image.identity for image in members.values())
    return ChunkReader(
        model, model_layout(model), Settings(), Pool(z=z, contents=tuple(members), identities=identities)
    )


def costs(bottleneck: str, images: str, limit: int) -> dict[str, float]:
    """What one image costs in bytes, and the process that adds everything up in seconds."""
    tracemalloc.start()
    source = open_images(images)
    refs = tracemalloc.get_traced_memory()[0] / len(source)
    tracemalloc.stop()
    model = load(bottleneck)
    chunk = [image for image in prepared(model, images, limit) if isinstance(image, Prepared)][:BATCH]
    reader = reader_of(model, chunk)
    part = reader(chunk)
    assert part.record is not None
    pool_weights = image_weights(reader.pool.contents, 0)
    sums, begun = Accumulator.empty(part.record, reader.pool.size), time.perf_counter()
    for _ in range(SUMS):
        sums.add(part.record, image_weights([image["content"] for image in part.images], 0), pool_weights)
        part.record.rows()
    seconds = time.perf_counter() - begun
    return {
        "file_bytes": statistics.mean(ref.source.stat().st_size for ref in source if isinstance(ref.source, Path)),
        "ref_bytes": refs,
        "prepared_bytes": len(pickle.dumps(chunk, protocol=5)) / len(chunk),
        "part_bytes": len(pickle.dumps(part, protocol=5)) / len(chunk),
        "row_bytes": part.record.rows().nbytes / len(chunk),
        "sums_bytes": sum(array.nbytes for array in sums.to_arrays().values()),
        "sums_seconds": seconds / SUMS / len(chunk),
    }


def model_alone(bottleneck: str, images: str, limit: int) -> dict[str, float]:
    """The work of the process that runs the model, and the plain forward pass, on the same images."""
    model = load(bottleneck)
    chunk = [image for image in prepared(model, images, limit) if isinstance(image, Prepared)]
    reader = reader_of(model, chunk)
    x = torch.randn(BATCH, 3, model.preprocessing.height, model.preprocessing.width)
    seconds = {"reading": 0.0, "plain": 0.0}
    batches = [chunk[start : start + BATCH] for start in range(0, len(chunk) - BATCH + 1, BATCH)]
    with torch.no_grad():
        reader(batches[0])
        model.module(x)
        for batch in batches:
            begun = time.perf_counter()
            reader(batch)
            seconds["reading"] += time.perf_counter() - begun
            begun = time.perf_counter()
            model.module(x)
            seconds["plain"] += time.perf_counter() - begun
    done = BATCH * len(batches)
    return {
        "images_per_second": done / seconds["reading"],
        "plain_images_per_second": done / seconds["plain"],
    }


def detection_alone(bottleneck: str, images: str, limit: int) -> dict[str, float]:
    """One process of those that decode and detect, on the images that a pipeline's speed is that of."""
    become_worker()
    ready = prepared(load(bottleneck), images, limit)
    for _ in range(limit // 4):
        next(ready)
    begun = time.perf_counter()
    done = sum(1 for _ in ready)
    return {"images_per_second": done / (time.perf_counter() - begun)}


def start(environment: Mapping[str, str], *arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, __file__, "--one", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | dict(environment))


def told(process: "subprocess.Popen[str]") -> dict[str, float]:
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args} failed")
    values: dict[str, float] = json.loads(said.splitlines()[-1])
    return values


def cores_alone(environment: Mapping[str, str], *arguments: object) -> dict[str, float]:
    """Detection on all cores at once: the sum of the speeds."""
    each = [told(process) for process in [start(environment, *arguments) for _ in range(CORES)]]
    return {"images_per_second": sum(one["images_per_second"] for one in each)}


def measure(images: str, limits: Mapping[str, int], rounds: int) -> None:
    """All arms; the result is written after each, for whoever stops it."""
    result: dict[str, Any] = {"cores": CORES}
    with tempfile.TemporaryDirectory() as cache:
        environment = {"SIFTLENS_CACHE": cache}
        result["per_image"] = told(start(environment, "costs", "model", images, BATCH))
        result["per_image"] |= told(start(environment, "filled", "model", images, limits["model"]))
        for bottleneck, arms in PIPELINES.items():
            limit, rows = limits[bottleneck], defaultdict[str, list[dict[str, float]]](list)
            result[bottleneck] = {"model": MODELS[bottleneck], "images": limit}

            def note(name: str, row: dict[str, float], bottleneck: str = bottleneck, rows: Rows = rows) -> None:
                rows[name].append(row)
                result[bottleneck]["arms"] = summed(rows)
                print(machine.save_result("scale", result), bottleneck, name, row, flush=True)

            for _ in range(rounds):
                detection = cores_alone(environment, "detection_alone", bottleneck, images, limit)
                if bottleneck == "model":
                    note(SLOWEST, told(start(environment, "model_alone", bottleneck, images, min(limit, 4 * BATCH))))
                    note("decoding and detection alone", detection)
                else:
                    note(SLOWEST, detection)
                for name, how in arms.items():
                    spins = {} if name == FROM_PYTHON else SPINS
                    note(name, told(start(environment | spins, "pipeline", bottleneck, images, limit, *how)))


def summed(rows: Rows) -> dict[str, Any]:
    """Medians over rounds, and each arm's speed over that of the slowest stage and of the local engine."""
    speed = {name: statistics.median(row["images_per_second"] for row in each) for name, each in rows.items()}
    return {
        name: {key: round(statistics.median(row[key] for row in each), 2) for key in each[0]}
        | {f"of {other}": round(speed[name] / speed[other], 3) for other in (SLOWEST, "local") if other in speed}
        | {"rounds": [round(row["images_per_second"], 2) for row in each]}
        for name, each in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", help="a folder of images")
    parser.add_argument("--model-images", type=int, default=256, help="where the model is the bottleneck")
    parser.add_argument("--detection-images", type=int, default=1024, help="where detection is")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        arm, bottleneck, images, limit, *rest = options.one
        if arm == "pipeline":
            print(json.dumps(pipeline(bottleneck, images, int(limit), rest[0], int(rest[1]), int(rest[2]))))
        else:
            arms = {"costs": costs, "filled": filled, "model_alone": model_alone, "detection_alone": detection_alone}
            print(json.dumps(arms[arm](bottleneck, images, int(limit))))
        return
    limits = {"model": options.model_images, "detection": options.detection_images}
    measure(options.images, limits, options.rounds)


if __name__ == "__main__":
    main()
