"""Figures and tables as files."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from oracles.studies import made_up
from siftlens.core import InputError
from siftlens.plots.export import level_table
from siftlens.study import Study

HOSTILE = ['a,"b"\n.png', "=1+1", "<b>é</b>", *(f"{i}.png" for i in range(10))]


@pytest.fixture(scope="module")
def result():
    return made_up(layers=2, heads=3, names=HOSTILE)


@pytest.fixture(scope="module")
def written(result, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return folder, Study(result).export(folder)


def test_every_figure_and_table_is_there(written):
    folder, paths = written
    statistics = ["semantic_pull", "partial_pull", "assortativity", "cls_pull", "class_mass", "entropy"]
    statistics += ["mean_squared_distance", "gradient_pull"]
    names = {f"{kind}_{statistic}" for kind in ("heads", "depth") for statistic in statistics} | {"levels"}
    figures = {f"figures/{name}.{suffix}" for name in names for suffix in ("svg", "png")}
    found = {str(path.relative_to(folder)) for path in folder.rglob("[!.]*") if path.is_file()}
    assert found == figures | {f"tables/{name}.csv" for name in ("heads", "images", "levels")}
    assert {str(path.relative_to(folder)) for path in paths} == found
    with Image.open(folder / "figures" / "levels.png") as picture:
        assert picture.width > 800
    assert (folder / "figures" / "levels.svg").read_text("utf-8").startswith("<?xml")


def test_tables_read_back_as_they_were(written, result):
    folder, _ = written
    heads = pd.read_csv(folder / "tables" / "heads.csv")
    pd.testing.assert_frame_equal(heads, result.heads, check_dtype=False)
    images = pd.read_csv(folder / "tables" / "images.csv")
    assert list(images["identity"]) == HOSTILE


def test_the_levels_are_a_long_table(written, result):
    table = pd.read_csv(written[0] / "tables" / "levels.csv").set_index(["layer", "head", "query_level", "key_level"])
    assert len(table) == 2 * 3 * (5 + 1) * 5
    cell = {"layer": 1, "head": 2, "query_level": "2-3", "key_level": "8+"}
    for name in ("level_mass", "level_lift", "level_lift_low", "level_lift_high"):
        assert table.loc[tuple(cell.values()), name] == pytest.approx(float(result.arrays[name].sel(cell)))
    of_class = result.arrays["cls_level_lift"].sel(layer=0, head=1, key_level="1")
    assert table.loc[(0, 1, "class token", "1"), "level_lift"] == pytest.approx(float(of_class))
    assert np.isnan(table.loc[(0, 0, "8+", "0"), "level_lift"])


def test_without_a_class_token_its_row_is_absent(result):
    arrays = result.arrays.drop_vars([name for name in result.arrays if str(name).startswith("cls_")])
    table = level_table(replace(result, arrays=arrays))
    assert set(table["query_level"]) == {"0", "1", "2-3", "4-7", "8+"}
    assert len(table) == 2 * 3 * 5 * 5


def test_a_folder_that_is_a_file_is_refused(result, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="cannot write .*: a file stands where a folder is needed"):
        Study(result).export(tmp_path / "taken")
