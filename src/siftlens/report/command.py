"""The command line that runs an analysis again, rebuilt from what was recorded of it."""

import shlex
from collections.abc import Mapping
from typing import Any

from siftlens.auditing.vocabulary import KINDS
from siftlens.interrelation.results import RunInfo
from siftlens.patchmaps import MEASURES

_DEFAULTS = {"engine": "local", "measure": "count", "weighting": "attention", "seed": 0, "batch_size": 32}
_FLAGS = ("entropy", "exclude_outliers")
_OPTIONS = ("limit", "group_by", "masks", "measure", "weighting", "seed", "batch_size", "engine", "workers")


def command(run: RunInfo) -> str | None:
    """`siftlens analyze ...` with the model, images and settings of a run, ready for a shell.

    Args:
        run: how the analysis was run.

    Returns:
        The command, into a folder DIR; None where no command does the same: images in memory, a model or a measure
        that is code of the caller's own, another normalisation than the model's,
        random weights of another seed.
    """
    asked, model = run.settings, run.model
    if not {"source", "normalize"} <= set(asked) or not {"spec", "weights", "size", "device", "dtype"} <= set(model):
        return None
    own_code = model["weights"] == "as given" or asked.get("measure") not in MEASURES
    if own_code or asked["source"] == "in memory" or asked["normalize"] != "as loaded":
        return None
    if str(model["weights"]).startswith("random") and model["weights"] != f"random, seed {asked.get('seed')}":
        return None
    words = ["siftlens", "analyze", "--model", model["spec"], "--images", asked["source"], "--out", "DIR"]
    words += _of_model(model)
    for name in _OPTIONS:
        if asked.get(name) not in (None, _DEFAULTS.get(name)):
            words += [f"--{name.replace('_', '-')}", str(asked[name])]
    words += [f"--{name.replace('_', '-')}" for name in _FLAGS if asked.get(name)]
    return shlex.join(words)


def audit_command(info: Mapping[str, Any]) -> str | None:
    """`siftlens audit ...` with the model, images and settings of an audit, ready for a shell.

    Args:
        info: how the audit was run.

    Returns:
        The command, into a folder DIR; None where no command does the same: images or labels in memory, a model that is
        code of the caller's own, settings that only the library has.
    """
    asked, model = info["settings"], info["model"]
    if asked.get("source", "in memory") == "in memory" or asked["labels"] != "folders":
        return None
    own = asked["normalize"] != "as loaded" or asked["layer"] is not None or list(asked["vocabularies"]) != list(KINDS)
    if own or model["weights"] == "as given" or str(model["weights"]).startswith("random"):
        return None
    if model["dtype"] != "float32":
        return None
    words = ["siftlens", "audit", "--model", model["spec"], "--images", asked["source"], "--out", "DIR"]
    words += _of_model(model)
    for name in ("masks", "environment", "limit"):
        if asked[name] is not None:
            words += [f"--{name}", str(asked[name])]
    words += ["--probe"] if asked["probe"] else []
    for name, default in {"seed": 0, "batch_size": 64}.items():
        if asked.get(name, default) != default:
            words += [f"--{name.replace('_', '-')}", str(asked[name])]
    return shlex.join(words)


def _of_model(model: Mapping[str, Any]) -> list[str]:
    """Options that say how the model was loaded."""
    words: list[str] = []
    if str(model["weights"]).startswith("random"):
        words.append("--random-init")
    elif model["weights"] != "pretrained":
        words += ["--weights", str(model["weights"])]
    if model["size"] is not None:
        words += ["--size", "x".join(map(str, model["size"]))]
    if model["device"] != "cpu":
        words += ["--device", str(model["device"])]
    if model["dtype"] != "float32":
        words += ["--dtype", str(model["dtype"])]
    return words
