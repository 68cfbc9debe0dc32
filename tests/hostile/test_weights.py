"""Weights that mean harm or are broken, through the command line."""

import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

MODEL = "timm/test_vit"  # timm's smallest
OPTIONS = ("--model", MODEL, "--images", "photos", "--limit", "3")


@pytest.fixture(scope="module")
def state():
    import timm

    return timm.create_model("test_vit", pretrained=False).state_dict()


class Code:
    """Unpickled, it writes a file."""

    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('owned').touch()",)


def header(text: bytes) -> bytes:
    """Safetensors with this header and no data."""
    return struct.pack("<Q", len(text)) + text


MAKE = {
    "zero.pt": (lambda path, _: path.write_bytes(b""), "truncated, or not a file that torch.save wrote"),
    "cut.pt": (lambda path, state: _cut(path, lambda: torch.save(state, path)), "truncated|damaged"),
    "cut.safetensors": (lambda path, state: _cut(path, lambda: save_file(state, path)), "not a whole safetensors file"),
    "text.safetensors": (lambda path, _: path.write_text("hello, no weights"), "not a whole safetensors file"),
    "huge.safetensors": (lambda path, _: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"), "not a whole safetensors"),
    "beyond.safetensors": (
        lambda path, _: path.write_bytes(header(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,8]}}')),
        "not a whole safetensors file",
    ),
    "deep.safetensors": (lambda path, _: path.write_bytes(header(b"[" * 100_000)), "not a whole safetensors file"),
    "shapes.safetensors": (
        lambda path, state: save_file({name: tensor[..., :1].clone() for name, tensor in state.items()}, path),
        "do not fit the model: .* of another shape",
    ),
    "other.safetensors": (lambda path, _: save_file({"x": torch.ones(3)}, path), r"do not fit .* unexpected \(x\)"),
    "nan.safetensors": (
        lambda path, state: save_file(state | {"head.bias": state["head.bias"] * torch.nan}, path),
        "NaN or infinity in head.bias; choose an earlier checkpoint",
    ),
    "pickle.pt": (lambda path, _: path.write_bytes(pickle.dumps(Code(), protocol=2)), "pickled code .*refused"),
    "zip.pt": (lambda path, state: torch.save({"model": state, "args": Code()}, path), "pickled code .*refused"),
    "module.pt": (lambda path, _: torch.save(VisionTransformer(depth=1), path), "pickled code .*VisionTransformer"),
    "list.pt": (lambda path, _: torch.save([1, 2], path), "holds no state dict"),
    "folder.pt": (lambda path, _: path.mkdir(), "there is no file"),
    "loop.pt": (lambda path, _: path.symlink_to(path.name), "there is no file|too many levels"),
}


def _cut(path, write):
    write()
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", MAKE)
def test_weights_are_read_without_running_code_or_refused(place, siftlens_cli, state, name):
    make, told = MAKE[name]
    make(place / name, state)
    (place / "photos").mkdir()
    (place / "photos" / "a.png").write_bytes(b"never read")
    siftlens_cli("analyze", *OPTIONS, "--weights", name, out="out").failed(told)
    assert not (place / "owned").exists()
    assert not (place / "out").exists()
