"""What a classifier leans on besides the object: words, cues, causal tests, verdicts."""

from siftlens.auditing.facade import audit, load_audit
from siftlens.auditing.results import Audit, Cue

__all__ = ["Audit", "Cue", "audit", "load_audit"]
