"""Every cue of an audit as its page shows it: verdict, pictures, what it is, what it does, what harm goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from siftlens.auditing import AuditResult
from siftlens.auditing.tables import HARMFUL, RELIED_ON
from siftlens.report.audit_tiles import Tile, cells, rows_of, tiles
from siftlens.report.audit_words import MEANING, MIXED, p_value, percent, what_it_is, where_it_is, words_of

_MUCH = 0.5  # share of a cue's patches from which it is said that another cue has them too
_MOST = 0.75  # and from which it is shown as the same thing in other words
_TESTS = (
    ("removal", "Taken away", "against taking away as many other patches"),
    ("swap", "Swapped", "for what an image without the cue has there, against another image's cue"),
    ("transplant", "Put into other classes", "against putting in as many other patches of the same donor"),
)


@dataclass(frozen=True)
class Effect:
    """What a test does to the log-odds of the class, as a share of the class's median margin.

    Attributes:
        label: of the test.
        control: what it is measured against.
        value: mean effect.
        low: lower end of the 95 % interval.
        high: upper end.
        link: id of the cue that it is of; empty where it stands beside it.
    """

    label: str
    control: str
    value: float
    low: float
    high: float
    link: str = ""

    @property
    def figure(self) -> str:
        """The mean in print."""
        return percent(self.value, signed=True)

    @property
    def interval(self) -> str:
        """The interval in print."""
        return f"{percent(self.low, signed=True)} to {percent(self.high, signed=True)}"


@dataclass(frozen=True)
class Rate:
    """A kind of error, with the cue and without.

    Attributes:
        label: which error.
        present: share of images with the cue; NaN where there are none.
        absent: share of images without it.
        worse: whether the cue is on the wrong side where it is "present" or where it is "absent".
    """

    label: str
    present: float
    absent: float
    worse: str

    @property
    def bars(self) -> tuple[tuple[str, str, float, bool], ...]:
        """(words, share in print, share, whether this is where the cue would do harm)."""
        return tuple(
            (words, percent(share) if share == share else "no such image", 0.0 if share != share else share, harm)
            for words, share, harm in (
                ("with the cue", self.present, self.worse == "present"),
                ("without", self.absent, self.worse == "absent"),
            )
        )


@dataclass(frozen=True)
class Card:
    """One cue.

    Attributes:
        anchor: id in the page.
        name: of the cue.
        verdict: its rung.
        meaning: the verdict in a sentence.
        told: sentences on what it is and where.
        words: which visual words it is made of.
        swatch: mean colour as #rrggbb; empty where there are several, or words of another kind.
        where: (column, row, opacity) of patches, by how often the cue is there.
        sheet: images that carry it.
        effects: what tests do.
        tested: adjusted p and number of images.
        rates: errors with and without.
        harm: adjusted p of the errors.
        outside: what masks or a second environment say.
        repeats: whether its patches are mostly those of another cue before it.
        taken: images of other classes with the cue, taken for the class.
        missed: images of the class without it, taken for another.
    """

    anchor: str
    name: str
    verdict: str
    meaning: str
    told: tuple[str, ...]
    words: str
    swatch: str
    where: tuple[tuple[int, int, str], ...]
    sheet: tuple[Tile, ...]
    effects: tuple[Effect, ...]
    tested: str
    rates: tuple[Rate, ...]
    harm: str
    outside: tuple[str, ...]
    repeats: bool
    taken: tuple[Tile, ...]
    missed: tuple[Tile, ...]

    @property
    def relied_on(self) -> bool:
        """Whether the answer hangs on it."""
        return self.verdict in RELIED_ON

    @property
    def harmful(self) -> bool:
        """Whether errors go with it."""
        return self.verdict in HARMFUL


@dataclass(frozen=True)
class Group:
    """The cues of one class.

    Attributes:
        label: the class.
        anchor: id in the page.
        relied: cues that the answer hangs on, each at patches of its own.
        again: those among them whose patches are mostly those of one before, too.
        others: cues that were tested, of which that is not said.
    """

    label: str
    anchor: str
    relied: tuple[Card, ...]
    again: tuple[Card, ...]
    others: tuple[Card, ...]

    @property
    def cards(self) -> tuple[Card, ...]:
        """All of them."""
        return (*self.relied, *self.again, *self.others)


def groups(audit: AuditResult) -> tuple[Group, ...]:
    """The cues by class, the class with the strongest claim first."""
    cards = [(str(cue.label), _card(audit, row, cue)) for row, cue in enumerate(rows_of(audit.cues))]
    found = []
    for number, label in enumerate(dict.fromkeys(label for label, _ in cards)):
        mine = [card for other, card in cards if other == label]
        found.append(
            Group(
                label,
                f"class-{number}",
                tuple(card for card in mine if card.relied_on and not card.repeats),
                tuple(card for card in mine if card.relied_on and card.repeats),
                tuple(card for card in mine if not card.relied_on),
            )
        )
    return tuple(found)


def dependence(row: int, cue: Any, label: str) -> Effect:
    """The weaker of removal and swap, which a cue is ranked by."""
    weaker = "swap" if cue.swap < cue.removal else "removal"
    return _effect(cue, weaker, label, "", f"cue-{row}")


def _effect(cue: Any, test: str, label: str, control: str, link: str = "") -> Effect:
    value, low, high = (getattr(cue, f"{test}{end}") / cue.median_margin for end in ("", "_low", "_high"))
    return Effect(label, control, value, low, high, link)


def _card(audit: AuditResult, row: int, cue: Any) -> Card:
    grid = audit.vocabulary.grid
    shown = audit.shown[audit.shown["cue"] == row]
    parts: dict[str, pd.DataFrame] = {part: shown[shown["part"] == part] for part in ("carries", "taken", "missed")}
    seen = {part: tiles(rows, audit.images, grid) for part, rows in parts.items()}
    plain = cue.kind == "colour" and cue.spread <= MIXED
    return Card(
        anchor=f"cue-{row}",
        name=cue.cue,
        verdict=cue.verdict,
        meaning=MEANING.get(cue.verdict, ""),
        told=(what_it_is(cue, audit.layer), where_it_is(cue, grid.rows, grid.cols), *_shared(audit, cue)),
        words=words_of(cue),
        swatch=f"#{round(cue.red):02x}{round(cue.green):02x}{round(cue.blue):02x}" if plain else "",
        where=cells(np.asarray(cue.map, np.float64), grid),
        sheet=seen["carries"],
        effects=tuple(e for test in _TESTS for e in [_effect(cue, *test)] if e.value == e.value),
        tested=f"adjusted {p_value(cue.p)}, n\u00a0=\u00a0{cue.n}",
        rates=(
            Rate(f"of other classes' images, taken for {cue.label}", cue.false_present, cue.false_absent, "present"),
            Rate(f"of {cue.label}'s own images, missed", cue.missed_present, cue.missed_absent, "absent"),
        ),
        harm=f"adjusted {p_value(cue.p_harm)}",
        outside=tuple(_outside(cue)),
        repeats=cue.shared >= _MOST,
        taken=seen["taken"],
        missed=seen["missed"],
    )


def _shared(audit: AuditResult, cue: Any) -> Sequence[str]:
    if cue.shared < _MUCH:
        return ()
    return (f"{percent(cue.shared)} of its patches are also those of {audit.cues['cue'].iloc[cue.shared_with]}.",)


def _outside(cue: Any) -> Sequence[str]:
    told = []
    if cue.off_object == cue.off_object:
        told.append(f"By the masks, {percent(cue.off_object)} of its area lie outside the objects.")
    if cue.lift_elsewhere == cue.lift_elsewhere:
        told.append(
            f"In the second environment an image of the class has more of it than an image of another class in "
            f"{percent(cue.lift_elsewhere)} of pairs; by chance it would be 50\u00a0%."
        )
    return told
