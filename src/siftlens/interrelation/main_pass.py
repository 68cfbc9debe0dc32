"""All images, batch by batch, into sums and records."""

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from siftlens.core import InputError, NothingReadableError, TokenLayout
from siftlens.data import ImageSource
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.channels import map_batch
from siftlens.interrelation.clock import Clock
from siftlens.interrelation.forward import outlier_patches, read_batch, to_input
from siftlens.interrelation.inference import Findings, finalize
from siftlens.interrelation.memory import give_back
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.reference import z_map
from siftlens.interrelation.settings import Settings
from siftlens.interrelation.spool import Spool
from siftlens.keypoints import KeypointCache
from siftlens.models import LoadedModel
from siftlens.patchmaps import Prepared, PrepareSettings, Quarantined, auroc, levels, prepare_images


class MainPass:
    """The state of an analysis between two batches; what was committed of an earlier run is where it begins.

    Args:
        model: the model.
        layout: what stands at which token.
        settings: what to compute.
        pool: the reference pool of null 1.
        spool: where it all goes.
        clock: told where the time goes.

    Raises:
        InputError: images of the reference pool are not those that the earlier run found.
    """

    def __init__(
        self, model: LoadedModel, layout: TokenLayout, settings: Settings, pool: Pool, spool: Spool, clock: Clock
    ):
        self.model, self.layout, self.settings, self.pool = model, layout, settings, pool
        self.spool, self.clock = spool, clock
        self.facts: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")} | spool.facts
        contents = hashlib.blake2b("".join(pool.contents).encode(), digest_size=16).hexdigest()
        if self.facts.setdefault("pool", contents) != contents:
            raise InputError(
                f"the images have changed since the analysis in {spool.folder.parent} was begun; begin anew in another "
                "folder"
            )
        self._pool_weights = image_weights(pool.contents, settings.seed)
        self._sums = {group: Accumulator.from_arrays(arrays) for group, arrays in spool.sums().items()}
        self._changed: set[str] = set()
        for stage, seconds in self.facts.get("timings", {}).items():
            clock.seconds[stage] += seconds

    def go(
        self,
        source: ImageSource,
        prepare: PrepareSettings,
        *,
        cache: KeypointCache | None,
        done: Callable[[int, int], None],
        commit_seconds: float,
    ) -> None:
        """Run all images that are left.

        Args:
            source: all images.
            prepare: how they are prepared.
            cache: of keypoints.
            done: called with the images done, and all there are.
            commit_seconds: time between commits.
        """
        refs, total, committed = self.spool.refs, len(source), time.monotonic()
        batch: list[Prepared] = []
        left = islice(source, refs, None)
        with closing(prepare_images(left, prepare, workers=self.settings.workers, cache=cache)) as prepared:
            image: Prepared | Quarantined | None
            while True:
                done(refs - len(batch), total)
                with self.clock("waiting for images"):
                    image = next(prepared, None)
                if image is None:
                    break
                refs += 1
                if isinstance(image, Quarantined):
                    self.spool.quarantine(image.identity, image.reason)
                else:
                    batch.append(image)
                if len(batch) == self.settings.batch_size:
                    self._add(batch)
                    batch = []
                # Only between batches: what is committed is then the beginning of the source, and no more.
                if not batch and time.monotonic() - committed >= commit_seconds:
                    self._commit(refs)
                    committed = time.monotonic()
        if batch:
            self._add(batch)
        done(refs, total)
        self._commit(refs)

    def results(self) -> tuple[Findings, pd.DataFrame | None]:
        """The findings, and the table of heads by group where asked for."""
        if not self._sums:
            raise NothingReadableError(f"none of the {self.spool.refs} images could be read")
        first, *others = self._sums.values()
        total = Accumulator.from_arrays(first.to_arrays()) if others else first
        for sums in others:
            total.merge(sums)
        found = finalize(total)
        if self.settings.group_by is None:
            return found, None
        tables = [finalize(sums).heads.assign(group=group) for group, sums in sorted(self._sums.items())]
        by_group = pd.concat(tables, ignore_index=True)
        return found, by_group[["group", *found.heads.columns]]

    def _add(self, images: list[Prepared]) -> None:
        settings, model, grid = self.settings, self.model, self.layout.grid
        contents = [image.content for image in images]
        keep = None
        with self.clock("model"):
            x = to_input([image.pixels for image in images], model.normalization, model.device, model.dtype)
            if settings.exclude_outliers:
                keep = ~outlier_patches(model.module, x, self.layout).reshape(-1, grid.rows, grid.cols)
        with self.clock("maps"):
            maps = map_batch(
                contents,
                np.stack([z_map(image, settings.measure) for image in images]),
                np.stack([levels(image.count) for image in images]),
                np.stack([image.rivals for image in images]),
                self.pool,
                seed=settings.seed,
                keep=keep,
                device=model.device,
            )
        with self.clock("model"):
            record, outlier_tokens = read_batch(
                model.module, x, maps, self.layout, weighting=settings.weighting, entropy=settings.entropy
            )
        with self.clock("sums"):
            drawn = image_weights(contents, settings.seed)
            groups = np.array([image.group if settings.group_by else "" for image in images])
            for group in dict.fromkeys(groups.tolist()):
                if group not in self._sums:
                    self._sums[group] = Accumulator.empty(record, self.pool.size)
                self._sums[group].add(record, drawn * (groups == group), self._pool_weights)
                self._changed.add(group)
            self.facts["variables"] = list(record.variables)
            lines = [_line(*pair) for pair in zip(images, outlier_tokens.tolist(), strict=True)]
            self.spool.append(record.rows(), lines)
        give_back()

    def _commit(self, refs: int) -> None:
        with self.clock("commits"):
            self.facts["timings"] = dict(self.clock.seconds)
            self.spool.commit(refs, {group: self._sums[group].to_arrays() for group in self._changed}, self.facts)
            self._changed.clear()


def _line(image: Prepared, outlier_tokens: int) -> dict[str, Any]:
    """The row of one image in images.parquet."""
    return {
        "identity": image.identity,
        "content": image.content,
        "group": image.group,
        "keypoints": len(image.keypoints),
        "covered": float((image.count > 0).mean()),
        "outlier_tokens": outlier_tokens,
        "mask_auroc": None if image.mask is None else auroc(image.weights, image.mask),
    }
