"""What a classifier leans on besides the object: words, cues, causal tests, verdicts."""

from siftlens.auditing.results import AuditResult, Cue
from siftlens.auditing.run import Run
from siftlens.auditing.settings import AuditSettings

__all__ = ["AuditResult", "AuditSettings", "Cue", "Run"]
