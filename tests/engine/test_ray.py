"""The engine on Ray: the numbers of one process, whatever the workers, and whoever is killed meanwhile."""

import pandas as pd
import pytest
import xarray as xr

import siftlens

pytest.importorskip("ray", reason="needs Ray: pip install 'siftlens[scale]'")

from siftlens.engine.cluster import connected


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for the whole file: starting it takes seconds. What the tests open uses it, and leaves it as it is."""
    with connected(None):
        yield


@pytest.fixture(scope="module")
def alone(model, folder):
    """The study that one process makes."""
    return siftlens.analyze(model, folder, batch_size=5, workers=0, group_by="folder", cache=False)


def assert_same(study, expected, **tolerance):
    for name in ("heads", "layers", "heads_by_group", "images"):
        pd.testing.assert_frame_equal(getattr(study, name), getattr(expected, name), **tolerance)
    pd.testing.assert_frame_equal(study.quarantine, expected.quarantine)
    xr.testing.assert_allclose(study.arrays, expected.arrays, **tolerance)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_numbers_are_those_of_one_process(alone, model, folder, workers):
    study = siftlens.analyze(model, folder, batch_size=5, engine="ray", workers=workers, group_by="folder", cache=False)
    assert_same(study, alone, rtol=1e-9, atol=1e-12)
    assert study.run.settings["engine"] == "ray"
    assert len(study.quarantine) == 3
