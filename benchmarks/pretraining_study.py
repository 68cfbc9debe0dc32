"""Does guidance by keypoints speed pre-training up? Resumable: a run whose result is there is not run again.

    python benchmarks/pretraining_study.py tune --data ../shared/data/imagenette-128 --work /tmp/study
    python benchmarks/pretraining_study.py run --data ../shared/data/imagenette-128 --work /tmp/study
    python benchmarks/pretraining_study.py time --data ../shared/data/imagenette-128 --work /tmp/study
    python benchmarks/pretraining_study.py finetune --data ../shared/data/imagenette-128 --work /tmp/study
    python benchmarks/pretraining_study.py summary

`run`: every arm, with its own full schedule at E / 2 and E epochs, under every seed, then a linear probe and k-NN on
the validation images; one JSON each in benchmarks/results/pretraining. One seed is finished before the next begins, so
that a study that is stopped early has whole seeds. `time`: seconds per step, arms taking turns. `finetune`: of the
encoders that `run` left in WORK at E epochs. `summary`: differences and speed-ups, paired by seed, from what is there.
`tune`: the learning rate, on the random arm alone, at E / 4 epochs and a seed that the study does not use.

Choices are made on the first half of the validation images (by content), figures are from the second.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

import machine
from siftlens.data import Preprocessing
from siftlens.keypoints import KeypointStore
from siftlens.models import LoadedModel, hash_weights
from siftlens.patchmaps import Shrinking
from siftlens.pretraining import (
    DecoderSettings,
    MaskPolicy,
    PartialDecoding,
    PretrainSettings,
    ProbeResult,
    detect_images,
    hold_labelled,
    pretrain,
    probe,
)
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.build import build
from siftlens.pretraining.images import hold
from siftlens.pretraining.launch import launch
from siftlens.pretraining.loop import Pace, Run
from siftlens.pretraining.pretrain import guide_of

RESULTS = machine.RESULTS / "pretraining"
SEEDS, EPOCHS = 6, 40
RATES, TUNING_SEED = (5e-4, 1e-3, 2e-3, 4e-3), 1000
BASE = PretrainSettings(
    model="vit_tiny_patch16_224",
    architecture={"embed_dim": 128, "depth": 6, "num_heads": 4},  # 1.3 M parameters, patches of 16 px
    size=128,
    epochs=EPOCHS,
    batch_size=128,
    learning_rate=1e-3,
    decoder=DecoderSettings(64, 2, 2),  # lean: half as wide, a third as deep
)
GUIDED = MaskPolicy("keypoint-high")
SHARE = 1 / 3  # of the masked patches, where decoding is partial
ARMS: dict[str, dict[str, Any]] = {
    "random": {},
    "keypoint-high": {"policy": GUIDED},
    "other-image": {"policy": GUIDED, "guide": "other"},
    "gradient": {"policy": GUIDED, "guide": "gradient"},
    "random-partial": {"decoding": PartialDecoding(SHARE, 0.0)},
    "keypoint-partial": {"policy": GUIDED, "decoding": PartialDecoding(SHARE, 0.5)},
}


@dataclass(frozen=True)
class Study:
    """Where things are, and how large the study is."""

    data: Path
    work: Path
    epochs: int
    seeds: int
    arms: tuple[str, ...]
    limit: int | None

    def runs(self) -> Iterator[tuple[int, int, str]]:
        """Seed, epochs and arm of every run."""
        return product(range(self.seeds), (self.epochs // 2, self.epochs), self.arms)

    def settings(self, arm: str, epochs: int, seed: int) -> PretrainSettings:
        """What a run computes."""
        return replace(BASE, epochs=epochs, seed=seed, **ARMS[arm])

    def keypoints(self) -> tuple[Path, float]:
        """The file of keypoints, made where it is missing, and the seconds that detection took."""
        file, timed = self.work / "keypoints", self.work / "keypoints.seconds"
        if not timed.exists():
            file.unlink(missing_ok=True)
            start = time.perf_counter()
            detect_images(self.images("train"), file, side=BASE.side, workers=2)
            timed.write_text(f"{time.perf_counter() - start:.1f}")
        return file, float(timed.read_text())

    def images(self, split: str) -> Path | str:
        """The folder of a split; of a trial, a list of a few of its images."""
        folder = self.data / split
        if self.limit is None:
            return folder
        listed = self.work / f"{split}.txt"
        paths = sorted(folder.rglob("*.jpg"))
        chosen = paths[:: max(1, len(paths) // self.limit)][: self.limit]
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.write_text("\n".join(str(path.absolute()) for path in chosen) + "\n")
        return str(listed)

    def encoder(self, arm: str, epochs: int, seed: int) -> Path:
        """Where a run leaves its encoder."""
        return self.work / f"{name_of(arm, epochs, seed)}.safetensors"


def name_of(arm: str, epochs: int, seed: int) -> str:
    return f"{arm}-e{epochs}-s{seed}"


def result_of(name: str) -> Path:
    return RESULTS / f"{name}.json"


def run(study: Study) -> None:
    """Every run that has no result yet."""
    keypoints, detection = study.keypoints()
    images = None
    for seed, epochs, arm in study.runs():
        name = name_of(arm, epochs, seed)
        if result_of(name).exists():
            continue
        images = images or labelled(study)
        settings = study.settings(arm, epochs, seed)
        out = study.work / name
        start = time.perf_counter()
        done = pretrain(
            study.images("train"), out, settings, keypoints=keypoints, pace=Pace(evaluations=1), resume=True,
            device="cpu",
        )  # fmt: skip
        wall = time.perf_counter() - start
        shutil.move(done.encoder, study.encoder(arm, epochs, seed))
        model = loaded(study.encoder(arm, epochs, seed))
        linear, knn = (probe(model, images, method, seed=seed) for method in ("linear", "knn"))
        steps = done.finished.steps
        save(
            name,
            {
                "arm": arm,
                "epochs": epochs,
                "seed": seed,
                "linear": halves(linear),
                "knn": halves(knn),
                "loss": round(done.finished.loss, 5),
                "steps_timed": steps,
                "seconds_per_step": round(done.finished.seconds / steps, 5) if steps else None,
                "wall_seconds": round(wall, 1),
                "detection_seconds": detection if settings.needs_keypoints else 0.0,
                "gflops_per_step": round(flops_per_step(settings) / 1e9, 2),
                "images": done.images,
                "settings": settings.describe(),
            },
        )
        shutil.rmtree(out)
        print(f"{name}: linear {linear.accuracy:.4f}, k-NN {knn.accuracy:.4f}, {wall:.0f} s", flush=True)


def tune(study: Study) -> None:
    """The random arm at several learning rates; the best on the half for choices is for BASE."""
    images = labelled(study)
    found = {}
    for rate in RATES:
        out = study.work / f"rate-{rate}"
        settings = replace(study.settings("random", study.epochs // 4, TUNING_SEED), learning_rate=rate)
        encoder = pretrain(study.images("train"), out, settings, pace=Pace(evaluations=1), resume=True, device="cpu")
        found[str(rate)] = halves(probe(loaded(encoder.encoder), images))["choose"]
        print(f"{rate}: linear {found[str(rate)]}", flush=True)
    save("learning-rate", {"linear, half for choices": found, "epochs": study.epochs // 4, "seed": TUNING_SEED})


def finetune(study: Study) -> None:
    """Fine-tune every encoder of E epochs that is there and has not been."""
    images = labelled(study)
    for seed, arm in product(range(study.seeds), study.arms):
        name = f"finetune-{name_of(arm, study.epochs, seed)}"
        encoder = study.encoder(arm, study.epochs, seed)
        if result_of(name).exists() or not encoder.exists():
            continue
        found = probe(loaded(encoder), images, "finetune", seed=seed)
        save(name, {"arm": arm, "epochs": study.epochs, "seed": seed, "finetune": halves(found)})
        print(f"{name}: {found.accuracy:.4f}", flush=True)


def measure(study: Study, steps: int = 5, rounds: int = 7) -> None:
    """Seconds per step of each arm, and of guidance within it; arms take turns."""
    file, _ = study.keypoints()
    store = KeypointStore.load(file)
    held = hold(study.images("train"), Shrinking(BASE.side, BASE.side), spill=study.work / "images.npy")
    fabric = launch("cpu")
    seconds: dict[str, Callable[[], None]] = {}
    for arm in study.arms:
        settings = study.settings(arm, study.epochs, 0)
        model, normalization = build(settings)
        grid = model.layout.grid
        batches = Batches(held, guide_of(settings, store, held, grid), grid, settings)
        trained = Run(fabric, model, normalization, held, batches, settings, study.work, Pace(), lambda *_: None)

        def prepare(batches: Batches = batches) -> None:
            for step in range(steps):
                batches.part(step, 0, 1)

        def train(trained: Run = trained, batches: Batches = batches) -> None:
            for step in range(steps):
                trained.step(step, [batches.part(step, 0, 1)])

        seconds[arm] = train
        seconds[f"{arm}, batch alone"] = prepare
    found = machine.ratios(machine.take_turns(seconds, rounds), to="random")
    for row in found.values():
        row["seconds"] = round(row["seconds"] / steps, 5)
    flops = {arm: flops_per_step(study.settings(arm, study.epochs, 0)) for arm in study.arms}
    for arm, count in flops.items():
        found[arm]["gflops"] = round(count / 1e9, 2)
    print(json.dumps(found, indent=1))
    save("steps", {"batch": BASE.batch_size, "settings": BASE.describe(), "arms": found})


def labelled(study: Study) -> Any:
    size = Preprocessing(BASE.size, BASE.size)
    model, normalization = build(BASE)
    shown = LoadedModel(model.encoder, "", "", size, normalization, "")
    return hold_labelled(shown, study.images("train"), study.images("val"), spill=study.work)


def loaded(encoder: Path) -> LoadedModel:
    """An encoder, ready to be probed."""
    _, normalization = build(BASE)
    module = timm.create_model(
        BASE.model, num_classes=0, img_size=BASE.size, checkpoint_path=str(encoder), **BASE.architecture
    ).eval()
    size = Preprocessing(BASE.size, BASE.size)
    return LoadedModel(module, str(encoder), encoder.stem, size, normalization, hash_weights(module))


def flops_per_step(settings: PretrainSettings) -> float:
    """Of the forward and backward pass of a batch."""
    model, _ = build(settings)
    for block in (*model.encoder.blocks, *model.decoder.blocks):
        block.attn.fused_attn = False  # the counter does not know the fused kernel of every device
    patches = model.layout.grid.patches
    visible = settings.policy.visible(patches)
    order = torch.rand(1, patches).argsort(dim=1)
    masked = order[:, visible:]
    decoded = settings.decoding.choose(masked, torch.zeros(1, patches), torch.zeros(1, dtype=torch.int64))
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, settings.size, settings.size), order[:, :visible], decoded).backward()
    return counter.get_total_flops() * settings.batch_size


def halves(result: ProbeResult) -> dict[str, float]:
    first, second = result.halves
    return {"all": round(result.accuracy, 5), "choose": round(first, 5), "report": round(second, 5)}


def save(name: str, result: dict[str, Any]) -> None:
    RESULTS.mkdir(parents=True, exist_ok=True)
    whole = {**result, "machine": machine.describe_machine()}
    part = result_of(name).with_suffix(".part")
    part.write_text(json.dumps(whole, indent=1) + "\n")
    part.replace(result_of(name))


def summary(epochs: int) -> dict[str, Any]:
    """Per arm: accuracy, its difference from random, and the speed-up to random's final accuracy.

    The speed-up is exp of the mean over seeds of log(cost of random / cost of arm) + (accuracy of arm - accuracy of
    random) / slope, all at E epochs; slope is what the arm's mean accuracy gains per unit of log cost from E / 2 to E.
    The interval is Student's t over seeds. Costs: epochs; FLOPs; seconds as `time` measured them, with detection once.
    """
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*-e*-s*.json"))]
    table = {(r["arm"], r["epochs"], r["seed"]): r for r in runs if "linear" in r}
    steps = json.loads(result_of("steps").read_text())["arms"]
    arms = [arm for arm in ARMS if (arm, epochs, 0) in table]
    found = {}
    for arm in arms:
        seeds = [
            s for s in range(99)
            if all((a, e, s) in table for a in ("random", arm) for e in (epochs // 2, epochs))
        ]  # fmt: skip
        row: dict[str, Any] = {"seeds": len(seeds)}
        for metric in ("linear", "knn"):
            half, full, base = (
                np.array([table[a, e, s][metric]["report"] for s in seeds])
                for a, e in ((arm, epochs // 2), (arm, epochs), ("random", epochs))
            )
            row[metric] = {"E/2": mean_sd(half), "E": mean_sd(full), "difference": interval(full - base)}
            slope = float((full - half).mean() / np.log(2))
            for cost in ("epochs", "flops", "seconds"):
                gain = np.log(cost_of(table, steps, "random", cost, epochs) / cost_of(table, steps, arm, cost, epochs))
                row[metric][f"speed-up in {cost}"] = (
                    [round(float(np.exp(v)), 3) for v in interval(gain + (full - base) / slope, digits=9)]
                    if slope > 0
                    else "accuracy does not grow with epochs"
                )
        found[arm] = row
    return found


def cost_of(table: dict[tuple[str, int, int], Any], steps: dict[str, Any], arm: str, cost: str, epochs: int) -> float:
    run = table[arm, epochs, 0]
    count = run["images"] // BASE.batch_size * epochs
    if cost == "epochs":
        return float(epochs)
    if cost == "flops":
        return float(run["gflops_per_step"] * count)
    return float(steps[arm]["seconds"] * count + run["detection_seconds"])


def mean_sd(values: np.ndarray) -> list[float]:
    return [round(float(values.mean()), 4), round(float(values.std(ddof=1)), 4) if len(values) > 1 else float("nan")]


def interval(values: np.ndarray, digits: int = 4) -> list[float]:
    """Mean and 95 % interval over seeds."""
    mean = float(values.mean())
    if len(values) < 2:
        return [round(mean, digits), float("nan"), float("nan")]
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return [round(mean, digits), round(mean - half, digits), round(mean + half, digits)]


def main() -> None:
    global RESULTS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("tune", "run", "time", "finetune", "summary"))
    parser.add_argument("--data", type=Path, help="folder with train/<class>/*.jpg and val/<class>/*.jpg")
    parser.add_argument("--work", type=Path, help="folder for keypoints, checkpoints and encoders")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="E")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--limit", type=int, help="a trial: so many images; results go to WORK/results")
    given = parser.parse_args()
    if given.limit is not None:
        RESULTS = given.work / "results"
    if given.task == "summary":
        print(json.dumps(summary(given.epochs), indent=1))
        return
    if given.data is None or given.work is None:
        parser.error("--data and --work are needed")
    study = Study(given.data, given.work, given.epochs, given.seeds, tuple(given.arms), given.limit)
    study.work.mkdir(parents=True, exist_ok=True)
    {"tune": tune, "run": run, "time": measure, "finetune": finetune}[given.task](study)


if __name__ == "__main__":
    sys.exit(main())
