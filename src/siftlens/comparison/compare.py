"""From studies to paired differences."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float64

from siftlens.comparison.alignment import at_depths, positions, relative_depths
from siftlens.comparison.matching import expect_same_meaning, match, shares_null
from siftlens.comparison.paired import Estimate, estimate, spread
from siftlens.comparison.results import Compared, Comparison
from siftlens.comparison.values import TESTED, comparable, per_image, unit_of
from siftlens.core import InputError
from siftlens.interrelation.inference import RELEVANT, SIGNIFICANT, false_discovery
from siftlens.interrelation.results import Result

_HASH = 8  # characters of the weights' hash that are shown


def compare_results(studies: Mapping[str, Result]) -> Comparison:
    """Paired differences of each study from the first, per layer (mean over heads).

    Where the models differ in their number of layers, all are brought to the relative depths of the one with the
    fewest, linear between layers.

    Args:
        studies: by the names that the comparison calls them; the first is the reference.

    Raises:
        InputError: fewer than two studies, different images, too few images in common, or other settings.
        StudyError: a study is damaged.
    """
    if len(studies) < 2:
        raise InputError(f"expected at least two studies to compare, got {len(studies)}")
    expect_same_meaning(studies)
    matched = match(studies)
    results = list(studies.values())
    described = tuple(_described(name, result, results[0]) for name, result in studies.items())
    depth = relative_depths(min(study.layers for study in described))
    statistics, notes = comparable(results)
    parts = []
    for statistic in statistics:
        values = [
            at_depths(per_image(result, statistic, rows), depth)
            for result, rows in zip(results, matched.rows, strict=True)
        ]
        own = {"statistic": statistic, "unit": unit_of(results[0], statistic), "depth": depth}
        for study, of_study in zip(described, values, strict=True):
            columns = own | {"study": study.name, "layer": positions(study.layers, depth)}
            parts.append(_rows(columns, of_study, values[0], study, described[0], tested=statistic in TESTED))
    return Comparison(
        studies=described,
        images=len(matched.rows[0]),
        matched_by=matched.by,
        table=pd.concat(parts, ignore_index=True)[_COLUMNS],
        notes=(*notes, *_cautions(described)),
    )


_COLUMNS = [
    *("study", "statistic", "unit", "depth", "layer", "value", "low", "high"),
    *("difference", "difference_low", "difference_high", "se", "p", "q", "n", "significant", "relevant"),
]


def _rows(
    columns: Mapping[str, object],
    values: Float64[np.ndarray, "image depth"],
    first: Float64[np.ndarray, "image depth"],
    study: Compared,
    reference: Compared,
    *,
    tested: bool,
) -> pd.DataFrame:
    """The rows of one study and statistic."""
    known = np.isfinite(values) & np.isfinite(first)
    values, first = np.where(known, values, np.nan), np.where(known, first, np.nan)
    mean = estimate(values, pool=study.pool if tested else None)
    table = pd.DataFrame({**columns, "value": mean.mean, "low": mean.low, "high": mean.high, "n": mean.n})
    if study is reference:
        missing = dict.fromkeys(("difference", "difference_low", "difference_high", "se", "p", "q"), np.nan)
        return table.assign(**missing, significant=False, relevant=False)
    change = _difference(values, first, study, reference, tested=tested)
    q = false_discovery(change.p)
    return table.assign(
        difference=change.mean,
        difference_low=change.low,
        difference_high=change.high,
        se=change.se,
        p=change.p,
        q=q,
        significant=q < SIGNIFICANT,
        relevant=(np.abs(change.mean) >= RELEVANT) & tested,
    )


def _difference(
    values: Float64[np.ndarray, "image depth"],
    first: Float64[np.ndarray, "image depth"],
    study: Compared,
    reference: Compared,
    *,
    tested: bool,
) -> Estimate:
    """Paired over images; null maps that are not shared are two samples, whose spreads add up."""
    if not tested:
        return estimate(values - first, pool=None)
    pool = min(study.pool, reference.pool)
    apart = None if study.shared_null else spread(values) + spread(first)
    return estimate(values - first, pool=pool, null_spread=apart)


def _described(name: str, result: Result, reference: Result) -> Compared:
    run, model = result.run, result.run.model
    weights = str(model.get("weights") or "as loaded")
    return Compared(
        name=name,
        model=str(model.get("name") or model.get("spec") or "model"),
        weights=f"{weights} ({str(model.get('weights_hash', ''))[:_HASH]})",
        layers=result.arrays.sizes["layer"],
        heads=result.arrays.sizes["head"],
        height=int(model.get("height", 0)),
        width=int(model.get("width", 0)),
        rows=int(model.get("rows", 0)),
        cols=int(model.get("cols", 0)),
        images=run.images,
        pool=run.pool,
        seed=int(run.settings.get("seed", 0)),
        shared_null=shares_null(result, reference),
    )


def _cautions(studies: tuple[Compared, ...]) -> tuple[str, ...]:
    """What to bear in mind when these studies are compared."""
    told = []
    if len({(study.rows, study.cols) for study in studies}) > 1:
        told.append(
            "The models cut images into different patches, so keypoints are counted in patches of different sizes."
        )
    told += [
        f"{study.name} was measured against other null maps than {studies[0].name} (another seed, or another list of "
        "images), which widens its intervals."
        for study in studies[1:]
        if not study.shared_null
    ]
    return tuple(told)
