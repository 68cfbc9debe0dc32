import re
from dataclasses import replace

import numpy as np
import pytest

from siftlens.report.page import page


def told(result):
    return {finding.title: finding for finding in page(result).findings}


def effects_of(result, key):
    rows = result.heads[result.heads["statistic"] == key]
    return rows.set_index(["layer", "head"])[["effect", "low", "high", "q", "n"]]


def test_the_counts_of_heads_are_those_of_the_table(make_result):
    result = make_result()
    rows = effects_of(result, "semantic_pull")
    toward = sum(e >= 0.1 and q < 0.05 for e, q in zip(rows["effect"], rows["q"], strict=True))
    away = sum(e <= -0.1 and q < 0.05 for e, q in zip(rows["effect"], rows["q"], strict=True))
    finding = told(result)["Heads"]
    assert finding.sentence.startswith(f"Of 15 heads, {toward} pull toward keypoint-rich patches and {away} away")
    assert 0 < toward < 15
    assert 0 < away < 15


def test_where_nothing_was_tested_nothing_else_is_told(make_result):
    result = make_result()
    heads, layers = (table.assign(p=np.nan, q=np.nan, significant=False) for table in (result.heads, result.layers))
    assert list(told(replace(result, heads=heads, layers=layers))) == ["Too few images"]


def test_figures_that_stand_for_more_say_so(make_result):
    result = make_result()
    one = result.layers.assign(q=result.layers["q"].where(result.layers["layer"] == result.layers["layer"].max(), 0.9))
    for title in ("Layers", "Class token"):
        assert told(result)[title].note == "The largest of them."  # of five layers
        finding = told(replace(result, layers=one))[title]
        assert (len(finding.evidence), finding.note) == (1, "")


def test_every_estimate_is_a_row_of_the_table(make_result):
    result = make_result()
    keys = {"Heads": "semantic_pull", "Too small to matter": "semantic_pull", "Like to like": "assortativity"}
    findings = told(result)
    for title, key in keys.items():
        rows = effects_of(result, key)
        for estimate in findings[title].evidence:
            layer, head = map(int, re.fullmatch(r"layer (\d+), head (\d+)", estimate.label).groups())
            row = rows.loc[(layer, head)]
            assert (estimate.value, estimate.low, estimate.high) == (row["effect"], row["low"], row["high"])
            assert estimate.n == row["n"] == 307


def test_heads_that_are_all_too_small_are_not_called_a_finding(make_result):
    findings = told(make_result(effects=np.full((5, 3), 0.07), half=0.03))
    assert findings["Heads"].sentence.startswith("None of the 15 heads pulls toward or away from")
    assert findings["Too small to matter"].sentence.startswith("15 of 15 heads")
    assert "Second null" not in findings


def test_like_and_unlike_are_told_only_where_there_are_such_heads(make_result):
    effects = np.zeros((5, 3))
    effects[1, 2] = -0.5
    assert told(make_result(effects=effects))["Like to like"].sentence.startswith(
        "Patches attend in 1 of 15 heads to patches of unlike concentration, by at least 0.1 more than"
    )


def test_every_finding_has_evidence_with_interval_and_n(make_result):
    for finding in page(make_result()).findings:
        assert finding.evidence, finding.title
        for estimate in finding.evidence:
            assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
            assert estimate.low < estimate.value < estimate.high
            assert estimate.n == 307


def test_the_strongest_heads_are_named(make_result):
    effects = np.zeros((5, 3))
    effects[1, 2], effects[3, 0], effects[2, 1] = 0.7, -0.4, 0.3
    finding = told(make_result(effects=effects))["Heads"]
    assert "The strongest: layer 1, head 2 (toward) and layer 3, head 0 (away)." in finding.sentence
    assert [e.label for e in finding.evidence] == ["layer 1, head 2", "layer 2, head 1", "layer 3, head 0"]


