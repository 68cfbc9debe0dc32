"""What a comparison found, as finished results."""

from dataclasses import dataclass
from typing import Literal

import pandas as pd


@dataclass(frozen=True)
class Compared:
    """One of the studies that were compared.

    Attributes:
        name: what it is called in the comparison; no other study has the same.
        model: name of its model.
        weights: what the weights are, and the beginning of their hash.
        layers: attention layers.
        heads: per layer.
        height: input of the model, px.
        width: input of the model, px.
        rows: of patches.
        cols: of patches.
        images: images read, matched or not.
        pool: images in null 1's reference pool.
        seed: of its null maps.
        shared_null: whether its null maps are those of the reference.
    """

    name: str
    model: str
    weights: str
    layers: int
    heads: int
    height: int
    width: int
    rows: int
    cols: int
    images: int
    pool: int
    seed: int
    shared_null: bool


@dataclass(frozen=True)
class Comparison:
    """Paired differences between studies of the same images, per layer.

    Attributes:
        studies: the reference first.
        images: images that all studies have.
        matched_by: "content" of the pixels that the models saw, or "name" where they resize or crop
            differently.
        table: a row per study, statistic and depth, with the columns
            study, statistic, unit;
            depth: 0 the first attention layer, 1 the last;
            layer: of this study, a fraction where it lies between two layers;
            value, low, high: mean over heads and images of the effect beyond null 1, of the value where there is no
            null, and its 95 % interval;
            difference, difference_low, difference_high: this study minus the reference, paired over images;
            se, p, q: of the difference; q is p corrected (Benjamini-Hochberg) over the depths of one statistic;
            n: images behind the row;
            significant: q < 0.05; relevant: a difference of effects of 0.1 or more.
            All about the difference is NaN, or false, for the reference itself.
        notes: what could not be compared, and why; what to bear in mind.
    """

    studies: tuple[Compared, ...]
    images: int
    matched_by: Literal["content", "name"]
    table: pd.DataFrame
    notes: tuple[str, ...]

    @property
    def reference(self) -> Compared:
        """The study that all others are compared with."""
        return self.studies[0]

    @property
    def aligned(self) -> bool:
        """Whether layers were aligned by relative depth, as the models differ in their number."""
        return len({study.layers for study in self.studies}) > 1

    def rows(self, study: str, statistic: str) -> pd.DataFrame:
        """The rows of one study and statistic, by depth; empty where it was not compared."""
        chosen = (self.table["study"] == study) & (self.table["statistic"] == statistic)
        return self.table[chosen].sort_values("depth", ignore_index=True)
