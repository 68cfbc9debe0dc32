"""What trials found of a model, kept for as long as the model stays as it was.

A trial costs many forward passes, and a loop over batches opens a context for each. What it finds depends on the
model's modules, weights and settings and on the form of the call; where all of these are as they were, it is not tried
again. Where one of them cannot be told, nothing is kept.
"""

import threading
from collections.abc import Callable, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as everywhere
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from siftlens.attention.trial import Trial

Found = TypeVar("Found")

_PLAIN = frozenset({type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size})
_OF_TORCH = frozenset(nn.Module().__dict__) - {"training"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_LONGEST, _DEEPEST = 1000, 3  # of containers among a module's attributes, whose content is looked at


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
    state = _state(trial.model, watch=True)  # again: a first pass may have made something
    if state is not None:
        with _lock:
            kept = _kept.get(trial.model)
            if kept is None or not kept.state.holds(state):
                kept = _kept[trial.model] = _Kept(state, {})
            kept.found[what, call] = found
    return found


def forget(model: nn.Module) -> None:
    """Try the model anew next time."""
    with _lock:
        _kept.pop(model, None)


def _form(trial: Trial) -> Hashable:
    """All of a call but its images' content; None where other tensors or objects go along, or torch is intercepted."""
    images, rest = trial.images, trial.others
    modes = [mode for mode in _get_current_function_mode_stack() if not isinstance(mode, DeviceContext)]
    if images is None or not all(type(value) in _PLAIN for _, value in rest):
        return None
    if modes or torch._C._len_torch_dispatch_stack():
        return None
    device = images.device.type
    autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
    others = tuple((place, type(value), value) for place, value in rest)
    return (tuple(images.shape[1:]), images.dtype, images.device, autocast, others)


def _state(model: nn.Module, *, watch: bool = False) -> _State | None:
    """The state of a model; None where it cannot be told.

    Args:
        model: whose.
        watch: also note what would have to stay alive for the ids to hold.
    """
    look = _Look(watch)
    try:
        look.at_model(model)
    except (RuntimeError, NotImplementedError):  # inference tensors count no changes, other kinds have no address
        return None
    hooks = (*everywhere._global_forward_pre_hooks, *everywhere._global_forward_hooks)
    return _State((*look.parts, *hooks), tuple(look.objects))


class _Look:
    """Goes through a model once, and notes what it met. In every context, so that it has to be quick."""

    def __init__(self, watch: bool):
        self.parts: list[Hashable] = []
        self.objects: list[ref[Any]] = []
        self._watch = watch
        self._seen: set[int] = set()

    def at_model(self, model: nn.Module) -> None:
        """Note each module: its class, weights, hooks and attributes."""
        note = self.parts.append
        left = [model]
        while left:
            module = left.pop()
            own = module.__dict__
            note((self._known(module), type(module), id(type(module).forward)))
            for weights in (own["_parameters"], own["_buffers"]):
                for key, value in weights.items():
                    note((key, self._value(value)))
            for hooks in _HOOKS:
                for key, hook in own[hooks].items():
                    if not _stands_aside(hook):
                        note(key)
            for key, value in own.items():
                if key not in _OF_TORCH:
                    note((key, type(value), value) if type(value) in _PLAIN else (key, self._value(value)))
            for key, part in own["_modules"].items():
                note(key)
                if part is not None and id(part) not in self._seen:
                    self._seen.add(id(part))
                    left.append(part)

    def _value(self, value: Any, depth: int = 0) -> Hashable:
        if type(value) in _PLAIN:
            return type(value), value
        if isinstance(value, Tensor):
            return self._known(value), value._version, value.data_ptr(), value.dtype
        if isinstance(value, Mapping | tuple | list | set | frozenset):
            if len(value) > _LONGEST or depth >= _DEEPEST:
                return type(value), len(value), self._known(value)
            each = value.items() if isinstance(value, Mapping) else value
            return type(value), tuple(self._value(part, depth + 1) for part in each)
        known = self._known(value)
        if isinstance(value, nn.Module) or id(value) in self._seen or depth >= _DEEPEST:
            return known
        self._seen.add(id(value))
        return known, tuple((key, self._value(part, _DEEPEST)) for key, part in getattr(value, "__dict__", {}).items())

    def _known(self, value: Any) -> int:
        if self._watch:
            with suppress(TypeError):  # lists, for instance, cannot be watched
                self.objects.append(ref(value))
        return id(value)


def _stands_aside(hook: Callable[..., Any]) -> bool:
    """Whether a hook is of a context of ours, which does nothing on a trial."""
    return type(getattr(hook, "__self__", None)).__module__.startswith("siftlens.")
