"""An audit from images to verdicts, step by step."""

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from siftlens import __version__
from siftlens.auditing.bench import Bench, Each
from siftlens.auditing.candidates import find_candidates
from siftlens.auditing.causal import COST, MOST
from siftlens.auditing.claims import claims
from siftlens.auditing.classifier import match_logits, with_probe
from siftlens.auditing.gallery import take_gallery
from siftlens.auditing.margins import logits_of
from siftlens.auditing.outside import Elsewhere, expect_environment, expect_masks, look_elsewhere
from siftlens.auditing.reader import SampleReader
from siftlens.auditing.remembered import remembered
from siftlens.auditing.results import AuditResult
from siftlens.auditing.sample import Labels, enough, take_sample
from siftlens.auditing.screen import screen
from siftlens.auditing.settings import AuditSettings
from siftlens.auditing.sight import Seen, see
from siftlens.auditing.tables import image_table, ranked
from siftlens.auditing.tokens import TokenAccess
from siftlens.auditing.trials import try_cues
from siftlens.auditing.vocabulary import Vocabulary, fit_vocabulary
from siftlens.core import InputError
from siftlens.data import ImageRef, ImageSource
from siftlens.engine import Engine
from siftlens.interrelation.forward import blank_input, model_layout
from siftlens.interrelation.provenance import hardware, versions
from siftlens.models import LoadedModel

BUDGET = 20  # forward passes per image, in all
_FITTED = 256  # images that the vocabulary is made of

Progress = Callable[[str, int, int], None]


