"""The whole analysis in one call, and its result on disk."""

from siftlens.study.analysis import analyze
from siftlens.study.comparing import compare
from siftlens.study.facade import Study, load_study
from siftlens.study.storage import expect_free

__all__ = ["Study", "analyze", "compare", "expect_free", "load_study"]
