"""Memory of an analysis over time, on very many tiny images that are drawn when they are asked for and kept nowhere.

    chrt -i 0 nice -n 19 python benchmarks/memory.py --minutes 50

One process, a tiny vision transformer, 32 px. Resident memory is sampled once a second against the images done, until
all are done or the time is over; the curve is drawn into docs/images/memory.svg.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from timm.models.vision_transformer import VisionTransformer

import figures
import machine
from siftlens.data import NORMALIZATIONS, ImageRef, Preprocessing
from siftlens.data.sources import Item
from siftlens.interrelation.run import run
from siftlens.interrelation.settings import Settings
from siftlens.models import LoadedModel, hash_weights

SIDE, PATCH, SEED = 32, 8, 0
EVERY = 1.0  # s between samples
SAVED = 60.0  # s between results


class Drawn:
    """Images by index: discs of colours and sizes that belong to the index, on noise that they share."""

    def __init__(self) -> None:
        self._noise = np.random.default_rng(SEED).integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
        self._y, self._x = np.mgrid[:SIDE, :SIDE]

    def __getitem__(self, index: int) -> np.ndarray:
        random = np.random.default_rng((SEED, index))
        picture = self._noise.copy()
        for y, x, radius, *colour in random.integers((0, 0, 2, 60, 60, 60), (SIDE, SIDE, 7, 255, 255, 255), (5, 6)):
            picture[(self._y - y) ** 2 + (self._x - x) ** 2 < radius**2] = colour
        return picture


@dataclass
class Source:
    """So many of them, each named by its index."""

    images: int
    drawn: Drawn = field(default_factory=Drawn)

    def __len__(self) -> int:
        return self.images

    def __iter__(self) -> Iterator[ImageRef]:
        return (ImageRef(f"{index:09}", "", Item(self.drawn, index)) for index in range(self.images))


class EnoughError(Exception):
    """The time is over."""


@dataclass
class Watch:
    """Samples memory while an analysis goes on."""

    minutes: float
    begun: float = field(default_factory=time.monotonic)
    samples: list[tuple[float, int, float]] = field(default_factory=list)  # s, images, MB
    saved: float = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """What the analysis calls as it goes on."""
        now = time.monotonic() - self.begun
        if stage != "images" or (self.samples and now - self.samples[-1][0] < EVERY):
            return
        self.samples.append((round(now, 1), done, round(machine.memory_mb("VmRSS"), 1)))
        if now - self.saved > SAVED:
            self.saved = now
            save(self, total)
        if now > 60 * self.minutes:
            raise EnoughError


def model() -> LoadedModel:
    torch.manual_seed(SEED)
    vit = VisionTransformer(img_size=SIDE, patch_size=PATCH, embed_dim=24, depth=2, num_heads=3, num_classes=11).eval()
    return LoadedModel(vit, "tiny", "tiny", Preprocessing(SIDE, SIDE), NORMALIZATIONS["imagenet"], hash_weights(vit))


def save(watch: Watch, total: int) -> dict[str, Any]:
    """Write what there is so far: at most 400 samples, evenly spread."""
    _, images, memory = (np.array(column) for column in zip(*watch.samples, strict=True))
    settled = images >= images[-1] / 10
    slope = np.polyfit(images[settled] / 1e6, memory[settled], 1)[0] if settled.sum() > 2 else float("nan")
    result = {
        "images_asked": total,
        "images": int(images[-1]),
        "seconds": watch.samples[-1][0],
        "first_tenth_mb": float(np.median(memory[~settled])) if (~settled).any() else None,
        "last_tenth_mb": float(np.median(memory[images >= 0.9 * images[-1]])),
        "peak_mb": float(memory.max()),
        "slope_mb_per_million": round(float(slope), 2),
        "samples": watch.samples[:: max(1, len(watch.samples) // 400)],
    }
    machine.save_result("memory", result)
    return result


def draw(result: dict[str, Any]) -> None:
    _, images, memory = zip(*result["samples"], strict=True)
    figure, axes = plt.subplots(figsize=(6.4, 3))
    axes.plot(np.array(images) / 1e3, memory, linewidth=1)
    axes.set(xlabel="images done, thousands", ylabel="resident memory, MB", ylim=(0, None))
    figure.savefig(figures.IMAGES / "memory.svg", bbox_inches="tight", metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    watch = Watch(options.minutes)
    with tempfile.TemporaryDirectory() as folder:
        try:
            settings = Settings(batch_size=256, workers=0, seed=SEED)
            run(model(), Source(options.images), settings, Path(folder) / "study", progress=watch)
        except EnoughError:
            pass
    result = save(watch, options.images)
    draw(result)
    print({name: value for name, value in result.items() if name != "samples"})


if __name__ == "__main__":
    main()
