"""Finished analyses made up for tests: seeded, of awkward shapes, with every image's effects known."""

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from siftlens.interrelation.results import Result, RunInfo

LEVELS = ["0", "1", "2-3", "4-7", "8+"]
TESTED = {"semantic_pull": "SD", "partial_pull": "SD", "assortativity": "correlation", "cls_pull": "SD"}
DESCRIBED = {"class_mass": "share", "entropy": "nat", "mean_squared_distance": "px^2", "gradient_pull": "SD"}


def made_up(*, layers=5, heads=3, n=37, seed=7, pull=0.2, names=None, contents=None, settings=None, model=None):
    """A study whose semantic pull is about `pull`, and whose images are called `names`."""
    rng = np.random.default_rng(seed)
    names = [f"class/{i:03}.jpg" for i in range(n)] if names is None else list(names)
    contents = [f"{abs(hash_of(name)):016x}" for name in names] if contents is None else list(contents)
    n = len(names)
    dims, shape = ("image", "layer", "head"), (n, layers, heads)
    own = np.linspace(0.5, 1.5, layers)[:, None] * pull
    per_image = {}
    for statistic in TESTED:
        per_image[statistic] = (dims, (0.1 + own + rng.normal(0, 0.2, shape)).astype(np.float32))
        per_image[f"{statistic}_null"] = (dims, (0.1 + rng.normal(0, 0.05, shape)).astype(np.float32))
    for statistic in DESCRIBED:
        per_image[statistic] = (dims, rng.uniform(0.2, 1.7, shape).astype(np.float32))
    level_dims, cls_dims = ("layer", "head", "query_level", "key_level"), ("layer", "head", "key_level")
    lift = own[:, :, None, None] * np.linspace(-1, 1, 5) + rng.normal(0, 0.05, (layers, heads, 5, 5))
    lift[..., 4, :] = np.nan
    merged = {"level_n": ("level", np.array([401, 211, 101, 53, 0]))}
    merged |= {"level_mass": (level_dims, rng.uniform(0, 1, lift.shape))}
    for name, shift in (("", 0), ("_low", -0.1), ("_high", 0.1)):
        merged[f"level_lift{name}"] = (level_dims, lift + shift)
        merged[f"cls_level_lift{name}"] = (cls_dims, 1.5 * lift[:, :, 0] + shift)
    layer_names = [f"blocks.{layer}.attn" for layer in range(layers)]
    coords = {"image": names, "layer": range(layers), "layer_name": ("layer", layer_names), "head": range(heads)}
    coords |= dict.fromkeys(("level", "query_level", "key_level"), LEVELS)
    arrays = xr.Dataset(per_image | merged, coords)
    run = RunInfo(
        settings={"measure": "count", "weighting": "attention", "exclude_outliers": False, "seed": 0, "names": "0f"}
        | (settings or {}),
        model={"spec": "demo", "name": "synthetic ViT", "weights": "made up", "weights_hash": f"{seed:08x}ffff"}
        | {"height": 56, "width": 88, "resize": "squash", "resize_to": 56, "interpolation": "bicubic"}
        | {"rows": 7, "cols": 11, "class_tokens": 1, "registers": 0}
        | (model or {}),
        versions={"siftlens": "0.1.0"},
        hardware={"device": "cpu"},
        timings={"model": 17.5},
        started="2026-11-21T05:00:00+00:00",
        images=n,
        quarantined=0,
        pool=n,
        covered=0.38,
    )
    images = {"identity": names, "content": contents, "group": "class", "keypoints": 17, "covered": 0.38}
    heads = heads_of(arrays)
    return Result(
        heads=heads,
        layers=layers_of(heads),
        arrays=arrays,
        images=pd.DataFrame(images),
        quarantine=pd.DataFrame({"identity": [], "reason": []}, dtype=str),
        run=run,
        gallery=(),
    )


def hash_of(name):
    """A number that depends on the name alone."""
    return sum(ord(letter) * 131**place for place, letter in enumerate(name)) % 2**63


def heads_of(arrays):
    """A table of heads that fits the arrays."""
    rows = []
    n = arrays.sizes["image"]
    for layer, head in np.ndindex(arrays.sizes["layer"], arrays.sizes["head"]):
        for statistic, unit in (TESTED | DESCRIBED).items():
            values = arrays[statistic].values[:, layer, head].astype(np.float64)
            null = arrays[f"{statistic}_null"].values[:, layer, head].mean() if statistic in TESTED else np.nan
            effect = values.mean() - null
            se = values.std(ddof=1) / np.sqrt(n)
            centre = values.mean() if np.isnan(null) else effect
            half = se * stats.t.ppf(0.975, n - 1)
            p = 2 * stats.t.sf(abs(effect) / se, n - 1)
            about = {"layer": layer, "layer_name": f"blocks.{layer}.attn", "head": head, "statistic": statistic}
            about |= {"unit": unit, "value": values.mean(), "null_mean": null, "effect": effect, "se": se}
            about |= {"low": centre - half, "high": centre + half, "p": p, "q": p, "n": n}
            about |= {"significant": bool(p < 0.05), "relevant": bool(abs(effect) >= 0.1)}
            about |= {"mirror_effect": effect, "mirror_low": centre - half, "mirror_high": centre + half}
            rows.append(about | {"mirror_p": p, "mirror_q": p})
    return pd.DataFrame(rows)


def layers_of(heads):
    """A table of layers that fits the heads, as if all heads of a layer rose and fell together."""
    numbers = ["value", "null_mean", "effect", "se", "low", "high", "mirror_effect", "mirror_low", "mirror_high"]
    rows = []
    for (statistic, layer), of in heads.groupby(["statistic", "layer"], sort=False):
        mean = of[numbers].mean()
        n = int(of["n"].min())
        p = 2 * stats.t.sf(abs(mean["effect"]) / mean["se"], n - 1)
        half = (mean["mirror_high"] - mean["mirror_low"]) / 2 / stats.t.ppf(0.975, n - 1)
        mirror_p = 2 * stats.t.sf(abs(mean["mirror_effect"]) / half, n - 1)
        about = {"layer": layer, "layer_name": of["layer_name"].iloc[0], "statistic": statistic}
        about |= {"unit": of["unit"].iloc[0], **mean, "n": n, "p": p, "mirror_p": mirror_p}
        rows.append(about | {"relevant": bool(abs(mean["effect"]) >= 0.1)})
    table = pd.DataFrame(rows)
    for own in ("", "mirror_"):
        for _, of in table.groupby("statistic"):
            known = of[f"{own}p"].notna()
            table.loc[of.index[known], f"{own}q"] = stats.false_discovery_control(of.loc[known, f"{own}p"])
    return table.assign(significant=table["q"] < 0.05).reindex(columns=[c for c in heads.columns if c != "head"])
