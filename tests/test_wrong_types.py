"""What a caller without a type checker gets. In a process of its own: the tests check types before the code does."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, sys
import numpy as np, timm, torch, siftlens

def told(call):
    try:
        return repr(call())
    except siftlens.InputError as error:
        return str(error)

model, x = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval(), torch.zeros(1, 3, 32, 32)

def read(channels):
    with siftlens.read_attention(model, channels):
        model(x)

print(json.dumps({
    "array": told(lambda: read(np.ones((4, 2), np.float32))),
    "list": told(lambda: read([[1.0]] * 4)),
    "layers": told(lambda: siftlens.attention_maps(model, x, layers=1)),
    "grid": told(lambda: siftlens.PatchGrid(*np.array([2, 3, 5, 7]))),
    "floats": told(lambda: siftlens.PatchGrid(2.0, 3, 5, 7)),
}))
"""


@pytest.fixture(scope="module")
def told():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("array", "channels must be a tensor, got ndarray; torch.as_tensor makes one of an array"),
        ("list", "channels must be a tensor, got list; torch.as_tensor makes one of an array"),
        ("layers", "layers must be a collection of indices, such as [1], got 1"),
        ("grid", "PatchGrid(rows=2, cols=3, patch_height=5, patch_width=7)"),
        ("floats", "PatchGrid.rows must be a positive integer, got 2.0"),
    ],
)
def test_wrong_types_are_told(told, case, message):
    assert told[case] == message
