"""Whole comparisons against a loop over images, layers and heads."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from oracles.studies import DESCRIBED, TESTED, made_up
from siftlens.comparison import compare_results
from siftlens.core import InputError, StudyError


def per_image(result, statistic, image, layer):
    """Mean over heads of the effect, or the value, of one image in one layer."""
    source = "mean_squared_distance" if statistic == "root_mean_squared_distance" else statistic
    total = 0.0
    heads = result.arrays.sizes["head"]
    for head in range(heads):
        value = float(result.arrays[source].values[image, layer, head])
        if statistic in TESTED:
            value -= float(result.arrays[f"{statistic}_null"].values[image, layer, head])
        total += value**0.5 if source != statistic else value
    return total / heads


def at_depth(result, statistic, image, depth):
    position = depth * (result.arrays.sizes["layer"] - 1)
    below = int(position + 1e-9)
    share = position - below
    value = per_image(result, statistic, image, below)
    if share < 1e-9:
        return value
    return (1 - share) * value + share * per_image(result, statistic, image, below + 1)


@pytest.mark.parametrize("layers", [5, 7])
def test_every_number_is_the_loops(layers):
    one, other = made_up(layers=5), made_up(layers=layers, heads=2, n=41, seed=8, pull=0.35)
    comparison = compare_results({"one": one, "other": other})
    assert comparison.images == 37
    assert comparison.aligned == (layers == 7)
    compared = [*TESTED, "class_mass", "entropy", "root_mean_squared_distance", "gradient_pull"]
    assert set(comparison.table["statistic"]) == set(compared)
    for statistic in compared:
        rows = comparison.rows("other", statistic)
        p_values = []
        for place, depth in enumerate([0, 0.25, 0.5, 0.75, 1]):
            first = np.array([at_depth(one, statistic, image, depth) for image in range(37)])
            second = np.array([at_depth(other, statistic, image, depth) for image in range(37)])
            change = second - first
            pool = 37 if statistic in TESTED else np.inf
            se = np.sqrt(change.var(ddof=1) * (1 / 37 + 1 / pool))
            half = stats.t.ppf(0.975, 36) * se
            expected = {
                "depth": depth,
                "layer": depth * (layers - 1),
                "value": second.mean(),
                "difference": change.mean(),
                "difference_low": change.mean() - half,
                "difference_high": change.mean() + half,
                "se": se,
                "n": 37,
            }
            for column, value in expected.items():
                assert rows[column][place] == pytest.approx(value, rel=1e-9, abs=1e-12), (statistic, column)
            p_values.append(2 * stats.t.sf(abs(change.mean()) / se, 36))
            reference = comparison.rows("one", statistic)
            assert reference["value"][place] == pytest.approx(first.mean(), rel=1e-9)
            assert reference["layer"][place] == 4 * depth
        q = stats.false_discovery_control(p_values)
        np.testing.assert_allclose(rows["q"], q, rtol=1e-9)
        np.testing.assert_array_equal(rows["significant"], q < 0.05)
        np.testing.assert_array_equal(rows["relevant"], (abs(rows["difference"]) >= 0.1) & (statistic in TESTED))


def test_the_reference_has_no_difference():
    rows = compare_results({"one": made_up(), "other": made_up(seed=8)}).rows("one", "semantic_pull")
    assert rows[["difference", "difference_low", "difference_high", "se", "p", "q"]].isna().all(axis=None)
    assert not rows[["significant", "relevant"]].any(axis=None)


def test_a_planted_difference_is_found_and_a_study_does_not_differ_from_itself():
    one = made_up(n=101)
    comparison = compare_results({"one": one, "more": made_up(n=101, seed=8, pull=0.9), "same": one})
    assert comparison.rows("more", "semantic_pull")["significant"].all()
    assert comparison.rows("more", "semantic_pull")["relevant"].all()
    assert not comparison.table[comparison.table["study"] == "same"]["significant"].any()


def test_null_maps_that_are_not_shared_widen_the_interval_and_are_told():
    one, other = made_up(), made_up(seed=8)
    apart = replace(other, run=replace(other.run, settings=other.run.settings | {"seed": 1}))
    shared, separate = (compare_results({"one": one, "other": result}) for result in (other, apart))
    assert shared.notes == ()
    assert "other was measured against other null maps than one" in separate.notes[0]
    assert [study.shared_null for study in separate.studies] == [True, False]
    first, second = (
        np.array([[at_depth(result, "semantic_pull", i, d) for d in np.linspace(0, 1, 5)] for i in range(37)])
        for result in (one, other)
    )
    expected = (second - first).var(axis=0, ddof=1) / 37 + (second.var(axis=0, ddof=1) + first.var(axis=0, ddof=1)) / 37
    np.testing.assert_allclose(separate.rows("other", "semantic_pull")["se"], np.sqrt(expected), rtol=1e-9)
    described = [comparison.rows("other", "class_mass")["se"] for comparison in (shared, separate)]
    np.testing.assert_array_equal(*described)


def test_an_image_without_a_value_is_left_out_of_both_sides():
    one, other = made_up(), made_up(seed=8)
    one.arrays["assortativity"][3, 2] = np.nan
    other.arrays["assortativity"][5, 2, 1] = np.nan  # one of three heads
    comparison = compare_results({"one": one, "other": other})
    for study in ("one", "other"):
        assert comparison.rows(study, "assortativity")["n"].tolist() == [37, 37, 36, 37, 37]


def test_what_is_not_in_all_studies_is_told():
    bare = made_up(seed=8)
    bare = replace(bare, arrays=bare.arrays.drop_vars(["cls_pull", "cls_pull_null", "entropy"]))
    comparison = compare_results({"one": made_up(), "bare": bare})
    assert comparison.notes == (
        "Not compared: class token's pull, which some of the studies lack.",
        "Not compared: entropy, which some of the studies lack.",
    )
    assert {"cls_pull", "entropy"}.isdisjoint(comparison.table["statistic"])


def test_what_means_another_thing_is_not_compared():
    other = made_up(seed=8, model={"rows": 5, "cols": 3, "height": 40})
    comparison = compare_results({"one": made_up(), "other": other})
    assert comparison.matched_by == "name"
    assert comparison.notes == (
        "Not compared: class mass, as the models have different numbers of tokens.",
        "Not compared: entropy, as the models have different numbers of tokens.",
        "Not compared: root mean squared distance, in pixels of inputs of different sizes.",
        "The models cut images into different patches, so keypoints are counted in patches of different sizes.",
    )
    assert set(comparison.table["statistic"]) == {*TESTED, *DESCRIBED} - {
        "class_mass",
        "entropy",
        "mean_squared_distance",
    }


def test_one_study_is_no_comparison():
    with pytest.raises(InputError, match="expected at least two studies to compare, got 1"):
        compare_results({"one": made_up()})


def test_arrays_that_cannot_be_read_are_named(monkeypatch):
    other = made_up(seed=8)

    def broken(self):
        raise OSError("Can't read data (wrong fletcher32 checksum)")

    one = made_up()
    monkeypatch.setattr(xr.DataArray, "to_numpy", broken)
    with pytest.raises(StudyError, match="semantic_pull in the study's arrays cannot be read; copy it again, or run"):
        compare_results({"one": one, "other": other})
