"""The page of an audit as data: everything that its template prints."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from siftlens.auditing import AuditResult
from siftlens.auditing.gallery import AFFECTED, PICTURES, SHEET, SMALL_SHEET
from siftlens.auditing.sample import FEW
from siftlens.auditing.tables import HARMFUL, RELIED_ON
from siftlens.auditing.verdicts import EXPLAINED, OFF_OBJECT, RELEVANT
from siftlens.core import PatchGrid
from siftlens.report.audit_cards import Effect, Group, groups
from siftlens.report.audit_findings import ClassFinding, by_class, verdict
from siftlens.report.audit_tiles import pictures, rows_of
from siftlens.report.audit_words import p_value
from siftlens.report.command import audit_command
from siftlens.report.model_line import model_line
from siftlens.report.numbers import count, counted, enumeration
from siftlens.report.page import LISTED, Settings, moment, printed

_KINDS = {"sift": "SIFT words", "colour": "colour words", "token": "words made of the model's own tokens"}
_PROPERTIES = {
    "sharpness": ("sharper images", "blurred images"),
    "size": ("large originals", "small originals"),
    "aspect": ("wide originals", "tall originals"),
}


@dataclass(frozen=True)
class Axis:
    """A line from `low` to `high`, both shares of the median margin, on which effects are drawn."""

    low: float
    high: float

    def at(self, share: float) -> str:
        """Place of a value, of 200."""
        return f"{6 + 188 * (share - self.low) / (self.high - self.low):.1f}"


@dataclass(frozen=True)
class Property:
    """A property of whole images that goes with a class.

    Attributes:
        label: the class.
        name: what its images are more of, or less.
        effect: what moving images to the other side's median does.
        p: adjusted, in print.
        relied_on: whether the answer hangs on it.
        everywhere: whether the images differ in it as a whole, so that it may explain patches.
    """

    label: str
    name: str
    effect: Effect | None
    p: str
    relied_on: bool
    everywhere: bool


@dataclass(frozen=True)
class AuditPage:
    """The whole page.

    Attributes:
        model: what was audited.
        inputs: spec, weights, input size and patches, in a line.
        lead: the verdict in a few sentences.
        facts: (figure, what it counts).
        findings: what single answers hang on.
        groups: cues by class.
        properties: of whole images.
        untested: (what, why nothing is said of it).
        quarantine: (identity, reason) of the first images set aside.
        quarantined: how many were.
        outside: whether masks or a second environment were given.
        grid: the patches.
        pictures: (id, data URI).
        settings: how it was run.
        command: that runs it again; None where none does.
        started: when.
        version: of siftlens, as it ran.
        axis: for effects of cues.
        whole_axis: for effects of properties of whole images.
        listed_in: file that names every image set aside.
    """

    model: str
    inputs: str
    lead: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    findings: tuple[ClassFinding, ...]
    groups: tuple[Group, ...]
    properties: tuple[Property, ...]
    untested: tuple[tuple[str, str], ...]
    quarantine: tuple[tuple[str, str], ...]
    quarantined: int
    outside: bool
    grid: PatchGrid
    pictures: tuple[tuple[str, str], ...]
    settings: tuple[Settings, ...]
    command: str | None
    started: str
    version: str
    axis: Axis
    whole_axis: Axis
    relevant: float = RELEVANT
    explained: float = EXPLAINED
    off_object: float = OFF_OBJECT
    sheet: int = SHEET
    small_sheet: int = SMALL_SHEET
    affected: int = AFFECTED
    most_pictures: int = PICTURES
    listed_in: str = "audit.json"

    @property
    def relied(self) -> bool:
        """Whether any answer hangs on a cue."""
        return any(group.relied for group in self.groups)


def audit_page(audit: AuditResult) -> AuditPage:
    """Computes the page of a finished audit."""
    info, cues, grid = audit.info, audit.cues, audit.vocabulary.grid
    found, whole = groups(audit), _properties(audit)
    facts = (
        (count(info["images"]), "images audited"),
        (str(len(info["classes"])), "classes"),
        (count(info["cues_tested"]), "cues tested"),
        (str(int(cues["verdict"].isin(RELIED_ON).sum())), "relied on"),
        (str(int(cues["verdict"].isin(HARMFUL).sum())), "of them with errors"),
    )
    aside = info["set_aside"]
    return AuditPage(
        model=str(info["model"].get("name") or info["model"].get("spec") or "model"),
        inputs=model_line(info["model"] | {"rows": grid.rows, "cols": grid.cols}),
        lead=verdict(audit),
        facts=facts,
        findings=by_class(audit),
        groups=found,
        properties=tuple(whole),
        untested=tuple(_untested(audit)),
        quarantine=tuple((str(identity), str(reason)) for identity, reason in aside[:LISTED]),
        quarantined=len(aside),
        outside=any(info["settings"].get(name) is not None for name in ("masks", "environment")),
        grid=audit.vocabulary.grid,
        pictures=pictures(audit.pictures),
        settings=tuple(_settings(info)),
        command=audit_command(info),
        started=moment(str(info.get("started", ""))),
        version=str(info["versions"].get("siftlens", "")),
        axis=_axis(effect for group in found for card in group.cards for effect in card.effects),
        whole_axis=_axis(one.effect for one in whole if one.effect is not None),
    )


def _axis(effects: Iterable[Effect]) -> Axis:
    """An axis that holds all effects and their intervals, and at least half of the usual lead."""
    ends = [end for effect in effects for end in (effect.value, effect.low, effect.high) if end == end]
    return Axis(min(-0.05, *ends, 0.0), max(0.5, *ends, 0.0))


def _properties(audit: AuditResult) -> list[Property]:
    found = []
    for row in rows_of(audit.properties):
        more, less = _PROPERTIES.get(row.property, (f"more {row.property}", f"less {row.property}"))
        known = row.change == row.change
        effect = Effect("moved to the other side's median", "", row.change, row.low, row.high) if known else None
        found.append(
            Property(
                str(row.label),
                more if row.direction == "more" else less,
                effect,
                f"adjusted {p_value(row.p)}" if known else "",
                row.verdict == "relied on",
                bool(row.everywhere),
            )
        )
    return found


def _untested(audit: AuditResult) -> Sequence[tuple[str, str]]:
    info, told = audit.info, []
    few, wrong = info["without_enough_images"], info["without_right_answers"]
    if few:
        told.append((enumeration(few), f"fewer than {FEW} images in either half: too few to say anything"))
    if wrong:
        told.append((enumeration(wrong), "not recognised in most of its images: there is no lead that could be lost"))
    silent = [name for name in info["classes"] if name not in {*few, *wrong, *audit.cues["label"]}]
    if silent:
        told.append((enumeration(silent), "no visual word goes with the class and is used for it"))
    missing = [_KINDS[kind] for kind in _KINDS if kind not in audit.vocabulary.codebooks]
    if missing:
        told.append((enumeration(missing), "not asked for, or hardly a patch has one"))
    fixed = sorted({row.property for row in rows_of(audit.properties) if row.change != row.change})
    if fixed:
        told.append((enumeration(fixed), "goes with a class, but cannot be changed in an image to see what follows"))
    if info["set_aside"]:
        told.append((counted(len(info["set_aside"]), "image"), "set aside; the reasons stand below"))
    return told


def _settings(info: Any) -> Sequence[Settings]:
    cost = {"forward passes per image": info["passes_per_image"]}
    if "seconds" in info:
        cost["seconds"] = info["seconds"]
    lists = (
        ("Model", info["model"]),
        ("Settings", info["settings"]),
        ("Cost", cost),
        ("Versions", info["versions"]),
        ("Hardware", info["hardware"]),
    )
    return [Settings(title, tuple((name, printed(value)) for name, value in values.items())) for title, values in lists]
