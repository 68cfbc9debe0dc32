"""Does guidance by keypoints speed pre-training up? Resumable: a run whose result is there is not run again.

    python benchmarks/pretraining_study.py tune --epochs 8 --arms random muon --data ../shared/data/imagenette-128 \
        --work /tmp/study
    python benchmarks/pretraining_study.py run --data ../shared/data/imagenette-128 --work /tmp/study
    python benchmarks/pretraining_study.py finetune --data ../shared/data/imagenette-128 --work /tmp/study

`run`: every arm, with its own full schedule at E / 2 and at E epochs, under every seed; then a linear probe and k-NN on
the validation images, and of each seed's untrained encoder too ("random" of 0 epochs). One seed is finished before the
next begins, so that a study that is stopped early has whole seeds; within a run, it goes on from the last checkpoint.
`tune`: the learning rate of an arm, on a seed that the study does not use; the best on the half for choices goes into
`pretraining_arms.py` by hand. `finetune`: for 5 epochs, of the encoders that `run` left in WORK at E epochs, and of
each seed's untrained one.

Each run is one JSON of a line in benchmarks/results/pretraining; of another `--scale`, in pretraining-SCALE. The
settings of all lie in settings.json beside them, and runs of other settings are refused. Choices are made on the first
half of the validation images (by content), figures are from the second. What it says is summed up by
`pretraining_summary.py`; times are from `pretraining_speed.py`, on a machine that does nothing else.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import timm
from torch import nn

import machine
from pretraining_arms import ARMS, BASE, MAIN, SCALES, settings_of, some_images
from siftlens.data import Preprocessing, atomic_path
from siftlens.keypoints import KeypointStore
from siftlens.models import LoadedModel, hash_weights
from siftlens.patchmaps import Shrinking
from siftlens.pretraining import LabelledImages, PretrainSettings, ProbeResult, detect_images, hold_labelled, probe
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.build import build
from siftlens.pretraining.checkpoint import ENCODER
from siftlens.pretraining.features import frozen_features
from siftlens.pretraining.images import HeldImages, hold
from siftlens.pretraining.launch import launch
from siftlens.pretraining.linear import linear_predict
from siftlens.pretraining.loop import Pace, Run
from siftlens.pretraining.neighbours import knn_predict
from siftlens.pretraining.pretrain import guide_of

RESULTS = {scale: machine.RESULTS / ("pretraining" if scale == "small" else f"pretraining-{scale}") for scale in SCALES}
SEEDS = 6
RATES, TUNING_SEED = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3), 1000
PRECISION = "bf16"
TUNED = 5  # epochs of fine-tuning
SAVED = 60.0  # seconds between checkpoints


class Study:
    """Where things are and how large the study is; images are decoded once, when first wanted.

    Args:
        data: folder with train/<class>/*.jpg and val/<class>/*.jpg.
        work: folder for keypoints, checkpoints and encoders.
        scale: of `SCALES`.
        limit: a trial, of so many images, with results in the folder of work.
    """

    def __init__(self, data: Path, work: Path, scale: str, limit: int | None):
        self.data, self.work, self.scale, self.limit = data, work, scale, limit
        self.results = RESULTS[scale] if limit is None else work / "results"
        work.mkdir(parents=True, exist_ok=True)
        self._pin()

    def _pin(self) -> None:
        """Refuse to put results of other settings beside those that are there."""
        path = self.results / "settings.json"
        settings = self.settings_of("random")
        now = json.loads(json.dumps({**settings.describe(), "precision": PRECISION, "limit": self.limit}))
        del now["epochs"], now["seed"], now["learning_rate"]  # which each run tells
        del now["first_size"], now["first_part"], now["optimizer"]  # arms' own, and later than the first results
        if path.exists() and json.loads(path.read_text()) != now:
            sys.exit(f"{path} is of other settings; delete that folder's results, or go back to them")
        write(path, now)

    def settings_of(self, arm: str, *, epochs: int | None = None, seed: int = 0) -> PretrainSettings:
        """What a run computes."""
        return settings_of(arm, self.scale, epochs=epochs, seed=seed)

    def untrained(self, seed: int = 0) -> LoadedModel:
        """The encoder that a seed's runs begin with."""
        return self.ready(build(self.settings_of("random", seed=seed))[0].encoder)

    def trained(self, encoder: Path) -> LoadedModel:
        """The encoder in a file."""
        settings = self.settings_of("random")
        made = timm.create_model(
            settings.model,
            num_classes=0,
            img_size=settings.size,
            checkpoint_path=str(encoder),
            **settings.architecture,
        )
        return self.ready(made)

    def ready(self, encoder: nn.Module) -> LoadedModel:
        """An encoder, ready to be probed."""
        _, normalization = build(self.settings_of("random"))
        size = Preprocessing(BASE.size, BASE.size)
        return LoadedModel(encoder.eval(), "", "", size, normalization, hash_weights(encoder))

    def images(self, split: str) -> Path | str:
        """The folder of a split; of a trial, a list of some of its images."""
        if self.limit is None:
            return self.data / split
        return some_images(self.data / split, self.limit, self.work / f"{split}.txt")

    @cached_property
    def squares(self) -> HeldImages:
        """What views are cut from."""
        return hold(self.images("train"), Shrinking(BASE.side, BASE.side), spill=self.work / "squares.npy")

    @cached_property
    def labelled(self) -> LabelledImages:
        """What encoders are tested on."""
        return hold_labelled(self.untrained(), self.images("train"), self.images("val"), spill=self.work)

    @cached_property
    def store(self) -> KeypointStore:
        """Keypoints of the squares."""
        file = self.work / "keypoints"
        return (
            KeypointStore.load(file) if file.exists() else detect_images(self.images("train"), file, side=BASE.side)[0]
        )

    def train(self, settings: PretrainSettings, out: Path) -> None:
        """Train to the end, from wherever the run in `out` was left."""
        model, normalization = build(settings)
        guide = guide_of(settings, self.store if settings.needs_keypoints else None, self.squares)
        batches = Batches(self.squares, guide, model.layout.grid, settings)
        pace = Pace(save_every=SAVED, evaluations=1)
        fabric = launch("cpu", PRECISION)
        Run(fabric, model, normalization, self.squares, batches, settings, out, pace, quiet).train()

    def test(self, model: LoadedModel, seed: int) -> dict[str, Any]:
        """Linear probe and k-NN, on the halves of the validation images."""
        images = self.labelled
        known, asked = (frozen_features(model, part.pixels) for part in (images.train, images.validation))
        predicted = {
            "linear": linear_predict(known, images.labels, asked, seed=seed),
            "knn": knn_predict(known, images.labels, asked),
        }
        return {name: self.halves(name, (found == images.answers).numpy()) for name, found in predicted.items()}

    def halves(self, method: str, correct: Any) -> dict[str, float]:
        """Accuracy on the half for choices and on the half for figures."""
        images = self.labelled
        found = ProbeResult(method, correct, images.validation.contents, len(images.train), len(images.classes), "")
        return dict(zip(("choose", "report"), (round(half, 5) for half in found.halves), strict=True))


def run(study: Study, epochs: int, seeds: int, arms: list[str]) -> None:
    """Every run that has no result yet."""
    for arm, budget, seed in runs(epochs, seeds, arms):
        name = name_of(arm, budget, seed)
        if (study.results / f"{name}.json").exists():
            continue
        settings = study.settings_of(arm, epochs=budget or epochs, seed=seed)
        out, encoder = study.work / name, study.work / f"{name}.safetensors"
        result: dict[str, Any] = {"arm": arm, "epochs": budget, "seed": seed, "learning_rate": settings.learning_rate}
        if budget:
            study.train(settings, out)
            shutil.move(out / ENCODER, encoder)
            result |= study.test(study.trained(encoder), seed)
            result |= {"images": len(study.squares), "batch_size": settings.batch_size}
        else:
            result |= study.test(study.untrained(seed), seed)
        save(study, name, result)
        shutil.rmtree(out, ignore_errors=True)


def runs(epochs: int, seeds: int, arms: list[str]) -> Iterator[tuple[str, int, int]]:
    """Arm, epochs and seed of every run, seed by seed."""
    for seed in range(seeds):
        yield "random", 0, seed
        for budget, arm in product((epochs // 2, epochs), arms):
            yield arm, budget, seed


def tune(study: Study, epochs: int, arms: list[str]) -> None:
    """Arms at several learning rates."""
    for arm, rate in product(arms, RATES):
        name = f"rate-{arm}-e{epochs}-{rate}"
        if (study.results / f"{name}.json").exists():
            continue
        settings = replace(study.settings_of(arm, epochs=epochs, seed=TUNING_SEED), learning_rate=rate)
        study.train(settings, study.work / name)
        found = study.test(study.trained(study.work / name / ENCODER), TUNING_SEED)
        save(study, name, {"arm": arm, "learning_rate": rate, "epochs": epochs, "seed": TUNING_SEED, **found})


def finetune(study: Study, epochs: int, seeds: int, arms: list[str]) -> None:
    """Fine-tune every encoder that is there and has not been."""
    for arm, budget, seed in runs(epochs, seeds, arms):
        trained = study.work / f"{name_of(arm, budget, seed)}.safetensors"
        name = f"finetune-{name_of(arm, budget, seed)}"
        if budget not in (0, epochs) or (budget and not trained.exists()) or (study.results / f"{name}.json").exists():
            continue
        model = study.trained(trained) if budget else study.untrained(seed)
        found = probe(model, study.labelled, "finetune", epochs=TUNED, seed=seed)
        accuracy = study.halves("finetune", found.correct)
        save(study, name, {"arm": arm, "epochs": budget, "seed": seed, "tuned_epochs": TUNED, "finetune": accuracy})


def name_of(arm: str, epochs: int, seed: int) -> str:
    return f"{arm}-e{epochs}-s{seed}"


def save(study: Study, name: str, result: dict[str, Any]) -> None:
    """Keep a result with where and when it was found, and tell it."""
    here = machine.describe_machine()
    where = {"date": datetime.now(UTC).date().isoformat(), "processor": here["processor"], "torch": here["torch"]}
    write(study.results / f"{name}.json", {**result, **where})
    print(f"{datetime.now(UTC):%H:%M} {name}: {result.get('linear', result.get('finetune'))}", flush=True)


def write(path: Path, result: dict[str, Any]) -> None:
    with atomic_path(path) as target:
        target.write_text(json.dumps(result) + "\n")


def quiet(_stage: str, _done: int, _total: int) -> None:
    """Tell nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("tune", "run", "finetune"))
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train/<class>/*.jpg and val/<class>/*.jpg"
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for keypoints, checkpoints and encoders")
    parser.add_argument("--epochs", type=int, help="E, where not the scale's own")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=MAIN)
    parser.add_argument("--scale", choices=SCALES, default="small", help="of the models; each with a WORK of its own")
    parser.add_argument("--limit", type=int, help="a trial: so many images; results go to WORK/results")
    given = parser.parse_args()
    study = Study(given.data, given.work, given.scale, given.limit)
    epochs = given.epochs or SCALES[given.scale].epochs
    if given.task == "tune":
        tune(study, epochs, given.arms)
    else:
        {"run": run, "finetune": finetune}[given.task](study, epochs, given.seeds, given.arms)


if __name__ == "__main__":
    main()
