"""Checking that a token stands for its patch in every layer, and that only the attention that is read mixes tokens.

Attention is cut: each token attends to itself alone. What a token holds, in whichever layer, can then come from its own
patch only, and from neighbours where the model has convolutions. Where it does not, the model shuffles its tokens,
attends over channels, or mixes tokens where no softmax can be seen: by other weights than a softmax's, or in another
thread.
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from siftlens.attention.calls import AttentionCall, token_change
from siftlens.attention.capture import Capture
from siftlens.attention.coverage import READABLE
from siftlens.attention.trial import Trial, on_trial
from siftlens.core import CaptureError, PatchGrid, TokenLayout

_LOST = 8  # times the rounding error of a token: a smaller change says nothing
_UNMOVED = 1e-4, 4  # of what touched tokens change by, or so many rounding errors: what does not count as moved
_STEM = 0.05, 3.0  # what tokens far away may change by before the first attention; what that may grow by
_LISTS = nn.ModuleList, nn.Sequential
_REACH = 3  # patches to either side, as far as a convolution between two attentions mixes
_CLEAN = 0.01  # of the way from one picture to the other: a token that holds one patch and nothing beside it
_OUTVOTED = 0.25  # share of tokens that convolutions may make more like their neighbours than like themselves
_VOUCH = "where each token does stand for its patch, read_attention(..., grid=TokenLayout(...)) believes you"


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
        halves = _halves(layout.grid)
        self.patterns = torch.stack([*halves, *_by_chance(layout.grid)])  # per image, which patches show the second
        self.views = [
            _View(layout.grid, image, anchor, half if anchor == 0 else ~half)
            for image, half in enumerate(halves, start=2)
            for anchor in (0, 1)
        ]
        # Prefix tokens that hold nothing of the patches; None before the first attention.
        self.own: Bool[Tensor, " prefix"] | None = None
        self.ran: list[tuple[str, ...]] = []  # for every attention so far, the modules around it
        self.leaping: list[str] = []  # modules that ended since, and mixed tokens further than a convolution does
        self.shuffling: list[tuple[str, int]] = []  # and those around one attention that shuffled them

    def run(self) -> None:
        modules = dict(self.trial.model.named_modules())
        hooks = [
            module.register_forward_hook(partial(self._note, name, isinstance(modules[_parent(name)], _LISTS)))
            for name, module in modules.items()
            if name
        ]
        try:
            self.trial.run(self._images(), self._check, {}, isolated=True)
        finally:
            for hook in hooks:
                hook.remove()
        self._expect_in_order()
        lists = _lists_of_blocks(modules, self.ran)
        for name in self.leaping:  # after the last attention: a block like those before, or no business of ours
            if _parent(name) in lists:
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
        self._expect_in_order()
        prefix = call.shape[3] - self.layout.grid.patches  # a pooling head may see the patches alone
        values = call.value.transpose(1, 2).flatten(2)
        tokens = values[:, prefix:]
        if wrong := self._misplaced(tokens):
            raise self._shuffles(name, wrong[0])
        leaps = [view.leaps(tokens) for view in self.views]  # every view takes note
        if call.shape[2] != call.shape[3]:  # not cut: its queries, prefix tokens or of a head, see the patches
            self.own = torch.zeros(self.layout.prefix, dtype=torch.bool)
        elif self.own is None:
            self.own = ~_differ(values[:, :prefix])
        if any(leaps) or (prefix == self.layout.prefix and self._reached(values[:, :prefix])):
            raise _mixes(self.leaping[0] if self.leaping else f"what runs before {name}")
        self.ran = capture.tracker.ran
        self.leaping.clear()

    def _note(self, name: str, listed: bool, _module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note what a block, or a module around one attention, did to its tokens; not of another thread."""
        if not self.ran or not on_trial():
            return
        around_one = name in self.ran[-1] and sum(name in around for around in self.ran) == 1
        whole = self._sequence(output) if listed or around_one else None
        if whole is None:
            return
        prefix, after = whole[:, : -self.layout.grid.patches], whole[:, -self.layout.grid.patches :]
        before = self._tokens(args)
        if any(view.would_leap(before, after) for view in self.views) or (prefix.shape[1] and self._reached(prefix)):
            self.leaping.append(name)
        if around_one and (wrong := self._misplaced(after)) and (before is None or not self._misplaced(before)):
            self.shuffling.append((name, wrong[0]))

    def _reached(self, prefix: Float[Tensor, "image prefix feature"]) -> bool:
        """Whether prefix tokens hold something of the patches that can only come from attention."""
        assert self.own is not None
        return bool((self.own & _differ(prefix)).any())

    def _tokens(self, given: Any) -> Float[Tensor, "image patch feature"] | None:
        """The patches' tokens in what a module took or returned, where that is tokens, in a sequence or in a grid."""
        sequence = self._sequence(given)
        return None if sequence is None else sequence[:, -self.layout.grid.patches :]

    def _sequence(self, given: Any) -> Float[Tensor, "image token feature"] | None:
        """All tokens of a sequence, or those of a grid."""
        tensor = given[0] if isinstance(given, tuple | list) and given else given
        if not isinstance(tensor, Tensor):
            return None
        images, tokens, grid = 2 + len(self.patterns), self.layout.tokens, self.layout.grid
        if tensor.ndim == 4 and tensor.shape[:3] == (images, grid.rows, grid.cols):
            return tensor.flatten(1, 2)
        if tensor.ndim != 3:
            return None
        if tensor.shape[:2] == (tokens, images) and tokens != images:
            tensor = tensor.transpose(0, 1)
        return tensor if tensor.shape[:2] == (images, tokens) else None

    def _misplaced(self, tokens: Float[Tensor, "image patch feature"]) -> list[int]:
        """Patches whose token holds what another shows; those that a convolution outvotes are not among them."""
        for pattern, image in zip(self.patterns, tokens[2:], strict=True):
            like_first, like_second = _change(tokens[0], image), _change(tokens[1], image)
            nearer, farther = torch.minimum(like_first, like_second), torch.maximum(like_first, like_second)
            told = farther - nearer > _LOST * _rounding(tokens) * _size(tokens)
            wrong = told & ((like_second < like_first) != pattern)
            clean = wrong & (nearer <= _CLEAN * farther)
            if bool(clean.any()) or int(wrong.sum()) > _OUTVOTED * len(pattern):
                found: list[int] = wrong.nonzero().flatten().tolist()
                return found
        return []

    def _expect_in_order(self) -> None:
        for name, patch in self.shuffling:
            raise self._shuffles(name, patch)

    def _shuffles(self, name: str, patch: int) -> CaptureError:
        grid = self.layout.grid
        return CaptureError(
            f"{name}: the token of patch {patch} of the {grid.rows}x{grid.cols} grid holds another patch; shuffled "
            f"tokens and attention over channels cannot be mapped to patches; {READABLE}; {_VOUCH}"
        )


