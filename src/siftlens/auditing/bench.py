"""What the steps of an audit are done with, in whichever process they are done."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from siftlens.auditing.margins import logits_of
from siftlens.auditing.reader import SampleReader
from siftlens.auditing.tokens import TokenAccess
from siftlens.core import TokenLayout

Done = TypeVar("Done")


@dataclass(frozen=True)
class Bench:
    """A model to work on, and the images. Has no state: a step gives the same in any process.

    Attributes:
        reader: of the images, with the model.
        layout: what stands at which token.
        access: to the model's tokens.
        layer: whose tokens words are made of.
    """

    reader: SampleReader
    layout: TokenLayout
    access: TokenAccess
    layer: int

    def __call__(self, step: Callable[["Bench"], Done]) -> Done:
        """Do a step."""
        return step(self)

    def run(
        self, x: Float[Tensor, "image channel height width"]
    ) -> tuple[Float[Tensor, "image logit"], Float[Tensor, "image patch dim"]]:
        """The model's logits, and the patch tokens that words are made of."""
        with self.access.read(self.layer) as read:
            logits = logits_of(self.reader.model.module, x)
        return logits, read[0]


@runtime_checkable
class Each(Protocol):
    """An engine that was hired with a bench."""

    def __call__(self, steps: Iterable[Callable[[Bench], Done]], /) -> Iterator[Done]:
        """Do steps, and hand on what came of them in their order."""
        ...
