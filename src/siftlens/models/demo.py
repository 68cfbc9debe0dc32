"""The model that ships with the package: its architecture, shared with the script that trained it, and its weights."""

from pathlib import Path

from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer

from siftlens.data import NORMALIZATIONS, Preprocessing
from siftlens.models.checkpoints import fill
from siftlens.models.errors import expect_whole_patches
from siftlens.models.loaded import Built, Request

DEMO_SIZE = 128  # px
DEMO_NORMALIZATION = NORMALIZATIONS["inception"]
DEMO_CLASSES = (
    "cassette_player",
    "chain_saw",
    "church",
    "english_springer",
    "french_horn",
    "garbage_truck",
    "gas_pump",
    "golf_ball",
    "parachute",
    "tench",
)
WEIGHTS = Path(__file__).parent / "weights" / "demo.safetensors"


def demo_architecture(size: int = DEMO_SIZE) -> VisionTransformer:
    """Build the demo model with fresh random weights: 8 layers of 6 heads, patches of 8 px, a class token.

    Args:
        size: height and width of the square input, px.
    """
    return VisionTransformer(
        img_size=size,
        patch_size=8,
        embed_dim=192,
        depth=8,
        num_heads=6,
        mlp_ratio=2.0,
        class_token=True,
        num_classes=len(DEMO_CLASSES),
    )


def build(request: Request) -> Built:
    """Build the demo model."""
    module = demo_architecture()
    if not request.random_init:
        fill(module, request.state or load_file(WEIGHTS))
    height, width = request.size or (DEMO_SIZE, DEMO_SIZE)
    expect_whole_patches("demo", (height, width), module.patch_embed.patch_size)
    module.set_input_size(img_size=(height, width))
    return Built(module, Preprocessing(height, width), DEMO_NORMALIZATION, DEMO_CLASSES)
