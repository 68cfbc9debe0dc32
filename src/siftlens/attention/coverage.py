"""Completeness: every attention of the model was read, or an error says which was not."""

from collections import Counter

import torch
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall
from siftlens.attention.capture import Capture
from siftlens.attention.intercept import Softmax
from siftlens.attention.modules import ModuleTracker
from siftlens.core import CaptureError, InputError, TokenLayout

_SAME = 1e-5  # of the largest, what sums over tokens of the same values differ by
READABLE = "use a model whose blocks see all patches, such as a ViT"


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse, before anything runs, what would hide or change the attention.

    Raises:
        InputError: it is no model.
        CaptureError: a compiled or scripted model, or one in training mode, be it in a part.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; of what load_model returned, pass .module"
        )
    kinds = {type(module).__name__ for module in model.modules()}
    hidden = kinds & {"OptimizedModule", "RecursiveScriptModule", "TopLevelTracedModule"}
    hidden |= {type(module).__name__ for module in model.modules() if _is_compiled(module)}
    if hidden:
        raise CaptureError(
            f"{type(model).__name__}: a compiled or scripted model hides its operators ({', '.join(sorted(hidden))}); "
            "pass the model as it was before torch.compile or torch.jit"
        )
    for name, module in model.named_modules():
        if module.training:
            raise CaptureError(
                f"{name or type(model).__name__} is in training mode; call model.eval() before reading its attention"
            )


def _is_compiled(module: nn.Module) -> bool:
    """By `module.compile()`, or in one of its methods: `module.forward = torch.compile(module.forward)`."""
    methods = (value for value in vars(module).values() if callable(value))
    return module._compiled_call_impl is not None or any(hasattr(m, "_torchdynamo_orig_callable") for m in methods)


class Roll:
    """The attentions of one forward pass, each entered as a layer over the tokens or as a pooling head.

    Args:
        layout: what stands at which token.
        images: size of the batch; None where it cannot be told.

    Attributes:
        layers: number of layers so far.
    """

    def __init__(self, layout: TokenLayout, images: int | None):
        self.layers = 0
        self._layout, self._images = layout, images
        self._pooled: Counter[str] = Counter()  # queries of pooling heads, by module
        self._of, self._values = "", list[Tensor]()  # of which module, and what it weighed: sums over tokens

    def enter(self, tracker: ModuleTracker, call: AttentionCall) -> int | None:
        """The layer's index in call order, or None for a pooling head.

        Raises:
            CaptureError: neither: the attention is not over the whole grid.
        """
        pooling = self._is_pooling(tracker.current, call)
        if not pooling:
            self._expect_other_values(tracker, call)
        layer = None if pooling else self.layers
        self.layers += not pooling
        tracker.mark_captured(layer)
        return layer

    def _expect_other_values(self, tracker: ModuleTracker, call: AttentionCall) -> None:
        """Refuse what weighs the same values twice: what the model makes of both is no softmax, and may be negative."""
        values = call.value.detach().sum(dim=2)  # of a copy, it is the same
        around = _around(tracker)
        if around != self._of:
            self._of, self._values = around, []
        if any(_proportional(before, values) for before in self._values):
            raise CaptureError(
                f"{tracker.current}: two attentions over the same values, as in differential attention: neither is "
                f"what the model attends by; {READABLE}"
            )
        self._values.append(values)

    def _is_pooling(self, name: str, call: AttentionCall) -> bool:
        batch, _, queries, keys = call.shape
        tokens, patches = self._layout.tokens, self._layout.grid.patches
        if self._images is not None and batch != self._images:
            raise CaptureError(
                f"{name}: attention over windows of {keys} tokens ({batch} windows for {self._images} images); "
                f"only attention over the whole grid can be read; {READABLE}"
            )
        if queries == keys == tokens:
            return False
        if keys not in (tokens, patches) or queries == keys:
            raise CaptureError(
                f"{name}: attention of {queries} queries over {keys} keys, but the model has {tokens} tokens "
                f"({self._layout.prefix} prefix + {patches} patches); windowed, channel, reduced or text attention "
                f"cannot be read; {READABLE}"
            )
        self._pooled[name] += queries
        if self._pooled[name] % tokens == 0:  # or each head's own, folded into the queries
            raise CaptureError(
                f"{name}: its {self._pooled[name]} queries come in several calls, or of several heads at once; "
                "use a model that asks for one layer's attention in one call, with heads on an axis of their own"
            )
        return True

    def check(self, capture: Capture) -> None:
        """Check after a forward pass that nothing was missed.

        Raises:
            CaptureError: names the modules whose attention was not captured.
        """
        ran = capture.tracker.ran
        if not ran:
            raise no_attention(capture)
        if not self.layers:
            raise CaptureError(
                f"{ran[0][-1] if ran[0] else type(capture.model).__name__}: no attention from all tokens to all tokens "
                "ran, only from other queries; expected a vision transformer's encoder"
            )
        sizes = (self._layout.tokens, self._layout.grid.patches)
        seen, sizes = capture.interceptor, (self._layout.tokens, self._layout.grid.patches)
        unused = [(r.module, r.keys, r.altered_by) for r in seen.unused_softmaxes() if _is_attention(r, sizes)]
        unused += [(trace.module, trace.keys, trace.changed_by) for trace in seen.changed if trace.keys in sizes]
        if unused:
            names = ", ".join(list(dict.fromkeys(module for module, _, _ in unused))[:5])
            _, keys, changed = unused[0]
            raise CaptureError(
                f"{names}: the softmax over {keys} keys is changed by {changed or 'another operator'} before it meets "
                "the values; such attention cannot be read"
            )
        missed = list(dict.fromkeys([*capture.tracker.missed, *_silent_siblings(capture)]))
        if missed:
            foreign = [kernel for name, kernel in capture.interceptor.foreign.items() if name.startswith(tuple(missed))]
            through = f" (it runs {foreign[0]})" if foreign else ""
            raise CaptureError(
                f"attention was read in {len(ran)} modules but not in {', '.join(missed[:5])}{through}; "
                "make these blocks use torch's scaled_dot_product_attention, or a plain softmax and product (a module "
                "that is no attention and has the word in its class's name: rename the class)"
            )


