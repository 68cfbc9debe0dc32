"""Does a tuned prompt leave a model alone on clean data? The demo model on Imagenette, where nothing was planted.

Usage: python benchmarks/prompt_clean.py VAL [--limit 1500]

VAL is a folder of images in a folder per class, on which the demo model was not trained. Every third image, spread
evenly, is audited, tuned on, and tested. Writes benchmarks/results/prompting-clean.json.
"""

import argparse
from pathlib import Path

from PIL import Image

import siftlens
from machine import save_result
from siftlens.data import open_images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, metavar="VAL")
    parser.add_argument("--limit", type=int, default=1500)
    options = parser.parse_args()
    paths = [options.images / ref.identity for ref in open_images(options.images, limit=options.limit)]
    (audited, audited_as), (validated, validated_as), (tested, tested_as) = (opened(paths[i::3]) for i in range(3))
    model = siftlens.load_model("demo")
    audit = siftlens.audit(model, audited, audited_as)
    policy = siftlens.tune_prompt(model, audit, validated, validated_as)
    table = siftlens.try_prompt(model, policy, tested, audit=audit).table
    right = [float((table[name] == tested_as).mean()) for name in ("before", "after")]
    print(f"{policy.to_json()}\naccuracy {right[0]:.3f} before, {right[1]:.3f} after")
    result = {
        "images": {"audited": len(audited), "validated": len(validated), "tested": len(tested)},
        "verdicts": audit.cues["verdict"].value_counts().to_dict(),
        "abstained": policy.does_nothing,
        "policy": policy.to_json(),
        "accuracy": {"before": round(right[0], 4), "after": round(right[1], 4)},
        "changed": int(table["changed"].sum()),
    }
    print(save_result("prompting-clean", result))


def opened(paths: list[Path]) -> tuple[list[Image.Image], list[str]]:
    """Images and their classes."""
    return [Image.open(path).convert("RGB") for path in paths], [path.parent.name for path in paths]


if __name__ == "__main__":
    main()