@dataclass
class _View:
    """An image beside one of the pictures, from which it differs in half of its patches: how far that spreads.

    Args:
        grid: of the patches.
        image: index of the image.
        anchor: index of the picture.
        touched: the patches that differ.
    """

    grid: PatchGrid
    image: int
    anchor: int
    touched: Bool[Tensor, " patch"]
    before: Float[Tensor, " patch"] | None = None  # the first attention: what convolutions in front have mixed
    moved: Bool[Tensor, " patch"] = field(init=False)

    def __post_init__(self) -> None:
        self.moved = self.touched

    def leaps(self, tokens: Float[Tensor, "image patch feature"]) -> bool:
        """Whether tokens have moved, at an attention, that lie out of a convolution's reach of those that had."""
        share = self._share(tokens)
        if self.before is None:
            self.before = share
            return bool((self._out_of_reach(self.moved) & (share > _STEM[0])).any())
        moved = self._moved(tokens)
        leapt = moved & self._out_of_reach(self.moved)
        self.moved = self.moved | moved
        return bool(leapt.any())

    def would_leap(
        self, before: Float[Tensor, "image patch in_feature"] | None, after: Float[Tensor, "image patch feature"]
    ) -> bool:
        """The same between a module's input and its output, where they are tokens."""
        moved = self.moved if before is None else self._moved(before)
        return bool((self._moved(after) & self._out_of_reach(moved)).any())

    def _moved(self, tokens: Float[Tensor, "image patch feature"]) -> Bool[Tensor, " patch"]:
        assert self.before is not None
        least = max(_UNMOVED[0], _UNMOVED[1] * _rounding(tokens))
        moved: Tensor = self._share(tokens) > (_STEM[1] * self.before).clamp(min=least)
        return moved | self.touched

    def _share(self, tokens: Float[Tensor, "image patch feature"]) -> Float[Tensor, " patch"]:
        """What tokens change by, as a share of what touched ones do; 0 where these hardly change."""
        change = _change(tokens[self.anchor], tokens[self.image])
        most = change[self.touched].median()
        if bool(most <= _LOST * _rounding(tokens) * _size(tokens).median()):
            return torch.zeros_like(change)
        return change / most

    def _out_of_reach(self, moved: Bool[Tensor, " patch"]) -> Bool[Tensor, " patch"]:
        near = moved.float().view(1, 1, self.grid.rows, self.grid.cols)
        reach = self._reach()
        near = F.max_pool2d(F.pad(near, (reach,) * 4), 2 * reach + 1, stride=1)
        return near.flatten() == 0

    def _reach(self) -> int:
        """Shorter where the untouched half is narrow: some of it must be out of reach."""
        untouched = (~self.touched).view(self.grid.rows, self.grid.cols)
        lines = min(int(untouched.any(dim=1).sum()), int(untouched.any(dim=0).sum()))
        return min(_REACH, max(lines - 1, int(max(self.grid.rows, self.grid.cols) > 2)))


