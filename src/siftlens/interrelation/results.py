"""What an analysis found, as finished results: labelled tables and arrays, never a model."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Float, UInt8

from siftlens.interrelation.kept_rows import KeptRows


@dataclass(frozen=True)
class GalleryImage:
    """One image that a person will look at, with everything that is drawn over it.

    Attributes:
        identity: relative path or content hash.
        pixels: what the model saw, before normalisation.
        keypoint_x: keypoint positions, px.
        keypoint_y: keypoint positions, px.
        keypoint_size: keypoint diameters, px.
        concentration: the measure, per patch.
        cls_attention: class token's attention to each patch, quantised to 0-255; None without a class token.
        cls_scale: what 255 stands for, per layer and head; None without a class token.
        received: mean attention that each patch receives, quantised to 0-255.
        received_scale: what 255 stands for, per layer and head.
        whole: where patches attend in the heads that findings name, all patches of every row; None where none is.
        strongest: the same in the other heads and in means over heads, the strongest keys of every row; None likewise.
    """

    identity: str
    pixels: UInt8[np.ndarray, "height width 3"]
    keypoint_x: Float[np.ndarray, " point"]
    keypoint_y: Float[np.ndarray, " point"]
    keypoint_size: Float[np.ndarray, " point"]
    concentration: Float[np.ndarray, "rows cols"]
    cls_attention: UInt8[np.ndarray, "layer head rows cols"] | None
    cls_scale: Float[np.ndarray, "layer head"] | None
    received: UInt8[np.ndarray, "layer head rows cols"]
    received_scale: Float[np.ndarray, "layer head"]
    whole: KeptRows | None
    strongest: KeptRows | None


@dataclass(frozen=True)
class RunInfo:
    """How an analysis was run: enough to run it again.

    Attributes:
        settings: every setting of the analysis, by name (JSON values).
        model: spec, name, weights hash, parameters, input size, grid, prefix tokens (JSON values).
        versions: siftlens, python, torch, timm, opencv, ... by name.
        hardware: processor, threads, device, system.
        timings: seconds by stage.
        started: UTC, ISO 8601.
        images: images read.
        quarantined: images set aside with a reason.
        pool: images in the reference pool of null 1.
        covered: mean share of patches that hold at least one keypoint.
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    versions: dict[str, str]
    hardware: dict[str, Any]
    timings: dict[str, float]
    started: str
    images: int
    quarantined: int
    pool: int
    covered: float


@dataclass(frozen=True)
class Result:
    """A finished analysis.

    Attributes:
        heads: a row per layer, head and statistic.
        layers: means over heads, a row per layer and statistic.
        arrays: labelled arrays, merged and per image.
        images: a row per image: identity, content, group, keypoints, covered (share of patches with a
            keypoint), outlier_tokens (patch tokens of outlier norm), mask_auroc (of concentration against the
            image's object mask; NaN without one).
        quarantine: a row per image set aside: identity, reason.
        run: how it was run.
        gallery: a few images to look at.
        heads_by_group: `heads` for every group of images, with a column `group`; None where images were not grouped.
    """

    heads: pd.DataFrame
    layers: pd.DataFrame
    arrays: xr.Dataset
    images: pd.DataFrame
    quarantine: pd.DataFrame
    run: RunInfo
    gallery: tuple[GalleryImage, ...]
    heads_by_group: pd.DataFrame | None = None
