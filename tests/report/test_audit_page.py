"""The page of an audit as text. `SIFTLENS_UPDATE_GOLD=1` writes the gold file anew: look before committing."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

import siftlens
from oracles.audits import GRID, RUNGS, made_up
from siftlens.report import render_audit
from siftlens.report.audit_page import audit_page
from siftlens.report.audit_tiles import cells, outline
from siftlens.report.audit_words import colour_name, percent, place

GOLD = Path(__file__).parent / "gold" / "audit.html"
HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>&{{7*7}}"


class Elements(HTMLParser):
    """Collects start tags."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def scrubbed(text):
    text = re.sub(r"(<style>).*?(</style>)", r"\1\2", text, flags=re.DOTALL)
    text = re.sub(r"sha256-[A-Za-z0-9+/=]+", "sha256-", text)
    return re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", text)


def words(text):
    return " ".join(re.sub(r"<[^>]+>", " ", text[text.index("<body>") :]).replace("\u00a0", " ").split())


def test_the_page_is_the_gold_one():
    text = scrubbed(render_audit(made_up()))
    if os.environ.get("SIFTLENS_UPDATE_GOLD"):
        GOLD.write_text(text, "utf-8")
    assert text == GOLD.read_text("utf-8")


def test_names_never_become_markup():
    names = [f"{HOSTILE}{i}" for i in range(23)]
    model = dict.fromkeys(("name", "spec", "weights", "weights_hash"), HOSTILE)
    aside = {"set_aside": [[HOSTILE, HOSTILE]], "without_enough_images": [HOSTILE]}
    wild = render_audit(made_up(labels=(HOSTILE, HOSTILE + "2"), names=names, model=model, info=aside))
    found = Elements(wild).tags
    tame = render_audit(made_up(info={"set_aside": [["a", "b"]], "without_enough_images": ["a"]}))
    assert {tag for tag, _ in found} == {tag for tag, _ in Elements(tame).tags}
    assert not [name for _, attributes in found for name in attributes if name.startswith("on")]
    assert "49" not in re.findall(r"<h1>.*?</h1>", wild, flags=re.DOTALL)[0]


def test_nothing_is_loaded_and_no_script_runs():
    text = render_audit(made_up())
    found = Elements(text).tags
    assert not re.search(r"https?://", text)
    assert "script" not in {tag for tag, _ in found}
    policy = next(attributes for _, attributes in found if "http-equiv" in attributes)["content"]
    assert "default-src 'none'" in policy and "script-src 'none'" in policy and "unsafe" not in policy
    assert not [tag for tag, attributes in found if {"style", "src"} & set(attributes)]


def test_every_picture_that_is_used_is_there_and_links_lead_somewhere():
    found = Elements(render_audit(made_up())).tags
    ids = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {attributes["href"][1:] for tag, attributes in found if tag in ("use", "a")}
    assert used <= set(ids)


def test_without_evidence_from_outside_nothing_is_called_spurious():
    assert "spurious" not in words(render_audit(made_up())).lower()
    assert "you see whether they are" in words(render_audit(made_up()))


def test_with_masks_it_may_be():
    told = words(render_audit(made_up(verdicts=("confirmed spurious", *RUNGS), masks="masks")))
    assert "1 of these is not the object: confirmed spurious." in told
    assert "By the masks, 97 % of its area lie outside the objects." in told
    assert "--masks masks" in told


def test_more_than_the_whole_lead_can_be_lost_of_a_small_one():
    audit = made_up()
    audit.cues["dependence"] = 10.47
    told = words(render_audit(audit))
    assert "costs more than its whole usual lead of 2.50 in log-odds." in told
    assert "1047 % of its usual lead" not in told


def test_an_audit_without_cues_says_so():
    told = words(render_audit(made_up(verdicts=())))
    assert "No set of patches was found that both goes with a class and is used for it." in told
    assert "That is not a clean bill of health" in told
    assert "green and indigo no visual word goes with the class and is used for it" in told


def test_where_nothing_is_relied_on_the_page_says_how_much_could_hide():
    told = words(render_audit(made_up(verdicts=("associated", "not associated", "global"))))
    assert "None was found that its answers hang on. 3 sets of patches that go with a class were tested." in told
    assert "room for a dependence of up to 70 % of the usual lead on one of them" in told
    assert "For 1 of them it cannot be told whether patches count or the whole image." in told