def test_nothing_significant_leaves_nothing_but_that(make_result):
    result = make_result(effects=np.zeros((5, 3)))
    findings = told(result)
    assert set(findings) == {"Nothing found", "Beyond rivals", "Like to like", "Class token"}
    assert findings["Nothing found"].sentence.startswith("None of the 15 heads pulls")
    assert "no layer's mean pull is clear" in findings["Beyond rivals"].sentence
    assert findings["Like to like"].sentence.startswith("In none of 15 heads")
    assert "no clear pull in any layer" in findings["Class token"].sentence


def test_the_head_that_may_hide_most_stands_beside_what_is_not_significant(make_result):
    effects = np.zeros((5, 3))
    effects[2, 1] = -0.03
    finding = told(make_result(effects=effects))["Nothing found"]
    assert [e.label for e in finding.evidence] == ["layer 2, head 1"]


def test_layers_are_told_by_direction_and_size(make_result):
    effects = np.repeat([[-0.3], [-0.07], [0.0], [0.2], [0.4]], 3, axis=1)
    sentence = told(make_result(effects=effects, half=0.03))["Layers"].sentence
    assert sentence == (
        "Averaged over heads, the pull is toward keypoint-rich patches in layers 3 and 4, "
        "away from them in layer 0 and away from them by less than 0.1 SD, too little to matter, in layer 1."
    )


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ([-0.3, -0.2, 0.0, 0.2, 0.4], "turns from away to toward between layers 1 and 3"),
        (
            [-0.3, 0.2, 0.3, 0.2, -0.4],
            "turns from away to toward between layers 0 and 1 and from toward to away between layers 3 and 4",
        ),
        ([0.3, 0.2, 0.0, 0.2, 0.4], None),
    ],
)
def test_the_turn_is_told_only_where_signs_change(make_result, means, words):
    findings = told(make_result(effects=np.repeat(np.array(means)[:, None], 3, axis=1)))
    assert ("The turn" in findings) == (words is not None)
    if words:
        assert words in findings["The turn"].sentence


def test_small_and_unclear_heads_are_counted(make_result):
    effects = np.full((5, 3), 0.3)
    effects[0] = 0.07
    effects[1, :2] = 0.0
    findings = told(make_result(effects=effects))
    assert findings["Too small to matter"].sentence.startswith("3 of 15 heads differ from the null by less than 0.1 SD")
    assert findings["Not significant"].sentence == "2 of 15 heads cannot be told from the null (q ≥ 0.05)."


def test_the_second_null_counts_heads_of_the_same_sign_only(make_result):
    effects = np.full((5, 3), 0.3)
    result = make_result(effects=effects)
    own = (result.heads["statistic"] == "semantic_pull") & (result.heads["layer"] == 0)
    result.heads.loc[own, "mirror_effect"] *= -1
    result.heads.loc[own & (result.heads["head"] == 0), "mirror_q"] = 0.9
    result.heads.loc[(result.heads["layer"] == 1) & (result.heads["head"] == 1), "mirror_q"] = 0.9
    assert told(result)["Second null"].sentence.startswith(
        "Of the 15 heads that pull by at least 0.1 SD more than other images' maps explain, 11"
    )


@pytest.mark.parametrize(("q", "differs"), [(0.001, "also differs"), (0.9, "does not differ")])
def test_one_head_alone_is_spoken_of_as_one(make_result, q, differs):
    effects = np.full((5, 3), 0.07)
    effects[2, 1] = 0.3
    result = make_result(effects=effects)
    result.heads["mirror_q"] = q
    assert told(result)["Second null"].sentence.startswith(
        f"The one head that pulls by at least 0.1 SD more than other images' maps explain {differs} in the same"
    )


def test_without_class_token_it_is_not_spoken_of(make_result):
    view = page(make_result(class_token=False))
    assert "Class token" not in {finding.title for finding in view.findings}
    assert not view.class_token


def test_a_table_without_any_effect_gives_no_sentence(make_result):
    result = make_result()
    for table in (result.heads, result.layers):
        table[["effect", "low", "high", "p", "q"]] = np.nan
    assert page(result).findings == ()
