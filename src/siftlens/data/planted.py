"""Planted cues: composites of which it is known what is object, what is cue, and how the two go together.

Two classes of cut-out objects stand on two scenes. A cue goes with the second class, in as many images as the
correlation says: it is the second scene, or an artefact that only images with the cue hold. A model trained on such
images may come to lean on the cue, and an audit of it can be marked.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, overload, runtime_checkable

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from siftlens.core import InputError
from siftlens.data.atomic import atomic_path
from siftlens.data.planted_cues import CUES, plant

SPLITS = ("balanced", "biased", "heldout", "test")
_LONGEST_SIDE = (0.5, 0.75)  # of the object, as a share of the image's side


@runtime_checkable
class Material(Protocol):
    """Objects and scenes to make composites of.

    Attributes:
        classes: names of the two kinds of objects.
        scenes: names of the two kinds of scenes.
    """

    classes: tuple[str, str]
    scenes: tuple[str, str]

    def cutout(
        self, label: int, held_out: bool, longest: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "height width 4"]:
        """An object with its opacity, whose longest side is `longest` px."""
        ...

    def scene(
        self, scene: int, held_out: bool, size: int, random: np.random.Generator
    ) -> UInt8[np.ndarray, "size size 3"]:
        """A scene without objects."""
        ...


@dataclass(frozen=True)
class PlantedImage:
    """One composite with its ground truth.

    Attributes:
        pixels: the image.
        label: 0 or 1, the object's class.
        cue: 0 or 1, what a model that leans on the cue would say: 1 where the second scene or the artefact is there.
        object_mask: pixels of the object.
        cue_map: pixels that carry the cue; none for an artefact that is absent or has no place.
    """

    pixels: UInt8[np.ndarray, "size size 3"]
    label: int
    cue: int
    object_mask: Bool[np.ndarray, "size size"]
    cue_map: Bool[np.ndarray, "size size"]

    @property
    def group(self) -> int:
        """2 * label + cue: 0 and 3 agree with the cue, 1 and 2 go against it."""
        return 2 * self.label + self.cue


@dataclass(frozen=True)
class Planted:
    """A recipe for composites with a planted cue. Each image depends on seed, split and index alone.

    Args:
        material: objects and scenes.
        cue: "scene" (behind the object), "glyph" (textured), "patch" (flat colour), "tint" or "blur" (everywhere). With
            any but the first, the scene behind an object is drawn by lot.
        correlation: share of the images of split "biased" in which cue and label agree, from 0.5 (a null) to 1.
        size: side of the images, px.
        seed: of everything that is drawn.

    Raises:
        InputError: a value is not one of those.

    Example:
        >>> planted = Planted(DrawnMaterial(), cue="glyph", correlation=0.95)
        >>> planted.split("test", 400)[3].group
        3
    """

    material: Material
    cue: str
    correlation: float
    size: int = 96
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cue not in CUES:
            raise InputError(f"cue must be one of {', '.join(CUES)}, got {self.cue!r}")
        if not 0.5 <= self.correlation <= 1:
            raise InputError(f"correlation must lie between 0.5, a null, and 1, got {self.correlation}")
        if self.size < 16:
            raise InputError(f"size must be at least 16 px, got {self.size}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")

    def split(self, name: str, count: int) -> "PlantedSplit":
        """The first images of a split.

        Args:
            name: "balanced", all four groups alike, to teach a model the object; "biased", to teach it the cue;
                "heldout", as biased, of objects and scenes that those two never show; "test", of these too, all four
                groups alike.
            count: how many; there is no end to them.

        Raises:
            InputError: another name, or no images.
        """
        if name not in SPLITS:
            raise InputError(f"split must be one of {', '.join(SPLITS)}, got {name!r}")
        if count < 1:
            raise InputError(f"count must be at least 1, got {count}")
        return PlantedSplit(self, name, count)

    def image(self, split: str, index: int) -> PlantedImage:
        """One composite; labels alternate."""
        random = np.random.default_rng((self.seed, SPLITS.index(split), index))
        label = index % 2
        agrees = random.random() < self.correlation
        cue = (label if agrees else 1 - label) if split in ("biased", "heldout") else index // 2 % 2
        held_out = split in ("heldout", "test")
        scene = cue if self.cue == "scene" else int(random.integers(2))
        pixels = self.material.scene(scene, held_out, self.size, random)
        longest = round(self.size * random.uniform(*_LONGEST_SIDE))
        pixels, mask = _paste(self.material.cutout(label, held_out, longest, random), pixels, random)
        if self.cue == "scene":
            carries = ~mask
        elif cue:
            pixels, carries = plant(pixels, self.cue, random)
        else:
            carries = np.zeros_like(mask)
        return PlantedImage(pixels, label, cue, mask & ~carries, carries)


@dataclass(frozen=True)
class PlantedSplit(Sequence[PlantedImage]):
    """Images of one split, each made anew whenever it is asked for.

    Attributes:
        recipe: how they are made.
        name: of the split.
        length: how many.
    """

    recipe: Planted
    name: str
    length: int

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> PlantedImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[PlantedImage]: ...
    def __getitem__(self, index: int | slice) -> PlantedImage | list[PlantedImage]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(self.length))]
        place = index + self.length if index < 0 else index
        if not 0 <= place < self.length:
            raise IndexError(f"image {index} of {self.length}")
        return self.recipe.image(self.name, place)

    def write(self, folder: Path) -> None:
        """Write the images as a labelled folder, and what is known of them beside it.

        images/CLASS/NUMBER.png, masks/CLASS/NUMBER.png (the object, 0 or 255), cues/CLASS/NUMBER.png (the cue's pixels)
        and groups.csv: path, label, cue, group.

        Raises:
            InputError: the folder cannot be written.
        """
        lines: list[tuple[str, int, int, int]] = []
        for number, image in enumerate(self):
            path = f"{self.recipe.material.classes[image.label]}/{number:05}.png"
            for kind, pixels in (
                ("images", image.pixels),
                ("masks", image.object_mask.astype(np.uint8) * 255),
                ("cues", image.cue_map.astype(np.uint8) * 255),
            ):
                with atomic_path(folder / kind / path) as target:
                    Image.fromarray(pixels).save(target, format="PNG")
            lines.append((path, image.label, image.cue, image.group))
        with atomic_path(folder / "groups.csv") as target, target.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([("path", "label", "cue", "group"), *lines])


def _paste(
    cutout: UInt8[np.ndarray, "tall wide 4"], scene: UInt8[np.ndarray, "size size 3"], random: np.random.Generator
) -> tuple[UInt8[np.ndarray, "size size 3"], Bool[np.ndarray, "size size"]]:
    """The object at a place in the scene, half of the time its mirror image; and its pixels, by half opacity."""
    if random.random() < 0.5:
        cutout = cutout[:, ::-1]
    tall, wide = cutout.shape[:2]
    size = len(scene)
    top, left = (int(random.integers(size - side + 1)) for side in (tall, wide))
    image, mask = scene.copy(), np.zeros((size, size), bool)
    here = np.s_[top : top + tall, left : left + wide]
    opacity = cutout[:, :, 3:] / 255
    image[here] = np.rint(opacity * cutout[:, :, :3] + (1 - opacity) * image[here]).astype(np.uint8)
    mask[here] = opacity[:, :, 0] >= 0.5
    return image, mask
