"""k-NN: how well features tell classes apart without training anything."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from siftlens.core import InputError

NEIGHBOURS, TEMPERATURE = 20, 0.07  # as in DINO (Caron et al. 2021)
_CHUNK = 512


def knn_predict(
    features: Float[Tensor, "train channel"],
    labels: Int64[Tensor, " train"],
    queries: Float[Tensor, "query channel"],
    *,
    leave_one_out: bool = False,
) -> Int64[Tensor, " query"]:
    """Class of each query by its 20 nearest neighbours in cosine similarity s, weighted by exp(s / 0.07).

    Args:
        features: with known classes.
        labels: those, from 0.
        queries: whose classes are asked for.
        leave_one_out: the queries are the features themselves, and none is its own neighbour.

    Raises:
        InputError: there is nothing to compare with.
    """
    known, asked = F.normalize(features, dim=1), F.normalize(queries, dim=1)
    others = len(known) - leave_one_out
    if others < 1:
        raise InputError(f"k-NN needs at least {1 + leave_one_out} labelled images, got {len(known)}")
    votes = F.one_hot(labels).to(known.dtype)
    found = []
    for start in range(0, len(asked), _CHUNK):
        similarity = asked[start : start + _CHUNK] @ known.T
        if leave_one_out:
            similarity.diagonal(start).fill_(-torch.inf)
        nearest = similarity.topk(min(NEIGHBOURS, others), dim=1)
        weights = (nearest.values / TEMPERATURE).exp()
        found.append((votes[nearest.indices] * weights[:, :, None]).sum(dim=1).argmax(dim=1))
    return torch.cat(found)


def labels_of(groups: tuple[str, ...]) -> tuple[Int64[Tensor, " image"], tuple[str, ...]]:
    """Class numbers by the names of folders, and those names in order."""
    classes = tuple(sorted(set(groups)))
    place = {name: number for number, name in enumerate(classes)}
    return torch.tensor([place[group] for group in groups]), classes
