import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from siftlens.core import InputError
from siftlens.data import content_hash, open_images

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(0, 256, (11, 13, 3), np.uint8) for _ in range(7)]


def identities(source: object) -> list[str]:
    return [ref.identity for ref in source]  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ["b/2.png", "b/10.png", "a/deep/1.png", "0.png", "b/notes.txt", ".hidden", ".git/config"]:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path / "photos"


def test_a_folder_holds_every_file_that_is_not_hidden(folder: Path):
    source = open_images(folder)
    assert identities(source) == ["0.png", "a/deep/1.png", "b/10.png", "b/2.png", "b/notes.txt"]
    assert [ref.group for ref in source] == ["", "a", "b", "b", "b"]
    assert len(source) == 5
    assert identities(source) == identities(open_images(str(folder)))


def test_a_glob_is_named_from_the_part_that_is_fixed(folder: Path):
    assert identities(open_images(f"{folder}/*/*.png")) == ["b/10.png", "b/2.png"]
    assert identities(open_images(f"{folder}/**/*.png")) == ["0.png", "a/deep/1.png", "b/10.png", "b/2.png"]
    assert identities(open_images(folder / "b" / "?.png")) == ["2.png"]


def test_a_relative_glob(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    assert identities(open_images("*.png")) == ["0.png"]
    assert identities(open_images("b/*.png")) == ["10.png", "2.png"]


def test_a_text_file_names_paths_relative_to_itself(folder: Path):
    listing = folder / "list.txt"
    listing.write_text(f"\ufeffb/2.png\n\n  a/deep/1.png  \r\n{folder / '0.png'}\nb/2.png\nb/gone.png\n", "utf-8")
    source = open_images(listing)
    assert identities(source) == ["0.png", "a/deep/1.png", "b/2.png", "b/gone.png"]
    assert [ref.group for ref in source] == ["", "a", "b", "b"]


def test_links_are_followed_once(folder: Path, tmp_path: Path):
    (folder / "a" / "loop").symlink_to(folder, target_is_directory=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.png").touch()
    (folder / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (folder / "z.png").symlink_to(tmp_path / "gone.png")
    assert identities(open_images(folder)) == [
        *["0.png", "a/deep/1.png", "b/10.png", "b/2.png", "b/notes.txt", "c/x.png", "z.png"]
    ]


def test_names_are_made_printable(tmp_path: Path):
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    (tmp_path / "ä.png").touch()
    found = identities(open_images(tmp_path))
    assert found == ["caf\\xe9.png", "ä.png"]
    assert all(name.encode() for name in found)


def test_a_limit_spreads_over_the_folders(tmp_path: Path):
    for kind in "abcd":
        (tmp_path / kind).mkdir()
        for number in range(5):
            (tmp_path / kind / f"{number}.png").touch()
    assert identities(open_images(tmp_path, limit=4)) == ["a/0.png", "b/0.png", "c/0.png", "d/0.png"]
    assert len(open_images(tmp_path, limit=7)) == 7
    assert len(open_images(tmp_path, limit=21)) == 20
    with pytest.raises(InputError, match="limit must be a whole number, at least 1, or None, got 0"):
        open_images(tmp_path, limit=0)


def test_nothing_there(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.txt").touch()
    with pytest.raises(InputError, match="no images at .*gone: nothing is there; expected a folder, a glob"):
        open_images(tmp_path / "gone")
    with pytest.raises(InputError, match="no images at .*empty: it holds no files"):
        open_images(tmp_path / "empty")
    with pytest.raises(InputError, match="no images at .*empty.txt: it holds no files"):
        open_images(tmp_path / "empty.txt")
    with pytest.raises(InputError, match=r"no images at .*\*.jpg: no file matches; expected"):
        open_images(f"{folder}/*.jpg")


def test_a_glob_that_goes_up_again_counts_each_image_once(folder: Path):
    once = identities(open_images(f"{folder}/[b]/*.png"))
    assert identities(open_images(f"{folder}/*/../b/*.png")) == once == ["b/10.png", "b/2.png"]


def test_an_image_file_is_no_list(tmp_path: Path):
    Image.fromarray(IMAGES[0]).save(tmp_path / "one.png")
    with pytest.raises(InputError, match=r"cannot read .*one.png as a list of images; expected a folder"):
        open_images(tmp_path / "one.png")
    (tmp_path / "ascii").write_bytes(b"ab\0c")
    with pytest.raises(InputError, match="as a list of images"):
        open_images(tmp_path / "ascii")


def test_a_folder_that_cannot_be_read_is_not_skipped(folder: Path, monkeypatch: pytest.MonkeyPatch):
    scan = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot read the folder .*deep: Permission denied; check its permissions"):
        open_images(folder)


class Indexed:
    """Like a torch data set: a length and an index, no more."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> np.ndarray:
        self.asked.append(index)
        return IMAGES[index]


class Iterated:
    """Made anew in every pass."""

    def __iter__(self):
        return (Image.fromarray(image) for image in IMAGES)


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        tuple(IMAGES),
        np.stack(IMAGES),
        torch.from_numpy(np.stack(IMAGES)).permute(0, 3, 1, 2),
        [image / 255 for image in IMAGES],
        [Image.fromarray(image) for image in IMAGES],
        Indexed(),
        Iterated(),
    ],
    ids=lambda images: type(images).__name__,
)
def test_images_in_memory_are_named_by_their_pixels(images: object):
    source = open_images(images)
    expected = [content_hash(image) for image in IMAGES]
    assert len(source) == 7
    assert identities(source) == identities(source) == expected
    for ref, image in zip(source, IMAGES, strict=True):
        np.testing.assert_array_equal(ref.fetched().source, image)
        assert ref.group == ""
    assert identities(open_images(images, limit=3)) == [expected[0], expected[2], expected[4]]


def test_references_to_a_collection_do_not_hold_the_pixels():
    images = Indexed()
    refs = list(open_images(images))
    assert not any(isinstance(ref.source, np.ndarray) for ref in refs)
    images.asked.clear()
    refs[5].fetched()
    assert images.asked == [5]


def test_images_are_asked_for_once_to_be_named():
    images = Indexed()
    source = open_images(images)
    first = [ref.identity for ref, _ in zip(source, range(2), strict=False)]
    assert len(images.asked) <= 3  # as far as was gone
    named = identities(source)
    assert named[:2] == first and sorted(images.asked) == list(range(len(IMAGES)))
    assert identities(source) == named and len(images.asked) == len(IMAGES)


@pytest.mark.parametrize("once", [(image for image in IMAGES), iter(IMAGES), map(np.copy, IMAGES)])
def test_what_is_used_up_after_one_pass_is_refused_by_name(once: object):
    name = type(once).__name__
    with pytest.raises(InputError, match=rf"can be gone through twice, got {name}, which is used up after one pass"):
        open_images(once)


@pytest.mark.parametrize(("images", "told"), [([], "an empty list"), ({"a": IMAGES[0]}, "got dict"), (7, "got int")])
def test_collections_are_checked(images: object, told: str):
    with pytest.raises(InputError, match=told):
        open_images(images)


def test_a_bad_image_is_named_by_its_place():
    bad = [*IMAGES[:3], IMAGES[3] / 255 * 4 - 2]
    with pytest.raises(InputError, match=r"image 3: expected float pixels in \[0, 1\]"):
        list(open_images(bad))


class Reads:
    """A collection that makes an image when it is asked for."""

    asked = 0

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> np.ndarray:
        type(self).asked += 1
        return IMAGES[index]


@pytest.mark.parametrize("kind", [list, tuple, np.stack, lambda images: torch.from_numpy(np.stack(images))])
def test_an_image_of_many_in_memory_is_pickled_alone(kind):
    ref = list(open_images(kind(IMAGES)))[3]
    packed = pickle.dumps(ref)
    assert len(packed) < 2 * IMAGES[3].nbytes
    assert np.array_equal(pickle.loads(packed).fetched().source, IMAGES[3])


def test_a_collection_that_makes_its_images_is_pickled_instead_of_them():
    ref = list(open_images(Reads()))[3]
    asked = Reads.asked
    packed = pickle.dumps(ref)
    assert (Reads.asked, len(packed) < IMAGES[3].nbytes) == (asked, True)
    assert np.array_equal(pickle.loads(packed).fetched().source, IMAGES[3])


def test_a_list_names_each_file_once_however_it_is_spelled(folder: Path):
    image = next(path for path in folder.rglob("*.png"))
    within = image.relative_to(folder)
    spelled = [within, f"./{within}", image, f"../{folder.name}/{within}", f"/{image}"]
    (folder / "list.txt").write_text("\n".join(map(str, spelled)))
    (ref,) = open_images(folder / "list.txt")
    assert ref.identity == image.name


def test_a_list_below_a_link_names_each_file_once(folder: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    (folder / "list.txt").write_text("0.png\n../link/0.png\nb/../0.png\n../link/b/2.png\n")
    assert identities(open_images(tmp_path / "link" / "list.txt")) == ["0.png", "b/2.png"]


def test_a_list_is_split_at_line_ends_alone(folder: Path):
    odd = folder / "a\x0bb\u2028c.png"
    odd.write_bytes(b"")
    (folder / "list.txt").write_text(f"{odd.name}\r\n", encoding="utf-8")
    (ref,) = open_images(folder / "list.txt")
    assert ref.source == odd


def test_a_name_too_long_is_told():
    with pytest.raises(InputError, match="no images at a{300}: file name too long; expected a folder"):
        open_images("a" * 300)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("name", ["pipe.tar", "pipe.parquet"])
def test_a_pipe_is_never_opened(name: str, folder: Path):
    os.mkfifo(folder / name)
    assert name in [ref.identity for ref in open_images(folder)]
