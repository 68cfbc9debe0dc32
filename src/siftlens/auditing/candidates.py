"""From words to cues: which words go with a class, are used for it, and belong together."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import squareform

from siftlens.auditing.inference import rank_z, signed_rank_z
from siftlens.core import PatchGrid

PER_CLASS = 5
CLEAR = 2.0  # standard errors, for a word or a cue to be looked at
_FULL = 0.95  # share of the patches from which a cue is taken only where there is no smaller one
_SAME_PLACE = 0.75  # overlap of two cues, over their union, from which the weaker one goes


@dataclass(frozen=True)
class Candidate:
    """A set of words that may be a cue for a class.

    Attributes:
        kind: of the words.
        words: their numbers.
        associated: all words of this kind that go with the class, the cue's own among them; no control removes them,
            for the object may be among them.
        label: index of the class.
        threshold: share of the patches from which an image carries the cue.
        association: rank-sum z of that share, class against the others (discover).
        use: signed-rank z of the attribution to its patches, over images of the class (discover).
        matched_use: attribution per patch minus that of other patches at the same places (discover).
        attributed: share of the class's attribution, of all patches, that falls on it (discover).
    """

    kind: str
    words: tuple[int, ...]
    associated: tuple[int, ...]
    label: int
    threshold: float
    association: float
    use: float
    matched_use: float
    attributed: float

    def patches(self, words: Int[np.ndarray, "*images patch"]) -> Bool[np.ndarray, "*images patch"]:
        """Where the cue is, given the words of its kind."""
        return np.isin(words, self.words)

    def carried(self, there: Bool[np.ndarray, "image patch"]) -> Bool[np.ndarray, " image"]:
        """Which images carry it, given where it is."""
        return np.asarray(there.mean(axis=1) >= self.threshold)

    def neutral(self, words: Int[np.ndarray, "*images patch"]) -> Bool[np.ndarray, "*images patch"]:
        """Patches that may stand for it in a control."""
        return ~np.isin(words, self.associated)


def find_candidates(
    words: Mapping[str, Int[np.ndarray, "image patch"]],
    labels: Int[np.ndarray, " image"],
    attribution: Float[np.ndarray, "image patch"],
    classes: Int[np.ndarray, " class"],
    grid: PatchGrid,
) -> list[Candidate]:
    """The most promising sets of words of every class, at most five each, on images that test nothing later.

    Args:
        words: by kind, of every patch; -1 for none.
        labels: index of each image's class.
        attribution: to every patch, for the image's own class.
        classes: for which cues are sought.
        grid: the patches.
    """
    return [
        candidate
        for label in classes
        for candidate in _best(list(_of_class(words, labels, attribution, int(label), grid)), words, labels)
    ]


def _of_class(
    words: Mapping[str, Int[np.ndarray, "image patch"]],
    labels: Int[np.ndarray, " image"],
    attribution: Float[np.ndarray, "image patch"],
    label: int,
    grid: PatchGrid,
) -> Iterator[Candidate]:
    mine = labels == label
    for kind, of_kind in words.items():
        numbers = np.arange(of_kind.max() + 1)
        shares = np.stack([(of_kind == number).mean(axis=1) for number in numbers], axis=1)
        z = rank_z(shares, mine)
        kept = np.flatnonzero(z > CLEAR)
        for node in _tree(kept, of_kind, shares, labels, grid):
            there = np.isin(of_kind, node)
            share = there.mean(axis=1)
            total = _attributed(there[mine], attribution[mine])
            yield Candidate(
                kind=kind,
                words=tuple(int(number) for number in node),
                associated=tuple(int(number) for number in kept),
                label=label,
                threshold=_threshold(share, mine),
                association=float(rank_z(share[:, None], mine)[0]),
                # Shortcuts make attribution heavy-tailed: large where the donor crosses the boundary, near 0 elsewhere.
                use=signed_rank_z(total),
                matched_use=_matched(there[mine], attribution[mine]),
                attributed=float(total.sum() / np.abs(attribution[mine].sum())),
            )


def _tree(
    kept: Int[np.ndarray, " kept"],
    words: Int[np.ndarray, "image patch"],
    shares: Float[np.ndarray, "image word"],
    labels: Int[np.ndarray, " image"],
    grid: PatchGrid,
) -> Iterator[Int[np.ndarray, " joined"]]:
    """Every word, and every set that joining the most alike pair, again and again, makes of them."""
    nodes = [np.array([number]) for number in kept]
    yield from nodes
    if len(kept) < 2:
        return
    distance = 1 - _together(kept, words, shares, labels, grid)
    np.fill_diagonal(distance, 0)
    for first, second, _, _ in linkage(squareform(distance, checks=False), "average"):
        nodes.append(np.sort(np.concatenate([nodes[int(first)], nodes[int(second)]])))
        yield nodes[-1]


def _together(
    kept: Int[np.ndarray, " kept"],
    words: Int[np.ndarray, "image patch"],
    shares: Float[np.ndarray, "image word"],
    labels: Int[np.ndarray, " image"],
    grid: PatchGrid,
) -> Float[np.ndarray, "kept kept"]:
    """How much words belong together, in [-1, 1]: in the same images of a class, and side by side in an image."""
    values = np.sqrt(shares[:, kept])
    for label in np.unique(labels):
        values[labels == label] -= values[labels == label].mean(axis=0)
    norm = np.linalg.norm(values, axis=0)
    same_images = values.T @ values / np.maximum(np.outer(norm, norm), 1e-12)
    place = np.full(int(words.max()) + 2, -1)  # the last is that of -1, no word
    place[kept] = np.arange(len(kept))
    placed = place[words].reshape(-1, grid.rows, grid.cols)
    pairs = _pairs(placed[:, 1:], placed[:, :-1], len(kept)) + _pairs(placed[:, :, 1:], placed[:, :, :-1], len(kept))
    found = pairs + pairs.T
    edges = 2 * (grid.rows * (grid.cols - 1) + grid.cols * (grid.rows - 1))
    expected = edges * shares[:, kept].T @ shares[:, kept]
    side_by_side = np.tanh(np.log((found + 1) / (expected + 1)))
    return np.asarray(np.clip((same_images + side_by_side) / 2, -1, 1))


def _pairs(
    first: Int[np.ndarray, "image rows cols"], second: Int[np.ndarray, "image rows cols"], count: int
) -> Int[np.ndarray, "count count"]:
    """How often each number below `count` stands where each other stands in a second array; -1 does not count."""
    both = (first >= 0) & (second >= 0)
    return np.bincount(first[both] * count + second[both], minlength=count**2).reshape(count, count)


def _best(
    found: list[Candidate], words: Mapping[str, Int[np.ndarray, "image patch"]], labels: Int[np.ndarray, " image"]
) -> list[Candidate]:
    """The strongest by the weaker of association and use, each at places of its own, those that fill images last."""
    placed = [
        (candidate, candidate.patches(words[candidate.kind][labels == candidate.label]))
        for candidate in found
        if min(candidate.association, candidate.use) > CLEAR
    ]
    placed.sort(key=lambda pair: (_fills(*pair), -min(pair[0].association, pair[0].use)))
    best: list[tuple[Candidate, Bool[np.ndarray, "image patch"]]] = []
    for candidate, there in placed:
        if all((there & other).sum() < _SAME_PLACE * (there | other).sum() for _, other in best):
            best.append((candidate, there))
        if len(best) == PER_CLASS:
            break
    return [candidate for candidate, _ in best]


def _fills(candidate: Candidate, there: Bool[np.ndarray, "image patch"]) -> bool:
    """Whether the cue leaves hardly a patch that a control could change."""
    share = there.mean(axis=1)
    return bool(np.median(share[share >= candidate.threshold]) > _FULL)


def _attributed(
    there: Bool[np.ndarray, "image patch"], attribution: Float[np.ndarray, "image patch"]
) -> Float[np.ndarray, " holder"]:
    """Attribution to a set of patches, summed over each image that has any."""
    return np.asarray((attribution * there).sum(axis=1)[there.any(axis=1)])


def _matched(there: Bool[np.ndarray, "image patch"], attribution: Float[np.ndarray, "image patch"]) -> float:
    """Attribution per patch, minus that of patches elsewhere in the class at the same places, on average."""
    inside, outside = there.sum(axis=0), (~there).sum(axis=0)
    both = (inside > 0) & (outside > 0)
    if not both.any():
        return float("nan")
    mean_inside = (attribution * there).sum(axis=0)[both] / inside[both]
    mean_outside = (attribution * ~there).sum(axis=0)[both] / outside[both]
    return float(np.average(mean_inside - mean_outside, weights=inside[both]))


def _threshold(share: Float[np.ndarray, " image"], mine: Bool[np.ndarray, " image"]) -> float:
    """The share that parts the class from the others best (Youden's index), at least one patch."""
    places = np.unique(share[share > 0])
    hits = np.array([(share[mine] >= place).mean() - (share[~mine] >= place).mean() for place in places])
    return float(places[hits.argmax()])
