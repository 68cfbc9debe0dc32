"""An audit from images to verdicts, step by step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from siftlens.attention import find_layout
from siftlens.auditing.candidates import Candidate, find_candidates
from siftlens.auditing.causal import COST, MOST, Effects, donors_of, measure_cue
from siftlens.auditing.classifier import match_logits, with_probe
from siftlens.auditing.gallery import take_gallery
from siftlens.auditing.inference import association_p, effects_p
from siftlens.auditing.margins import expected_gradients, logits_of, margins
from siftlens.auditing.outside import lift_elsewhere, off_object
from siftlens.auditing.reader import Reader
from siftlens.auditing.results import AuditResult
from siftlens.auditing.sample import enough, take_sample
from siftlens.auditing.screen import screen
from siftlens.auditing.settings import AuditSettings
from siftlens.auditing.tables import cue_row, image_table, ranked
from siftlens.auditing.tokens import TokenAccess
from siftlens.auditing.verdicts import Evidence, harm_of, verdict_of
from siftlens.auditing.vocabulary import Vocabulary, fit_vocabulary
from siftlens.core import InputError, TokenLayout
from siftlens.data import ImageSource
from siftlens.interrelation.provenance import hardware, versions
from siftlens.interrelation.randomness import stream
from siftlens.models import LoadedModel

BUDGET = 20  # forward passes per image, in all
_FITTED = 256  # images that the vocabulary is made of
_SAMPLES = 2  # of expected gradients, for each image
_TESTABLE = 0.5  # share of the images with a cue that must leave room for a control
_BACKWARD = 2  # forward passes that a backward pass counts as

Progress = Callable[[str, int, int], None]


@dataclass
class Seen:
    """What the model and the vocabulary say of every image of the sample.

    Attributes:
        logits: of the model.
        words: of every patch, by kind; -1 for none.
        attribution: to every patch, for the image's label; 0 for images of the confirm half.
    """

    logits: Float[Tensor, "image logit"]
    words: dict[str, Int[np.ndarray, "image patch"]]
    attribution: Float[np.ndarray, "image patch"]


class Run:
    """The steps of an audit, each of which uses those before.

    Args:
        model: the classifier.
        source: the images.
        labels: of each; None for folders.
        settings: what to compute.
        progress: called with a stage, what is done and what there is to do.
    """

    def __init__(
        self,
        model: LoadedModel,
        source: ImageSource,
        labels: Sequence[str | int] | None,
        settings: AuditSettings,
        progress: Progress,
    ):
        self.settings, self.progress = settings, progress
        self.sample = take_sample(source, labels, model.preprocessing, settings.seed)
        self.passes = 0
        if settings.probe:
            model = self._probed(model)
        self.model = model
        self.reader = Reader(model, self.sample.refs, settings.batch_size)
        size = model.preprocessing
        blank = torch.zeros(1, 3, size.height, size.width, dtype=model.dtype, device=model.device)
        self.layout: TokenLayout = find_layout(model.module, blank)
        self.access = TokenAccess(model.module, self.layout, blank)
        layers = len(self.access.blocks)
        # Later tokens know what the image shows: words made of them mark its background, too.
        self.layer = max(0, layers // 4 - 1) if settings.layer is None else settings.layer
        if not 0 <= self.layer < layers:
            raise InputError(f"layer must lie between 0 and {layers - 1}, got {self.layer}")
        self.logit = match_logits(model, self.sample.names, logits_of(model.module, blank).shape[1])

    def go(self) -> AuditResult:
        """All steps."""
        sample, settings = self.sample, self.settings
        vocabulary = self._vocabulary()
        seen = self._see(vocabulary)
        found = find_candidates(
            {kind: words[sample.discover] for kind, words in seen.words.items()},
            sample.labels[sample.discover],
            seen.attribution[sample.discover],
            enough(sample),
            self.layout.grid,
        )
        medians = self._medians(seen)
        found = [candidate for candidate in found if medians[candidate.label] > 0]
        there = [candidate.patches(seen.words[candidate.kind]) for candidate in found]
        properties, passes = screen(self.reader, sample, self.logit, medians, settings.seed)
        self.passes += passes
        effects = [
            self._measure(candidate, place, candidate.neutral(seen.words[candidate.kind]), i, len(found))
            for i, (candidate, place) in enumerate(zip(found, there, strict=True))
        ]
        rows = self._rows(vocabulary, seen, found, there, effects, properties, medians)
        cues = ranked(rows)
        images = image_table(sample, self._answers(seen), self._own_margins(seen).numpy(), rows, there)
        counted = self.passes + sum(effect.passes for effect in effects)
        info = {
            "settings": settings.described(),
            "model": self.model.describe(),
            "versions": versions(),
            "hardware": hardware(self.model.device),
            "images": len(sample.refs),
            "classes": list(sample.names),
            "without_enough_images": [n for i, n in enumerate(sample.names) if i not in enough(sample)],
            "without_right_answers": [n for i, n in enumerate(sample.names) if not medians[i] > 0],
            "cues_tested": len(found),
            "passes_per_image": round(counted / len(sample.refs), 2),
            "set_aside": [list(pair) for pair in sample.set_aside],
        }
        keypoints = seen.words["sift"] >= 0 if "sift" in seen.words else None
        gallery = take_gallery(
            sample.refs,
            self.model.preprocessing,
            self.layout.grid,
            cues,
            images,
            [there[place] for place in cues["place"]],
            keypoints,
        )
        return AuditResult(
            cues=cues.drop(columns="place").join(gallery.looks),
            images=images,
            properties=properties,
            shown=gallery.shown,
            pictures=gallery.pictures,
            info=info,
            vocabulary=vocabulary,
            layer=self.layer,
            preprocessing=self.model.preprocessing,
            normalization=self.model.normalization,
        )

    def _probed(self, model: LoadedModel) -> LoadedModel:
        reader = Reader(model, self.sample.refs, self.settings.batch_size)
        index = np.flatnonzero(self.sample.discover)
        features = torch.cat([logits_of(model.module, batch.x) for batch in reader.batches(index)])
        self.passes += len(index)
        return with_probe(model, features.cpu(), torch.from_numpy(self.sample.labels[index]), self.sample.names)

    def _vocabulary(self) -> Vocabulary:
        index = np.flatnonzero(self.sample.discover)
        index = index[np.linspace(0, len(index) - 1, min(len(index), _FITTED)).astype(int)]
        pixels, tokens = [], []
        for batch in self.reader.batches(index):
            with self.access.read(self.layer) as read:
                logits_of(self.model.module, batch.x)
            pixels += batch.pixels
            tokens.append(read[0].float().cpu())
        self.passes += len(index)
        return fit_vocabulary(
            pixels, torch.cat(tokens), self.layout.grid, self.settings.vocabularies, self.settings.seed
        )

    def _see(self, vocabulary: Vocabulary) -> Seen:
        sample, everything = self.sample, np.arange(len(self.sample.refs))
        logits: list[Tensor] = []
        words: dict[str, list[np.ndarray]] = {kind: [] for kind in vocabulary.codebooks}
        attribution = np.zeros((len(everything), self.layout.grid.patches), np.float32)
        for batch in self.reader.batches(everything):
            with self.access.read(self.layer) as read:
                logits.append(logits_of(self.model.module, batch.x).cpu())
            for kind, found in vocabulary.words(batch.pixels, read[0]).items():
                words[kind].append(found)
            half = sample.discover[batch.index]
            if half.any():
                attribution[batch.index[half]] = self._attribution(batch.index[half], batch.x[torch.from_numpy(half)])
            self.passes += len(batch.index)
            self.progress("images", int(batch.index[-1]) + 1, len(everything))
        return Seen(torch.cat(logits), {k: np.concatenate(v) for k, v in words.items()}, attribution)

    def _attribution(self, index: Int[np.ndarray, " image"], x: Tensor) -> Float[np.ndarray, "image patch"]:
        """Mean over a few donors of other classes."""
        sample, total = self.sample, torch.zeros(len(index), self.layout.grid.patches)
        others = {
            label: np.flatnonzero(sample.discover & (sample.labels != label)) for label in set(sample.labels[index])
        }
        classes = torch.from_numpy(self.logit[sample.labels[index]]).to(x.device)
        for draw in range(_SAMPLES):
            random = [stream(self.settings.seed, f"donor {draw}", str(image)) for image in index]
            chosen = [r.choice(others[sample.labels[i]]) for r, i in zip(random, index, strict=True)]
            shares = torch.tensor([r.random() for r in random])
            (donors,) = self.reader.batches(np.array(chosen))
            given = self.access.embed(donors.x)
            found = expected_gradients(self.model.module, self.access, x, given, classes, shares)
            total += found[:, self.layout.prefix :].cpu() / _SAMPLES
            self.passes += len(index) * (1 + _BACKWARD)
        return total.numpy()

    def _own_margins(self, seen: Seen) -> Float[Tensor, " image"]:
        return margins(seen.logits.double(), torch.from_numpy(self.logit[self.sample.labels]))

    def _medians(self, seen: Seen) -> Float[np.ndarray, " class"]:
        """Median margin of each class's own images in the confirm half; NaN without any."""
        own, confirm = self._own_margins(seen).numpy(), ~self.sample.discover
        return np.array(
            [
                np.median(own[confirm & (self.sample.labels == label)])
                if (confirm & (self.sample.labels == label)).any()
                else np.nan
                for label in range(len(self.sample.names))
            ]
        )

    def _answers(self, seen: Seen) -> Int[np.ndarray, " image"]:
        """Index of the class that each image is taken for; -1 for a logit that no image is labelled with."""
        lookup = np.full(seen.logits.shape[1], -1)
        lookup[self.logit] = np.arange(len(self.logit))
        return np.asarray(lookup[seen.logits.argmax(dim=1).numpy()])

    def _carries(self, candidate: Candidate, there: Bool[np.ndarray, "image patch"]) -> Bool[np.ndarray, " image"]:
        return np.asarray(there.mean(axis=1) >= candidate.threshold)

    def _measure(
        self,
        candidate: Candidate,
        there: Bool[np.ndarray, "image patch"],
        neutral: Bool[np.ndarray, "image patch"],
        number: int,
        total: int,
    ) -> Effects:
        sample, confirm = self.sample, ~self.sample.discover
        carries, mine = self._carries(candidate, there), sample.labels == candidate.label
        random = stream(self.settings.seed, "order", f"{candidate.label} {candidate.kind} {candidate.words}")
        order = random.permutation(len(carries))
        lacking = confirm & ~carries
        carrying, donors, receiving = (
            order[part[order]] for part in (confirm & mine & carries, donors_of(lacking, mine), lacking & ~mine)
        )
        self.progress("cues", number, total)
        left = BUDGET * len(sample.refs) - self.passes
        return measure_cue(
            self.reader,
            self.access,
            self.layout.grid,
            there,
            neutral,
            carrying,
            donors,
            receiving,
            logit=int(self.logit[candidate.label]),
            most=min(MOST, int(left / total / COST)),
            seed=self.settings.seed,
        )

    def _rows(
        self,
        vocabulary: Vocabulary,
        seen: Seen,
        found: list[Candidate],
        there: list[Bool[np.ndarray, "image patch"]],
        effects: list[Effects],
        properties: pd.DataFrame,
        medians: Float[np.ndarray, " class"],
    ) -> list[dict[str, Any]]:
        """A row of the table for each cue, with its verdict."""
        if not found:
            return []
        sample, confirm, seed = self.sample, ~self.sample.discover, self.settings.seed
        shares = np.stack([place[confirm].mean(axis=1) for place in there], axis=1)
        classes = np.array([candidate.label for candidate in found])
        z, p_association = association_p(shares, sample.labels[confirm], classes, seed)
        p_removal = effects_p([(e.images, e.removal) for e in effects], len(sample.refs), seed)
        p_swap = effects_p(
            [(e.images[known], e.swap[known]) for e in effects for known in [np.isfinite(e.swap)]],
            len(sample.refs),
            seed,
        )
        answers = self._answers(seen)
        rows = []
        for i, (candidate, place, effect) in enumerate(zip(found, there, effects, strict=True)):
            carries, median = self._carries(candidate, place), float(medians[candidate.label])
            harm = harm_of(carries[confirm], sample.labels[confirm], answers[confirm], candidate.label)
            mine = confirm & (sample.labels == candidate.label) & carries
            evidence = Evidence(
                p_association=float(p_association[i]),
                p_removal=float(p_removal[i]),
                p_swap=float(p_swap[i]),
                dependence=_weaker(effect) / median,
                p_harm=min(1.0, harm.p * len(found)),
                off_object=off_object(self.settings.masks, self.reader, np.flatnonzero(mine), place, self.layout.grid),
                lift_elsewhere=lift_elsewhere(
                    self.settings.environment, self.reader, self.access, self.layer, vocabulary, candidate, sample.names
                ),
                explained=_explained(properties, sample.names[candidate.label], effect, median),
                has_control=bool(len(effect.images) >= _TESTABLE * mine.sum()),
            )
            rows.append(
                cue_row(
                    candidate,
                    sample.names[candidate.label],
                    effect,
                    median,
                    harm,
                    evidence,
                    float(z[i]),
                    place[mine],
                    self.layout.grid,
                )
                | {"verdict": verdict_of(evidence), "place": i}
            )
        return rows


def _explained(properties: pd.DataFrame, label: str, effect: Effects, median: float) -> float:
    """What the strongest property that is relied on does for a class, over what swapping the cue does."""
    relied = properties[(properties["label"] == label) & (properties["verdict"] == "relied on")]
    known = effect.swap[np.isfinite(effect.swap)]
    if relied.empty or not len(known):
        return 0.0
    return float(relied["change"].max()) * median / max(float(known.mean()), 1e-9)


def _weaker(effect: Effects) -> float:
    """The smaller of the two mean effects; 0 where one is not known."""
    known = effect.swap[np.isfinite(effect.swap)]
    return min(float(effect.removal.mean()), float(known.mean())) if len(known) > 1 else 0.0


def run_audit(
    model: LoadedModel,
    source: ImageSource,
    labels: Sequence[str | int] | None,
    settings: AuditSettings,
    progress: Progress,
) -> AuditResult:
    """Audit a classifier; see `siftlens.audit`."""
    return Run(model, source, labels, settings, progress).go()