def test_what_stands_beside_a_cue():
    audit = made_up()
    first = audit_page(audit).groups[0]
    (card, *_) = first.relied
    assert (first.label, card.name, card.verdict) == ("indigo", "indigo 1 (colour)", "harmful reliance")
    assert card.told[0] == "Patches that are magenta on average and nearly flat."
    assert card.swatch == "#c42c96"
    assert [round(effect.value, 3) for effect in card.effects] == [0.6, 0.7, 0.5]
    assert card.effects[0].interval.replace("\u00a0", " ") == "+50 % to +70 %"
    assert len(card.sheet) == 5 and len(card.taken) == len(card.missed) == 1
    rates = [bar[1].replace("\u00a0", " ") for rate in card.rates for bar in rate.bars]
    assert rates == ["41 %", "3 %", "1 %", "no such image"]
    shared = next(card for group in audit_page(audit).groups for card in group.others if len(card.told) == 3)
    assert shared.told[2].replace("\u00a0", " ") == "80 % of its patches are also those of indigo 1 (colour)."


def test_the_same_patches_in_other_words_stand_back():
    audit = made_up()
    row = next(row for row, shared in enumerate(audit.cues["shared"]) if shared >= 0.75)
    audit.cues.loc[row, "verdict"] = "relied on"
    (group,) = (group for group in audit_page(audit).groups if group.label == audit.cues["label"][row])
    assert [card.anchor for card in group.again] == [f"cue-{row}"]
    assert f"cue-{row}" not in [card.anchor for card in (*group.relied, *group.others)]
    assert "The same patches in other words: the answer hangs on these, too (1)" in words(render_audit(audit))


def test_colours_are_named_only_where_there_is_one():
    audit = made_up()
    audit.cues.loc[0, "spread"] = 90.0
    card = audit_page(audit).groups[0].relied[0]
    assert card.told[0] == "Patches of several colours and nearly flat." and card.swatch == ""


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((196, 44, 150), "magenta"),
        ((200, 20, 20), "red"),
        ((120, 80, 50), "brown"),
        ((210, 150, 120), "light brown"),
        ((90, 110, 60), "greyish green"),
        ((130, 170, 220), "blue"),
        ((10, 12, 15), "black"),
        ((128, 130, 126), "grey"),
        ((250, 250, 248), "white"),
        ((float("nan"), 0, 0), ""),
    ],
)
def test_names_of_colours(rgb, name):
    assert colour_name(*map(float, rgb)) == name


@pytest.mark.parametrize(
    ("here", "told"),
    [
        (np.s_[:2, :2], "mostly top left"),
        (np.s_[-2:, :], "mostly at the bottom"),
        (np.s_[4:5, 5:6], "mostly in the centre"),
        (np.s_[::8, ::10], "mostly in the corners"),
        (np.s_[:, :], "in no particular place"),
        (np.s_[:0, :], "nowhere in the images that test"),
    ],
)
def test_places_in_words(here, told):
    mass = np.zeros((9, 11))
    mass[here] = 0.3
    assert place(mass) == told


def test_shares_in_print():
    assert [percent(v).replace("\u00a0", " ") for v in (0.624, 0.004, 0.0, -0.2, float("nan"))] == [
        "62 %",
        "0.4 %",
        "0 %",
        "−20 %",
        "n/a",
    ]


def test_outlines_go_around_the_patches():
    there = np.zeros((5, 7), bool)
    there[0, :2] = there[1, 1] = True
    veil, edge = outline(there, GRID)
    assert veil == "M0 0h28v20h-28zM0 0h8v4h-8zM4 4h4v4h-4z"
    lengths = [abs(int(length)) for length in re.findall(r"[hv](-?\d+)", edge)]
    assert sum(lengths) == 4 * 8  # eight sides of patches
    assert cells(np.array([0.0, 0.2, 0.4, *[0.0] * 32]), GRID) == ((1, 0, "0.50"), (2, 0, "1.00"))


def test_a_loaded_audit_gives_the_same_page(tmp_path):
    audit = made_up()
    audit.save(tmp_path / "audit")
    page = (tmp_path / "audit" / "index.html").read_text("utf-8")
    assert page == render_audit(audit) == render_audit(siftlens.load_audit(tmp_path / "audit"))
    empty = made_up(verdicts=())
    empty.save(tmp_path / "empty")
    assert render_audit(empty) == render_audit(siftlens.load_audit(tmp_path / "empty"))


def test_no_command_for_what_no_command_does():
    assert audit_page(made_up()).command == "siftlens audit --model demo --images photos/ --out DIR"
    assert audit_page(made_up(model={"weights": "as given"})).command is None
