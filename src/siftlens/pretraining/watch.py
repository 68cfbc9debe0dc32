"""How a run is doing: k-NN on its own images, and reconstructions to look at."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from siftlens.data import Normalization, atomic_path
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.batches import Batch, Batches
from siftlens.pretraining.features import CHUNK, features
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.logbook import Logbook
from siftlens.pretraining.neighbours import knn_predict, labels_of
from siftlens.pretraining.patches import grid_of, patchify, unpatchify
from siftlens.pretraining.views import normalised

_WATCHED, _FEWEST = 2000, 200  # images for k-NN, spread evenly
_SHARE = 0.05  # images that all k-NN together look at, over those that are trained on
_PICTURED = 8  # images in the picture of reconstructions
_GAP = 4  # px between pictures
_GREY = 0.5  # of a patch that is masked


class Watch:
    """Looks at a run after some of its epochs: knn.csv and reconstructions.png.

    Args:
        model: that is trained.
        normalization: that its encoder wants.
        images: that it is trained on.
        batches: of the run.
        out: folder of the run.
        evaluations: how often, spread evenly over the epochs, last included.
        done: steps that the run has behind it.

    Attributes:
        knn: leave-one-out accuracy when last looked; None before, or without class folders.
    """

    def __init__(
        self,
        model: MaskedAutoencoder,
        normalization: Normalization,
        images: HeldImages,
        batches: Batches,
        out: Path,
        evaluations: int,
        done: int,
    ):
        self._model, self._normalization, self._images, self._batches = model, normalization, images, batches
        self._out, self._evaluations = out, evaluations
        self._log: Logbook | None = None
        if has_classes(images):
            self._log = Logbook(out / "knn.csv", ("step", "epoch", "accuracy"), done + 1)
        self.knn: float | None = None

    def after(self, epoch: int) -> None:
        """Look, if this epoch's turn has come.

        Raises:
            InputError: the disk is full or read-only.
        """
        wanted, epochs = self._evaluations, self._batches.steps // self._batches.steps_per_epoch
        if epoch * wanted // epochs == (epoch - 1) * wanted // epochs:
            return
        self._model.eval()
        affordable = int(_SHARE * epochs * len(self._images) / wanted)  # a look is as dear as a step per image
        count = min(max(affordable, _FEWEST), _WATCHED, len(self._images))
        if self._log is not None:
            self.knn = watch_knn(self._model, self._images, self._normalization, count)
            self._log.add([(epoch * self._batches.steps_per_epoch, epoch, f"{self.knn:.4f}")])
        shown = torch.linspace(0, len(self._images) - 1, min(_PICTURED, len(self._images))).long()
        batch = self._batches.views(shown, 0, progress=epoch / epochs)
        draw_reconstructions(self._out / "reconstructions.png", self._model, batch, self._normalization)
        self._model.train()


def has_classes(images: HeldImages) -> bool:
    """Whether images lie in two class folders at least."""
    return len(set(images.groups) - {""}) > 1


@torch.inference_mode()
def watch_knn(model: MaskedAutoencoder, images: HeldImages, normalization: Normalization, count: int) -> float:
    """Leave-one-out k-NN accuracy of the encoder's mean patch token, over so many of the images in class folders."""
    classed = torch.tensor([n for n, group in enumerate(images.groups) if group])
    chosen = classed[torch.linspace(0, len(classed) - 1, min(count, len(classed))).long()]
    labels, _ = labels_of(tuple(images.groups[n] for n in chosen.tolist()))
    height, width = model.layout.grid.height, model.layout.grid.width
    device = next(model.parameters()).device
    each = []
    for part in chosen.split(CHUNK):
        pixels = F.interpolate(images.pixels[part], (height, width), mode="bilinear", antialias=True)
        x = normalised(pixels.to(device), normalization.mean, normalization.std)
        each.append(features(model.encoder, x).float())
    found = torch.cat(each)
    predicted = knn_predict(found, labels.to(device), found, leave_one_out=True)
    return float((predicted.cpu() == labels).float().mean())


@torch.inference_mode()
def draw_reconstructions(path: Path, model: MaskedAutoencoder, batch: Batch, normalization: Normalization) -> None:
    """Write a picture: in each row a view, what is seen of it, and what is predicted of the rest.

    Raises:
        InputError: the disk is full or read-only.
    """
    device = next(model.parameters()).device
    x = normalised(batch.views.to(device), normalization.mean, normalization.std)
    visible, decoded = batch.visible.to(device), batch.decoded.to(device)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (normalization.mean, normalization.std))
    predicted = model.predict(x, visible, decoded).cpu()

    grid = grid_of(batch.views.shape[2], batch.views.shape[3], model.layout.grid)
    true = patchify(batch.views / 255, grid)
    seen = torch.full_like(true, _GREY)
    _put(seen, batch.visible, true.gather(1, _wide(batch.visible, true)))
    whole = seen.clone()
    shown = predicted.unflatten(2, (3, -1)) * std.flatten()[:, None] + mean.flatten()[:, None]
    _put(whole, batch.decoded, shown.flatten(2).to(whole.dtype))
    columns = [unpatchify(patches, grid) for patches in (true, seen, whole)]
    with atomic_path(path) as target:
        Image.fromarray(_sheet(columns)).save(target, format="PNG")


def _wide(index: Tensor, like: Tensor) -> Tensor:
    return index[:, :, None].expand(-1, -1, like.shape[2])


def _put(patches: Tensor, index: Tensor, values: Tensor) -> None:
    patches.scatter_(1, _wide(index, patches), values)


def _sheet(columns: list[Float[Tensor, "row 3 height width"]]) -> UInt8[np.ndarray, "tall wide 3"]:
    """Pictures side by side in rows, on white."""
    framed = [F.pad(column.clamp(0, 1), (_GAP, 0, _GAP, 0), value=1.0) for column in columns]
    rows = torch.cat(framed, dim=3)
    sheet = F.pad(torch.cat(list(rows), dim=1), (0, _GAP, 0, _GAP), value=1.0)
    return (sheet.permute(1, 2, 0) * 255).round().byte().numpy()
