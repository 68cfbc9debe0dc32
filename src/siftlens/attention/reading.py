"""What reading a model's attention gives."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor

from siftlens.core import TokenLayout


@dataclass(frozen=True)
class LayerReading:
    """One attention of the model, read through the channels W.

    Attributes:
        name: dotted name of the module that ran it.
        values: A @ W; prefix tokens weigh zero as keys. Float32, or float64 for a float64 model.
        prefix_mass: attention on class (and distillation) tokens, and on registers.
        mean_squared_distance: of each patch to the patches that it attends to, px^2, attention renormalised over
            patches; NaN for prefix queries.
        entropy: of each row of A over all tokens, nat, whatever the weighting; None where it was not asked for.
        backend: the kernel that computed it, or "eager".
    """

    name: str
    values: Float[Tensor, "batch head token channel"]
    prefix_mass: Float[Tensor, "batch head token 2"]
    mean_squared_distance: Float[Tensor, "batch head token"]
    entropy: Float[Tensor, "batch head token"] | None
    backend: str


@dataclass
class Reading:
    """What was read in one forward pass.

    Attributes:
        layers: in call order.
        pool: attention pooling heads, whose queries are not the tokens: `mean_squared_distance` is NaN.
        layout: what stands at which token.
        token_norms: norm of each token after each layer's block, (batch, token), by layer; a layer is missing
            where no module's output has a token axis.
    """

    layers: list[LayerReading] = field(default_factory=list)
    pool: list[LayerReading] = field(default_factory=list)
    layout: TokenLayout | None = None
    token_norms: dict[int, Float[Tensor, "batch token"]] = field(default_factory=dict)