def _around(tracker: ModuleTracker) -> str:
    """The module that a running attention is part of, or the attention itself where that is a block of a list."""
    name = tracker.current
    parent, _, leaf = name.rpartition(".")
    listed = not leaf or isinstance(tracker.model.get_submodule(parent), nn.ModuleList | nn.Sequential)
    return name if listed else parent


def _proportional(values: Tensor, others: Tensor) -> bool:
    """Whether tensors are the same but for a factor, by which a difference of two attentions may weigh one."""
    if values.shape != others.shape:
        return False
    if values.dtype not in (torch.float32, torch.float64):  # passes of one block are as similar as these can tell
        return torch.equal(values, others)
    one, other = values.cpu().double(), others.cpu().double()
    factor = (one * other).sum() / one.square().sum()
    apart = (other - factor * one).abs().max()
    return bool(factor.isfinite() and factor != 0 and apart <= _SAME * other.abs().max())


def _is_attention(record: Softmax, sizes: tuple[int, int]) -> bool:
    """Whether a softmax is over as many keys as there are tokens, or patches, or a matrix of these in every head.

    The latter also with sinks beside the keys, or with the softmax along another axis.
    """
    if record.keys in sizes:
        return True
    *heads, queries, keys = record.probabilities.shape
    with_sinks = record.keys == keys > min(sizes)
    return len(heads) >= 2 and queries in sizes and (with_sinks or keys in sizes)


def no_attention(capture: Capture) -> CaptureError:
    """The error for a forward pass without one readable attention: it names what looks like one."""
    name, interceptor, missed = type(capture.model).__name__, capture.interceptor, capture.tracker.missed
    if interceptor.foreign:
        kernels = ", ".join(f"{module} ({kernel})" for module, kernel in list(interceptor.foreign.items())[:3])
        return CaptureError(
            f"{name}: attention runs in kernels from outside torch: {kernels}; "
            "switch the model to torch's scaled_dot_product_attention"
        )
    unused = interceptor.unused_softmaxes()
    if unused:
        what = f"changed by {unused[0].altered_by}" if unused[0].altered_by else "not used as it is"
        return CaptureError(
            f"{unused[0].module}: the softmax's output is {what} before it meets the values "
            "(talking heads, re-attention); such attention cannot be read"
        )
    if missed:
        return CaptureError(
            f"{name}: no softmax attention ran in {', '.join(missed[:3])}; "
            "linear, pooling or compiled attention cannot be read"
        )
    return CaptureError(
        f"{name}: expected a vision transformer, but no attention ran; "
        "convolutional networks have none, and a compiled model hides it (pass the uncompiled one)"
    )


def _silent_siblings(capture: Capture) -> list[str]:
    """Blocks without a capture among like blocks that each have one: a layer that was skipped or hidden."""
    captured = Counter(name for names in capture.tracker.ran for name in names)
    silent = []
    for parent_name, parent in capture.model.named_modules():
        if not isinstance(parent, nn.ModuleList | nn.Sequential):
            continue
        names = {
            f"{parent_name}.{child}" if parent_name else child: type(block) for child, block in parent.named_children()
        }
        reading_classes = {kind for name, kind in names.items() if captured[name]}
        silent += [name for name, kind in names.items() if kind in reading_classes and not captured[name]]
    return silent
