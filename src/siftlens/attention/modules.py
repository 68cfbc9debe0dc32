"""Which module is running: names for what was captured, and the list of what was not."""

import re
import threading
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.hooks import RemovableHandle

_ATTENTION_CLASS = re.compile(r"attention|attn", re.IGNORECASE)


@dataclass
class _Frame:
    name: str
    module: nn.Module
    captured_before: int


@dataclass
class ModuleTracker:
    """Follows a model's forward pass through its modules, in the thread that attached it.

    By two hooks on all modules there are, removed again: two for every module of a model take longer to put on than a
    small model takes to run.

    Args:
        model: the model to follow.
        keep_norms: (batch, token) of the sequences whose tokens' norms are to be noted; None for no norms.

    Attributes:
        missed: names of the attention modules that ran without one capture inside, in order.
        ran: for every captured attention, the names of the modules around it, outermost first.
        token_norms: by layer, the norm of each token after the block around it, (batch, token); a layer is
            missing where no block's output has a token axis.
    """

    model: nn.Module
    keep_norms: tuple[int, int] | None = None
    missed: list[str] = field(default_factory=list)
    ran: list[tuple[str, ...]] = field(default_factory=list)
    token_norms: dict[int, Tensor] = field(default_factory=dict)
    _layer: int | None = None
    _stack: list[_Frame] = field(default_factory=list)
    _names: dict[nn.Module, str] = field(default_factory=dict)  # of the modules below the root
    _thread: int = 0
    _handles: list[RemovableHandle] = field(default_factory=list)

    def attach(self) -> None:
        """Put the hooks on."""
        self._names = {module: name for name, module in self.model.named_modules() if name}
        self._thread = threading.get_ident()
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]

    def detach(self) -> None:
        """Take the hooks off again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()

    @property
    def current(self) -> str:
        """Dotted name of the innermost module that is running; the model's class outside of all."""
        return self._stack[-1].name if self._stack else type(self.model).__name__

    def mark_captured(self, layer: int | None) -> None:
        """Note where the attention that was just captured happened; the layer is None for a pooling head."""
        self.ran.append(tuple(frame.name for frame in self._stack))
        self._layer = layer

    def _enter(self, module: nn.Module, _args: Any) -> None:
        if self._follows(module):
            self._stack.append(_Frame(self._names[module], module, len(self.ran)))

    def _leave(self, module: nn.Module, _args: Any, output: Any) -> None:
        if not self._follows(module):
            return
        # An exception unwinds several frames at once, and always_call runs only some of their hooks.
        while self._stack and self._stack[-1].module is not module:
            self._stack.pop()
        if not self._stack:
            return
        frame = self._stack.pop()
        inside = len(self.ran) - frame.captured_before
        if inside == 0 and _ATTENTION_CLASS.search(type(module).__name__) and self._is_leaf_attention(module):
            self.missed.append(frame.name)
        if inside == 1 and self.keep_norms and self._layer is not None:
            self._note_norms(self._layer, output, *self.keep_norms)

    def _follows(self, module: nn.Module) -> bool:
        return module in self._names and threading.get_ident() == self._thread

    def _is_leaf_attention(self, module: nn.Module) -> bool:
        """Whether no module inside is itself an attention: only the innermost one is named as missed."""
        inner = (child for child in module.modules() if child is not module)
        return not any(_ATTENTION_CLASS.search(type(child).__name__) for child in inner)

    def _note_norms(self, layer: int, output: Any, batch: int, tokens: int) -> None:
        tensor = output[0] if isinstance(output, tuple | list) and output else output
        if not isinstance(tensor, Tensor) or tensor.ndim != 3:
            return
        if tensor.shape[:2] == (tokens, batch) and batch != tokens:
            tensor = tensor.transpose(0, 1)
        if tensor.shape[:2] == (batch, tokens):
            # The outermost module that still holds one attention only, the block, leaves last and wins.
            self.token_norms[layer] = tensor.detach().float().norm(dim=-1)
