"""How far a model is from another answer, and which patches that hangs on."""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from siftlens.auditing.tokens import TokenAccess
from siftlens.core import ModelError


def margins(logits: Float[Tensor, "image class"], classes: Int[Tensor, " image"]) -> Float[Tensor, " image"]:
    """Log-odds of a class: its logit minus the log of the sum of the others' exponentials.

    Args:
        logits: of the model.
        classes: one for each image.
    """
    mine = torch.nn.functional.one_hot(classes, logits.shape[1]).bool()
    return logits[mine] - logits.masked_fill(mine, -torch.inf).logsumexp(dim=1)


@torch.no_grad()
def logits_of(
    model: Callable[[Tensor], Any], x: Float[Tensor, "image channel height width"]
) -> Float[Tensor, "image class"]:
    """Logits in float32.

    Raises:
        ModelError: the output is no table of finite numbers, a row for each image and a column for each class.
    """
    output = model(x)
    if not isinstance(output, Tensor) or output.ndim != 2 or len(output) != len(x):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ModelError(f"expected logits of shape ({len(x)}, classes), got {shape}; pass a classifier")
    if not bool(torch.isfinite(output).all()):
        raise ModelError("expected finite logits, got NaN or infinity; check the weights, or run in float32")
    return output.float()


def expected_gradients(
    model: nn.Module,
    access: TokenAccess,
    x: Float[Tensor, "image channel height width"],
    donors: Float[Tensor, "image token dim"],
    classes: Int[Tensor, " image"],
    shares: Float[Tensor, " image"],
) -> Float[Tensor, "image token"]:
    """What each token adds to its image's margin when the image takes the place of another one.

    One sample of expected gradients (Erion et al., 2021) for each image: the gradient somewhere between the tokens of
    a donor and the image's own, times their difference. Its mean over images adds up to the mean difference of margins;
    a plain gradient at the image itself vanishes where a shortcut makes the model sure.

    Args:
        model: the classifier.
        access: to its tokens.
        x: the images.
        donors: tokens before the first block of another image each.
        classes: whose margin.
        shares: how far from the donor to the image, drawn from [0, 1].
    """
    held: list[Tensor] = []

    def mix(tokens: Tensor) -> Tensor:
        held.append(tokens.detach() - donors)
        held.append((donors + shares.to(tokens)[:, None, None] * held[0]).requires_grad_(True))
        return held[1]

    with torch.enable_grad(), access.changed(mix):
        total = margins(model(x).float(), classes).sum()
        (gradient,) = torch.autograd.grad(total, held[1])
    return (gradient.float() * held[0].float()).sum(dim=2)
