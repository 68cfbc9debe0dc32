"""`load_model`: specs, settings, and what it says when it cannot."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

import siftlens
from siftlens.core import InputError, ModelError
from siftlens.models import load_model
from siftlens.models.demo import demo_architecture


@pytest.mark.parametrize("spec", ["", "foo", "timm/", "foo/bar", "file/x", "demo/x", "demo-shortcut/x", "resnet:18"])
def test_unknown_spec(spec):
    with pytest.raises(ModelError, match=r"a model must be timm/NAME, .* or path/to/file\.py:factory, got '" + spec):
        load_model(spec)


def test_a_model_is_ready_to_look_at_images():
    model = load_model("demo", random_init=True)
    assert not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.device == torch.device("cpu")
    assert model.dtype == torch.float32
    assert model.module(torch.randn(2, 3, 128, 128)).shape == (2, 10)


def test_random_weights_follow_the_seed_and_leave_the_generator_alone():
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    one, same, other = (load_model("demo", random_init=True, seed=seed).weights_hash for seed in (3, 3, 4))
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert one == same != other


def test_the_record_is_json_and_complete():
    model = load_model("demo", random_init=True, size=(64, 72), dtype="bf16", seed=7)
    record = json.loads(json.dumps(model.describe()))
    assert record == {
        "spec": "demo",
        "name": "demo",
        "weights": "random, seed 7",
        "weights_hash": model.weights_hash,
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "device": "cpu",
        "dtype": "bfloat16",
        "height": 64,
        "width": 72,
        "resize": "shorter_side",
        "resize_to": 64,
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "size": [64, 72],
        "classes": 10,
        "notes": [],
    }


def test_the_hash_does_not_depend_on_the_type_that_the_model_runs_in():
    hashes = {
        load_model("demo", random_init=True, dtype=dtype).weights_hash for dtype in (None, "fp32", "bf16", "fp16")
    }
    assert len(hashes) == 1


def test_weights_from_a_file(tmp_path):
    torch.manual_seed(2)
    given = demo_architecture()
    path = tmp_path / "mine.safetensors"
    save_file(dict(given.state_dict()), path)
    model = load_model("demo", weights=path)
    torch.testing.assert_close(model.module.head.weight, given.head.weight.detach(), rtol=0, atol=0)
    assert model.weights == str(path)
    assert model.weights_hash != load_model("demo", random_init=True).weights_hash
    with pytest.raises(ModelError, match=r"either random weights or those of .*mine\.safetensors"):
        load_model("demo", weights=path, random_init=True)


def test_published_weights_with_nan_are_refused(tmp_path):
    # From a file they are refused on reading; here the factory makes them itself.
    path = tmp_path / "broken.py"
    path.write_text(
        "import torch\n"
        "def make():\n"
        "    module = torch.nn.Conv2d(3, 2, 5)\n"
        "    module.size, module.normalize = 7, None\n"
        "    module.bias.data[1] = float('nan')\n"
        "    return module\n"
    )
    with pytest.raises(ModelError, match=r"broken\.py:make has NaN or infinity in bias"):
        load_model(f"{path}:make")


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:x", ""])
def test_unknown_device(device):
    with pytest.raises(ModelError, match=f"device must be cpu, cuda, cuda:N or mps, got '{device}'"):
        load_model("demo", random_init=True, device=device)


@pytest.mark.parametrize("device", ["cuda:97", "mps"])
def test_absent_device(device):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has that device")
    with pytest.raises(ModelError, match=f"device {device} is not there.*use --device cpu"):
        load_model("demo", random_init=True, device=device)


def test_unknown_dtype():
    with pytest.raises(ModelError, match="dtype must be float32, bfloat16 or float16 .*, got 'int8'"):
        load_model("demo", random_init=True, dtype="int8")


def test_sizes_that_cannot_be():
    with pytest.raises(InputError, match="size must be a whole number of px, at least 1, .* got 0"):
        load_model("demo", random_init=True, size=0)
    with pytest.raises(
        ModelError, match=r"demo takes sizes that are multiples .* 8x8 px, got 61x64; the nearest is 64x64"
    ):
        load_model("demo", random_init=True, size=(61, 64))


def test_one_output_tensor_is_asked_for(tmp_path):
    path = tmp_path / "pair.py"
    path.write_text(
        "import torch\n"
        "class Pair(torch.nn.Module):\n"
        "    size, normalize = 7, None\n"
        "    def forward(self, x):\n"
        "        if x.shape[3] == 5:\n"
        "            raise ValueError('five will not do')\n"
        "        return x, x\n"
    )
    with pytest.raises(ModelError, match=r"pair\.py:Pair must return one tensor when called on images, got tuple"):
        load_model(f"{path}:Pair")
    with pytest.raises(
        ModelError, match=r"cannot run on 7x5 px in float32 on cpu: five will not do; try another --size"
    ):
        load_model(f"{path}:Pair", size=(7, 5))


@pytest.mark.parametrize(
    ("backend", "package", "extra"), [("hf", "transformers", "hf"), ("open_clip", "open_clip", "open-clip")]
)
def test_a_missing_extra_gives_the_line_that_installs_it(backend, package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import siftlens\n"
        f"try: siftlens.load_model('{backend}/x')\n"
        "except siftlens.ModelError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install 'siftlens[{extra}]'" in done.stdout


def test_backends_are_imported_when_they_are_used():
    code = (
        "import sys, siftlens.models\nprint({'transformers', 'open_clip', 'timm', 'torchvision'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_it_is_public():
    assert siftlens.load_model is load_model
