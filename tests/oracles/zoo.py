"""Small vision transformers with random weights, one of each kind; nothing is downloaded."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn


@dataclass(frozen=True)
class Exhibit:
    """A model, the image size that it takes, and what must be found on it."""

    build: Callable[[], nn.Module]
    size: tuple[int, int]
    grid: tuple[int, int]
    prefix: tuple[int, int]  # class tokens, registers
    pool: int = 0
    fused: bool = True


def _timm(name: str, **settings) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, pretrained=False, depth=2, num_heads=3, num_classes=7, **settings)

    return build


def _unfused(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def unfused() -> nn.Module:
        model = build()
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False
        return model

    return unfused


def _hf(kind: str, attention: str = "sdpa", **settings) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{kind}Config" if not kind.endswith("VisionModel") else kind[:-5] + "Config")(
            num_hidden_layers=2,
            num_attention_heads=3,
            hidden_size=33,
            intermediate_size=37,
            patch_size=4,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attention_dropout=0.0,
            **settings,
        )
        config._attn_implementation = attention
        name = kind if kind.endswith("Model") else f"{kind}Model"
        return getattr(transformers, name)(config)

    return build


def _torchvision() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(20, 4, num_layers=2, num_heads=3, hidden_dim=33, mlp_dim=37, num_classes=7)


def _open_clip() -> nn.Module:
    pytest.importorskip("open_clip")
    from open_clip.transformer import VisionTransformer

    return VisionTransformer((12, 20), 4, width=33, layers=2, heads=3, mlp_ratio=1.5, output_dim=7)


class Own(nn.Module):
    """One's own model: patches by reshape and a linear layer, torch's encoder layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(48, 34)
        self.place = nn.Parameter(torch.randn(15, 34))
        layer = nn.TransformerEncoderLayer(34, 2, 37, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x):
        patches = x.unflatten(2, (3, 4)).unflatten(4, (5, 4)).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return self.encoder(self.embed(patches) + self.place)


ZOO = {
    "timm-vit": Exhibit(
        _timm("vit_tiny_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=33), (12, 20), (3, 5), (1, 0)
    ),
    "timm-vit-eager": Exhibit(
        _unfused(_timm("vit_tiny_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=33)),
        (12, 20),
        (3, 5),
        (1, 0),
        fused=False,
    ),
    "timm-deit3": Exhibit(
        _timm("deit3_small_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=33), (12, 20), (3, 5), (1, 0)
    ),
    "timm-deit-distilled": Exhibit(
        _timm("deit_tiny_distilled_patch16_224", img_size=(20, 12), patch_size=4, embed_dim=33),
        (20, 12),
        (5, 3),
        (2, 0),
    ),
    "timm-dinov2-registers": Exhibit(
        _timm("vit_small_patch14_reg4_dinov2", img_size=(12, 20), patch_size=4, embed_dim=33), (12, 20), (3, 5), (1, 4)
    ),
    "timm-dinov3": Exhibit(
        _timm("vit_small_patch16_dinov3", img_size=(12, 20), patch_size=4, embed_dim=36), (12, 20), (3, 5), (1, 4)
    ),
    "timm-eva02": Exhibit(
        _timm("eva02_tiny_patch14_224", img_size=(12, 20), patch_size=4, embed_dim=36), (12, 20), (3, 5), (1, 0)
    ),
    "timm-beit": Exhibit(
        _timm("beit_base_patch16_224", img_size=(12, 20), patch_size=4, embed_dim=33), (12, 20), (3, 5), (1, 0)
    ),
    "timm-siglip": Exhibit(
        _timm("vit_base_patch16_siglip_224", img_size=(12, 20), patch_size=4, embed_dim=33),
        (12, 20),
        (3, 5),
        (0, 0),
        pool=1,
    ),
    "hf-vit": Exhibit(_hf("ViT", image_size=(12, 20)), (12, 20), (3, 5), (1, 0)),
    "hf-vit-eager": Exhibit(_hf("ViT", "eager", image_size=(12, 20)), (12, 20), (3, 5), (1, 0), fused=False),
    "hf-dinov2-registers": Exhibit(
        _hf("Dinov2WithRegisters", image_size=20, num_register_tokens=4), (12, 20), (3, 5), (1, 4)
    ),
    "hf-clip": Exhibit(_hf("CLIPVisionModel", image_size=20), (20, 20), (5, 5), (1, 0)),
    "hf-siglip": Exhibit(_hf("SiglipVisionModel", image_size=20), (20, 20), (5, 5), (0, 0), pool=1),
    "hf-beit": Exhibit(
        _hf("Beit", image_size=20, use_relative_position_bias=True, use_mask_token=False), (20, 20), (5, 5), (1, 0)
    ),
    "torchvision": Exhibit(_torchvision, (20, 20), (5, 5), (1, 0)),
    "open_clip": Exhibit(_open_clip, (12, 20), (3, 5), (1, 0)),
    "own": Exhibit(Own, (12, 20), (3, 5), (0, 0)),
}


def model_of(exhibit: Exhibit, seed: int = 0) -> nn.Module:
    """The exhibit with seeded weights, large enough that attention is far from uniform."""
    torch.manual_seed(seed)
    model = exhibit.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
