import numpy as np
import pandas as pd
import pytest

from siftlens.report.panels import panel
from siftlens.report.vocabulary import STATISTICS

BY_KEY = {statistic.key: statistic for statistic in STATISTICS}


def cell(heads: pd.DataFrame, key: str, layer: int, head: int, column: str) -> float:
    rows = heads[(heads["statistic"] == key) & (heads["layer"] == layer) & (heads["head"] == head)]
    return float(rows[column].iloc[0])


def test_grids_hold_each_head_and_the_mean_over_heads(make_result):
    result = make_result()
    heads = result.heads
    pull = panel(heads, result.layers, BY_KEY["semantic_pull"])
    columns = {
        "value": "value",
        "effect": "effect",
        "low": "low",
        "high": "high",
        "null_mean": "null",
        "p": "p",
        "q": "q",
    }
    columns |= {f"mirror_{name}": f"mirror_{name}" for name in ("effect", "low", "high", "q")}
    for layer in range(5):
        for column, grid in columns.items():
            true = [cell(heads, "semantic_pull", layer, head, column) for head in range(3)]
            np.testing.assert_allclose(getattr(pull, grid)[layer, :3], true)
            if not column.endswith(("p", "q")):
                assert getattr(pull, grid)[layer, 3] == pytest.approx(sum(true) / 3)
        assert pull.mirror_null[layer, 1] == pytest.approx(pull.value[layer, 1] - pull.mirror_effect[layer, 1])


def test_the_mean_is_read_from_the_table_of_layers(make_result):
    result = make_result()
    result.layers.loc[(result.layers["layer"] == 2) & (result.layers["statistic"] == "semantic_pull"), "q"] = 0.7
    pull = panel(result.heads, result.layers, BY_KEY["semantic_pull"])
    assert pull.q[2, 3] == 0.7
    assert pull.verdicts[2, 3] == "unclear"
    rows = result.layers[result.layers["statistic"] == "semantic_pull"].sort_values("layer")
    for column, grid in {"low": "low", "high": "high", "p": "p", "mirror_q": "mirror_q", "n": "n"}.items():
        np.testing.assert_array_equal(getattr(pull, grid)[:, 3], rows[column])


def test_verdicts_weigh_q_and_size(make_result):
    result = make_result(layers=1, heads=4, effects=[[0.3, 0.06, 0.3, np.nan]])
    heads = result.heads
    heads.loc[heads["head"] == 2, "q"] = 0.051
    heads.loc[heads["head"] == 1, "q"] = 0.049
    pull = panel(heads, result.layers, BY_KEY["semantic_pull"])
    assert pull.verdicts[0, :4].tolist() == ["relevant", "small", "unclear", "missing"]


def test_what_is_only_described_has_no_verdict_and_shows_its_value(make_result):
    result = make_result()
    entropy = panel(result.heads, result.layers, BY_KEY["entropy"])
    assert set(entropy.verdicts.ravel()) == {""}
    np.testing.assert_array_equal(entropy.shown, entropy.value)


def test_distance_is_the_root_of_the_mean_square(make_result):
    result = make_result()
    heads = result.heads
    distance = panel(heads, result.layers, BY_KEY["mean_squared_distance"])
    squares = [cell(heads, "mean_squared_distance", 2, head, "value") for head in range(3)]
    assert distance.value[2, 1] == pytest.approx(squares[1] ** 0.5)
    assert distance.value[2, 3] == pytest.approx((sum(squares) / 3) ** 0.5)
    assert distance.low[2, 0] == pytest.approx(cell(heads, "mean_squared_distance", 2, 0, "low") ** 0.5)


def test_a_statistic_that_was_not_computed_has_no_panel(make_result):
    result = make_result(class_token=False)
    assert panel(result.heads, result.layers, BY_KEY["cls_pull"]) is None
    assert panel(result.heads, result.layers, BY_KEY["register_mass"]) is None
