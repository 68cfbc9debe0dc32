"""Checking that a token stands for its patch in every layer, and that only the attention that is read mixes tokens.

Attention is cut: each token attends to itself alone. What a token holds, in whichever layer, can then come from its own
patch only. Where it does not, the model shuffles its tokens between two layers, attends over channels, or mixes tokens
where no softmax can be seen: by other weights than a softmax's, or in another thread.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from siftlens.attention.calls import AttentionCall, token_change
from siftlens.attention.capture import Capture
from siftlens.attention.coverage import READABLE
from siftlens.attention.trial import Trial, on_trial
from siftlens.core import CaptureError, TokenLayout

_PATTERNS = 3
_LOST = 8  # times the rounding error of a token: a smaller change says nothing
_STEM = 3.0  # times what it changed by at the first attention, where convolutions may have mixed already


def check_isolation(trial: Trial, layout: TokenLayout) -> None:
    """Check, with attention cut, that each token follows its own patch, and no other, through all layers.

    Raises:
        CaptureError: names the layer where a token holds another patch, or the block that mixes tokens.
    """
    if layout.grid.patches > 1:
        _Isolated(trial, layout).run()


class _Isolated:
    """A forward pass of two pictures of noise, and of images in which some patches show the first, others the second.

    Args:
        trial: the model and its call.
        layout: what stands at which token.
    """

    def __init__(self, trial: Trial, layout: TokenLayout):
        self.trial, self.layout = trial, layout
        self.patterns = _patterns(
            layout.grid.patches
        )  # for each image after the pictures, which patches show the second
        self.spread: float | None = None  # at the first attention
        self.mixed: list[str] = []  # modules whose output is tokens, and mixed, in the order in which they ended

    def run(self) -> None:
        modules = self.trial.model.named_modules()
        hooks = [module.register_forward_hook(partial(self._note, name)) for name, module in modules if name]
        try:
            capture = self.trial.run(self._images(), self._check, {}, isolated=True)
        finally:
            for hook in hooks:
                hook.remove()
        containers = {_container(name) for around in capture.tracker.ran for name in around}
        for name in self.mixed:  # after the last attention, in a block like those before
            if _container(name) in containers:
                raise _mixes(name)

    def _images(self) -> Float[Tensor, "image channel height width"]:
        grid = self.layout.grid
        first, second = self.trial.noise(2)
        second = second + 1  # so that a mean over patches differs, too
        images = [first, second]
        for pattern in self.patterns:
            pixels = pattern.view(grid.rows, grid.cols).to(first.device)
            pixels = pixels.repeat_interleave(grid.patch_height, 0).repeat_interleave(grid.patch_width, 1)
            images.append(torch.where(pixels, second, first))
        return torch.stack(images)

    def _check(self, capture: Capture, call: AttentionCall) -> None:
        name = capture.tracker.current
        capture.tracker.mark_captured(None)
        prefix = call.shape[3] - self.layout.grid.patches  # a pooling head may see the patches alone
        tokens = call.value[:, :, prefix:].transpose(1, 2).flatten(2)
        for pattern, image in zip(self.patterns, tokens[2:], strict=True):
            like_first, like_second = _change(tokens[0], image), _change(tokens[1], image)
            told = (like_first - like_second).abs() > _LOST * _rounding(tokens) * _size(tokens)
            wrong = (told & ((like_second < like_first) != pattern)).nonzero().flatten().tolist()
            if wrong:
                raise CaptureError(
                    f"{name}: token {prefix + wrong[0]} does not hold patch {wrong[0]} of the {self.layout.grid.rows}x"
                    f"{self.layout.grid.cols} grid; shuffled tokens and attention over channels cannot be mapped to "
                    f"patches; {READABLE}"
                )
        self._expect_unmixed(tokens, name)

    def _expect_unmixed(self, tokens: Tensor, name: str) -> None:
        if self.mixed:
            raise _mixes(self.mixed[0])
        if self.spread is None:
            self.spread = self._spread(tokens)
        elif self._are_mixed(tokens):
            raise _mixes(f"what runs before {name}")

    def _note(self, name: str, _module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note a module that makes mixed tokens of others; none before the first attention, none of another thread."""
        if self.spread is None or not on_trial():
            return
        before, after = self._tokens(args), self._tokens(output)
        if after is not None and self._are_mixed(after) and (before is None or not self._are_mixed(before)):
            self.mixed.append(name)

    def _tokens(self, given: Any) -> Float[Tensor, "image patch feature"] | None:
        """What a module took or returned, where that is tokens."""
        tensor = given[0] if isinstance(given, tuple | list) and given else given
        if not isinstance(tensor, Tensor) or tensor.ndim != 3:
            return None
        images, tokens = 2 + _PATTERNS, self.layout.tokens
        if tensor.shape[:2] == (tokens, images) and tokens != images:
            tensor = tensor.transpose(0, 1)
        return tensor[:, self.layout.prefix :] if tensor.shape[:2] == (images, tokens) else None

    def _are_mixed(self, tokens: Tensor) -> bool:
        assert self.spread is not None
        return bool(self._spread(tokens) > max(_rounding(tokens) ** 0.5, _STEM * self.spread))

    def _spread(self, tokens: Float[Tensor, "image patch feature"]) -> float:
        """What three of four untouched tokens change by at least, as a share of what touched ones do."""
        change = _change(tokens[0], tokens[2])
        touched = self.patterns[0]
        most = change[touched].median()
        if bool(most <= _LOST * _rounding(tokens) * _size(tokens).median()):
            return 0.0
        return float(change[~touched].quantile(0.25) / most)


def _patterns(patches: int) -> Bool[Tensor, "pattern patch"]:
    """First the lower rows, so that most tokens have neighbours of their picture; then patches by chance."""
    generator = torch.Generator().manual_seed(0)
    patterns = torch.rand(_PATTERNS, patches, generator=generator) < 0.5
    patterns[0] = torch.arange(patches) >= (patches + 1) // 2
    return patterns


def _change(tokens: Float[Tensor, "patch feature"], others: Float[Tensor, "patch feature"]) -> Float[Tensor, " patch"]:
    return token_change(tokens[None, None], others[None, None])[0].cpu()


def _size(tokens: Float[Tensor, "image patch feature"]) -> Float[Tensor, " patch"]:
    return _change(tokens[0], torch.zeros_like(tokens[0]))


def _rounding(tokens: Tensor) -> float:
    return torch.finfo(tokens.dtype).eps


def _mixes(what: str) -> CaptureError:
    return CaptureError(
        f"{what}: tokens are mixed by something else than a softmax's attention in this thread; attention that cannot "
        f"be seen cannot be read; {READABLE}"
    )


def _container(name: str) -> str:
    return name.rpartition(".")[0]
