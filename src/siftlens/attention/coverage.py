"""Completeness: every attention of the model was read, or an error says which was not."""

from collections import Counter

from torch import nn

from siftlens.attention.intercept import Interceptor
from siftlens.attention.layout import no_attention
from siftlens.attention.modules import ModuleTracker
from siftlens.core import CaptureError, TokenLayout


def refuse_unreadable(model: nn.Module) -> None:
    """Refuse, before anything runs, what would hide or change the attention.

    Raises:
        CaptureError: a compiled or scripted model, or one in training mode.
    """
    kinds = {type(module).__name__ for module in model.modules()}
    hidden = kinds & {"OptimizedModule", "RecursiveScriptModule", "TopLevelTracedModule"}
    if hidden:
        raise CaptureError(
            f"{type(model).__name__}: a compiled or scripted model hides its operators ({', '.join(sorted(hidden))}); "
            "pass the model as it was before torch.compile or torch.jit"
        )
    if model.training:
        raise CaptureError(
            f"{type(model).__name__} is in training mode; call model.eval() before reading its attention"
        )


def classify(name: str, shape: tuple[int, int, int, int], layout: TokenLayout, images: int | None) -> bool:
    """Whether an attention is a pooling head (True) or one over the tokens (False).

    Raises:
        CaptureError: neither: the attention is not over the whole grid.
    """
    batch, _, queries, keys = shape
    tokens, patches = layout.tokens, layout.grid.patches
    if images is not None and batch != images:
        raise CaptureError(
            f"{name}: attention over windows of {keys} tokens ({batch} windows for {images} images); "
            "only attention over the whole grid can be read"
        )
    if queries == keys == tokens:
        return False
    if keys in (tokens, patches) and queries != keys:
        return True
    raise CaptureError(
        f"{name}: attention of {queries} queries over {keys} keys, but the model has {tokens} tokens "
        f"({layout.prefix} prefix + {patches} patches); windowed, channel, reduced or text attention cannot be read"
    )


def check(model: nn.Module, tracker: ModuleTracker, interceptor: Interceptor, layout: TokenLayout) -> None:
    """Check after a forward pass that nothing was missed.

    Raises:
        CaptureError: names the modules whose attention was not captured.
    """
    if not tracker.ran:
        raise no_attention(model, tracker, interceptor)
    unused = [
        record
        for record in interceptor.unused_softmaxes()
        if record.probabilities.shape[-1] in (layout.tokens, layout.grid.patches)
    ]
    if unused:
        names = ", ".join(list(dict.fromkeys(record.module for record in unused))[:5])
        changed = unused[0].altered_by or "another operator"
        raise CaptureError(
            f"{names}: the softmax over {unused[0].probabilities.shape[-1]} tokens is changed by {changed} before it "
            "meets the values; such attention cannot be read"
        )
    missed = list(dict.fromkeys([*tracker.missed, *_silent_siblings(model, tracker)]))
    if missed:
        foreign = [kernel for module, kernel in interceptor.foreign.items() if module.startswith(tuple(missed))]
        through = f" (it runs {foreign[0]})" if foreign else ""
        raise CaptureError(
            f"attention was read in {len(tracker.ran)} modules but not in {', '.join(missed[:5])}{through}; "
            "make these blocks use torch's scaled_dot_product_attention, or a plain softmax and product"
        )


def _silent_siblings(model: nn.Module, tracker: ModuleTracker) -> list[str]:
    """Blocks without a capture among like blocks that each have one: a layer that was skipped or hidden."""
    captured = Counter(name for names in tracker.ran for name in names)
    silent = []
    for parent_name, parent in model.named_modules():
        if not isinstance(parent, nn.ModuleList | nn.Sequential):
            continue
        names = {
            f"{parent_name}.{child}" if parent_name else child: type(block) for child, block in parent.named_children()
        }
        reading_classes = {kind for name, kind in names.items() if captured[name]}
        silent += [name for name, kind in names.items() if kind in reading_classes and not captured[name]]
    return silent
