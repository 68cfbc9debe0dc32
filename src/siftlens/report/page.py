"""The report as data: everything that the templates print, computed from finished results."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from siftlens.comparison.paired import estimate
from siftlens.interrelation.inference import RELEVANT
from siftlens.interrelation.nulls import POOL_SIZE
from siftlens.interrelation.results import Result
from siftlens.report.command import command
from siftlens.report.evidence import Estimate, Finding, axis_reach
from siftlens.report.explorer import explorer_json
from siftlens.report.findings import findings
from siftlens.report.model_line import model_line
from siftlens.report.named import named_in, places_of
from siftlens.report.numbers import count, counted, enumeration
from siftlens.report.panels import panels_of
from siftlens.report.payload import extremes, groups_json, levels_of, panel_json

LISTED = 20  # images set aside that the page lists


@dataclass(frozen=True)
class Fact:
    """One entry of the strip below the title.

    Attributes:
        value: the figure.
        label: what it counts.
    """

    value: str
    label: str


@dataclass(frozen=True)
class Settings:
    """A titled list of names and values.

    Attributes:
        title: of the list.
        entries: (name, value) in print.
    """

    title: str
    entries: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Page:
    """The whole report.

    Attributes:
        model: what was analysed.
        version: of siftlens, as it ran.
        started: when, UTC.
        inputs: spec, weights, input size and patches, in a line.
        facts: the strip below the title.
        warnings: what limits every figure below.
        findings: sentences with their evidence.
        class_token: whether the model has one.
        images: images read.
        pool: images in null 1's reference pool.
        covered: mean share of patches with at least one keypoint, %.
        marked: how well concentration tells the patches of an object from the rest (AUROC), and the images whose masks
            say so; None without masks.
        settings: how to reproduce the run.
        command: the command line that runs it again; None where none does.
        quarantine: (identity, reason) of the first images set aside.
        quarantined: images set aside.
        figures: JSON values that the figures draw.
        relevant: |effect| below which an effect is too small to matter.
        listed_in: file that names every image set aside.
    """

    model: str
    version: str
    started: str
    inputs: str
    facts: tuple[Fact, ...]
    warnings: tuple[str, ...]
    findings: tuple[Finding, ...]
    class_token: bool
    images: int
    pool: int
    covered: str
    marked: Estimate | None
    settings: tuple[Settings, ...]
    command: str | None
    quarantine: tuple[tuple[str, str], ...]
    quarantined: int
    figures: Mapping[str, Any]
    relevant: float = RELEVANT
    listed_in: str = "quarantine.csv"

    def reach(self, unit: str) -> float:
        """Half width of the axis that estimates of this unit are drawn on."""
        return axis_reach(self.findings, unit)


def page(result: Result) -> Page:
    """Computes the report of a finished analysis."""
    run = result.run
    panels = panels_of(result.heads, result.layers)
    layers, heads = places_of(result.heads)
    told = findings(panels, layers, heads)
    ends = extremes(result.arrays, [str(name) for name in result.arrays["image"].values])
    model = str(run.model.get("name") or run.model.get("spec") or "model")
    covered = f"{100 * run.covered:.0f}\u00a0%"
    facts = (
        Fact(count(run.images), "images read"),
        Fact(covered, "of patches hold a keypoint"),
        Fact(f"{len(layers)} × {len(heads)}", "layers × heads"),
        Fact(count(run.pool), "images in the null pool"),
        Fact(count(run.quarantined), "images set aside"),
    )
    return Page(
        model=model,
        version=run.versions.get("siftlens", ""),
        started=moment(run.started),
        inputs=model_line(run.model),
        facts=facts,
        warnings=_warnings(result),
        findings=told,
        class_token="cls_pull" in panels,
        images=run.images,
        pool=run.pool,
        covered=covered,
        marked=_marked(result),
        settings=_settings(result),
        command=command(run),
        quarantine=tuple((str(row.identity), str(row.reason)) for row in result.quarantine.head(LISTED).itertuples()),
        quarantined=len(result.quarantine),
        figures={
            "layers": layers,
            "layerNames": _layer_names(result, layers),
            "heads": heads,
            "relevant": RELEVANT,
            "measure": str(run.settings.get("measure", "count")),
            "front": _front(run.model),
            "weighting": str(run.settings.get("weighting", "attention")),
            "panels": [panel_json(found) for found in panels.values()],
            "levels": asdict(levels_of(result)),
            "groups": groups_json(result.heads_by_group),
            "extremes": ends,
            "explorer": explorer_json(result, named_in(told), ends),
        },
    )


def _marked(result: Result) -> Estimate | None:
    values = result.images.get("mask_auroc", pd.Series(dtype=float)).to_numpy(np.float64)
    found = estimate(values[:, None], pool=None)
    if not found.n[0]:
        return None
    value, low, high = (float(end[0]) for end in (found.mean, found.low, found.high))
    return Estimate("AUROC of concentration against the masks", value, low, high, "", int(found.n[0]))


def _front(model: Mapping[str, Any]) -> str:
    """The tokens in front of the patches, in words; empty where there are none."""
    known = (("class token", model.get("class_tokens")), ("register", model.get("registers")))
    parts = [f"the {noun}" if count == 1 else f"the {count} {noun}s" for noun, count in known if count]
    return enumeration(parts)


def moment(started: str) -> str:
    """An ISO 8601 time to the minute; any other text as it is."""
    try:
        return f"{datetime.fromisoformat(started).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    except ValueError:
        return started


def _warnings(result: Result) -> tuple[str, ...]:
    run, told = result.run, []
    if str(run.model.get("weights", "")).startswith("random"):
        told.append("The model's weights are random: nothing here speaks of a trained model.")
    if run.covered == 0:
        told.append("Not one image has a keypoint: nothing can be told of where attention goes.")
    if run.pool < POOL_SIZE:
        told.append(
            f"Only {counted(run.pool, 'image')} in the reference pool of the first null (at least {POOL_SIZE} are "
            "wanted). Intervals are wide and rough: read this as a preview."
        )
    if run.quarantined:
        share = 100 * run.quarantined / (run.images + run.quarantined)
        told.append(
            f"{counted(run.quarantined, 'image')} ({share:.1f}\u00a0%) could not be read and stood aside: "
            "see the list below."
        )
    return tuple(told)


def _layer_names(result: Result, layers: list[int]) -> list[str]:
    names = result.heads.drop_duplicates("layer").set_index("layer")["layer_name"]
    return [str(names[layer]) for layer in layers]


def _settings(result: Result) -> tuple[Settings, ...]:
    run = result.run
    seconds = {name: f"{value:.1f} s" for name, value in run.timings.items()}
    told = run.model | {"model": run.model.get("spec")}  # need not be told twice
    settings = {name: value for name, value in run.settings.items() if name not in told or told[name] != value}
    lists = (
        ("Model", run.model),
        ("Settings", settings),
        ("Versions", run.versions),
        ("Hardware", run.hardware),
        ("Time", seconds),
    )
    return tuple(
        Settings(title, tuple((k, printed(v)) for k, v in values.items())) for title, values in lists if values
    )


def printed(value: Any) -> str:
    """A setting as text."""
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
