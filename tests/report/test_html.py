"""The page as text. `SIFTLENS_UPDATE_GOLD=1` writes the gold file anew: look at the difference before committing it."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from siftlens.report import render

GOLD = Path(__file__).parent / "gold" / "report.html"
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>&{{7*7}}"


class Elements(HTMLParser):
    """Collects start tags and the text of the JSON block."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.json, self._inside = [], "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = (tag, dict(attrs).get("type")) == ("script", "application/json")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        self.json += data if self._inside else ""


def figures(text):
    return json.loads(Elements(text).json)


def scrubbed(text):
    """The page without what changes from day to day: styles, scripts, data, digests."""
    text = re.sub(r"(<style>).*?(</style>)", r"\1\2", text, flags=re.DOTALL)
    text = re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", text, flags=re.DOTALL)
    return re.sub(r"sha256-[A-Za-z0-9+/=]+", "sha256-", text)


def test_the_page_is_the_gold_one(make_result):
    text = scrubbed(render(make_result(layers=3, heads=2, n=37, pool=37, gallery=1)))
    if os.environ.get("SIFTLENS_UPDATE_GOLD"):
        GOLD.write_text(text, "utf-8")
    assert text == GOLD.read_text("utf-8")


@pytest.fixture
def hostile_page(make_result):
    result = make_result(layers=2, heads=2, n=13, gallery=1)
    result.heads["layer_name"] = HOSTILE
    arrays = result.arrays.assign_coords(image=[f"{HOSTILE}{i}" for i in range(13)])
    run = replace(
        result.run,
        model=dict.fromkeys(["name", "spec", HOSTILE], HOSTILE),
        settings={"measure": HOSTILE, "nested": {"list": [HOSTILE]}},
        versions={"siftlens": HOSTILE},
        started=HOSTILE,
    )
    quarantine = pd.DataFrame({"identity": [HOSTILE], "reason": [HOSTILE]})
    gallery = (replace(result.gallery[0], identity=HOSTILE),)
    return render(replace(result, arrays=arrays, run=run, quarantine=quarantine, gallery=gallery))


def test_names_never_become_markup(hostile_page, make_result):
    tame = Elements(render(make_result(layers=2, heads=2, n=13, gallery=1)))
    wild = Elements(hostile_page)
    kinds = {tag for tag, _ in wild.tags}
    assert kinds == {tag for tag, _ in tame.tags}
    assert "img" not in kinds
    assert sum(tag == "script" for tag, _ in wild.tags) == 2
    assert not [name for _, attributes in wild.tags for name in attributes if name.startswith("on")]
    assert figures(hostile_page)["explorer"]["images"][0]["name"] == HOSTILE


def test_nothing_is_loaded_and_only_its_own_script_may_run(make_result):
    text = render(make_result())
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text)
    policy = next(attributes for tag, attributes in Elements(text).tags if "http-equiv" in attributes)["content"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert {name for tag, attributes in Elements(text).tags for name in attributes} >= {"content"}
    assert not [tag for tag, attributes in Elements(text).tags if {"style", "src"} & set(attributes)]


def test_without_gallery_the_section_and_its_link_are_absent(make_result):
    text = render(make_result(gallery=0))
    assert 'id="images"' not in text
    assert "#images" not in re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)


def test_a_small_pool_is_warned_of(make_result):
    assert "Only 255 images in the reference pool" in render(make_result(n=255, pool=255, gallery=0))
    assert "reference pool of the first null" not in render(make_result(n=307, pool=256, gallery=0))


def test_random_weights_are_warned_of(make_result, rerun):
    result = make_result(gallery=0)
    assert "weights are random" in render(rerun(result, model=result.run.model | {"weights": "random, seed 0"}))
    assert "weights are random" not in render(result)


def test_a_clean_run_lists_nothing_set_aside(make_result, rerun):
    result = rerun(make_result(gallery=0), quarantined=0)
    text = render(replace(result, quarantine=result.quarantine.iloc[:0]))
    assert "Images set aside" not in text
    assert "could not be read" not in text


def test_of_a_long_list_of_images_set_aside_the_first_twenty_are_shown(make_result, rerun):
    aside = pd.DataFrame({"identity": [f"{i:03}.png" for i in range(41)], "reason": "truncated"})
    text = render(replace(rerun(make_result(gallery=0), quarantined=41), quarantine=aside))
    assert "Images set aside (41)" in text
    assert "019.png" in text
    assert "020.png" not in text
    assert "21 more are listed in quarantine.csv" in text


def test_missing_cells_stay_missing(make_result):
    effects = np.full((5, 3), 0.3)
    effects[2, 1] = np.nan
    panels = {panel["key"]: panel for panel in figures(render(make_result(effects=effects)))["panels"]}
    pull = panels["semantic_pull"]
    assert pull["effect"][2][1] is None
    assert pull["verdicts"][2][1] == "missing"
    assert pull["effect"][2][3] == pytest.approx(0.3)


@pytest.mark.parametrize("shape", [{"layers": 1, "heads": 1}, {"layers": 1, "heads": 3, "class_token": False}])
def test_the_smallest_studies_render(make_result, shape):
    assert "What was found" in render(make_result(**shape, gallery=1))


def test_a_study_without_received_levels_or_per_image_arrays_renders(make_result):
    result = make_result()
    heads = result.heads[~result.heads["statistic"].str.startswith("received")]
    arrays = result.arrays.drop_vars(["semantic_pull", "semantic_pull_null"])
    drawn = figures(render(replace(result, heads=heads, arrays=arrays)))
    assert drawn["extremes"] is None
    assert drawn["levels"]["lift"][0][0][5] == [None] * 5
