"""Is a tint told from a scene by where in the images a property differs? On images alone, no model runs.

    python benchmarks/audit_properties.py --data ../shared/data      about two minutes

Planted tints and blurs differ everywhere. Scenes behind the object do not, whichever they are: forest and sea, and
every two classes of imagenette-128 as backgrounds. Prints and writes how often `everywhere` says so, of the properties
that go with the class by half a standard deviation or more (a weaker one explains little), and where it is wrong.
"""

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import machine
from siftlens.auditing.properties import CHANGEABLE, everywhere, properties_of, spread_of
from siftlens.data import DrawnMaterial, FolderMaterial, Planted

IMAGES, SIZE = 300, 64
SEEDS = range(20, 25)  # the rule was chosen on images of seeds 0 to 9
LEAST = 0.5  # standard deviations
PLANTED = {"tint": {"yellowness", "redness"}, "blur": {"sharpness"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with cutouts, scenes and imagenette-128")
    data = parser.parse_args().data
    result: dict[str, Any] = {}
    for name, whole, planted in cases(data):
        row = result.setdefault(name, {"everywhere": whole, "right": 0, "of": 0, "wrong": []})
        found = judged(planted)
        right = bool(set(found) & PLANTED[planted.cue]) if whole else not found
        row["of"] += 1
        row["right"] += right
        if not right:
            row["wrong"].append([*getattr(planted.material, "scenes", ()), planted.correlation, planted.seed, *found])
    for name, row in result.items():
        print(f"{name}: {row['right']} of {row['of']}", *row["wrong"], sep="\n    ")
    print(machine.save_result("audit-properties", {"images": IMAGES, "kinds": result}))


def cases(data: Path) -> Iterator[tuple[str, bool, Planted]]:
    """What is planted, and whether it is everywhere."""
    cutouts, photographs = data / "cutouts", data / "imagenette-128" / "val"
    real = FolderMaterial(cutouts, data / "scenes")
    for seed, correlation in itertools.product(SEEDS, (0.9, 1.0)):
        for kind, material in (("drawn", DrawnMaterial()), ("real", real)):
            for cue in ("tint", "blur", "scene"):
                yield f"{kind}, {cue}", cue != "scene", Planted(material, cue, correlation, size=SIZE, seed=seed)
    for pair in itertools.combinations(sorted(folder.name for folder in photographs.iterdir()), 2):
        material = FolderMaterial(cutouts, photographs, kinds=(pair[0], pair[1]))
        yield "real, two classes of imagenette", False, Planted(material, "scene", 0.95, size=SIZE, seed=SEEDS[0])


def judged(planted: Planted) -> list[str]:
    """Properties that differ everywhere, of those that go with the class."""
    images = planted.split("heldout", IMAGES)[:]
    mine = np.array([image.label == 1 for image in images])
    properties = np.stack([properties_of(image.pixels, (SIZE, SIZE)) for image in images])
    spreads = np.stack([spread_of(image.pixels) for image in images])
    values = properties[:, : len(CHANGEABLE)]
    apart = np.abs(np.median(values[mine], axis=0) - np.median(values[~mine], axis=0)) / values.std(axis=0)
    whole = everywhere(properties, spreads, mine) & (apart >= LEAST)
    return [CHANGEABLE[place] for place in np.flatnonzero(whole)]


if __name__ == "__main__":
    main()
