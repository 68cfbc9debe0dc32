"""Products of float32 in float32, whatever a training script has allowed for its own."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_lock = threading.Lock()
_users = 0
_before: list[str] = []


@contextmanager
def full_precision() -> Iterator[None]:
    """Let no product inside round its factors to bfloat16 or TF32.

    `torch.set_float32_matmul_precision("medium")` is the model's affair; what is read must be as exact as float32 is.
    The switches are the process's, so that users are counted: other threads may multiply as exactly meanwhile, and the
    last one to leave restores them.
    """
    global _users, _before
    switches = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    with _lock:
        if _users == 0:
            _before = [switch.fp32_precision for switch in switches]
            for switch in switches:
                switch.fp32_precision = "ieee"
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for switch, precision in zip(switches, _before, strict=True):
                    switch.fp32_precision = precision
