"""How much attention a report may carry, and of which heads first."""

from collections.abc import Sequence

import pandas as pd

Head = tuple[int, int]  # layer, head; the number of heads stands for the mean over them

IMAGE_BYTES = 950_000  # of one image's attention in the report, before base64 makes 4 bytes of 3
OVERVIEW_BYTES = 400_000  # of these at most for what patches receive and the class token's row, a byte a patch and head
GALLERY_BYTES = 9_300_000  # of all images' attention


def heads_by_importance(heads: pd.DataFrame, named: Sequence[Head]) -> tuple[Head, ...]:
    """All heads and each layer's mean, what a reader will ask for first at the front.

    Args:
        heads: a row per layer, head and statistic.
        named: heads that the findings call out.

    Returns:
        (layer, head): the named ones, means over heads, then the others, largest pull first.
    """
    pull = heads[heads["statistic"] == "semantic_pull"]
    ranked = pull.assign(size=pull["effect"].abs()).sort_values(
        ["size", "layer", "head"], ascending=[False, True, True]
    )
    means = [(int(layer), int(heads["head"].max()) + 1) for layer in sorted(heads["layer"].unique())]
    others = [(int(layer), int(head)) for layer, head in zip(ranked["layer"], ranked["head"], strict=True)]
    return tuple(dict.fromkeys([*named, *means, *others]))
