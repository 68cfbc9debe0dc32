"""Images: where they come from, how they are decoded, and what a model sees of them."""

from siftlens.data.atomic import atomic_path, discard_unfinished, disk_errors, reserve, write_page
from siftlens.data.decode import SUFFIXES, Unreadable, decode, decode_with_size, expect_folder
from siftlens.data.files import open_images
from siftlens.data.jpeg import Jpeg, as_jpeg
from siftlens.data.pixels import as_pixels, content_hash
from siftlens.data.planted import SPLITS, Material, Planted, PlantedImage, PlantedSplit
from siftlens.data.planted_cues import CUES
from siftlens.data.planted_drawn import DrawnMaterial
from siftlens.data.planted_folders import FolderMaterial
from siftlens.data.preprocessing import NORMALIZATIONS, Normalization, Preprocessing, input_size
from siftlens.data.records import (
    AUDIT,
    PROGRESS,
    PROMPT,
    RUN,
    STATE,
    expect_free,
    is_result,
    make_own,
    read_record,
    write_record,
)
from siftlens.data.shards import Stored, opened
from siftlens.data.sources import ImageRef, ImageSource, chosen
from siftlens.data.under_way import (
    discard_progress,
    expect_asked,
    expect_same,
    has_progress,
    held,
)

__all__ = [
    "AUDIT",
    "CUES",
    "NORMALIZATIONS",
    "PROGRESS",
    "PROMPT",
    "RUN",
    "SPLITS",
    "STATE",
    "SUFFIXES",
    "DrawnMaterial",
    "FolderMaterial",
    "ImageRef",
    "ImageSource",
    "Jpeg",
    "Material",
    "Normalization",
    "Planted",
    "PlantedImage",
    "PlantedSplit",
    "Preprocessing",
    "Stored",
    "Unreadable",
    "as_jpeg",
    "as_pixels",
    "atomic_path",
    "chosen",
    "content_hash",
    "decode",
    "decode_with_size",
    "discard_progress",
    "discard_unfinished",
    "disk_errors",
    "expect_asked",
    "expect_folder",
    "expect_free",
    "expect_same",
    "has_progress",
    "held",
    "input_size",
    "is_result",
    "make_own",
    "open_images",
    "opened",
    "read_record",
    "reserve",
    "write_page",
    "write_record",
]
