"""What a launch does to its process."""

import subprocess
import sys

import pytest

pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")

SCRIPT = """
import resource
import torch
from siftlens.pretraining.launch import launch

def page_faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        freed = [torch.ones(4_000_000) for _ in range(10)]  # 16 MB each
        del freed
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

launch("cpu", "fp32")
page_faults()
print(page_faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_freed_in_a_step_is_there_for_the_next():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # of the 200 000 pages of 4 KB that were used
