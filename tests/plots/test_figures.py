"""Figures show what the study holds: read back from what was drawn."""

import re
from dataclasses import replace
from importlib.resources import files
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.collections import PathCollection, QuadMesh
from matplotlib.colors import to_hex

from oracles.studies import made_up
from siftlens.core import InputError
from siftlens.plots import Plots, style
from siftlens.plots.style import diverging, rendered
from siftlens.study import Study


@pytest.fixture(scope="module")
def result():
    return made_up(layers=5, heads=3)


@pytest.fixture
def plot(result):
    return Plots(result)


def effects(result, statistic="semantic_pull", column="effect"):
    rows = result.heads[result.heads["statistic"] == statistic]
    return rows.pivot(index="layer", columns="head", values=column).to_numpy(np.float64)


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(match=lambda artist: hasattr(artist, "get_text")))


def hatched(axes):
    return sorted((round(p.get_y() + 0.5), p.get_x() + 0.5) for p in axes.patches if p.get_hatch())


def test_heads_are_cells_and_the_mean_stands_apart(plot, result):
    axes = plot.heads().axes[0]
    heads, mean = [mesh for mesh in axes.collections if isinstance(mesh, QuadMesh)]
    np.testing.assert_allclose(heads.get_array().reshape(5, 3), effects(result))
    np.testing.assert_allclose(mean.get_array().ravel(), effects(result).mean(axis=1))
    assert heads.norm.vmin == -heads.norm.vmax
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "2", "mean"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # layer 0 on top, as in the report


def test_what_has_no_effect_is_no_figure(result, tmp_path):
    """Of a single image, which has no other to be compared with."""
    heads = result.heads.copy()
    heads.loc[heads["statistic"] != "entropy", ["effect", "low", "high"]] = np.nan
    layers = result.layers.assign(effect=np.nan)
    alone = replace(result, heads=heads, layers=layers)
    assert "semantic_pull" not in Plots(alone).statistics and "entropy" in Plots(alone).statistics
    with pytest.raises(InputError, match=r"a statistic that this study can show \(.*entropy.*\), got 'semantic_pull'"):
        Plots(alone).heads()
    assert Study(alone).export(tmp_path)


def test_cells_carry_their_marks(result):
    heads = result.heads.copy()
    pull = heads["statistic"] == "semantic_pull"
    heads.loc[pull, "q"] = 0.001
    heads.loc[pull, "effect"] = 0.3
    heads.loc[pull & (heads["layer"] == 1) & (heads["head"] == 2), "q"] = 0.2
    heads.loc[pull & (heads["layer"] == 3) & (heads["head"] == 0), "effect"] = 0.05
    heads.loc[pull & (heads["layer"] == 4) & (heads["head"] == 1), ["effect", "value"]] = np.nan
    axes = Plots(replace(result, heads=heads)).heads().axes[0]
    assert (1, 2) in hatched(axes)
    assert not [cell for cell in hatched(axes) if cell[1] < 2.5 and cell != (1, 2)]
    (dots,) = [found for found in axes.collections if isinstance(found, PathCollection)]
    assert [0.0, 3.0] in dots.get_offsets().tolist()
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [((1.0, 4), "–")]


@pytest.mark.parametrize("statistic", ["semantic_pull", "assortativity", "entropy", "mean_squared_distance"])
def test_depth_shows_the_mean_its_interval_and_every_head(plot, result, statistic):
    axes = plot.depth(statistic).axes[0]
    shown = effects(result, statistic, "effect" if statistic in ("semantic_pull", "assortativity") else "value")
    mean = shown.mean(axis=1)
    if statistic == "mean_squared_distance":
        shown, mean = np.sqrt(shown), np.sqrt(mean)
    lines = [line.get_ydata() for line in axes.lines if len(line.get_ydata()) == 5]
    np.testing.assert_allclose(np.stack(lines[:3], axis=1), shown)
    np.testing.assert_allclose(lines[3], mean)
    edges = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert edges.min() < mean.min() < mean.max() < edges.max()


