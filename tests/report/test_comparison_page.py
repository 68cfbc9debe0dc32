"""The page of a comparison as text. `SIFTLENS_UPDATE_GOLD=1` writes the gold file anew: look before committing."""

import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from oracles.studies import made_up
from siftlens.comparison import compare_results
from siftlens.report import render_comparison
from siftlens.report.comparison_figures import figure
from siftlens.report.comparison_findings import comparison_findings, where
from siftlens.report.comparison_page import SHOWN, comparison_page, place_names

GOLD = Path(__file__).parent / "gold" / "comparison.html"
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>&{{7*7}}"


class Elements(HTMLParser):
    """Collects start tags."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def comparison():
    """Three studies, of 5 and of 3 layers."""
    studies = {
        "early": made_up(layers=5),
        "late": made_up(seed=8, pull=0.6),
        "other": made_up(layers=3, heads=2, seed=9),
    }
    return compare_results(studies)


def planted(differences, *, significant=True, layers=None):
    """A comparison whose semantic pull differs as told."""
    found = compare_results(
        {"A": made_up(layers=len(differences)), "B": made_up(layers=layers or len(differences), seed=8)}
    )
    table = found.table.copy()
    chosen = (table["study"] == "B") & (table["statistic"] == "semantic_pull")
    table.loc[chosen, "difference"] = differences
    table.loc[chosen, "difference_low"] = np.array(differences) - 0.03
    table.loc[chosen, "difference_high"] = np.array(differences) + 0.03
    table.loc[chosen, "significant"] = np.array(differences) != 0 if significant else False
    table.loc[chosen, "relevant"] = np.abs(differences) >= 0.1
    return replace(found, table=table)


def sentence(comparison):
    pull = next(statistic for statistic in SHOWN if statistic.key == "semantic_pull")
    (found,) = comparison_findings(comparison, [pull], place_names(comparison))
    return found


def scrubbed(text):
    text = re.sub(r"(<style>).*?(</style>)", r"\1\2", text, flags=re.DOTALL)
    text = re.sub(r"sha256-[A-Za-z0-9+/=]+", "sha256-", text)
    return re.sub(r"Made by siftlens [^ ]+", "Made by siftlens VERSION", text)


def test_the_page_is_the_gold_one(comparison):
    text = scrubbed(render_comparison(comparison))
    if os.environ.get("SIFTLENS_UPDATE_GOLD"):
        GOLD.write_text(text, "utf-8")
    assert text == GOLD.read_text("utf-8")


@pytest.mark.parametrize(
    ("differences", "told"),
    [
        (
            [0.2, 0.3, 0.25, 0, -0.15],
            "B pulls further toward keypoint-rich patches than A in layers 0 to 2 and less far in layer 4 (q < 0.05).",
        ),
        (
            [0, 0.05, 0, 0.3, -0.02],
            "B pulls further toward keypoint-rich patches than A in layer 3, further by less than 0.1 SD, too little "
            "to matter, in layer 1 and less far by less than 0.1 SD, too little to matter, in layer 4 (q < 0.05).",
        ),
        (
            [0, 0, -0.3, -0.2, 0],
            "B pulls less far toward keypoint-rich patches than A in layers 2 and 3 (q < 0.05).",
        ),
        ([0, 0, 0, 0, 0], "No layer differs: nowhere can B be told from A (q ≥ 0.05)."),
    ],
)
def test_sentences_say_what_the_numbers_say(differences, told):
    assert sentence(planted(differences)).sentence.replace("\u00a0", " ") == told


def test_what_is_not_clear_is_not_told_however_large():
    found = sentence(planted([0.5, 0.1, -0.7, 0, 0], significant=False))
    assert found.sentence.startswith("No layer differs")
    assert [estimate.label for estimate in found.evidence] == ["layer 2, difference"]


def test_the_largest_differences_stand_beside_the_sentence():
    found = sentence(planted([0.2, 0.3, 0.25, 0, -0.15]))
    assert [estimate.value for estimate in found.evidence] == [0.3, 0.25, -0.15]
    assert found.evidence[0].figure == "+0.30 SD"
    assert found.evidence[0].n == 37


def test_aligned_layers_are_called_by_their_depth():
    found = sentence(planted([0.2, 0.3, 0, 0, -0.15], layers=7))
    assert "in A at depths 0.00" not in found.sentence
    assert "than A at depths 0.00 and 0.25 and less far at depth 1.00" in found.sentence
    assert found.evidence[0].label == "depth 0.25, difference"


def test_places_are_joined_into_runs():
    places = [f"layer {i}" for i in range(9)]
    assert where([4], places) == "in layer 4"
    assert where([7, 1, 2, 3, 5], places) == "in layers 1 to 3, 5 and 7"
    assert where([0, 1], [f"depth {i / 4:.2f}" for i in range(5)]) == "at depths 0.00 and 0.25"


def test_titles_name_the_study_where_there_are_several(comparison):
    titles = [finding.title for finding in comparison_page(comparison).findings]
    assert titles[0] == "late: Pull toward keypoints"
    assert titles[4] == "other: Pull toward keypoints"


def test_names_never_become_markup():
    tame = compare_results({"A": made_up(), "B": made_up(seed=8)})
    wild = compare_results(
        {
            HOSTILE: made_up(model=dict.fromkeys(("name", "spec", "weights", "weights_hash"), HOSTILE)),
            HOSTILE * 2: made_up(seed=8, model=dict.fromkeys(("name", "spec", "weights", "weights_hash"), HOSTILE)),
        }
    )
    text = render_comparison(replace(wild, notes=(HOSTILE,)))
    found = Elements(text).tags
    assert {tag for tag, _ in found} == {tag for tag, _ in Elements(render_comparison(tame)).tags}
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r"<h1>.*?</h1>", text, flags=re.DOTALL)[0]


def test_nothing_is_loaded_and_no_script_runs(comparison):
    text = render_comparison(comparison)
    found = Elements(text).tags
    assert not re.search(r"https?://", text)
    assert "script" not in {tag for tag, _ in found}
    policy = next(attributes for _, attributes in found if "http-equiv" in attributes)["content"]
    assert "default-src 'none'" in policy
    assert "script-src 'none'" in policy
    assert not [tag for tag, attributes in found if {"style", "src"} & set(attributes)]


def test_matching_by_name_is_warned_of():
    by_name = compare_results({"A": made_up(), "B": made_up(seed=8, model={"resize_to": 64})})
    assert "taken on trust" in render_comparison(by_name)
    assert "taken on trust" not in render_comparison(compare_results({"A": made_up(), "B": made_up(seed=8)}))


@pytest.mark.parametrize("layers", [1, 2, 29])
def test_any_depth_can_be_drawn(layers):
    found = compare_results({"A": made_up(layers=layers, heads=1), "B": made_up(layers=layers, heads=1, seed=8)})
    drawn = figure(found, SHOWN[0], place_names(found))
    assert len(drawn.told) == layers
    assert len([tick for tick in drawn.places if tick.text]) <= 15
    for part in (drawn.values, drawn.differences):
        for x, y, _ in [dot for curve in part.curves for dot in curve.dots]:
            assert 44 <= x <= 330
            assert 0 <= y <= 330
    assert "What differs" in render_comparison(found)


def test_curves_go_through_the_values(comparison):
    drawn = figure(comparison, SHOWN[0], place_names(comparison))
    lines = {float(tick.text.replace("−", "-")): tick.at for tick in drawn.differences.ticks}
    zero = lines.pop(0.0)
    value, line = lines.popitem()
    for curve, study in zip(drawn.differences.curves, ("late", "other"), strict=True):
        rows = comparison.rows(study, "semantic_pull")
        for (_, y, hollow), change, clear in zip(curve.dots, rows["difference"], rows["significant"], strict=True):
            assert (y - zero) / (line - zero) * value == pytest.approx(change, abs=1e-9)
            assert hollow == (not clear)
    assert [tick.text for tick in drawn.places] == ["0", "0.25", "0.5", "0.75", "1"]


def test_every_number_stands_in_the_tables(comparison):
    table = comparison_page(comparison).tables[0]
    assert table.columns == ("Depth", "early", "late", "difference", "q", "n", "other", "difference", "q", "n")
    rows = comparison.rows("late", "semantic_pull")
    place, cells = table.rows[1]
    assert place == "depth 0.50"
    text, clear = cells[2]
    assert text.startswith(f"{rows['difference'][1]:+.2f} (")
    assert clear == rows["significant"][1]
    assert cells[4][0] == "37"
