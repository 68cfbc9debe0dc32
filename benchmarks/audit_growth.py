"""What an audit of real photographs costs, from an eighth of them to all: passes for each image, time, memory.

    python benchmarks/audit_growth.py --images ../shared/data/imagenette-128/val      about 20 minutes on 2 cores

The demo model, each audit in a fresh process. Time is that of all cores together, which other work changes little. Of
the last one, of all images, the cues are kept: shortcuts that nobody planted, which docs/audit-study.md speaks of.
Writes benchmarks/results/audit-imagenette-val.json and the tables there.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import siftlens
from figures import fill, source
from siftlens.auditing.tables import RELIED_ON
from siftlens.data import open_images

PAGE = Path(__file__).parent.parent / "docs" / "audit-study.md"
DIGITS = 4  # of the cues' figures
LARGEST = 10  # cues shown
CLEAR = 0.05  # p below which errors go with a cue


def audited(images: str, count: int) -> dict[str, Any]:
    """One audit: its cost, model loading apart, and its cues."""
    model = siftlens.load_model("demo")
    machine.reset_peak_memory()
    before, start = machine.memory_mb("VmRSS"), time.process_time()
    audit = siftlens.audit(model, images, limit=count)
    return {
        "images": audit.info["images"],
        "core_seconds": round(time.process_time() - start, 1),
        "passes_per_image": audit.info["passes_per_image"],
        "cues_tested": audit.info["cues_tested"],
        "peak_memory_mb": round(machine.memory_mb("VmHWM") - before, 1),
        "cues": json.loads(audit.cues.round(DIGITS).to_json(orient="records")),
    }


def in_fresh_process(images: str, count: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--images", images, "--one", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def growth_table(rows: Sequence[dict[str, Any]]) -> str:
    """Cost against the number of images, as Markdown."""
    told = (
        "| images | cues tested | forward passes an image | core-seconds | core-seconds an image | peak memory, MB |\n"
    )
    told += "|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        told += (
            f"\n| {row['images']} | {row['cues_tested']} | {row['passes_per_image']:.1f} | {row['core_seconds']:.0f} "
        )
        told += f"| {row['core_seconds'] / row['images']:.2f} | {row['peak_memory_mb']:.0f} |"
    return told


def largest_table(cues: Sequence[dict[str, Any]]) -> str:
    """The cues on which most hangs, as Markdown."""
    relied = [cue for cue in cues if cue["verdict"] in RELIED_ON]
    told = (
        "| cue | dependence, share of the median lead | cost of removal, of a swap, log-odds | median lead, log-odds "
    )
    told += "| share of the patches | other classes taken for it, with the cue and without "
    told += "| its own missed, with and without |\n|---|---:|---:|---:|---:|---:|---:|"
    for cue in sorted(relied, key=lambda cue: -cue["dependence"])[:LARGEST]:
        chance = "" if cue["p_harm"] < CLEAR else f" (p {cue['p_harm']:.2g})"
        told += f"\n| {cue['cue']} | {cue['dependence']:.0%} | {cue['removal']:.2f}, {cue['swap']:.2f} "
        told += f"| {cue['median_margin']:.2f} | {cue['area']:.0%} "
        told += f"| {cue['false_present']:.1%}, {cue['false_absent']:.1%}{chance} "
        told += f"| {cue['missed_present']:.0%}, {cue['missed_absent']:.0%} |"
    return told.replace("%", " %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder of images, in a folder per class")
    parser.add_argument("--one", type=int, metavar="COUNT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(audited(options.images, options.one)))
        return
    total = len(open_images(options.images))
    rows: list[dict[str, Any]] = []
    for part in (8, 4, 2, 1):
        rows.append(in_fresh_process(options.images, total // part))
        print({name: value for name, value in rows[-1].items() if name != "cues"}, flush=True)
    cues = [row.pop("cues") for row in rows][-1]
    path = machine.save_result("audit-imagenette-val", {"model": "demo", "growth": rows, "cues": cues})
    where = source(json.loads(path.read_text()))
    fill(PAGE, {"audit-growth": f"{growth_table(rows)}\n\n{where}", "audit-largest": largest_table(cues)})
    print(path)


if __name__ == "__main__":
    main()
