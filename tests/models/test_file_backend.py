"""One's own model from a Python file."""

import sys

import pytest
import torch
from safetensors.torch import save_file

from siftlens.core import ModelError
from siftlens.models import load_model

SOURCE = """
import torch
from beside import bias

def make():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 5), torch.nn.Flatten())
    torch.nn.init.constant_(module[0].bias, bias)
    module.normalize = {normalize}
    {size}
    return module

def number():
    return 3

def fails():
    raise RuntimeError("no such luck")

value = 3
"""


@pytest.fixture
def write(tmp_path):
    def written(normalize='"imagenet"', size="module.size = (7, 11)"):
        (tmp_path / "beside.py").write_text("bias = 0.25\n")
        path = tmp_path / "mine.py"
        path.write_text(SOURCE.format(normalize=normalize, size=size))
        return f"{path}:make"

    yield written
    sys.modules.pop("beside", None)


def test_the_module_says_what_it_takes(write):
    path = list(sys.path)
    model = load_model(write())
    assert (model.preprocessing.height, model.preprocessing.width) == (7, 11)
    assert model.normalization.std == (0.229, 0.224, 0.225)
    assert float(model.module[0].bias[1]) == 0.25
    assert sys.path == path


@pytest.mark.parametrize(
    ("normalize", "mean"), [("None", None), ("([0.1, 0.2, 0.3], (0.4, 0.5, 0.6))", (0.1, 0.2, 0.3))]
)
def test_normalisations(write, normalize, mean):
    found = load_model(write(normalize)).normalization
    assert (found and found.mean) == mean


@pytest.mark.parametrize(
    "normalize", ['"imagnet"', "3", "([0.1, 0.2], [0.3, 0.4, 0.5])", "(1, 2)", "([0, 0, 0], [1, 1, 0])"]
)
def test_normalisations_that_cannot_be(write, normalize):
    with pytest.raises(ModelError, match=r"mine\.py:make.*normalize"):
        load_model(write(normalize))


def test_an_attribute_that_is_not_there(write):
    with pytest.raises(ModelError, match=r"needs an attribute size, px or \(height, width\), got None; .* give --size"):
        load_model(write(size="pass"))
    assert load_model(write(size="pass"), size=13).preprocessing.width == 13
    with pytest.raises(ModelError, match=r"needs an attribute normalize, a name, .*: 'Sequential' object has no"):
        load_model(write(size="module.size = 7; del module.normalize"))


def test_weights_from_a_file(write, tmp_path):
    state = {"0.weight": torch.ones(2, 3, 5, 5), "0.bias": torch.ones(2)}
    save_file(state, tmp_path / "w.safetensors")
    model = load_model(write(), weights=tmp_path / "w.safetensors")
    torch.testing.assert_close(model.module[0].weight, state["0.weight"])


def test_factories_that_do_not_work(write, tmp_path):
    file = write().rpartition(":")[0]
    with pytest.raises(ModelError, match=r"mine\.py has no function 'nothing'; write one that takes nothing"):
        load_model(f"{file}:nothing")
    with pytest.raises(ModelError, match=r"mine\.py has no function 'value'"):
        load_model(f"{file}:value")
    with pytest.raises(ModelError, match=r"mine\.py:fails failed: RuntimeError: no such luck"):
        load_model(f"{file}:fails")
    with pytest.raises(ModelError, match=r"mine\.py:number must return a torch\.nn\.Module, got int"):
        load_model(f"{file}:number")
    with pytest.raises(ModelError, match=r"a factory makes its own weights; drop --random-init"):
        load_model(f"{file}:make", random_init=True)
    with pytest.raises(ModelError, match=r"must be path/to/file\.py:factory, there is no file .*other\.py"):
        load_model(f"{tmp_path}/other.py:make")
    (tmp_path / "broken.py").write_text("def make(:\n")
    with pytest.raises(ModelError, match=r"broken\.py cannot be run: SyntaxError"):
        load_model(f"{tmp_path}/broken.py:make")


@pytest.mark.parametrize("where", ["module", "factory"])
def test_code_that_exits_is_told(tmp_path, where):
    leave = "raise SystemExit(7)\n"
    text = leave if where == "module" else f"def bye():\n    {leave}"
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(ModelError, match=r"mine\.py(:bye)? (cannot be run|failed): SystemExit: 7"):
        load_model(f"{tmp_path / 'mine.py'}:bye")
