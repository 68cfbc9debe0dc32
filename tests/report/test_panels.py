import numpy as np
import pandas as pd
import pytest
from scipy import stats

from siftlens.report.panels import panel
from siftlens.report.vocabulary import STATISTICS

BY_KEY = {statistic.key: statistic for statistic in STATISTICS}


def cell(heads: pd.DataFrame, key: str, layer: int, head: int, column: str) -> float:
    rows = heads[(heads["statistic"] == key) & (heads["layer"] == layer) & (heads["head"] == head)]
    return float(rows[column].iloc[0])


def test_grids_hold_each_head_and_the_mean_over_heads(make_result):
    heads = make_result().heads
    pull = panel(heads, BY_KEY["semantic_pull"], pool=307)
    columns = {
        "value": "value",
        "effect": "effect",
        "low": "low",
        "high": "high",
        "null_mean": "null",
        "p": "p",
        "q": "q",
    }
    columns |= {f"mirror_{name}": f"mirror_{name}" for name in ("effect", "low", "high", "p", "q")}
    for layer in range(5):
        for column, grid in columns.items():
            true = [cell(heads, "semantic_pull", layer, head, column) for head in range(3)]
            np.testing.assert_allclose(getattr(pull, grid)[layer, :3], true)
            if not column.endswith(("p", "q")):
                assert getattr(pull, grid)[layer, 3] == pytest.approx(sum(true) / 3)
        assert pull.mirror_null[layer, 1] == pytest.approx(pull.value[layer, 1] - pull.mirror_effect[layer, 1])


def test_the_interval_of_a_mean_bounds_the_true_one(make_result):
    """Whatever the correlation of heads: here that of independent ones, and that of identical ones."""
    heads = make_result(half=0.06).heads
    pull = panel(heads, BY_KEY["semantic_pull"], pool=307)
    half = (pull.high - pull.low)[:, 3] / 2
    np.testing.assert_allclose(half, 0.06)
    assert (half > 0.06 / np.sqrt(3)).all()


def test_the_mean_is_tested_with_the_smaller_of_images_and_pool_and_corrected_over_layers(make_result):
    heads = make_result(n=41).heads
    pull = panel(heads, BY_KEY["semantic_pull"], pool=17)
    se = 0.06 / stats.t.ppf(0.975, 16)
    p = [2 * stats.t.sf(abs(effect) / se, 16) for effect in pull.effect[:, 3]]
    np.testing.assert_allclose(pull.p[:, 3], p)
    ranked = sorted(p)
    q = [min(other * 5 / (ranked.index(other) + 1) for other in ranked if other >= own) for own in p]
    np.testing.assert_allclose(pull.q[:, 3], q)
    mirror_se = 0.06 / stats.t.ppf(0.975, 40)
    np.testing.assert_allclose(pull.mirror_p[:, 3], 2 * stats.t.sf(np.abs(pull.mirror_effect[:, 3]) / mirror_se, 40))


def test_verdicts_weigh_q_and_size(make_result):
    heads = make_result(layers=1, heads=4, effects=[[0.3, 0.06, 0.3, np.nan]]).heads
    heads.loc[heads["head"] == 2, "q"] = 0.051
    heads.loc[heads["head"] == 1, "q"] = 0.049
    pull = panel(heads, BY_KEY["semantic_pull"], pool=307)
    assert pull.verdicts[0, :4].tolist() == ["relevant", "small", "unclear", "missing"]


def test_what_is_only_described_has_no_verdict_and_shows_its_value(make_result):
    entropy = panel(make_result().heads, BY_KEY["entropy"], pool=307)
    assert set(entropy.verdicts.ravel()) == {""}
    np.testing.assert_array_equal(entropy.shown, entropy.value)


def test_distance_is_the_root_of_the_mean_square(make_result):
    heads = make_result().heads
    distance = panel(heads, BY_KEY["mean_squared_distance"], pool=307)
    squares = [cell(heads, "mean_squared_distance", 2, head, "value") for head in range(3)]
    assert distance.value[2, 1] == pytest.approx(squares[1] ** 0.5)
    assert distance.value[2, 3] == pytest.approx((sum(squares) / 3) ** 0.5)
    assert distance.low[2, 0] == pytest.approx(cell(heads, "mean_squared_distance", 2, 0, "low") ** 0.5)


def test_a_statistic_that_was_not_computed_has_no_panel(make_result):
    result = make_result(class_token=False)
    assert panel(result.heads, BY_KEY["cls_pull"], pool=307) is None
    assert panel(result.heads, BY_KEY["register_mass"], pool=307) is None


def test_one_image_gives_no_p(make_result):
    heads = make_result().heads.assign(n=1)
    assert np.isnan(panel(heads, BY_KEY["semantic_pull"], pool=1).p[:, 3]).all()
