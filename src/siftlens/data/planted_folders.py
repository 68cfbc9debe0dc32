"""Objects and scenes from folders of real images."""

from functools import lru_cache
from glob import escape
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from siftlens.core import InputError
from siftlens.data.decode import SUFFIXES

_HELD_OUT = 4  # every fourth file, where no folder says which
_TRIES = 64  # draws that may meet an empty mask, one after the other
_KEPT = 4096  # decoded files: about 100 MB at 96 px
_LARGEST = 160  # px, the longest side of what is kept


class FolderMaterial:
    """Cut-outs and scenes from folders.

    Args:
        cutouts: CLASS/images/NAME.* and CLASS/masks/NAME.* of the same size, where the mask is white on the object.
        scenes: SCENE/train/* and SCENE/test/*, or SCENE/*, of which every fourth is held out, as of the cut-outs.
        classes: two folders of `cutouts`; by default the first two by name.
        kinds: two folders of `scenes`; likewise.

    Raises:
        InputError: a folder is missing or holds too little.
    """

    def __init__(
        self,
        cutouts: Path,
        scenes: Path,
        *,
        classes: tuple[str, str] | None = None,
        kinds: tuple[str, str] | None = None,
    ):
        self.classes = classes or _two_below(cutouts)
        self.scenes = kinds or _two_below(scenes)
        self._cutouts = [_parted(_files(cutouts / name / "images")) for name in self.classes]
        self._scenes = [_parts_of(scenes / name) for name in self.scenes]

    def cutout(
        self, label: int, held_out: bool, longest: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "height width 4"]:
        """One of the cut-outs, cut to its mask; those with an empty mask are passed over."""
        paths = self._cutouts[label][held_out]
        cut = next((cut for _ in range(_TRIES) if (cut := _cutout(_choice(paths, random)))), None)
        if cut is None:
            raise InputError(f"the masks of {self.classes[label]} are empty; expected white pixels on the objects")
        scale = longest / max(cut.size)
        wide, tall = (max(1, round(side * scale)) for side in cut.size)
        return np.asarray(cut.resize((wide, tall), Image.Resampling.BILINEAR))

    def scene(
        self, scene: int, held_out: bool, size: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "size size 3"]:
        """One of the scenes, half of the time its mirror image."""
        pixels = np.asarray(_scene(_choice(self._scenes[scene][held_out], random), size))
        return pixels[:, ::-1] if random.random() < 0.5 else pixels


def _two_below(folder: Path) -> tuple[str, str]:
    names = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if len(names) < 2:
        raise InputError(f"expected at least two folders in {folder}, found {len(names)}; name the folder above them")
    return names[0], names[1]


def _files(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < _HELD_OUT:
        raise InputError(f"expected at least {_HELD_OUT} images in {folder}, found {len(found)}")
    return found


def _parted(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """Files to train on, and files held out."""
    return [path for i, path in enumerate(files) if i % _HELD_OUT], files[::_HELD_OUT]


def _parts_of(folder: Path) -> tuple[list[Path], list[Path]]:
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return _files(folder / "train"), _files(folder / "test")
    return _parted(_files(folder))


def _choice(paths: list[Path], random: np.random.Generator) -> Path:
    return paths[int(random.integers(len(paths)))]


@lru_cache(_KEPT)
def _cutout(path: Path) -> Image.Image | None:
    """The object without what is around it; None where the mask is empty."""
    beside = path.parent.parent / "masks"
    masks = [found for found in beside.glob(f"{escape(path.stem)}.*") if found.suffix.lower() in SUFFIXES]
    if not masks:
        raise InputError(f"expected a mask for {path} in {beside}, found none")
    image, mask = Image.open(path).convert("RGB"), Image.open(masks[0]).convert("L")
    if image.size != mask.size:
        raise InputError(f"{path} is {image.size} px and its mask {mask.size} px; expected one size")
    box = mask.getbbox()
    if box is None:
        return None
    image.putalpha(mask)
    cut = image.crop(box)
    cut.thumbnail((_LARGEST, _LARGEST))
    return cut


@lru_cache(_KEPT)
def _scene(path: Path, size: int) -> Image.Image:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
