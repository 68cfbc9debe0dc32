"""Visual words: every patch gets the nearest, and odd descriptions get words of their own or none."""

import pytest
import torch

from siftlens.auditing.codebook import fit


def fitted(described, words=8):
    return fit(described, words, axes=4, by_position=False, seed=0)


def test_clusters_that_lie_apart_become_words():
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(4, (20, 30), generator=generator)
    centres = 10 * torch.eye(4)
    codebook = fitted(centres[which] + 0.1 * torch.rand(20, 30, 4, generator=generator))
    found = torch.from_numpy(codebook.words(centres[which]))
    pairs = {(int(a), int(b)) for a, b in zip(which.flatten(), found.flatten(), strict=True)}
    # Eight words for four clusters: each cluster gets one of its own at least, and shares none.
    assert len(pairs) == len({word for _, word in pairs}) == 4


@pytest.mark.parametrize("values", [1, 3])
def test_few_different_descriptions_make_few_words(values):
    described = torch.arange(4 * 30).remainder(values).float().view(4, 30, 1).expand(-1, -1, 5)
    codebook = fitted(described)
    assert len(codebook.centres) == values
    assert len(set(codebook.words(described).ravel().tolist())) == values


def test_a_patch_without_a_description_has_no_word():
    described = torch.rand(4, 30, 5, generator=torch.Generator().manual_seed(0))
    described[1, 7] = torch.nan
    words = fitted(described).words(described)
    assert words[1, 7] == -1 and (words == -1).sum() == 1
