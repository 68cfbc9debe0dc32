"""How far the numbers of one seed move when only the way of computing them changes.

    python benchmarks/determinism.py --images ../shared/data/imagenette-128/val

The same images through the same model with other batches, threads and workers, against one run with batches of 8, one
thread and no worker. Writes benchmarks/results/determinism.json.
"""

import argparse
import json

import numpy as np
import pandas as pd
import torch

import machine
import siftlens
from siftlens.models import LoadedModel

NUMBERS = ["value", "null_mean", "effect", "se", "low", "high", "mirror_effect"]
CHANGES = {
    "the same again": {},
    "one worker": {"workers": 1},
    "two threads": {"threads": 2},
    "batches of 1": {"batch_size": 1},
    "batches of 3": {"batch_size": 3},
    "batches of 24": {"batch_size": 24},
}
MODELS = {
    "demo, float32": ("demo", {}),
    "ViT-S/16 at 224 px, float32": ("timm/vit_small_patch16_224", {"random_init": True}),
    "ViT-S/16 at 224 px, bfloat16": ("timm/vit_small_patch16_224", {"random_init": True, "dtype": "bf16"}),
}


def heads(model: LoadedModel, images: str, threads: int = 1, **options: int) -> pd.DataFrame:
    torch.set_num_threads(threads)
    settings = {"batch_size": 8, "workers": 0} | options
    return siftlens.analyze(model, images, limit=24, seed=0, cache=False, **settings).heads


def apart(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """Largest difference of any number of any head, over one plus its size."""
    first, second = (table[NUMBERS].to_numpy(float) for table in (one, other))
    return float(np.nanmax(np.abs(first - second) / (1 + np.abs(first))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    options = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name, (spec, loading) in MODELS.items():
        model = siftlens.load_model(spec, **loading)
        usual = heads(model, options.images)
        found[name] = {what: apart(usual, heads(model, options.images, **change)) for what, change in CHANGES.items()}
        print(name, json.dumps(found[name]), flush=True)
    print(machine.save_result("determinism", {"images": 24, "largest_difference": found}))


if __name__ == "__main__":
    main()
