"""A model that was taught a shortcut on purpose and ships with the package, to see what an audit finds."""

from pathlib import Path

from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from siftlens.data import NORMALIZATIONS, Preprocessing
from siftlens.models.checkpoints import fill
from siftlens.models.errors import expect_whole_patches
from siftlens.models.loaded import Built, Request

SHORTCUT_SIZE = 64  # px
SHORTCUT_NORMALIZATION = NORMALIZATIONS["inception"]
SHORTCUT_CLASSES = ("ellipse", "star")  # of `siftlens.data.DrawnMaterial`
WEIGHTS = Path(__file__).parent / "weights" / "demo-shortcut.safetensors"


def shortcut_architecture() -> VisionTransformer:
    """Build the model with fresh random weights: 3 layers of 4 heads, patches of 8 px, a class token."""
    return VisionTransformer(
        img_size=SHORTCUT_SIZE,
        patch_size=8,
        embed_dim=64,
        depth=3,
        num_heads=4,
        mlp_ratio=2.0,
        class_token=True,
        num_classes=len(SHORTCUT_CLASSES),
    )


def build(request: Request) -> Built:
    """Build the model."""
    module = shortcut_architecture()
    if not request.random_init:
        fill(module, request.state or load_file(WEIGHTS))
    height, width = request.size or (SHORTCUT_SIZE, SHORTCUT_SIZE)
    expect_whole_patches("demo-shortcut", (height, width), module.patch_embed.patch_size)
    module.set_input_size(img_size=(height, width))
    return Built(module, Preprocessing(height, width), SHORTCUT_NORMALIZATION, SHORTCUT_CLASSES)
