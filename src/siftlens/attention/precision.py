"""Products of float32 in float32, whatever a training script has allowed for its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Let no product inside round its factors to bfloat16 or TF32.

    `torch.set_float32_matmul_precision("medium")` is the model's affair; what is read must be as exact as float32 is.
    The switches are the process's: other threads may multiply as exactly meanwhile.
    """
    switches = torch.backends.mkldnn.matmul, torch.backends.cuda.matmul  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
