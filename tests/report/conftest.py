"""Synthetic results: seeded, of awkward shapes, with effects planted where the tests look for them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from oracles.rows import kept_rows
from oracles.studies import layers_of
from siftlens.interrelation.results import GalleryImage, Result, RunInfo
from siftlens.report import render

LEVELS = ["0", "1", "2-3", "4-7", "8+"]
TESTED = ["semantic_pull", "partial_pull", "assortativity", "cls_pull"]
UNITS = {"assortativity": "r", "entropy": "nat", "mean_squared_distance": "px^2", "class_mass": "share"}


def planted_effects(layers, heads, rng):
    """Away in the first layers, toward in the later ones, one head that stands out; small noise."""
    depth = np.linspace(-0.3, 0.5, layers) if layers > 1 else np.array([0.4])
    effects = depth[:, None] + rng.normal(0, 0.08, (layers, heads))
    effects[-1, heads - 1] = 0.9
    return effects


def row(layer, head, statistic, *, value, half, n, null=np.nan, mirror=np.nan, q=True):
    effect, center = value - null, value if np.isnan(null) else value - null
    df = n - 1
    p = 2 * stats.t.sf(abs(effect) / half * stats.t.ppf(0.975, df), df)
    mirror_effect = value - mirror
    mirror_p = 2 * stats.t.sf(abs(mirror_effect) / half * stats.t.ppf(0.975, df), df)
    return {
        "layer": layer,
        "layer_name": f"blocks.{layer}.attn",
        "head": head,
        "statistic": statistic,
        "unit": UNITS.get(statistic, "SD"),
        "value": value,
        "null_mean": null,
        "effect": effect,
        "se": half / stats.t.ppf(0.975, df),
        "low": center - half,
        "high": center + half,
        "p": p,
        "q": p if q else np.nan,
        "n": n,
        "significant": bool(p < 0.05),
        "relevant": bool(abs(effect) >= 0.1),
        "mirror_effect": mirror_effect,
        "mirror_low": mirror_effect - half,
        "mirror_high": mirror_effect + half,
        "mirror_p": mirror_p,
        "mirror_q": mirror_p if q else np.nan,
    }


def heads_table(layers, heads, n, class_token, effects, half, rng):
    shares = {"semantic_pull": 1.0, "partial_pull": 0.4, "assortativity": 0.5, "cls_pull": 0.7}
    described = {"class_mass": 0.2, "entropy": 3.1, "mean_squared_distance": 900.0, "gradient_pull": 0.3}
    described |= {f"received_level_{level}": 0.3 * level - 0.5 for level in range(5)}
    rows = []
    for layer, head in np.ndindex(layers, heads):
        for name in TESTED if class_token else TESTED[:3]:
            null = 0.1 + rng.normal(0, 0.01)
            effect = effects[layer, head] * shares[name]

            rows.append(row(layer, head, name, value=null + effect, half=half, n=n, null=null, mirror=0.05, q=True))
        for name, scale in described.items():
            if name != "class_mass" or class_token:
                value = scale * (1 + 0.1 * layer + rng.normal(0, 0.05))
                rows.append(row(layer, head, name, value=value, half=abs(scale) / 20, n=n))
    return pd.DataFrame(rows)


def arrays_of(layers, heads, n, class_token, effects, rng):
    names = [f"class/{i:03}.jpg" for i in range(n)]
    shape = (layers, heads, 5, 5)
    ramp = np.linspace(-0.5, 0.5, 5)
    lift = effects[:, :, None, None] * ramp + rng.normal(0, 0.05, shape)
    lift[..., 4, :] = np.nan
    names4 = ("layer", "head", "query_level", "key_level")
    variables = {
        "level_lift": (names4, lift),
        "level_lift_low": (names4, lift - 0.1),
        "level_lift_high": (names4, lift + 0.1),
        "level_n": (("level",), np.array([100927, 503, 251, 127, 0])),
        "semantic_pull": (("image", "layer", "head"), effects + rng.normal(0, 0.4, (n, layers, heads))),
        "semantic_pull_null": (("image", "layer", "head"), np.zeros((n, layers, heads))),
    }
    if class_token:
        variables["cls_level_lift"] = (("layer", "head", "key_level"), lift[:, :, 0] * 1.5)
    coords = {"image": names, "layer": range(layers), "head": range(heads), "level": LEVELS}
    return xr.Dataset(variables, coords | {"query_level": LEVELS, "key_level": LEVELS})


def gallery_of(layers, heads, class_token, rng, names, rows=7, cols=11, patch=13):
    def one(name):
        y, x = np.mgrid[: rows * patch, : cols * patch]
        wave = np.sin(x / 9 + rng.uniform(0, 6)) * np.cos(y / 7 + rng.uniform(0, 6))
        pixels = np.stack([128 + 90 * wave, 128 + 60 * wave, 110 + y], axis=2).clip(0, 255).astype(np.uint8)
        points = 17
        scale = np.full((layers, heads), 0.06, np.float32)
        attention = rng.gamma(0.7, 40, (2, layers, heads, rows, cols)).clip(0, 255).astype(np.uint8)
        whole, strongest, _ = kept_rows(layers, heads, rows * cols, rng)
        return GalleryImage(
            identity=name,
            pixels=pixels,
            keypoint_x=rng.uniform(0, cols * patch, points).astype(np.float32),
            keypoint_y=rng.uniform(0, rows * patch, points).astype(np.float32),
            keypoint_size=rng.uniform(3, 19, points).astype(np.float32),
            concentration=rng.poisson(0.8, (rows, cols)).astype(np.float32),
            cls_attention=attention[0] if class_token else None,
            cls_scale=scale if class_token else None,
            received=attention[1],
            received_scale=scale,
            whole=whole,
            strongest=strongest,
        )

    return tuple(one(name) for name in names)


@pytest.fixture
def make_result():
    """A finished analysis of a constructed model; keyword arguments choose its shape."""

    def make(*, layers=5, heads=3, n=307, pool=307, class_token=True, effects=None, half=0.06, gallery=2, seed=7):
        rng = np.random.default_rng(seed)
        effects = planted_effects(layers, heads, rng) if effects is None else np.asarray(effects, float)
        arrays = arrays_of(layers, heads, n, class_token, effects, rng)
        names = [str(name) for name in arrays["image"].values]
        run = RunInfo(
            settings={"images": "photos/", "measure": "count", "batch_size": 32, "seed": 0},
            model={"spec": "demo", "name": "synthetic ViT", "weights_hash": "0f3c9a", "grid": [7, 11]},
            versions={"siftlens": "0.1.0", "python": "3.11.2", "torch": "2.15.0"},
            hardware={"device": "cpu", "threads": 2},
            timings={"detect": 3.25, "read": 17.5},
            started="2026-11-21T05:00:00Z",
            images=n,
            quarantined=1,
            pool=pool,
            covered=0.38,
        )
        table = heads_table(layers, heads, n, class_token, effects, half, rng)
        return Result(
            heads=table,
            layers=layers_of(table),
            arrays=arrays,
            images=pd.DataFrame({"identity": names, "keypoints": 17, "covered": 0.38}),
            quarantine=pd.DataFrame({"identity": ["class/broken.png"], "reason": ["truncated file"]}),
            run=run,
            gallery=gallery_of(layers, heads, class_token, rng, names[:gallery]),
        )

    return make


@pytest.fixture
def rerun():
    """A result with some fields of its `run` replaced."""
    return lambda result, **fields: replace(result, run=replace(result.run, **fields))


CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page from disk; fails on any word on the console and on any request but the file itself."""
    seen, pages = [], []

    def go(text, width=1440, **options):
        path = tmp_path / "index.html"
        path.write_text(text, "utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:image/") or seen.append(request.url))
        page.goto(path.as_uri())
        assert seen == [path.as_uri()]
        seen.clear()
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert seen == []


@pytest.fixture
def visit(opened):
    """Opens the report of a result."""
    return lambda result, width=1440, **options: opened(render(result), width, **options)