def _halves(grid: PatchGrid) -> list[Bool[Tensor, " patch"]]:
    """The lower rows, and the columns on the right."""
    rows = torch.arange(grid.rows)[:, None] >= (grid.rows + 1) // 2
    cols = torch.arange(grid.cols)[None, :] >= (grid.cols + 1) // 2
    halves = [half.expand(grid.rows, grid.cols).flatten() for half in (rows, cols)]
    return [half for half in halves if half.any()]


def _by_chance(grid: PatchGrid) -> Bool[Tensor, "image patch"]:
    return torch.rand(2, grid.patches, generator=torch.Generator().manual_seed(0)) < 0.5


def _lists_of_blocks(modules: dict[str, nn.Module], ran: list[tuple[str, ...]]) -> set[str]:
    """Names of the lists of blocks in which attention was read; a model beside its head is none."""
    inside = Counter(_parent(name) for name in {name for around in ran for name in around})
    return {
        name
        for name, blocks in inside.items()
        if isinstance(modules[name], _LISTS) and (blocks > 1 or isinstance(modules[name], nn.ModuleList))
    }


def _parent(name: str) -> str:
    return name.rpartition(".")[0]


def _change(tokens: Float[Tensor, "patch feature"], others: Float[Tensor, "patch feature"]) -> Float[Tensor, " patch"]:
    return token_change(tokens[None, None], others[None, None])[0].cpu()


def _differ(tokens: Float[Tensor, "image token feature"]) -> Bool[Tensor, " token"]:
    """Tokens that are others in one picture than in the other."""
    change, size = _change(tokens[0], tokens[1]), _size(tokens)
    return change > max(_UNMOVED[0], _UNMOVED[1] * _rounding(tokens)) * size


def _size(tokens: Float[Tensor, "image patch feature"]) -> Float[Tensor, " patch"]:
    return _change(tokens[0], torch.zeros_like(tokens[0]))


def _rounding(tokens: Tensor) -> float:
    return torch.finfo(tokens.dtype).eps


def _mixes(what: str) -> CaptureError:
    return CaptureError(
        f"{what}: tokens are mixed by something else than a softmax's attention in this thread; attention that cannot "
        f"be seen cannot be read; {READABLE}; {_VOUCH}"
    )
