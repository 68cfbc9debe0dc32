"""What a person wants to know when an audit is over, in a few lines."""

from pathlib import Path

from siftlens.auditing.tables import RELIED_ON
from siftlens.report.audit_findings import by_class, verdict
from siftlens.report.audit_words import p_value
from siftlens.study import Audit

_MEANING = {
    "confirmed spurious": "outside the object, or gone elsewhere, and errors go with it",
    "harmful reliance": "the answer hangs on it, and errors go with it; you see whether it is the object",
    "relied on": "the answer hangs on it",
}


def in_short(audit: Audit, out: Path) -> str:
    """Where the page is, and the audit in a few sentences."""
    told = [*verdict(audit), *(sentence for finding in by_class(audit) for sentence in finding.sentences)]
    return "\n".join([f"audit      {out / 'index.html'}", *(sentence.replace("\u00a0", "") for sentence in told)])


def audited(audit: Audit, out: Path) -> str:
    """The audit in a few lines: where the page is, n, and the cues that the classifier relies on."""
    info = audit.info
    lines = [f"report     {out / 'index.html'}"]
    aside = f", and {len(info['set_aside'])} set aside" if info["set_aside"] else ""
    lines.append(f"images     {info['images']} in {len(info['classes'])} classes{aside}")
    lines.append(f"cues       {info['cues_tested']} tested, {info['passes_per_image']} forward passes per image")
    for key, what in (
        ("without_enough_images", "too few images to say anything"),
        ("without_right_answers", "not recognised, so that nothing can be lost"),
    ):
        if info[key]:
            lines.append(f"skipped    {', '.join(info[key])}: {what}")
    relied = audit.cues[audit.cues["verdict"].isin(RELIED_ON)]
    lines.append("")
    for rung, meaning in _MEANING.items():
        rows = relied[relied["verdict"] == rung]
        if not rows.empty:
            lines.append(f"{rung.capitalize()} ({meaning}):")
            lines += [
                f"  {row['cue']}: {_share(row['dependence'])} of the answer's usual lead "
                f"(adjusted {_plain(p_value(row['p']))}, n = {row['n']})"
                for row in rows.to_dict("records")
            ]
    if relied.empty:
        lines.append("No set of patches was found that the classifier relies on.")
    properties = audit.properties[audit.properties["verdict"] == "relied on"]
    if not properties.empty:
        lines.append("Properties of whole images that the answer hangs on:")
        lines += [
            f"  {row['label']}: {row['direction']} {row['property']}, "
            f"{_share(row['change'])} of the answer's usual lead"
            for row in properties.to_dict("records")
        ]
    return "\n".join(lines)


def _share(value: float) -> str:
    """More can be lost than there is of a lead that is small to begin with."""
    return f"{value:.0%}" if value <= 1 else "more than all"


def _plain(text: str) -> str:
    """With spaces that a terminal may break at."""
    return text.replace("\u00a0", " ")
