"""The page of a prompt as data: everything that its template prints."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from siftlens import __version__
from siftlens.prompting.effect import PromptEffect
from siftlens.prompting.policy import Mixture, Policy
from siftlens.report.audit_words import percent
from siftlens.report.embedded import picture_uri
from siftlens.report.numbers import count, counted, enumeration, layer_list, number
from siftlens.report.page import LISTED

_SOURCES = {
    "keypoints": "how many keypoints it holds, log(1 + n) over the largest",
    "centre": "its closeness to the centre",
    "gradient": "how strong its gradients are, over the strongest",
    "cues": "−1 where it shows a suppressed cue of the audit, 0 elsewhere",
}
_FILLS = {"blur": "blurred", "mean": "painted in the image's mean colour"}


@dataclass(frozen=True)
class Change:
    """One image whose answer changed.

    Attributes:
        name: of the image.
        label: its folder; empty for none.
        before: the answer without the prompt, with its probability.
        after: with it.
        verdict: "mended", "spoilt" or "changed", as far as its label tells.
        why: how near the new answer was, and what it holds of what is suppressed, where an audit says so.
        pictures: data URIs of what the model sees, and of what counts of it.
    """

    name: str
    label: str
    before: str
    after: str
    verdict: str
    why: str
    pictures: tuple[str, str]


@dataclass(frozen=True)
class PromptPage:
    """The whole page.

    Attributes:
        model: what was prompted.
        lead: what came of it, in a few sentences.
        facts: (figure, what it counts).
        policy: what was done, a sentence for each part.
        changes: images whose answer changed and of which pictures were kept.
        unpictured: how many more there are.
        classes: without labels, by class: name, images answered so before, after, and how many of them changed.
        groups: with labels: class, whether a suppressed cue is there, images, right before, right after.
        by_label: whether the folders are the model's classes, so that answers can be marked.
        text: the policy as JSON.
        quarantine: (identity, reason) of the first images set aside.
        quarantined: how many were.
        version: of siftlens.
    """

    model: str
    lead: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    policy: tuple[str, ...]
    changes: tuple[Change, ...]
    unpictured: int
    classes: tuple[tuple[str, str, str, str], ...]
    groups: tuple[tuple[str, str, str, str, str], ...]
    by_label: bool
    text: str
    quarantine: tuple[tuple[str, str], ...]
    quarantined: int
    version: str


def prompt_page(effect: PromptEffect) -> PromptPage:
    """Computes the page of a prompt's effect."""
    table, info = effect.table, effect.info
    changed = int(table["changed"].sum())
    facts = [(count(len(table)), "images"), (count(changed), "answers changed")]
    accuracy = effect.accuracy
    if accuracy is not None:
        facts.append((f"{percent(accuracy[0])} → {percent(accuracy[1])}", "right"))
    if effect.worst is not None:
        facts.append((f"{percent(effect.worst[0])} → {percent(effect.worst[1])}", "right in the worst group"))
    aside = info["set_aside"]
    return PromptPage(
        model=str(info["model"]["name"]),
        lead=_lead(effect, changed),
        facts=tuple(facts),
        policy=policy_sentences(effect.policy),
        changes=_changes(effect),
        unpictured=changed - len(effect.pictures),
        classes=_classes(table) if accuracy is None else (),
        groups=_groups(effect),
        by_label=accuracy is not None,
        text=json.dumps(json.loads(effect.policy.to_json()), indent=2),
        quarantine=tuple((identity, reason) for identity, reason in aside[:LISTED]),
        quarantined=len(aside),
        version=__version__,
    )


