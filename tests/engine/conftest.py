"""Pictures, a tiny model, and one Ray cluster of two cores for all tests of a file."""

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from siftlens.data import NORMALIZATIONS, Preprocessing
from siftlens.models import LoadedModel, hash_weights

HEIGHT, WIDTH = 40, 56


def draw(seed):
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8))
    return small.resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)


@pytest.fixture(scope="package")
def folder(tmp_path_factory):
    """23 pictures in two folders, and three files that are none."""
    path = tmp_path_factory.mktemp("images")
    for number in range(23):
        group = path / ("cats" if number % 3 else "dogs")
        group.mkdir(exist_ok=True)
        draw(number).save(group / f"{number:02}.png")
    (path / "dogs" / "00a.jpg").write_bytes(b"")
    (path / "cats" / '04, "b".jpg').write_bytes((path / "cats" / "04.png").read_bytes()[:300])
    (path / "cats" / "notes.txt").write_text("not an image")
    return path


@pytest.fixture(scope="package")
def model():
    torch.manual_seed(3)
    vit = VisionTransformer(img_size=(HEIGHT, WIDTH), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=11)
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(12)  # attention that is not even
    return LoadedModel(
        module=vit.eval(),
        spec="test/tiny",
        name="tiny",
        preprocessing=Preprocessing(HEIGHT, WIDTH),
        normalization=NORMALIZATIONS["imagenet"],
        weights_hash=hash_weights(vit),
    )
