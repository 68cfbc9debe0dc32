"""A small part of `benchmarks/fuzz.py`: a few damaged files of every kind, always the same ones."""

import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from fuzz import attempt
from fuzz_targets import make, targets

pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds photographs")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "good"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIFTLENS_CACHE", str(folder.parent / "cache"))
        make(folder)
    return folder


@pytest.mark.parametrize("target", targets(), ids=lambda target: target.name)
def test_damaged_files_are_read_or_refused(good, target):
    came = Counter()
    whole = (good / target.file).read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for number in range(25):
            outcome = attempt(target, good, whole, 5, number)
            came[outcome["came"]] += 1
            assert outcome["came"] in ("read", "refused"), outcome
    (good / target.file).write_bytes(whole)
    assert came["refused"] > 0 or target.name == "keypoint cache"
