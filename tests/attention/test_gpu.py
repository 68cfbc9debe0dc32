"""The same truths on a CUDA device, through its own kernels."""

import pytest
import torch

import siftlens
from oracles.attention import read_slowly, true_attention
from oracles.zoo import ZOO, model_of
from siftlens.attention import find_layout

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, none is here"),
]
# Of each statistic's own scale; bf16 rounds the model's own activations too.
TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 4e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", ["timm-vit", "timm-dinov2-registers", "timm-beit", "hf-vit-eager", "torchvision"])
def test_every_statistic_on_a_gpu(name, dtype):
    model = model_of(ZOO[name]).to(dtype)
    images = torch.randn(2, 3, *ZOO[name].size, generator=torch.Generator().manual_seed(3)).to(dtype)
    truth = true_attention(model, images).attention[0]
    layout = find_layout(model, images)
    channels = torch.randn(2, layout.grid.patches, 7)
    model, images = model.cuda(), images.cuda()
    assert find_layout(model, images) == layout
    with torch.no_grad(), siftlens.read_attention(model, channels.cuda(), entropy=True) as reading:
        model(images)
    expected = read_slowly(truth, channels, layout)
    for statistic in ("values", "prefix_mass", "mean_squared_distance", "entropy"):
        want = getattr(expected, statistic)
        scale = max(1.0, want.nan_to_num().abs().max().item())
        difference = (getattr(reading.layers[0], statistic).cpu().double() - want) / scale
        assert difference.nan_to_num().abs().max() < TOLERANCE[dtype], statistic
