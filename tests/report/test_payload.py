import json
import math

import numpy as np
import pandas as pd
import pytest

from siftlens.report.page import page
from siftlens.report.payload import as_script, extremes, groups_json, levels_of, plain


def test_numbers_are_plain_json_with_four_digits():
    assert plain(np.array([[0.123456, math.nan], [-math.inf, 98765.4]])) == [[0.1235, None], [None, 98770.0]]


def test_no_text_can_close_the_script_element():
    text = as_script({"name": "</script><!--<script>&\u2028"})
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"name": "</script><!--<script>&\u2028"}


def test_levels_stack_received_and_class_rows_below_the_matrix_and_the_mean_last(make_result):
    result = make_result()
    levels = levels_of(result)
    assert levels.rows == ("0", "1", "2-3", "4-7", "8+", "any patch", "class token")
    lift = result.arrays["level_lift"]
    assert levels.lift[3][2][1][4] == pytest.approx(float(lift[3, 2, 1, 4]), rel=1e-3)
    assert levels.lift[3][2][4] == [None] * 5
    received = result.heads[(result.heads["statistic"] == "received_level_4") & (result.heads["layer"] == 3)]
    for head in range(3):
        value = float(received[received["head"] == head]["value"].iloc[0])
        assert levels.lift[3][head][5][4] == pytest.approx(value, rel=1e-3)
    assert levels.lift[3][3][5][4] == pytest.approx(received["value"].mean(), rel=1e-3)
    assert levels.lift[1][0][6][2] == pytest.approx(float(result.arrays["cls_level_lift"][1, 0, 2]), rel=1e-3)
    assert levels.n == [100927, 503, 251, 127, 0]


def test_without_class_token_there_is_no_class_row(make_result):
    assert levels_of(make_result(class_token=False)).rows[-1] == "any patch"


def test_extremes_are_the_images_at_both_ends(make_result):
    arrays = make_result(n=23).arrays
    names = [str(name) for name in arrays["image"].values]
    found = extremes(arrays, names)
    effect = np.asarray(arrays["semantic_pull"] - arrays["semantic_pull_null"])
    for head, values in ((1, effect[:, 4, 1]), (3, effect[:, 4].mean(axis=1))):
        order = sorted(range(23), key=lambda i: values[i])
        cell = found["cells"][4][head]
        assert [found["names"][index] for index, _ in cell["most"]] == [names[i] for i in order[:-4:-1]]
        assert [found["names"][index] for index, _ in cell["least"]] == [names[i] for i in order[:3]]
        assert cell["most"][0][1] == pytest.approx(values[order[-1]], rel=1e-3)


def test_extremes_leave_out_images_without_a_value_and_never_name_one_twice(make_result):
    arrays = make_result(n=5).arrays
    arrays["semantic_pull"][2] = np.nan
    found = extremes(arrays, list("abcde"))
    named = [index for side in found["cells"][0][0].values() for index, _ in side]
    assert len(named) == len(set(named)) == 4
    assert "c" not in {found["names"][index] for index in named}


def test_the_scale_of_a_heat_map_covers_its_largest_effect(make_result):
    panels = {panel["key"]: panel for panel in page(make_result()).figures["panels"]}
    largest = max(abs(value) for row in panels["semantic_pull"]["effect"] for value in row)
    assert largest <= panels["semantic_pull"]["reach"] <= 1.5 * largest


def test_the_scale_of_tiny_effects_is_not_stretched(make_result):
    panels = {panel["key"]: panel for panel in page(make_result(effects=np.full((5, 3), 0.004))).figures["panels"]}
    assert panels["semantic_pull"]["reach"] == pytest.approx(0.2)


def test_groups_share_a_scale_and_have_no_mean(make_result):
    heads = make_result(n=41).heads
    weak = heads.assign(effect=heads["effect"] / 7, n=11)
    found = groups_json(pd.concat([weak.assign(group="b"), heads.assign(group="a")]))
    assert [part["group"] for part in found] == ["a", "b"]
    assert found[0]["reach"] == found[1]["reach"] >= heads.query("statistic == 'semantic_pull'")["effect"].abs().max()
    assert found[1]["effect"][4][2] == pytest.approx(found[0]["effect"][4][2] / 7, rel=1e-3)
    assert found[1]["n"][4] == [11, 11, 11, 0]
    assert found[1]["effect"][4][3] is None


def test_without_groups_there_is_nothing_to_draw():
    assert groups_json(None) is None
