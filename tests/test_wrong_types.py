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

from siftlens.auditing.settings import AuditSettings
from siftlens.pretraining import MaskPolicy, PretrainSettings, image_keys
from siftlens.prompting import Bias, Policy, TokenChoice

picture = np.zeros((32, 32, 3), np.uint8)

def analyze(images, **options):
    return siftlens.analyze(model, images, **({"normalize": None} | options))

def prompt(policy, maps):
    with siftlens.prompt(model, policy, maps):
        model(x)

def read(channels):
    with siftlens.read_attention(model, channels):
        model(x)

print(json.dumps({
    "array": told(lambda: read(np.ones((4, 2), np.float32))),
    "list": told(lambda: read([[1.0]] * 4)),
    "layers": told(lambda: siftlens.attention_maps(model, x, layers=1)),
    "a tensor of layers": told(lambda: siftlens.attention_maps(model, x, layers=torch.tensor([0]))),
    "true layers": told(lambda: siftlens.attention_maps(model, x, layers=[True])),
    "layers of numpy": told(lambda: list(siftlens.attention_maps(model, x, layers=np.array([1])))),
    "a number for a grid": told(lambda: siftlens.read_attention(model, torch.ones(4, 2), grid=3).__enter__()),
    "model": told(lambda: siftlens.attention_maps(siftlens.load_model("demo"), x)),
    "complex": told(lambda: read(torch.ones(4, 2) * 1j)),
    "sparse": told(lambda: read(torch.ones(4, 2).to_sparse())),
    "on no device": told(lambda: read(torch.ones(4, 2, device="meta"))),
    "eight bits": told(lambda: read(torch.ones(4, 2).to(torch.float8_e4m3fn))),
    "a path for an audit": told(lambda: siftlens.tune_prompt(model, "out/audit", [picture], ["a"])),
    "another average": told(lambda: siftlens.tune_prompt(model, None, [picture], ["a"], average="all")),
    "an audit's path": told(lambda: siftlens.prompted(model, siftlens.Policy(), normalize=None, audit="out/audit")),
    "a policy as text": told(lambda: siftlens.prompted(model, "{}", normalize=None)),
    "a word for reading": told(lambda: siftlens.read_attention(model, torch.ones(4, 2), entropy="yes").__enter__()),
    "one image": told(lambda: siftlens.attention_maps(model, x[0])),
    "no image": told(lambda: siftlens.attention_maps(model, x[:0])),
    "an array": told(lambda: analyze(picture)),
    "a grey array": told(lambda: analyze(picture[..., 0])),
    "a tensor": told(lambda: analyze(torch.zeros(3, 32, 32))),
    "keys of short numbers": told(lambda: bool(
        (image_keys(0, 1, torch.arange(9, dtype=torch.int32)) == image_keys(0, 1, torch.arange(9))).all()
    )),
    "half a seed": told(lambda: analyze([picture], seed=1.5)),
    "word": told(lambda: analyze([picture], entropy="no")),
    "a key too many": told(lambda: MaskPolicy().noise(torch.ones(2, 4), progress=0.0, keys=torch.arange(3))),
    "text as limit": told(lambda: analyze([picture], limit="3")),
    "half a pixel": told(lambda: analyze([picture], size=32.5)),
    "three sides": told(lambda: analyze([picture], size=(32, 32, 3))),
    "text as size": told(lambda: siftlens.load_model("demo", size="128")),
    "one number": told(lambda: analyze([picture], normalize=0.5)),
    "letters": told(lambda: analyze([picture], normalize=("abc", "def"))),
    "text as sigma": told(lambda: siftlens.detect(picture, sigma="1.6")),
    "half a layer of an octave": told(lambda: siftlens.detect(picture, n_octave_layers=1.5)),
    "grid": told(lambda: siftlens.PatchGrid(*np.array([2, 3, 5, 7]))),
    "floats": told(lambda: siftlens.PatchGrid(2.0, 3, 5, 7)),
    "maps": told(lambda: prompt(Policy(), np.ones((1, 4)))),
    "complex maps": told(lambda: prompt(Policy(), torch.ones(1, 4) * 1j)),
    "maps on no device": told(lambda: prompt(Policy(), torch.ones(1, 4, device="meta"))),
    "no policy": told(lambda: Policy.from_json(None)),
    "policy": told(lambda: prompt({"bias": []}, torch.ones(1, 4))),
    "half a token": told(lambda: siftlens.TokenLayout(siftlens.PatchGrid(2, 3, 5, 7), 0.5)),
    "numpy's tokens": told(lambda: siftlens.TokenLayout(siftlens.PatchGrid(2, 3, 5, 7), np.int64(1))),
    "a layout of numbers": told(lambda: siftlens.TokenLayout((2, 3))),
    "half a batch": told(lambda: siftlens.audit(model, [picture] * 2, [0, 1], normalize=None, batch_size=0.5)),
    "text as a layer": told(lambda: siftlens.audit(model, [picture] * 2, [0, 1], normalize=None, layer="1")),
    "yes": told(lambda: siftlens.audit(model, [picture] * 2, [0, 1], normalize=None, probe="yes")),
    "a number for labels": told(lambda: siftlens.audit(model, [picture] * 2, 5, normalize=None)),
    "one number for labels": told(lambda: siftlens.audit(model, [picture] * 2, np.array(5), normalize=None)),
    "labels by name": told(lambda: siftlens.audit(model, [picture] * 2, {"a": 0, "b": 1}, normalize=None)),
    "an empty label": told(lambda: siftlens.audit(model, [picture] * 2, ["a", ""], normalize=None)),
    "half a pixel of a view": told(lambda: PretrainSettings(size=32.5)),
    "settings by numpy": told(lambda: json.dumps(AuditSettings(seed=np.int64(3), layer=np.int16(1)).described())),
    "biases one by one": told(lambda: Policy(bias=(Bias(strength) for strength in (1.0, 2.0))).bias),
    "one bias": told(lambda: Policy(bias=Bias(3.0))),
    "share": told(lambda: Policy(tokens=0.5)),
    "maps of a policy": told(lambda: Policy(maps=None)),
    "text": told(lambda: Bias("3")),
    "text as share": told(lambda: TokenChoice("0.5")),
    "one layer": told(lambda: Bias(3, layers=1)),
    "half a layer": told(lambda: Bias(3, layers=(1.5,))),
    "half a head": told(lambda: Bias(3, heads=(0.5,))),
    "truth": told(lambda: Bias(3, layers=(True,))),
    "numpy": told(lambda: Policy(bias=(Bias(np.float32(0.5), layers=np.array([1, 0])),)).to_json()),
}))
"""


DENSE = "channels must be a dense tensor of real numbers, in 16 bits or more where they are floats, got torch.{}"
ONE_ARRAY = (
    "expected a list of images, got one array of shape {}; "
    "put it in a list, or give grey images as (image, height, width, 1)"
)


@pytest.fixture(scope="module")
def told():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("array", "channels must be a tensor, got ndarray; torch.as_tensor makes one of an array"),
        ("list", "channels must be a tensor, got list; torch.as_tensor makes one of an array"),
        ("layers", "layers must be a collection of indices from 0, such as [1], got 1"),
        ("a tensor of layers", "layers must be a collection of indices from 0, got tensor([0])"),
        ("true layers", "layers must be a collection of indices from 0, got [True]"),
        ("layers of numpy", "[1]"),
        ("a number for a grid", "grid must be a PatchGrid or a TokenLayout, got 3"),
        ("model", "model must be a torch.nn.Module, got LoadedModel; of what load_model returned, pass .module"),
        ("complex", DENSE.format("complex64, torch.strided, on cpu")),
        ("sparse", DENSE.format("float32, torch.sparse_coo, on cpu")),
        ("on no device", DENSE.format("float32, torch.strided, on meta")),
        ("eight bits", DENSE.format("float8_e4m3fn, torch.strided, on cpu")),
        ("a path for an audit", "audit must be what siftlens.audit or load_audit returned, got str"),
        ("an audit's path", "audit must be what siftlens.audit or load_audit returned, got str"),
        ("a policy as text", "policy must be a Policy, got str; Policy.from_json reads one"),
        ("a word for reading", "entropy must be True or False, got 'yes'"),
        ("one image", "x must be a tensor of images, (batch, channel, height, width), got (3, 32, 32)"),
        ("no image", "x must be a tensor of images, (batch, channel, height, width), got (0, 3, 32, 32)"),
        ("an array", ONE_ARRAY.format("(32, 32, 3)")),
        ("a grey array", ONE_ARRAY.format("(32, 32)")),
        ("a tensor", ONE_ARRAY.format("(3, 32, 32)")),
        ("another average", "average must be one of groups, images, got 'all'"),
        ("a key too many", "expected a key for each of 2 images, got 3"),
        ("text as limit", "limit must be a whole number, at least 1, or None, got '3'"),
        ("half a pixel", "size must be a whole number of px, at least 1, or (height, width), got 32.5"),
        ("three sides", "size must be a whole number of px, at least 1, or (height, width), got (32, 32, 3)"),
        ("text as size", "size must be a whole number of px, at least 1, or (height, width), got '128'"),
        (
            "one number",
            "normalize must be a name, a (mean, std) pair of 3 numbers each, or None: 'float' object is not iterable",
        ),
        (
            "letters",
            "normalize must be a name, a (mean, std) pair of 3 numbers each, or None: "
            "could not convert string to float: 'a'",
        ),
        ("text as sigma", "sigma must be a positive number, got '1.6'"),
        ("half a layer of an octave", "n_octave_layers must be a whole number, at least 1, got 1.5"),
        ("keys of short numbers", "True"),
        ("half a seed", "seed must be a whole number, at least 0, got 1.5"),
        ("word", "entropy must be True or False, got 'no'"),
        ("grid", "PatchGrid(rows=2, cols=3, patch_height=5, patch_width=7)"),
        ("maps", "maps must be a tensor, got ndarray; torch.as_tensor makes one of an array"),
        ("complex maps", "maps must be real numbers, got torch.complex64 on cpu"),
        ("maps on no device", "maps must be real numbers, got torch.float32 on meta"),
        ("no policy", "a policy must be JSON text, got NoneType"),
        ("policy", "policy must be a Policy, got dict; Policy.from_json reads one"),
        (
            "one bias",
            "Policy.bias must be a tuple of Bias, such as (Bias(3.0),), "
            "got Bias(strength=3.0, layers=None, heads=None)",
        ),
        ("share", "Policy.tokens must be a TokenChoice or None, got 0.5"),
        ("maps of a policy", "Policy.maps must be a Mixture, got None"),
        ("text", "Bias.strength must lie in [-100, 100], got '3'"),
        ("text as share", "TokenChoice.keep must be a share of the patches in (0, 1], got '0.5'; 0 drops every patch"),
        ("one layer", "Bias.layers must be None or at least one index from 0, got 1"),
        ("half a layer", "Bias.layers must be None or at least one index from 0, got (1.5,)"),
        ("half a head", "Bias.heads must be None or at least one index from 0, got (0.5,)"),
        ("truth", "Bias.layers must be None or at least one index from 0, got (True,)"),
        (
            "numpy",
            repr(
                '{"bias": [{"strength": 0.5, "layers": [0, 1], "heads": null}], "maps": '
                '{"keypoints": 1.0, "centre": 0.0, "gradient": 0.0, "cues": 0.0, "rows": null}}'
            ),
        ),
        ("half a token", "class_tokens must be a whole number, at least 0, got 0.5"),
        (
            "numpy's tokens",
            "TokenLayout(grid=PatchGrid(rows=2, cols=3, patch_height=5, patch_width=7), class_tokens=1, registers=0)",
        ),
        ("a layout of numbers", "grid must be a PatchGrid, got (2, 3)"),
        ("half a batch", "batch_size must be a whole number, at least 1, got 0.5"),
        ("text as a layer", "layer must be a whole number, at least 0, got '1'"),
        ("yes", "probe must be True or False, got 'yes'"),
        ("a number for labels", "expected a list with the class of each image as labels, got 5"),
        ("one number for labels", "expected a list with the class of each image as labels, got array(5)"),
        ("labels by name", "expected a list with the class of each image as labels, got {'a': 0, 'b': 1}"),
        ("an empty label", "expected a label for each of 2 images, got 1"),
        ("half a pixel of a view", "size must be a whole number, at least 1, got 32.5"),
        (
            "settings by numpy",
            repr(
                '{"vocabularies": ["sift", "colour", "token"], "layer": 1, "probe": false, "masks": null, '
                '"environment": null, "batch_size": 64, "seed": 3}'
            ),
        ),
        (
            "biases one by one",
            "(" + ", ".join(f"Bias(strength={s}, layers=None, heads=None)" for s in (1.0, 2.0)) + ")",
        ),
        ("floats", "rows must be a whole number, at least 1, got 2.0"),
    ],
)
def test_wrong_types_are_told(told, case, message):
    assert told[case] == message