def policy_sentences(policy: Policy) -> tuple[str, ...]:
    """What a policy does, a sentence for each part."""
    said = [
        f"Attention to a patch is multiplied by exp({number(part.strength, 1)} × its map), "
        f"{_places(part.layers, part.heads)}, and each row made to sum to one again."
        for part in policy.bias
    ]
    if policy.tokens is not None:
        said.append(
            f"The {percent(policy.tokens.keep)} of the patches with the highest map are kept; the others are dropped "
            "before the first block."
        )
    if policy.pixels is not None:
        said.append(
            f"The {percent(policy.pixels.keep)} of the patches with the highest map are kept; the others are "
            f"{_FILLS[policy.pixels.fill]}."
        )
    if policy.contrast is not None:
        said.append(
            f"What the {percent(policy.contrast.view)} of the patches with the lowest map say alone is taken off the "
            f"answer, times {number(policy.contrast.strength, 1)}."
        )
    if policy.chooses or policy.masks or policy.contrasts:
        said.append("Of patches with the same map, some are taken by lot.")
    if not said:
        return ("Nothing is done: this is the model as it is.",)
    return (*said, _map_sentence(policy.maps))


def _map_sentence(mixture: Mixture) -> str:
    weights = {name: weight for name, weight in mixture.weights.items() if weight}
    parts = [
        _SOURCES[name] if len(weights) == 1 else f"{_SOURCES[name]} (weight {weight:g})"
        for name, weight in weights.items()
    ]
    return f"The map of a patch is {enumeration(parts)}."


def _places(layers: Sequence[int] | None, heads: Sequence[int] | None) -> str:
    where = "in all layers" if layers is None else f"in {layer_list(layers)}"
    if heads is None:
        return where
    return f"{where}, {'head' if len(heads) == 1 else 'heads'} {enumeration([str(head) for head in heads])}"


def _lead(effect: PromptEffect, changed: int) -> tuple[str, ...]:
    total = len(effect.table)
    first = f"{counted(changed, 'answer')} of {count(total)} changed ({percent(changed / total)})."
    if effect.accuracy is None:
        return (first, "The images' folders are not the model's classes, so it is not known which answers are right.")
    marks = [_verdict(row) for row in effect.table[effect.table["changed"]].itertuples()]
    mended, spoilt = marks.count("mended"), marks.count("spoilt")
    return (first, f"{counted(mended, 'wrong answer')} became right, {counted(spoilt, 'right one')} wrong.")


def _changes(effect: PromptEffect) -> tuple[Change, ...]:
    found = []
    for picture in effect.pictures:
        row: Any = next(effect.table.iloc[[picture.row]].itertuples())
        found.append(
            Change(
                name=row.identity,
                label=row.label,
                before=f"{row.before} ({percent(row.before_p)})",
                after=f"{row.after} ({percent(row.after_p)})",
                verdict=_verdict(row) if effect.info["labels_match"] else "changed",
                why=_why(row),
                pictures=(picture_uri(picture.before), picture_uri(picture.after)),
            )
        )
    return tuple(found)


def _verdict(row: Any) -> str:
    if row.after == row.label:
        return "mended"
    return "spoilt" if row.before == row.label else "changed"


def _why(row: Any) -> str:
    """How near the new answer was, and what of the suppressed cues is there."""
    near = f"Before, {row.after} had {percent(row.after_p_before)}."
    if row.cues is None:
        return near
    if row.cues:
        return f"It carries {row.cues}, on {percent(row.cue_share)} of its patches. {near}"
    few = f"too little to count: {percent(row.cue_share)} of its patches" if row.cue_share else "none"
    return f"Of the suppressed cues it carries {few}. {near}"


def _classes(table: pd.DataFrame) -> tuple[tuple[str, str, str, str], ...]:
    names = sorted(set(table["before"]) | set(table["after"]))
    lines = []
    for name in names:
        before, after = table["before"] == name, table["after"] == name
        lines.append((name, count(int(before.sum())), count(int(after.sum())), count(int((before & ~after).sum()))))
    return tuple(sorted(lines, key=lambda line: (-int((table["before"] == line[0]).sum()), line[0]))[:LISTED])


def _groups(effect: PromptEffect) -> tuple[tuple[str, str, str, str, str], ...]:
    groups = effect.groups
    if groups is None:
        return ()
    said = {True: "yes", False: "no"}
    rows: Any = groups.head(LISTED).itertuples()
    return tuple(
        (row.label, said.get(row.carries, ""), count(row.images), percent(row.before), percent(row.after))
        for row in rows
    )
