"""Reading, fitting and hashing weights."""

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from siftlens.core import ModelError
from siftlens.models import hash_weights
from siftlens.models.checkpoints import fill, read_weights


def layer() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0)


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "nest",
    [
        lambda state: state,
        lambda state: {"model": state, "epoch": 7},
        lambda state: {"state_dict": {f"module.{name}": value for name, value in state.items()}},
        lambda state: {"checkpoint": 3, "model": {"state_dict": state}},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_finds_the_state_dict_that_torch_saved(tmp_path, nest, legacy):
    state = dict(layer().state_dict())
    path = tmp_path / "weights.pt"
    torch.save(nest(state), path, _use_new_zipfile_serialization=not legacy)
    assert_same(read_weights(path), state)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.bin"])
def test_reads_safetensors_by_name_and_by_content(tmp_path, name):
    state = dict(layer().state_dict())
    save_file(state, tmp_path / name)
    assert_same(read_weights(tmp_path / name), state)


def test_a_prefix_that_not_all_names_have_stays(tmp_path):
    state = {"module.weight": torch.ones(2), "weight": torch.zeros(3)}
    torch.save(state, tmp_path / "weights.pt")
    assert_same(read_weights(tmp_path / "weights.pt"), state)


def test_missing_file(tmp_path):
    with pytest.raises(ModelError, match=r"must be a .safetensors file .* there is no file .*nothing\.pt"):
        read_weights(tmp_path / "nothing.pt")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98])
@pytest.mark.parametrize("kind", ["weights.pt", "weights.safetensors", "legacy.pt"])
def test_truncated_file(tmp_path, kind, share):
    path = tmp_path / kind
    state = dict(layer().state_dict())
    if kind == "weights.safetensors":
        save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=kind != "legacy.pt")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError, match="(not a whole safetensors file|truncated|damaged).*copy or download it again"):
        read_weights(path)


@pytest.mark.parametrize("kind", ["zip", "legacy"])
def test_damaged_bytes_are_never_worse_than_a_refusal(tmp_path, kind):
    path = tmp_path / "weights.pt"
    torch.save(layer().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    whole, random, refused = path.read_bytes(), np.random.default_rng(5), 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), 700), 3):
            damaged[place] = random.integers(256)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except ModelError:
            refused += 1
    assert refused > 100


def test_text_is_no_weights(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_text("hello, these are no weights at all\n")
    with pytest.raises(ModelError, match="not a file that torch.save wrote"):
        read_weights(path)


class Bomb:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return eval, (f"open({str(self.mark)!r}, 'w')",)


@pytest.mark.parametrize(
    "save", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2))]
)
def test_pickled_code_is_refused_and_not_run(tmp_path, save):
    path = tmp_path / "weights.pt"
    save({"epoch": 2, "extra": Bomb(tmp_path / "ran")}, path)
    with pytest.raises(ModelError, match=r"pickled code \(\S*eval\).*refused.*state_dict"):
        read_weights(path)
    assert not (tmp_path / "ran").exists()


def test_a_whole_pickled_model_is_refused_by_its_class(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(layer(), path)
    with pytest.raises(ModelError, match=r"pickled code \(torch\.nn\.modules\.container\.Sequential\).*state_dict"):
        read_weights(path)


@pytest.mark.parametrize("content", [{}, [1, 2], {"model": {"epoch": 3}}, {"epoch": 3}])
def test_no_state_dict(tmp_path, content):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    with pytest.raises(ModelError, match=r"holds no state dict; save model\.state_dict\(\)"):
        read_weights(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, value):
    state = dict(layer().state_dict())
    state["1.bias"] = torch.tensor([0.0, 0, 0, value, 0])
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=r"weights\.safetensors has NaN or infinity in 1\.bias; choose an earlier"):
        read_weights(tmp_path / "weights.safetensors")


def test_fill_names_everything_that_does_not_fit():
    state = dict(layer().state_dict())
    del state["0.bias"]
    state["0.weight"] = torch.zeros(7, 3)
    state |= {f"block.{number}": torch.zeros(1) for number in range(5)}
    expected = (
        r"do not fit the model: 1 missing \(0\.bias\); 5 unexpected \(block\.0, block\.1, block\.2 and 2 more\); "
        r"1 of another shape \(0\.weight is 7x3, not 5x3\); choose the architecture"
    )
    with pytest.raises(ModelError, match=expected):
        fill(layer(), state)


def test_weights_that_differ_in_their_positions_alone_are_of_another_size():
    module = nn.ParameterDict({"pos_embed": torch.zeros(1, 101, 64), "weight": torch.zeros(3)})
    state = {"pos_embed": torch.zeros(1, 17, 64), "weight": torch.zeros(3)}
    with pytest.raises(
        ModelError, match=r"pos_embed is 1x17x64, not 1x101x64\); name the image size .* \(--size, size"
    ):
        fill(module, state)
    with pytest.raises(ModelError, match="choose the architecture"):
        fill(module, state | {"weight": torch.zeros(4)})


def test_fill_fills():
    module = nn.Sequential(nn.Linear(3, 5), nn.LayerNorm(5))
    fill(module, layer().state_dict())
    assert_same(dict(module.state_dict()), dict(layer().state_dict()))


def test_the_hash_is_of_values_types_names_and_shapes():
    one = layer()
    assert hash_weights(one) == hash_weights(layer())
    assert len(bytes.fromhex(hash_weights(one))) == 16
    changed = layer()
    with torch.no_grad():
        changed[0].weight[2, 1] += 1e-6
    renamed = nn.Sequential()
    renamed.add_module("a", layer()[0])
    renamed.add_module("1", layer()[1])
    flat = layer()
    flat[0].weight = nn.Parameter(flat[0].weight.detach().reshape(3, 5))
    others = [changed, renamed, flat, layer().to(torch.bfloat16), nn.BatchNorm1d(5)]
    assert len({hash_weights(one), *map(hash_weights, others)}) == 6
