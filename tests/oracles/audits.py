"""Finished audits made up for tests: two classes, cues on every rung, pictures of noise."""

import io

import numpy as np
import pandas as pd
import torch
from PIL import Image

from siftlens.auditing.codebook import Codebook
from siftlens.auditing.vocabulary import Vocabulary
from siftlens.core import PatchGrid
from siftlens.data import Preprocessing
from siftlens.study import Audit

GRID = PatchGrid(5, 7, 4, 4)
RUNGS = ("harmful reliance", "relied on", "global", "associated", "not associated")


def made_up(*, verdicts=RUNGS, labels=("green", "indigo"), names=None, model=None, masks=None, info=None, seed=7):
    """An audit with a cue for each verdict, the first of class 1, then by turns."""
    rng = np.random.default_rng(seed)
    names = [f"{labels[i % 2]}/{i:03}.png" for i in range(23)] if names is None else names
    cues, shown = [], []
    for row, verdict in enumerate(verdicts):
        label, kind = labels[(row + 1) % 2], ("colour", "sift", "token")[row % 3]
        cues.append(cue(label, kind, verdict, row, masks))
        parts = ["carries"] * 5 + (["taken", "missed"] if row == 0 else [])
        for image, part in enumerate(parts):
            shown.append((row, part, (3 * row + image) % len(names), [0, 1, 8] if part != "missed" else []))
    answers = [labels[(i + (i < 2)) % 2] for i in range(len(names))]
    images = pd.DataFrame(
        {"identity": names, "label": [labels[i % 2] for i in range(len(names))], "predicted": answers}
        | {"half": "confirm", "margin": rng.normal(2, 1, len(names)), "cue_share": 0.1, "risk": 0.0}
    )
    return Audit(
        cues=pd.DataFrame(cues) if cues else pd.DataFrame(columns=["cue", "verdict", "label", "kind"]),
        images=images,
        properties=properties(labels),
        shown=pd.DataFrame(shown, columns=["cue", "part", "image", "patches"]),
        pictures=pd.DataFrame({"image": range(len(names)), "jpeg": [jpeg(rng) for _ in names]}),
        info={
            "settings": {"source": "photos/", "labels": "folders", "limit": None, "normalize": "as loaded"}
            | {"vocabularies": ["sift", "colour", "token"], "layer": None, "probe": False}
            | {"masks": masks, "environment": None, "seed": 0},
            "model": {"spec": "demo", "name": "synthetic ViT", "weights": "pretrained", "weights_hash": "0f3c9a"}
            | {"size": None, "device": "cpu", "dtype": "float32", "height": 20, "width": 28}
            | (model or {}),
            "versions": {"siftlens": "0.1.0"},
            "hardware": {"device": "cpu"},
            "images": len(names),
            "classes": list(labels),
            "without_enough_images": [],
            "without_right_answers": [],
            "cues_tested": len(cues),
            "passes_per_image": 17.5,
            "set_aside": [],
            "started": "2026-11-21T05:00:00+00:00",
            "seconds": 12.5,
        }
        | (info or {}),
        vocabulary=Vocabulary(GRID, {kind: book() for kind in ("sift", "colour", "token")}),
        layer=2,
        preprocessing=Preprocessing(20, 28),
        normalization=None,
    )


def cue(label, kind, verdict, row, masks):
    told = {"cue": f"{label} {row // 2 + 1} ({kind})", "verdict": verdict, "label": label, "kind": kind}
    told |= {"dependence": 0.6 - 0.1 * row, "p": 0.0005 + 0.02 * row, "n": 37, "words": [3, 11], "threshold": 0.05}
    told |= {"area": 0.086, "median_margin": 2.5}
    for test, share in (("removal", 0.6), ("swap", 0.7), ("transplant", 0.5)):
        mean = 2.5 * (share - 0.1 * row)
        told |= {test: mean, f"{test}_low": mean - 0.25, f"{test}_high": mean + 0.25}
    told |= {"false_present": 0.41, "false_absent": 0.03, "missed_present": 0.01, "missed_absent": np.nan}
    told |= {"p_harm": 0.004, "off_object": 0.97 if masks else np.nan, "lift_elsewhere": np.nan}
    told |= {"red": 196.0, "green": 44.0, "blue": 150.0, "spread": 9.0, "texture": 3.0}
    told |= {"keypoints": 0.2, "keypoints_elsewhere": 0.6, "map": [0.5] * 2 + [0.0] * 33}
    return told | {"shared": 0.8 if row == 2 else 0.0, "shared_with": 0 if row == 2 else -1}


def properties(labels):
    known = {"change": 0.12, "low": 0.05, "high": 0.19, "p": 0.01, "verdict": "relied on"}
    fixed = {"change": np.nan, "low": np.nan, "high": np.nan, "p": np.nan, "verdict": "associated"}
    rows = [
        {"property": "sharpness", "direction": "less", "everywhere": True} | known,
        {"property": "brightness", "direction": "more", "everywhere": False} | known,
        {"property": "size", "direction": "more", "everywhere": True} | fixed,
    ]
    return pd.DataFrame([{"label": labels[0], "p_association": 0.001} | row for row in rows])


def jpeg(rng):
    out = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (20, 28, 3), dtype=np.uint8)).save(out, "JPEG")
    return out.getvalue()


def book():
    return Codebook(torch.zeros(35, 6), torch.eye(6), torch.zeros(32, 6))
