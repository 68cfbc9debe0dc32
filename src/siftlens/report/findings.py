"""What was found, in sentences that are written from the numbers alone, each with its evidence.

A layer or head is said to differ from the null only where its effect is clear (q < 0.05), and to matter only where
|effect| >= 0.1. Layers are judged by the mean over their heads.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from siftlens.interrelation.inference import LEAST_IMAGES, RELEVANT, SIGNIFICANT
from siftlens.report.evidence import Estimate, Finding, PanelReader
from siftlens.report.numbers import enumeration, layer_list
from siftlens.report.panels import Panel

NAMED = 2  # heads or layers shown on each side
FURTHEST = "The head whose interval reaches furthest: how large an effect may hide."
CLEAR = ("relevant", "small")
DIRECTIONS = ((1, "toward"), (-1, "away from"))
LARGEST = "The largest of them."
MORE_THAN_NULL = "more than other images' keypoint maps explain"


def findings(panels: Mapping[str, Panel], layers: Sequence[int], heads: Sequence[int]) -> tuple[Finding, ...]:
    """Every sentence that the numbers support, the main one first.

    Args:
        panels: by name of statistic.
        layers: what each row of the grids is called.
        heads: what each head column is called.
    """
    readers = {key: PanelReader(panel, layers, heads) for key, panel in panels.items() if panel.statistic.tested}
    told: list[Finding] = []
    if (pull := readers.get("semantic_pull")) and pull.total and not np.isfinite(pull.panel.q).any():
        sentence = f"No head can be told from chance: that takes {LEAST_IMAGES} images or more."
        return (Finding("Too few images", sentence, ()),)
    if pull:
        told += [*_overview(pull), *_layers(pull), *_turn(pull)]
    if partial := readers.get("partial_pull"):
        told += _beyond_rivals(partial)
    if pull:
        told += [*_second_null(pull), *_too_small(pull), *_unclear(pull)]
    if alike := readers.get("assortativity"):
        told += _alike(alike)
    if cls := readers.get("cls_pull"):
        told += _class_token(cls)
    return tuple(told)


def _overview(pull: PanelReader) -> list[Finding]:
    if not pull.total:
        return []
    if not pull.cells(*CLEAR):
        sentence = (
            f"None of the {pull.total} heads pulls toward or away from keypoint-rich patches {MORE_THAN_NULL} "
            f"(q < {SIGNIFICANT})."
        )
        return [Finding("Nothing found", sentence, (_furthest(pull),), FURTHEST)]
    toward, away = (pull.cells("relevant", sign=sign) for sign, _ in DIRECTIONS)
    if not toward and not away:
        sentence = (
            f"None of the {pull.total} heads pulls toward or away from keypoint-rich patches by at least {RELEVANT} SD "
            f"{MORE_THAN_NULL} (q < {SIGNIFICANT})."
        )
        return [Finding("Heads", sentence, (pull.head(pull.cells(*CLEAR)[0]),), "The largest clear effect.")]
    verb = "pulls" if len(toward) == 1 else "pull"
    sentence = (
        f"Of {pull.total} heads, {len(toward) or 'none'} {verb} toward keypoint-rich patches and {len(away) or 'none'} "
        f"away from them by at least {RELEVANT} SD {MORE_THAN_NULL} (q < {SIGNIFICANT})."
    )
    strongest = ((toward, "toward"), (away, "away"))
    parts = [f"{pull.head(cells[0]).label} ({side})" for cells, side in strongest if cells]
    evidence = tuple(map(pull.head, toward[:NAMED] + away[:NAMED]))
    return [Finding("Heads", f"{sentence} The strongest: {enumeration(parts)}.", evidence)]


def _layers(pull: PanelReader) -> list[Finding]:
    if not (parts := _directions(pull)):
        return []
    rows = [row for sign, _ in DIRECTIONS for row in pull.rows(*CLEAR, sign=sign)[:NAMED]]
    sentence = f"Averaged over heads, the pull is {enumeration(parts)}."
    return [Finding("Layers", sentence, tuple(map(pull.layer, rows)), _chosen(rows, pull.rows(*CLEAR)))]


def _chosen(shown: Sequence[int], clear: Sequence[int]) -> str:
    """What is said of figures that stand for more than themselves."""
    return LARGEST if len(shown) < len(clear) else ""


def _directions(reader: PanelReader) -> list[str]:
    """Where the layers' means point, the small ones called small."""
    parts: list[str] = []
    for sign, words in DIRECTIONS:
        for verdict, size in (("relevant", ""), ("small", f" by less than {RELEVANT} SD, too little to matter,")):
            if rows := reader.rows(verdict, sign=sign):
                whom = "them" if parts else "keypoint-rich patches"
                parts.append(f"{words} {whom}{size} in {layer_list(reader.named(rows))}")
    return parts


