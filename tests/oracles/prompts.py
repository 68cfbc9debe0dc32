"""The effect of a prompt that nobody computed: every field set by hand."""

import numpy as np
import pandas as pd

from siftlens.core import PatchGrid
from siftlens.prompting import Bias, Policy
from siftlens.prompting.effect import Picture, PromptEffect


def made_up(*, labels=("sea", "wood", "sea", "wood", "sea"), labels_match=True, name="small", aside=(), cues=True):
    before = ["sea", "sea", "wood", "wood", "sea"]
    after = ["sea", "wood", "sea", "sea", "sea"]
    table = pd.DataFrame(
        {
            "identity": [f"{i}.png" for i in range(5)],
            "label": list(labels),
            "before": before,
            "after": after,
            "before_p": [0.9, 0.8, 0.7, 0.6, 0.5],
            "after_p": [0.55, 0.65, 0.75, 0.85, 0.95],
            "after_p_before": [0.9, 0.15, 0.25, 0.35, 0.5],
            "changed": [False, True, True, True, False],
            "cues": ["", "sea 1 (colour)", "", "wood 2 (sift)", ""] if cues else [None] * 5,
            "cue_share": [0.0, 0.25, 0.0, 0.5, 0.0] if cues else [np.nan] * 5,
        }
    )
    info = {"model": {"name": name}, "images": 5, "set_aside": list(aside), "labels_match": labels_match}
    pictures = (Picture(1, b"one", b"two"), Picture(2, b"three", b"four"))
    return PromptEffect(table, pictures, Policy(bias=(Bias(3.0),)), info, PatchGrid(3, 5, 4, 4))
