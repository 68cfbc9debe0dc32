"""The engine of this machine: chunks in order, whatever the processes."""

import sys

import pytest

from siftlens.core import InputError, PatchGrid
from siftlens.data import Preprocessing, open_images
from siftlens.engine import Engine, LocalEngine, open_engine
from siftlens.patchmaps import PrepareSettings, Quarantined

SETTINGS = PrepareSettings(Preprocessing(40, 56), PatchGrid(5, 7, 8, 8), rivals=False)


def names(chunk):
    return [(image.identity, isinstance(image, Quarantined)) for image in chunk]


@pytest.mark.parametrize("workers", [0, 2])
def test_chunks_are_those_of_the_source_with_images_set_aside_among_them(folder, workers):
    source = open_images(folder)
    chunks = list(LocalEngine(workers).work(source, SETTINGS, None, names, 7))
    assert [len(chunk) for chunk in chunks] == [7, 7, 7, 5]
    flat = [name for chunk in chunks for name, _ in chunk]
    assert flat == [ref.identity for ref in source]
    assert [name for chunk in chunks for name, aside in chunk if aside] == [
        'cats/04, "b".jpg',
        "cats/notes.txt",
        "dogs/00a.jpg",
    ]


def test_an_engine_is_opened_by_its_name():
    with open_engine("local", workers=None) as engine:
        assert isinstance(engine, Engine)
        assert engine.workers == 0
    with pytest.raises(InputError, match="engine must be one of local, ray, got 'rya'"), open_engine("rya", workers=1):
        pass
    with (
        pytest.raises(InputError, match="an address is that of a Ray cluster; add --engine ray"),
        open_engine("local", workers=1, address="auto"),
    ):
        pass


def test_without_ray_the_line_that_installs_it_is_told(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "ray" or name.endswith(".on_ray")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)  # as if it were not there
    with (
        pytest.raises(InputError, match=r"the Ray engine needs Ray: pip install 'siftlens\[scale\]'$"),
        open_engine("ray", workers=1),
    ):
        pass
