"""All images, part by part, into sums and records."""

import hashlib
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd

from siftlens.core import InputError, NothingReadableError
from siftlens.data import ImageSource
from siftlens.engine import Engine
from siftlens.interrelation.accumulate import Accumulator
from siftlens.interrelation.bootstrap import image_weights
from siftlens.interrelation.clock import Clock
from siftlens.interrelation.inference import Findings, finalize
from siftlens.interrelation.nulls import Pool
from siftlens.interrelation.parts import ChunkReader, Part
from siftlens.interrelation.settings import Settings
from siftlens.interrelation.spool import Spool
from siftlens.interrelation.statistics import BatchRecord
from siftlens.keypoints import KeypointCache
from siftlens.patchmaps import PrepareSettings


class MainPass:
    """The state of an analysis between two parts; what was committed of an earlier run is where it begins.

    Args:
        settings: what to compute.
        pool: the reference pool of null 1.
        spool: where it all goes.
        clock: told where the time goes.

    Raises:
        InputError: images of the reference pool are not those that the earlier run found.
    """

    def __init__(self, settings: Settings, pool: Pool, spool: Spool, clock: Clock):
        self.settings, self.pool, self.spool, self.clock = settings, pool, spool, clock
        self.facts: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")} | spool.facts
        contents = hashlib.blake2b("".join(pool.contents).encode(), digest_size=16).hexdigest()
        if self.facts.setdefault("pool", contents) != contents:
            raise InputError(
                f"the images have changed since the analysis in {spool.folder.parent} was begun, which they cannot "
                "resume; begin anew in another folder"
            )
        self._pool_weights = image_weights(pool.contents, settings.seed)
        self._sums = {group: Accumulator.from_arrays(arrays) for group, arrays in spool.sums().items()}
        self._changed: set[str] = set()
        for stage, seconds in self.facts.get("timings", {}).items():
            clock.seconds[stage] += seconds

    def go(
        self,
        engine: Engine,
        reader: ChunkReader,
        source: ImageSource,
        prepare: PrepareSettings,
        *,
        cache: KeypointCache | None,
        done: Callable[[int, int], None],
        commit_seconds: float,
    ) -> None:
        """Run all images that are left.

        Args:
            engine: where.
            reader: what the model does with a chunk of images.
            source: all images.
            prepare: how they are prepared.
            cache: of keypoints.
            done: called with the images done, and all there are.
            commit_seconds: time between commits.
        """
        refs, total, committed = self.spool.refs, len(source), time.monotonic()
        left = islice(source, refs, None)
        with closing(engine.work(left, prepare, cache, reader, self.settings.batch_size)) as parts:
            while True:
                done(refs, total)
                begun = time.perf_counter()
                part = next(parts, None)
                if part is None:
                    break
                # Where the model runs beside this process, it may have run for longer than this one waited.
                waited = time.perf_counter() - begun - sum(part.seconds.values())
                self.clock.seconds["waiting for images"] += max(0.0, waited)
                refs += self._add(part)
                if time.monotonic() - committed >= commit_seconds:
                    self._commit(refs)
                    committed = time.monotonic()
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

    def _add(self, part: Part) -> int:
        """Count a part, once; returns the images of the source that it stands for."""
        for stage, seconds in part.seconds.items():
            self.clock.seconds[stage] += seconds
        for image in part.quarantine:
            self.spool.quarantine(image.identity, image.reason)
        if part.record is not None:
            with self.clock("sums"):
                self._sum(part.record, part.images)
                self.spool.append(part.record.rows(), part.images)
        return len(part.images) + len(part.quarantine)

    def _sum(self, record: BatchRecord, images: list[dict[str, Any]]) -> None:
        drawn = image_weights([image["content"] for image in images], self.settings.seed)
        groups = np.array([image["group"] if self.settings.group_by else "" for image in images])
        for group in dict.fromkeys(groups.tolist()):
            if group not in self._sums:
                self._sums[group] = Accumulator.empty(record, self.pool.size)
            self._sums[group].add(record, drawn * (groups == group), self._pool_weights)
            self._changed.add(group)
        self.facts["variables"] = list(record.variables)

    def _commit(self, refs: int) -> None:
        with self.clock("commits"):
            self.facts["timings"] = dict(self.clock.seconds)
            self.spool.commit(refs, {group: self._sums[group].to_arrays() for group in self._changed}, self.facts)
            self._changed.clear()
