"""What a step of pre-training costs, part by part, and against other libraries' masked autoencoders.

    python benchmarks/pretraining_speed.py --data ../shared/data/imagenette-128/train      on a quiet machine

One process; what is compared takes turns, figures are medians over rounds. Writes
benchmarks/results/pretraining-speed.json; `pretraining_speed_tables.py` puts it into docs/pretraining.md. Parts:

- study: seconds per step of every arm, batch included, and what a run pays once: decoding, detection.
- larger, wide-decoder: the same at these scales.
- guidance: mapping, binning, noise and the choice of decoded patches, beside the guided arms' steps, with one thread
  and with two.
- partial: the time that partial decoding saves over the time that its FLOPs predict, with the lean decoder and MAE's.
- libraries: images/s with random masks, same sizes, batch, dtype and pixels.
- feed: views per second that are cut ahead for an accelerator, with one thread and with two.
"""

import argparse
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Any

import torch

import machine
from pretraining_arms import ARMS, BASE, GUIDED, MAES, SCALES, SHARE, flops_per_step, phases, settings_of, some_images
from pretraining_rivals import LIBRARIES, siftlens_step
from siftlens.core import PatchGrid
from siftlens.keypoints import KeypointStore
from siftlens.patchmaps import Shrinking
from siftlens.pretraining import DecoderSettings, MaskPolicy, PartialDecoding, PretrainSettings, detect_images
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.build import build
from siftlens.pretraining.choice import split
from siftlens.pretraining.feed import feed
from siftlens.pretraining.images import HeldImages, hold
from siftlens.pretraining.launch import launch
from siftlens.pretraining.learner import Learner
from siftlens.pretraining.pretrain import guide_of
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.views import draw_boxes

PARTS = ("study", "larger", "wide-decoder", "guidance", "partial", "libraries", "feed")
PRECISION = "bf16"
SMALL = replace(BASE, model="vit_small_patch16_224", architecture={}, size=224, source=224, batch_size=8)
CASES = {
    "the study's encoder, decoder 64x2": BASE,
    "the study's encoder, decoder 512x8": replace(BASE, decoder=MAES),
    "ViT-S/16 at 224 px, decoder 192x4": replace(SMALL, decoder=DecoderSettings(192, 4, 3)),
    "ViT-S/16 at 224 px, decoder 512x8": replace(SMALL, decoder=MAES),
}
STEERED = ("keypoint-high", "keypoint-partial", "muon-keypoint-high", "muon-keypoint-partial")
COMPARED = (("fp32", "the study's encoder, decoder 64x2"), *(("bf16", case) for case in CASES))


class Material:
    """Images in memory, their keypoints, and what either cost.

    Args:
        data: folder of images.
        work: for files that are not kept.
        limit: images.
    """

    def __init__(self, data: Path, work: Path, limit: int):
        self.listed = some_images(data, limit, work / "images.txt")
        self.decode = partial(hold, self.listed, Shrinking(BASE.side, BASE.side), spill=work / "squares.npy")
        self.held: HeldImages = self.decode()
        self.store: KeypointStore = detect_images(self.listed, work / "keypoints", side=BASE.side)[0]
        self.work = work

    def batches(self, settings: PretrainSettings) -> Batches:
        """Batches of these images."""
        grid = build(settings)[0].layout.grid
        return Batches(self.held, guide_of(settings, self.store, self.held), grid, settings)

    def detect(self) -> None:
        """Decode and detect anew, in this process."""
        detect_images(self.listed, self.work / "again", side=BASE.side)
        (self.work / "again").unlink()


def steps_of_arms(material: Material, scale: str, arms: Sequence[str], rounds: int) -> dict[str, Any]:
    """Seconds of a step of arms of the study, its batch included: the mean over the training."""
    whole = {arm: phases(settings_of(arm, scale)) for arm in arms}
    steps = {f"{arm} {each.size}": next_step(material, each) for arm, parts in whole.items() for _, each in parts}
    found = machine.take_turns(steps, rounds)
    return {
        arm: {"seconds": sum(share * median(found[f"{arm} {each.size}"]) for share, each in parts)}
        for arm, parts in whole.items()
    }


def next_step(material: Material, settings: PretrainSettings) -> Callable[[], Any]:
    """What does the next step of a training whenever it is called."""
    model, normalization = build(settings)
    batches = material.batches(settings)
    learner = Learner(launch("cpu", PRECISION), model, normalization, settings, batches.steps)
    numbers = cycle(range(batches.steps))

    def step() -> None:
        number = next(numbers)
        learner.step(number, [batches.part(number, 0, 1)])

    return step


