"""From settings to the autoencoder and the normalisation that its encoder will want ever after."""

from math import lcm

import timm
import torch
from timm.data import resolve_model_data_config

from siftlens.core import ModelError, PatchGrid
from siftlens.data import Normalization
from siftlens.models.errors import first_line, unknown_model
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.patches import grid_of
from siftlens.pretraining.settings import PretrainSettings

_PLAIN = "vit_small_patch16_224"


def build(settings: PretrainSettings) -> tuple[MaskedAutoencoder, Normalization]:
    """Build the autoencoder with the seed's random weights.

    Raises:
        InputError: a share of the patches that is rounded away.
        ModelError: timm does not have the encoder, it is not plain, or views are no whole number of patches,
            or one patch.
    """
    name, size = settings.model, settings.size
    if not timm.is_model(name):
        raise unknown_model("timm", name, timm.list_models("*vit*"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        try:
            encoder = timm.create_model(name, num_classes=0, img_size=size, **settings.architecture)
        except Exception as error:
            if isinstance(error, TypeError) and "img_size" in str(error):  # which vision transformers alone take
                raise ModelError(f"timm/{name} is no vision transformer; choose one, such as {_PLAIN}") from error
            raise ModelError(f"timm/{name} cannot be built for views of {size} px: {first_line(error)}") from error
        model = MaskedAutoencoder(encoder, settings.decoder, norm_pix=settings.norm_pix)
    grid = model.layout.grid
    if (grid.height, grid.width) != (size, size):
        nearest = max(1, round(size / grid.patch_height)) * grid.patch_height
        raise ModelError(
            f"views of {size} px are no whole number of patches of {grid.patch_height}x{grid.patch_width} px; "
            f"the nearest size is {nearest} px"
        )
    if settings.first_size is not None:
        _expect_patches(settings.first_size, grid)
    settings.decoding.expect_effect(grid.patches - settings.policy.visible(grid.patches))
    config = resolve_model_data_config(encoder)
    return model, Normalization(tuple(config["mean"]), tuple(config["std"]))


def _expect_patches(size: int, grid: PatchGrid) -> None:
    """Refuse first views that cannot be masked patch by patch."""
    height, width = grid.patch_height, grid.patch_width
    if size % height or size % width:
        raise ModelError(
            f"first views of {size} px are no whole number of patches of {height}x{width} px; "
            f"choose a multiple of {lcm(height, width)} px"
        )
    if grid_of(size, size, grid).patches < 2:
        raise ModelError(f"first views of {size} px are one patch, of which nothing can be masked; choose larger ones")
