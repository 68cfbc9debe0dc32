"""`path/to/file.py:factory`: one's own model."""

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from torch import nn

from siftlens.core import InputError, ModelError
from siftlens.data import Normalization, Preprocessing, input_size
from siftlens.models.checkpoints import fill
from siftlens.models.errors import first_line
from siftlens.models.given import normalization_of
from siftlens.models.loaded import Built, Request


def build(request: Request) -> Built:
    """Call a factory in a Python file.

    The file is run, with its own folder on the path. The module that the factory returns has two attributes:
    `normalize`, a name ("imagenet", "inception", "clip"), a (mean, std) pair, or None where the module normalises by
    itself; and `size`, its input in px, one number or (height, width), which --size replaces.

    Raises:
        ModelError: the file or the factory is not there or fails, or the module lacks an attribute.
    """
    if request.random_init:
        raise ModelError("a factory makes its own weights; drop --random-init, or let the factory do it")
    file, _, name = request.name.rpartition(":")
    module = _factory(Path(file), name)()
    if not isinstance(module, nn.Module):
        raise ModelError(f"{request.name} must return a torch.nn.Module, got {type(module).__name__}")
    if request.state is not None:
        fill(module, request.state)
    height, width = request.size or _size(module, request.name)
    return Built(module, Preprocessing(height, width), _normalization(module, request.name))


def _factory(file: Path, name: str) -> Callable[[], Any]:
    if not file.is_file():
        raise ModelError(f"a model in a file must be path/to/file.py:factory, there is no file {file}")
    spec = spec_from_file_location(f"siftlens_model_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    loaded = module_from_spec(spec)
    sys.modules[spec.name] = loaded  # dataclasses and pickle look a class's module up here
    sys.path.insert(0, str(file.parent.resolve()))
    try:
        spec.loader.exec_module(loaded)
    except (Exception, SystemExit) as error:
        raise ModelError(f"{file} cannot be run: {type(error).__name__}: {first_line(error)}") from error
    finally:
        sys.path.remove(str(file.parent.resolve()))
    factory = getattr(loaded, name, None)
    if not callable(factory):
        raise ModelError(f"{file} has no function {name!r}; write one that takes nothing and returns the model")

    def call() -> Any:
        try:
            return factory()
        except (Exception, SystemExit) as error:
            raise ModelError(f"{file}:{name} failed: {type(error).__name__}: {first_line(error)}") from error

    return call


def _size(module: nn.Module, where: str) -> tuple[int, int]:
    size = getattr(module, "size", None)
    try:
        return input_size(size)
    except InputError as error:
        raise ModelError(
            f"{where}: the module needs an attribute size, px or (height, width), got {size!r}; "
            "set module.size = 224 (or give --size), and module.normalize beside it"
        ) from error


def _normalization(module: nn.Module, where: str) -> Normalization | None:
    try:
        return normalization_of(module.normalize)
    except (AttributeError, InputError) as error:
        raise ModelError(
            f"{where}: the module needs an attribute normalize, a name, a (mean, std) pair, or None where it "
            f"normalises by itself: {first_line(error)}"
        ) from error