def _turn(pull: PanelReader) -> list[Finding]:
    """Where neighbours among the layers with a clear mean differ in sign."""
    rows = sorted(pull.rows(*CLEAR))
    signs = np.sign(pull.panel.effect[rows, -1])
    turns = [(rows[i], rows[i + 1], signs[i + 1]) for i in range(len(rows) - 1) if signs[i] != signs[i + 1]]
    if not turns:
        return []
    words = [
        f"from {'away to toward' if sign > 0 else 'toward to away'} "
        f"between layers {pull.layers[a]} and {pull.layers[b]}"
        for a, b, sign in turns
    ]
    evidence = tuple(map(pull.layer, dict.fromkeys(row for a, b, _ in turns[:2] for row in (a, b))))
    return [Finding("The turn", f"Over depth the mean pull turns {enumeration(words)}.", evidence)]


def _beyond_rivals(partial: PanelReader) -> list[Finding]:
    parts = _directions(partial)
    rows = partial.rows(*CLEAR)[: 2 * NAMED] or partial.rows("unclear")[:1]
    if not rows:
        return []
    sentence = (
        f"Beyond what gradient energy and closeness to the centre explain, the mean pull is {enumeration(parts)}."
        if parts
        else "Beyond what gradient energy and closeness to the centre explain, no layer's mean pull is clear."
    )
    return [Finding("Beyond rivals", sentence, tuple(map(partial.layer, rows)), _chosen(rows, partial.rows(*CLEAR)))]


def _second_null(pull: PanelReader) -> list[Finding]:
    """How many of the heads found against null 1 also stand against null 2."""
    panel, cells = pull.panel, pull.cells("relevant")
    if not cells or not np.isfinite(panel.mirror_q[:, :-1]).any():
        return []
    also = sum(
        bool(panel.mirror_q[cell] < SIGNIFICANT) and np.sign(panel.mirror_effect[cell]) == np.sign(panel.effect[cell])
        for cell in cells
    )
    beyond = f"by at least {RELEVANT} SD more than other images' maps explain"
    mirrored = f"in the same direction from mirror images of the own map (q < {SIGNIFICANT})."
    if len(cells) == 1:
        sentence = f"The one head that pulls {beyond} {'also differs' if also else 'does not differ'} {mirrored}"
    else:
        sentence = f"Of the {len(cells)} heads that pull {beyond}, {also} also differ {mirrored}"
    label = f"{pull.head(cells[0]).label}, against mirror images"
    grids = (panel.mirror_effect, panel.mirror_low, panel.mirror_high)
    value, low, high = (float(grid[cells[0]]) for grid in grids)
    evidence = (Estimate(label, value, low, high, panel.statistic.unit, int(panel.n[cells[0]])),)
    return [Finding("Second null", sentence, evidence, "The head with the largest effect against null 1.")]


def _too_small(pull: PanelReader) -> list[Finding]:
    if not (small := pull.cells("small")):
        return []
    verb = "differs" if len(small) == 1 else "differ"
    sentence = (
        f"{len(small)} of {pull.total} heads {verb} from the null by less than {RELEVANT} SD: significant, "
        "but too small to matter."
    )
    return [Finding("Too small to matter", sentence, (pull.head(small[0]),), LARGEST)]


def _unclear(pull: PanelReader) -> list[Finding]:
    unclear = pull.cells("unclear")
    if not unclear or not pull.cells(*CLEAR):
        return []
    sentence = f"{len(unclear)} of {pull.total} heads cannot be told from the null (q ≥ {SIGNIFICANT})."
    return [Finding("Not significant", sentence, (_furthest(pull),), FURTHEST)]


def _alike(alike: PanelReader) -> list[Finding]:
    if not alike.total:
        return []
    more, less = (alike.cells("relevant", sign=sign) for sign, _ in DIRECTIONS)
    sides = ((more, "like"), (less, "unlike"))
    parts = [
        f"in {len(cells)} of {alike.total} heads to patches of {side} concentration" for cells, side in sides if cells
    ]
    beyond = f"by at least {RELEVANT} {MORE_THAN_NULL} (q < {SIGNIFICANT})"
    sentence = (
        f"Patches attend {enumeration(parts)}, {beyond}."
        if parts
        else f"In none of {alike.total} heads do patches attend to patches of like or of unlike concentration {beyond}."
    )
    ends = (more[:1] + less[:1]) or alike.cells("small", "unclear")[:1]
    note = "The largest effect of each kind." if len(ends) == 2 else "The largest effect."
    return [Finding("Like to like", sentence, tuple(map(alike.head, ends)), note)]


def _class_token(cls: PanelReader) -> list[Finding]:
    parts = _directions(cls)
    rows = cls.rows(*CLEAR)[: 2 * NAMED] or cls.rows("unclear")[:1]
    if not rows:
        return []
    sentence = (
        f"Averaged over heads, the class token's own attention is pulled {enumeration(parts)}."
        if parts
        else "Averaged over heads, the class token's own attention shows no clear pull in any layer."
    )
    return [Finding("Class token", sentence, tuple(map(cls.layer, rows)), _chosen(rows, cls.rows(*CLEAR)))]


def _furthest(reader: PanelReader) -> Estimate:
    return max(map(reader.head, reader.cells("unclear")), key=lambda estimate: estimate.reach)