def guidance(material: Material, threads: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of a batch's guidance and of a step."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    settings = settings_of("keypoint-partial")
    grid = build(settings)[0].layout.grid
    guide = guide_of(settings, material.store, material.held)
    assert guide is not None
    images = torch.arange(settings.batch_size)
    keys = image_keys(0, 0, images)
    boxes = draw_boxes(keys, settings.side, settings.smallest_crop)
    count = partial(guide, images, keys, boxes, torch.empty(0), grid)
    counts = count()
    noise = partial(GUIDED.noise, counts, progress=0.5, keys=keys)
    masked = split(noise(), GUIDED.visible(grid.patches))[1]
    parts = {
        "mapping and binning": count,
        "noise": noise,
        "choice of decoded patches": partial(settings.decoding.choose, masked, counts, keys),
    }
    steps = {f"step, {arm}": next_step(material, settings_of(arm)) for arm in STEERED}
    found = {name: 1e3 * median(times) for name, times in machine.take_turns(parts | steps, 5 * rounds).items()}
    torch.set_num_threads(before)
    return {"milliseconds": {name: round(time, 3) for name, time in found.items()}}


def partial_decoding(rounds: int) -> dict[str, Any]:
    """Time that decoding a half and a third saves, over what the FLOPs predict."""
    result = {}
    for name, whole in CASES.items():
        shares = {share: replace(whole, decoding=PartialDecoding(share, 0.0)) for share in (1.0, 1 / 2, SHARE)}
        views = pixels(whole)
        times = machine.take_turns(
            {f"{share:.2f}": siftlens_step(settings, PRECISION, views) for share, settings in shares.items()}, rounds
        )
        ratios = machine.ratios(times, "1.00")
        flops = {f"{share:.2f}": flops_per_step(settings) for share, settings in shares.items()}
        result[name] = {
            share: row
            | {"flops": round(flops[share] / flops["1.00"], 4)}
            | ({} if share == "1.00" else {"reached": reached(row["ratio"], flops[share] / flops["1.00"])})
            for share, row in ratios.items()
        }
    return result


def reached(time: float, flops: float) -> float:
    """Saved time over the saving that FLOPs predict."""
    return round((1 - time) / (1 - flops), 3)


def libraries(rounds: int) -> list[dict[str, Any]]:
    """Images per second of one library beside the other."""
    result = []
    for precision, name in COMPARED:
        settings = CASES[name]
        views = pixels(settings)
        steps = {library: made(settings, precision, views) for library, made in LIBRARIES.items()}
        found = machine.ratios(machine.take_turns(steps, rounds), "siftlens")
        rows = {
            library: {"images_per_second": round(settings.batch_size / row["seconds"], 2), **row}
            for library, row in found.items()
        }
        result.append({"case": name, "precision": precision, "batch": settings.batch_size, "libraries": rows})
    return result


def pixels(settings: PretrainSettings) -> torch.Tensor:
    shape = (settings.batch_size, 3, settings.size, settings.size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def feeding(rounds: int) -> dict[str, Any]:
    """Views of 224 px cut from squares of 256 px in memory, per second, with nothing else to do."""
    settings = replace(SMALL, source=256, batch_size=64, epochs=1, policy=MaskPolicy("random"))
    noise = torch.randint(0, 256, (1024, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    names = tuple(map(str, range(len(noise))))
    held = HeldImages(names, names, names, noise.permute(0, 3, 1, 2))

    def epoch(threads: int) -> None:
        batches = Batches(held, None, PatchGrid(14, 14, 16, 16), settings)
        deque(feed(batches, 0, rank=0, world=1, accumulate=1, ahead=threads), maxlen=0)

    found = machine.take_turns({str(threads): partial(epoch, threads) for threads in (1, 2)}, rounds)
    return {
        "views_per_second": {threads: round(len(noise) / median(times)) for threads, times in found.items()},
        "ratios": machine.ratios(found, "1"),
    }


def once(material: Material) -> dict[str, float]:
    """Milliseconds per image of what a run does once, and of a view from memory: medians of three."""
    batches = material.batches(settings_of("random"))
    every = torch.arange(BASE.batch_size)
    arms = {"decoding": material.decode, "decoding and detection": material.detect}
    found = {name: 1e3 * median(times) / len(material.held) for name, times in machine.take_turns(arms, 3).items()}
    views = machine.take_turns({"view": lambda: batches.views(every, 0, progress=0.0)}, 20)["view"]
    return {name: round(value, 4) for name, value in (found | {"view": 1e3 * median(views) / len(every)}).items()}


def study(material: Material, data: Path, scale: str, arms: Sequence[str], rounds: int) -> dict[str, Any]:
    """What a run of the study takes: its steps, and what it pays once."""
    each = once(material)
    total = len(list(data.rglob("*.jpg")))
    return {
        "arms": steps_of_arms(material, scale, arms, 3 * rounds),
        "steps_per_epoch": total // BASE.batch_size,
        "decoding_seconds": round(each["decoding"] * total / 1e3, 2),
        "detection_seconds": round(each["decoding and detection"] * total / 1e3, 2),
        "milliseconds_per_image": each,
        "turns": 3 * rounds,
    }


def measure(part: str, data: Path, images: int, arms: Sequence[str], rounds: int) -> dict[str, Any]:
    """One part."""
    if part == "partial":
        return {"cases": partial_decoding(rounds)}
    if part == "libraries":
        return {"rows": libraries(rounds)}
    if part == "feed":
        return feeding(rounds)
    with tempfile.TemporaryDirectory() as work:
        material = Material(data, Path(work), images)
        scale = "small" if part == "study" else part
        if scale in SCALES:
            return study(material, data, scale, arms, rounds)
        return {"threads": {str(threads): guidance(material, threads, rounds) for threads in (1, 2)}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder of images")
    parser.add_argument("--images", type=int, default=640)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--parts", nargs="+", choices=PARTS, default=PARTS, help="the others stay as they were measured"
    )
    parser.add_argument(
        "--arms", nargs="+", choices=ARMS, default=tuple(ARMS), help="whose steps are timed; of the scales' parts"
    )
    given = parser.parse_args()
    for part in given.parts:
        about = {"rounds": given.rounds, "command": machine.command(), "date": datetime.now(UTC).date().isoformat()}
        about |= {"machine": machine.describe_machine()}
        found = {part: about | measure(part, given.data, given.images, given.arms, given.rounds)}
        print(
            machine.save_result("pretraining-speed", machine.load_result("pretraining-speed") | found), part, flush=True
        )


if __name__ == "__main__":
    main()
