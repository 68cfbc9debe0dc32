"""`siftlens analyze` as a new user runs it: three kinds of models, on photographs and on Imagenette.

    python benchmarks/new_user.py --data ../shared/data

Models of timm and transformers have random weights, since nothing is downloaded: what is shown is that it runs, and how
fast. Of each run: images read and set aside, seconds from command to report, images per second of the analysis alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import ViTConfig, ViTForImageClassification

import machine

TIMM = "timm/vit_tiny_patch16_224"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos and imagenette-128/val")
    data = parser.parse_args().data
    with tempfile.TemporaryDirectory(prefix="siftlens-new-user-") as name:
        folder = Path(name)
        models = {"demo": [], TIMM: ["--random-init"], f"hf/{saved_vit(folder)}": []}
        runs = [
            run(model, more, data, images, folder / f"{place}-{number}")
            for place, images in enumerate(("photos", "imagenette-128/val"))
            for number, (model, more) in enumerate(models.items())
        ]
    print(machine.save_result("new-user", {"runs": runs}))


def saved_vit(folder: Path) -> Path:
    """A small ViT of transformers with random weights, as a user's own model would lie there."""
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768)
    ViTForImageClassification(config).save_pretrained(folder / "vit")
    return folder / "vit"


def run(model: str, more: list[str], data: Path, images: str, out: Path) -> dict[str, Any]:
    """One command, and what it left."""
    siftlens = Path(sys.executable).with_name("siftlens")
    command = [str(siftlens), "analyze", "--model", model, "--images", str(data / images), "--out", str(out), *more]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    found = {
        "model": model if not model.startswith("hf/") else "hf/DIRECTORY (transformers ViT)",
        "images": images,
        "exit": done.returncode,
        "seconds": round(seconds, 1),
    }
    if done.returncode:
        return found | {"error": done.stderr[-500:]}
    facts = json.loads((out / "run.json").read_text())
    found |= {
        "read": facts["images"],
        "set_aside": facts["quarantined"],
        "images_per_second": round(facts["images"] / sum(facts["timings"].values()), 1),
        "page_mb": round((out / "index.html").stat().st_size / 2**20, 1),
    }
    print(found, flush=True)
    return found


if __name__ == "__main__":
    main()