def test_unclear_layers_are_hollow(result):
    layers = result.layers.copy()
    layers.loc[(layers["statistic"] == "semantic_pull") & (layers["layer"] == 2), "q"] = 0.5
    axes = Plots(replace(result, layers=layers)).depth().axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [to_hex(dot.get_markerfacecolor()) == "#ffffff" for dot in dots] == [False, False, True, False, False]


def test_levels_are_a_matrix_for_each_layer_or_for_one(plot, result):
    lift = result.arrays["level_lift"].values
    every = [axes for axes in plot.levels().axes if axes.get_visible() and axes.get_title()]
    assert [axes.get_title() for axes in every] == [f"layer {i}" for i in range(5)]
    mesh = every[3].collections[0].get_array().reshape(7, 5)
    np.testing.assert_allclose(mesh[:4], lift[3].mean(axis=0)[:4], rtol=1e-3)
    one = plot.levels(3, 1).axes[0]
    np.testing.assert_allclose(one.collections[0].get_array().reshape(7, 5)[:4], lift[3, 1, :4], rtol=1e-3)
    assert [label.get_text() for label in one.get_yticklabels()][-2:] == ["any patch", "class token"]
    includes_0 = np.argwhere(np.abs(lift[3, 1]) <= 0.1).tolist()
    assert includes_0
    assert [[row, column] for row, column in hatched(one) if row < 5] == includes_0
    assert f"{lift[3, 1, 0, 4]:+.2f}".replace("-", "−") in texts(plot.levels(3, 1))


def test_every_figure_says_unit_n_and_model(plot):
    for figure in (plot.heads(), plot.depth(), plot.levels(), plot.heads("entropy"), plot.levels(0)):
        assert "n = 37 images" in texts(figure)
        assert "synthetic ViT" in texts(figure)
    assert "standard deviations of keypoint concentration" in texts(plot.heads())
    assert "nat" in texts(plot.depth("entropy"))
    assert "211 of 1" in texts(plot.levels())


def test_colours_are_the_reports():
    css = (files("siftlens.report") / "assets" / "page.css").read_text("utf-8")
    light = css.partition("@media")[0]
    for name in ("ink", "soft", "faint", "toward", "away", "zero", "plain"):
        assert re.search(rf"--{name}: (#\w+);", light)[1] == getattr(style, name.upper())
    ends = [to_hex(diverging()(place)) for place in (0.0, 0.5, 1.0)]
    assert ends == [style.AWAY, style.ZERO, style.TOWARD]


def test_what_a_study_lacks_is_refused_by_name(plot, result):
    with pytest.raises(
        InputError, match=r"expected a statistic that this study can show \(semantic_pull, .*\), got 'semantic'"
    ):
        plot.heads("semantic")
    bare = Plots(replace(result, heads=result.heads[result.heads["statistic"] != "cls_pull"]))
    with pytest.raises(InputError, match="got 'cls_pull'"):
        bare.depth("cls_pull")
    with pytest.raises(InputError, match="expected a layer from 0 to 4, got 5"):
        plot.levels(5)
    with pytest.raises(InputError, match="expected a head from 0 to 2, got -1"):
        plot.levels(0, -1)


@pytest.mark.parametrize("shape", [{"layers": 1, "heads": 1}, {"layers": 17, "heads": 19}])
def test_small_and_large_models_can_be_drawn(shape):
    plot = Plots(made_up(n=13, **shape))
    for figure in (plot.heads(), plot.depth(), plot.levels()):
        assert rendered(figure, "png").startswith(b"\x89PNG")


def test_names_are_text_and_nothing_else():
    name = r"$\frac{1}$ <script>alert(1)</script> & \n" + "x" * 500
    figure = Plots(made_up(n=13, model={"name": name})).heads()
    root = ElementTree.fromstring(rendered(figure, "svg"))
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert r"$\frac{1}$ <script>" in texts(figure)


def test_the_same_figure_is_the_same_file(plot):
    assert rendered(plot.depth(), "svg") == rendered(plot.depth(), "svg")
    assert rendered(plot.depth(), "png") == rendered(plot.depth(), "png")


def test_a_notebook_shows_the_figure(result):
    study = Study(result)
    assert study.plot.heads()._repr_svg_().startswith("<?xml")
    assert "semantic_pull" in repr(study.plot)
