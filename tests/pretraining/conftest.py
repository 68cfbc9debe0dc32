"""Pictures to train on, and a run that nothing disturbed."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Twenty pictures of coloured squares in two folders."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(2)
    for number in range(20):
        path = folder / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (7, 7, 3), dtype=np.uint8))
        coarse.resize((48, 48), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="session")
def whole(photos, tmp_path_factory):
    """A run from its beginning to its end."""
    pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")
    from oracles.runs import run

    out = tmp_path_factory.mktemp("whole")
    return out, run(photos, out)
