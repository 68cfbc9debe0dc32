"""The page of a prompt: what it says of each policy, and that names from outside stay text."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pandas as pd
import pytest

from oracles.prompts import made_up as effect
from siftlens.prompting import Bias, Contrast, Mixture, PixelMask, Policy, TokenChoice
from siftlens.report import render_prompt
from siftlens.report.prompt_page import policy_sentences, prompt_page

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>&{{7*7}}"


class Elements(HTMLParser):
    """Collects start tags."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def test_marks_of_changed_answers():
    page = prompt_page(effect())
    assert page.lead == ("3 answers of 5 changed (60\u00a0%).", "2 wrong answers became right, 1 right one wrong.")
    assert page.facts == (
        ("5", "images"),
        ("3", "answers changed"),
        ("60\u00a0% → 80\u00a0%", "right"),
    )
    first, second = page.changes
    assert (first.before, first.after, first.verdict) == ("sea (80\u00a0%)", "wood (65\u00a0%)", "mended")
    assert first.why == "It carries sea 1 (colour), on 25\u00a0% of its patches. Before, wood had 15\u00a0%."
    assert second.why == "Of the suppressed cues it carries none. Before, sea had 25\u00a0%."
    assert page.unpictured == 1
    assert page.classes == ()
    assert page.groups == (
        ("wood", "yes", "2", "50\u00a0%", "50\u00a0%"),
        ("sea", "no", "3", "67\u00a0%", "100\u00a0%"),
    )
    assert "Cue there" in render_prompt(effect())


def test_the_worst_group_is_of_groups_that_are_large_enough():
    found = effect()
    assert found.worst is None  # 2 and 3 images
    many = replace(found, table=pd.concat([found.table] * 3, ignore_index=True))
    assert many.worst == (2 / 3, 1.0)  # the 9 without the cue; the other group has 6
    many = replace(found, table=pd.concat([found.table] * 4, ignore_index=True))
    assert many.worst == (0.5, 0.5)
    assert ("50\u00a0% → 50\u00a0%", "right in the worst group") in prompt_page(many).facts


def test_without_cues_groups_are_classes():
    page = prompt_page(effect(cues=False))
    assert [group[:3] for group in page.groups] == [("wood", "", "2"), ("sea", "", "3")]
    assert "Cue there" not in render_prompt(effect(cues=False))


def test_unknown_labels_are_not_marked():
    page = prompt_page(effect(labels_match=False, cues=False))
    assert "it is not known which answers are right" in page.lead[1]
    assert [change.verdict for change in page.changes] == ["changed", "changed"]
    assert [change.why for change in page.changes] == ["Before, wood had 15\u00a0%.", "Before, sea had 25\u00a0%."]
    assert page.classes == (("sea", "3", "4", "1"), ("wood", "2", "1", "2"))
    assert 'class="mark' not in render_prompt(effect(labels_match=False))


@pytest.mark.parametrize(
    ("policy", "sentences"),
    [
        (Policy.identity(), ["Nothing is done: this is the model as it is."]),
        (
            Policy(bias=(Bias(-2.0, layers=(1, 2, 3), heads=(0,)),), maps=Mixture(centre=1)),
            [
                "Attention to a patch is multiplied by exp(−2.0 × its map), in layers 1 to 3, head 0, and each row "
                "made to sum to one again.",
                "The map of a patch is its closeness to the centre.",
            ],
        ),
        (
            Policy(tokens=TokenChoice(0.25), contrast=Contrast(0.5, 0.4), maps=Mixture(keypoints=1, cues=2)),
            [
                "The 25\u00a0% of the patches with the highest map are kept; the others are dropped before the "
                "first block.",
                "What the 40\u00a0% of the patches with the lowest map say alone is taken off the answer, times 0.5.",
                "Of patches with the same map, some are taken by lot.",
                "The map of a patch is how many keypoints it holds, log(1 + n) over the largest (weight 1) and −1 "
                "where it shows a suppressed cue of the audit, 0 elsewhere (weight 2).",
            ],
        ),
        (
            Policy(pixels=PixelMask(0.5, "mean")),
            [
                "The 50\u00a0% of the patches with the highest map are kept; the others are painted in the image's "
                "mean colour.",
                "Of patches with the same map, some are taken by lot.",
                "The map of a patch is how many keypoints it holds, log(1 + n) over the largest.",
            ],
        ),
    ],
)
def test_policies_in_words(policy, sentences):
    assert list(policy_sentences(policy)) == sentences


def test_names_from_outside_stay_text_and_nothing_is_fetched():
    page = render_prompt(effect(labels=[HOSTILE] * 5, name=HOSTILE, aside=[[HOSTILE, HOSTILE]], labels_match=False))
    elements = Elements(page)
    assert not [tag for tag, _ in elements.tags if tag == "script"]
    images = [attrs for tag, attrs in elements.tags if tag == "img"]
    assert len(images) == 4 and all(attrs["src"].startswith("data:image/jpeg;base64,") for attrs in images)
    assert all(attrs["alt"] for attrs in images)
    assert not re.search(r'(?:href|src)="(?!#|data:)', page)
    assert "script-src 'none'" in page and "default-src 'none'" in page
    assert "{{7*7}}" in page and "&lt;script&gt;" in page


def test_every_link_leads_somewhere():
    elements = Elements(render_prompt(effect(aside=[["a.png", "cut off"]])))
    targets = {attrs["id"] for _, attrs in elements.tags if "id" in attrs}
    links = {attrs["href"][1:] for tag, attrs in elements.tags if tag == "a"}
    assert links <= targets and "aside" in links
