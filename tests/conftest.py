"""What all tests share: no network, a keypoint cache of their own, real images where they are at hand."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, so it is set before anything else

import shutil
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png"),
    *("coins.png", "motorcycle_left.png", "rocket.jpg", "text.png"),
)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """Keeps the user's keypoint cache out of the tests, and the tests out of it."""
    monkeypatch.setenv("SIFTLENS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images beside the checkout, which is no part of the repository."""
    if not SHARED_DATA.is_dir():
        pytest.skip("needs the real images in ../shared/data beside the checkout")
    return SHARED_DATA


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder `photos` with a few photographs that come with scikit-image."""
    skimage = pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds photographs")
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in PHOTOGRAPHS:
        shutil.copy(Path(skimage.__file__).parent / "data" / name, folder)
    return folder
