"""What trials found of a model, kept for as long as the model stays as it was.

A trial costs many forward passes, and a loop over batches opens a context for each. What it finds depends on the
model's modules, weights and settings and on the form of the call; where all of these are as they were, it is not tried
again. Where one of them cannot be told, nothing is kept. What a model's code reads elsewhere, in a closure or a global
variable, is not seen.
"""

import enum
import functools
import logging
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from siftlens.attention.trial import Trial

Found = TypeVar("Found")

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size})
_CONTAINERS = (list, tuple, set, frozenset, dict, OrderedDict)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_WHOLE = (*_FUNCTIONS, types.ModuleType, type, enum.Enum, logging.Logger)  # known by identity, not by content
_OF_TORCH = frozenset(nn.Module().__dict__) - {"training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_MOST = 50_000  # values that a look notes, beyond which it takes longer than it is worth
_SMALL, _SOME = 1024, 8  # elements of a tensor that is looked at as a whole, and of larger ones, spread over them
_FORMS = 16  # calls of different form, the last ones, of which something is kept


class _UnknownError(Exception):
    """Something whose state cannot be told."""


@dataclass(frozen=True)
class _State:
    """What a model is made of. Objects are known by their ids, which hold for as long as none of them is gone."""

    parts: tuple[Hashable, ...]
    objects: tuple["ref[Any]", ...] = field(compare=False)

    def holds(self, now: "_State") -> bool:
        return self.parts == now.parts and all(known() is not None for known in self.objects)


@dataclass
class _Kept:
    state: _State
    found: dict[Hashable, Any]


_lock = threading.Lock()
_kept: WeakKeyDictionary[nn.Module, _Kept] = WeakKeyDictionary()


def remembered(trial: Trial, what: Hashable, find: Callable[[], Found]) -> Found:
    """What `find` returned for a model and a call of this form before, or returns now.

    Args:
        trial: the model and the call.
        what: is found.
        find: tries the model; what it returns must not hold the model alive. Its errors are not kept.
    """
    call = _form(trial)
    state = None if call is None else _state(trial.model)
    if state is None:
        return find()
    with _lock:
        kept = _kept.get(trial.model)
        if kept is not None and (what, call) in kept.found and kept.state.holds(state):
            known: Found = kept.found[what, call]
            return known
    found = find()
    after = _state(trial.model, watch=True)
    if after is not None and after.parts == state.parts:  # else a first pass made something, and the next one keeps it
        with _lock:
            kept = _kept.get(trial.model)
            if kept is None or not kept.state.holds(after):
                kept = _kept[trial.model] = _Kept(after, {})
            kept.found[what, call] = found
            while len(kept.found) > _FORMS:
                del kept.found[next(iter(kept.found))]
    return found


def forget(model: nn.Module) -> None:
    """Try the model anew next time."""
    with _lock:
        _kept.pop(model, None)


def _form(trial: Trial) -> Hashable:
    """All of a call but its images' content; None where other tensors or objects go along, or torch is intercepted."""
    images = trial.images
    rest = [(place, value) for place, value in trial.form.arguments if value is not images]
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    if images is None or not all(type(value) in _PLAIN for _, value in rest):
        return None
    if modes or torch._C._len_torch_dispatch_stack():
        return None
    device = images.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    others = tuple((place, type(value).__name__, value) for place, value in rest)
    places = tuple(place for place, value in trial.form.arguments if value is images)
    return (tuple(images.shape[1:]), images.dtype, images.device, autocast, places, others)


def _state(model: nn.Module, *, watch: bool = False) -> _State | None:
    """The state of a model; None where it cannot be told.

    Args:
        model: whose.
        watch: also note what would have to stay alive for the ids to hold.
    """
    look = _Look(watch)
    try:
        look.at_model(model)
        hooks = (*everywhere._global_forward_pre_hooks, *everywhere._global_forward_hooks)
        return _State((*look.parts, *hooks, *look.weights()), tuple(look.objects))
    except Exception:  # attributes are of any kind, and run code of their own when they are looked at
        return None


class _Look:
    """Goes through a model once, and notes what it met. In every context, so that it has to be quick."""

    def __init__(self, watch: bool):
        self.parts: list[Hashable] = []
        self.objects: list[ref[Any]] = []
        self._watch = watch
        self._seen: set[int] = set()
        self._modules: list[nn.Module] = []
        self._samples: list[Tensor] = []
        self._left = _MOST

    def at_model(self, model: nn.Module) -> None:
        """Note each module: its class, weights, hooks and attributes."""
        note = self.parts.append
        self._value(model)
        while self._modules:
            module = self._modules.pop()
            own = module.__dict__
            self._class(type(module))
            for weights in (own["_parameters"], own["_buffers"]):
                for key, value in weights.items():
                    note((key, self._value(value)))
            for hooks in _HOOKS:
                for key, hook in own[hooks].items():
                    if not _stands_aside(hook):
                        note(key)
            for key, value in own.items():
                if key not in _OF_TORCH:
                    note((key, self._value(value)))
            for key, part in own["_modules"].items():
                note((key, self._value(part)))

    def weights(self) -> Iterable[Hashable]:
        """Some of the numbers met: optimizers and merges of weights change tensors without counting it."""
        by_device: dict[torch.device, list[Tensor]] = {}
        for sample in self._samples:
            by_device.setdefault(sample.device, []).append(sample.double())
        return [torch.cat(samples).cpu().numpy().tobytes() for samples in by_device.values()]

    def _class(self, kind: type) -> None:
        """A class's code and settings, down to torch's own."""
        self.parts.append(self._known(kind))
        if id(kind) in self._seen:
            return
        self._seen.add(id(kind))
        for base in kind.__mro__:
            if base is nn.Module:
                break
            for key, value in vars(base).items():
                self.parts.append((key, value if type(value) in _PLAIN else self._known(value)))

    def _value(self, value: Any) -> Hashable:
        self._left -= 1
        if not self._left:
            raise _UnknownError
        kind = type(value)
        if kind in _PLAIN:
            return kind.__name__, value
        if isinstance(value, Tensor):
            return self._tensor(value)
        known = self._known(value)
        if id(value) in self._seen or isinstance(value, _WHOLE):
            return known
        self._seen.add(id(value))
        if isinstance(value, nn.Module):
            self._modules.append(value)
            return known
        if kind in _CONTAINERS:
            # Not through items(): those pairs are gone at once, and the next one may get the same id.
            each = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            return kind.__name__, tuple(self._value(part) for part in each)
        if kind is functools.partial:
            return tuple(self._value(part) for part in (value.func, value.args, value.keywords))
        if isinstance(value, np.ndarray | np.generic) and value.size <= _MOST and value.dtype != object:
            return kind.__name__, value.dtype.str, value.shape, value.tobytes()
        return known, self._inside(value)

    def _inside(self, value: Any) -> Hashable:
        """The attributes of an object of someone's own class."""
        kind = type(value)
        slots = [name for base in kind.__mro__ for name in vars(base).get("__slots__", ()) if name != "__weakref__"]
        if isinstance(value, _CONTAINERS) or not (slots or hasattr(value, "__dict__")):
            raise _UnknownError  # what it holds is out of sight
        own = [(name, getattr(value, name)) for name in slots if name != "__dict__" and hasattr(value, name)]
        return tuple((name, self._value(part)) for name, part in (*own, *getattr(value, "__dict__", {}).items()))

    def _tensor(self, value: Tensor) -> Hashable:
        if type(value) not in (Tensor, nn.Parameter, nn.Buffer):
            raise _UnknownError  # its numbers may lie elsewhere
        if id(value) not in self._seen:
            self._seen.add(id(value))
            flat = value.detach()
            count = flat.numel()
            step = 1 if count <= _SMALL else count // _SOME
            self._samples.append(flat.as_strided((-(-count // step),), (step,), flat.storage_offset()))
        return self._known(value), value._version, value.data_ptr(), value.shape, value.dtype

    def _known(self, value: Any) -> int:
        if self._watch:
            with suppress(TypeError):  # lists, for instance, cannot be watched
                self.objects.append(ref(value))
        return id(value)


def _stands_aside(hook: Callable[..., Any]) -> bool:
    """Whether a hook is of a context of ours, which does nothing on a trial."""
    return type(getattr(hook, "__self__", hook)).__module__.startswith("siftlens.")