class Run:
    """The steps of an audit, each of which uses those before.

    Args:
        model: the classifier.
        source: the images.
        labels: of each; None for folders.
        settings: what to compute.
        progress: called with a stage, what is done and what there is to do.
        folder: where steps leave what they find, for an interrupted audit to go on from, held by this process; None for
            nowhere.

    Attributes:
        numbers: all that the audit's numbers depend on, as JSON values.
    """

    def __init__(
        self,
        model: LoadedModel,
        source: ImageSource,
        labels: Labels,
        settings: AuditSettings,
        progress: Progress,
        folder: Path | None = None,
    ):
        self.settings, self.progress, self.folder = settings, progress, folder
        self.sample = take_sample(source, labels, model.preprocessing, settings.seed)
        if settings.masks is not None:
            # Which images of a class that is tested carry a cue would be known in the middle of the trials.
            tested = ~self.sample.discover & np.isin(self.sample.labels, enough(self.sample))
            expect_masks(settings.masks, [self.sample.refs[place] for place in np.flatnonzero(tested)])
        self._environment: tuple[ImageRef, ...] = ()
        if settings.environment is not None:
            names = [self.sample.names[label] for label in enough(self.sample)]
            self._environment = expect_environment(settings.environment, names, model.preprocessing)
        self.numbers = {
            "siftlens": __version__,
            **model.numbers(),
            "device": str(model.device),
            **settings.described(),
            "masks hold": _listed(settings.masks),
            "environment holds": _listed(settings.environment),
            "images": len(self.sample.refs),
            "what they show": self.sample.digest,
        }
        self.passes = 0
        if settings.probe:
            model = self._probed(model)
        self.model = model
        layout, blank = model_layout(model), blank_input(model)
        access = TokenAccess(model.module, layout, blank)
        layers = len(access.blocks)
        # Later tokens know what the image shows: words made of them mark its background, too.
        layer = max(0, layers // 4 - 1) if settings.layer is None else settings.layer
        if not 0 <= layer < layers:
            raise InputError(f"layer must lie between 0 and {layers - 1}, got {layer}")
        self.bench = Bench(SampleReader(model, self.sample.refs, settings.batch_size), layout, access, layer)
        self.logit = match_logits(model, self.sample.names, logits_of(model.module, blank).shape[1])

    def go(self, engine: Engine) -> AuditResult:
        """All steps, those that take long on the engine."""
        sample, settings, grid = self.sample, self.settings, self.bench.layout.grid
        vocabulary = self.vocabulary()
        numbers = self.numbers | {"words": vocabulary.digest()}
        with engine.hire(self.bench) as hired:
            each = remembered(hired, self.folder, numbers)
            seen = self.see(vocabulary, each)
            found = find_candidates(
                {kind: words[sample.discover] for kind, words in seen.words.items()},
                sample.labels[sample.discover],
                seen.attribution[sample.discover],
                enough(sample),
                grid,
            )
            medians = self._medians(seen)
            found = [candidate for candidate in found if medians[candidate.label] > 0]
            properties, passes = screen(each, sample, self.logit, medians, settings.seed)
            self.passes += passes
            elsewhere = self._elsewhere(vocabulary, each)
            left = BUDGET * len(sample.refs) - self.passes
            trials = try_cues(
                each,
                sample,
                seen.words,
                found,
                self.logit,
                min(MOST, int(left / max(1, len(found)) / COST)),
                settings,
                lambda done: self.progress("cues", done, len(found)),
            )
        there = [candidate.patches(seen.words[candidate.kind]) for candidate in found]
        rows = claims(sample, seen, found, there, trials, elsewhere, properties, medians, grid, settings.seed)
        cues = ranked(rows)
        images = image_table(sample, seen.answers, seen.margins, rows, there)
        counted = self.passes + sum(trial.effects.passes for trial in trials)
        info = {
            "settings": settings.described(),
            "numbers": self.numbers,
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
            grid,
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
            layer=self.bench.layer,
            preprocessing=self.model.preprocessing,
            normalization=self.model.normalization,
        )

    def vocabulary(self) -> Vocabulary:
        """The words, made of a part of the discover half."""
        index = np.flatnonzero(self.sample.discover)
        index = index[np.linspace(0, len(index) - 1, min(len(index), _FITTED)).astype(int)]
        pixels, tokens = [], []
        for batch in self.bench.reader.batches(index):
            pixels += batch.pixels
            tokens.append(self.bench.run(batch.x)[1].float().cpu())
        self.passes += len(index)
        return fit_vocabulary(
            pixels, torch.cat(tokens), self.bench.layout.grid, self.settings.vocabularies, self.settings.seed
        )

    def see(self, vocabulary: Vocabulary, each: Each) -> Seen:
        """What the model and the words say of every image."""
        sample, settings, total = self.sample, self.settings, len(self.sample.refs)
        seen = see(
            each,
            sample,
            vocabulary,
            self.logit,
            settings.batch_size,
            settings.seed,
            lambda done: self.progress("images", done, total),
        )
        self.passes += seen.passes
        return seen

    def _elsewhere(self, vocabulary: Vocabulary, each: Each) -> Elsewhere | None:
        if not self._environment:
            return None
        self.passes += len(self._environment)
        return look_elsewhere(each, self._environment, vocabulary, self.settings.batch_size)

    def _probed(self, model: LoadedModel) -> LoadedModel:
        reader = SampleReader(model, self.sample.refs, self.settings.batch_size)
        index = np.flatnonzero(self.sample.discover)
        features = torch.cat([logits_of(model.module, batch.x) for batch in reader.batches(index)])
        self.passes += len(index)
        return with_probe(model, features.cpu(), torch.from_numpy(self.sample.labels[index]), self.sample.names)

    def _medians(self, seen: Seen) -> Float[np.ndarray, " class"]:
        """Median margin of each class's own images in the confirm half; NaN without any."""
        halves = [~self.sample.discover & (self.sample.labels == label) for label in range(len(self.sample.names))]
        return np.array([np.median(seen.margins[half]) if half.any() else np.nan for half in halves])


def _listed(folder: Path | None) -> str | None:
    """A digest of a folder's files: names, sizes and times."""
    if folder is None:
        return None
    files = sorted((str(path.relative_to(folder)), path.stat()) for path in folder.rglob("*") if path.is_file())
    listed = repr([(name, found.st_size, found.st_mtime_ns) for name, found in files])
    return blake2b(listed.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
