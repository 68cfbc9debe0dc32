"""The whole analysis in one call, and its result on disk; and so for an audit."""

from siftlens.study.analysis import analyze
from siftlens.study.audits import Audit, audit, load_audit
from siftlens.study.comparing import compare
from siftlens.study.facade import Study, load_study
from siftlens.study.prompts import try_prompt

__all__ = [
    "Audit",
    "Study",
    "analyze",
    "audit",
    "compare",
    "load_audit",
    "load_study",
    "try_prompt",
]
