"""Throughput of a whole analysis against its parts, and its time and memory against the number of images.

    python benchmarks/pipeline.py --images ../shared/data/imagenette-128/val      about 15 minutes on 2 cores

Every analysis runs in a fresh process. Throughput: a ViT-S/16 at 224 px with random weights, cold (keypoints detected
beside the model) and warm (keypoints from the cache), against the plain forward pass alone and detection alone.
Growth: the demo model, from an eighth of the images to all of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import machine
import siftlens
from siftlens.data import decode, open_images
from siftlens.keypoints import become_worker

MODEL = "timm/vit_small_patch16_224"
BATCH = 32


def analyse(spec: str, images: str, limit: int) -> dict[str, float]:
    """Seconds and peak memory of one analysis, model loading apart."""
    model = siftlens.load_model(spec, random_init=spec != "demo")
    machine.reset_peak_memory()
    before = machine.memory_mb("VmRSS")
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as out:
        study = siftlens.analyze(model, images, limit=limit, batch_size=BATCH, out=Path(out) / "study")
    seconds = time.perf_counter() - start
    return {
        "images": study.run.images,
        "seconds": round(seconds, 2),
        "peak_memory_mb": round(machine.memory_mb("VmHWM") - before, 1),
    }


def in_fresh_process(spec: str, images: str, limit: int, cache: str) -> dict[str, Any]:
    """One analysis, with keypoints cached in the folder `cache`."""
    command = [sys.executable, __file__, "--images", images, "--one", spec, str(limit)]
    environment = os.environ | {"SIFTLENS_CACHE": cache}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def plain_seconds(limit: int) -> float:
    """The model alone, on random pixels."""
    model, batch = siftlens.load_model(MODEL, random_init=True).module, torch.randn(BATCH, 3, 224, 224)
    with torch.no_grad():
        model(batch)
        start = time.perf_counter()
        for _ in range(limit // BATCH):
            model(batch)
    return (time.perf_counter() - start) / (limit // BATCH * BATCH) * limit


def detection_seconds(images: str, limit: int) -> float:
    """Decoding, resizing and SIFT alone, in one process on one core."""
    preprocessing = siftlens.load_model(MODEL, random_init=True).preprocessing
    become_worker()
    start = time.perf_counter()
    for ref in open_images(images, limit=limit):
        siftlens.detect(decode(ref, preprocessing))
    return time.perf_counter() - start


def sift_milliseconds(images: str, size: int) -> float:
    """SIFT alone, ms per image: the median over 64 images, on one core."""
    preprocessing = siftlens.load_model(MODEL, random_init=True, size=size).preprocessing
    become_worker()
    times = []
    for pixels in [decode(ref, preprocessing) for ref in open_images(images, limit=64)]:
        start = time.perf_counter()
        siftlens.detect(pixels)
        times.append(time.perf_counter() - start)
    return round(float(np.median(times)) * 1e3, 2)


def measure(images: str, limit: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as cache:
        seconds = {
            "plain forward pass alone": plain_seconds(limit),
            "decoding and detection alone, one core": detection_seconds(images, limit),
            "analysis, keypoints detected": in_fresh_process(MODEL, images, limit, cache)["seconds"],
            "analysis, keypoints from the cache": in_fresh_process(MODEL, images, limit, cache)["seconds"],
        }
        growth = [in_fresh_process("demo", images, count, cache) for count in growth_steps(images)]
    plain = seconds["plain forward pass alone"]
    return {
        "model": MODEL,
        "images": limit,
        "throughput": {
            name: {"images_per_second": round(limit / value, 2), "ratio": round(value / plain, 3)}
            for name, value in seconds.items()
        },
        "sift_ms": {str(size): sift_milliseconds(images, size) for size in (224, 512)},
        "growth": growth,
    }


def growth_steps(images: str) -> list[int]:
    total = len(open_images(images))
    return [total // 8, total // 4, total // 2, total]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder of images")
    parser.add_argument("--limit", type=int, default=512, help="images for the throughput")
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "LIMIT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(analyse(options.one[0], options.images, int(options.one[1]))))
        return
    result = measure(options.images, options.limit)
    print(json.dumps(result, indent=1))
    print(machine.save_result("pipeline", result))


if __name__ == "__main__":
    main()
