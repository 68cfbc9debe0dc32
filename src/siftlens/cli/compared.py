"""What a person wants to know when studies were compared, in a few lines."""

from pathlib import Path

from siftlens.comparison import Comparison


def compared(comparison: Comparison, out: Path) -> str:
    """The comparison in a few lines: where the page is, n, and in each study the layers that differ."""
    lines = [f"report     {out / 'index.html'}"]
    lines.append(f"images     {comparison.images} in common, matched by {comparison.matched_by}")
    lines += ["", f"Pull toward keypoints, difference from {comparison.reference.name} (95 % intervals, q < 0.05):"]
    for study in comparison.studies[1:]:
        rows = comparison.rows(study.name, "semantic_pull")
        clear = rows[rows["significant"]]
        lines.append(f"{study.name}: {_count(len(clear), len(rows))}")
        for row in clear.itertuples():
            place = f"depth {row.depth:.2f}" if comparison.aligned else f"layer {row.layer:.0f}"
            small = "" if row.relevant else ", too small to matter"
            lines.append(
                f"  {place}: {row.difference:+.2f} SD [{row.difference_low:+.2f}, {row.difference_high:+.2f}]{small}"
            )
    return "\n".join(lines)


def _count(clear: int, layers: int) -> str:
    return f"{clear} of {layers} layers differ" if clear else f"none of {layers} layers differs"
