"""Visual words: every patch gets the nearest, and odd descriptions get words of their own or none."""

import pytest
import torch

from siftlens.auditing.codebook import fit


def fitted(described, words=8):
    return fit(described, words, axes=4, by_position=False, seed=0)


def test_clusters_that_lie_apart_become_words():
    which = torch.randint(8, (20, 30), generator=torch.Generator().manual_seed(0))
    centres = 10 * torch.eye(8)
    found = torch.from_numpy(fitted(centres[which] + 0.1 * torch.rand(20, 30, 8)).words(centres[which]))
    assert len({(int(a), int(b)) for a, b in zip(which.flatten(), found.flatten(), strict=True)}) == 8
    assert sorted(set(found.flatten().tolist())) == list(range(8))


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
