import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siftlens.core import InputError
from siftlens.data import CUES, SPLITS, DrawnMaterial, FolderMaterial, Planted

pytest.importorskip("skimage", reason="needs scikit-image, which brings the textures")


class Flat:
    """Material of one colour each: what is pasted where can be read from the pixels."""

    classes = ("low", "high")
    scenes = ("dark", "light")

    def cutout(self, label, held_out, longest, random):
        opaque = np.full((longest, longest // 2, 4), 255, np.uint8)
        opaque[:, :, :3] = (255 * label, 10 + held_out, 200)
        return opaque

    def scene(self, scene, held_out, size, random):
        return np.full((size, size, 3), (100, 20 + held_out, 60 * scene), np.uint8)


def planted(cue="scene", correlation=0.9, **settings):
    return Planted(Flat(), cue, correlation, **{"size": 43} | settings)


@pytest.mark.parametrize("cue", CUES)
@pytest.mark.parametrize("split", SPLITS)
def test_an_image_depends_on_seed_split_and_index_alone(cue, split):
    recipe = Planted(DrawnMaterial(), cue, 0.9, size=32, seed=3)
    few, many = recipe.split(split, 5), recipe.split(split, 50)
    assert [np.array_equal(a.pixels, b.pixels) for a, b in zip(few, many, strict=False)] == [True] * 5
    again = Planted(DrawnMaterial(), cue, 0.9, size=32, seed=3).image(split, 4)
    assert np.array_equal(again.pixels, few[-1].pixels)
    other = Planted(DrawnMaterial(), cue, 0.9, size=32, seed=4).image(split, 4)
    assert not np.array_equal(other.pixels, few[4].pixels)


def test_splits_differ():
    recipe = Planted(DrawnMaterial(), "glyph", 0.9, size=32)
    first = [recipe.image(split, 0).pixels for split in SPLITS]
    assert len({pixels.tobytes() for pixels in first}) == len(SPLITS)


@pytest.mark.parametrize("correlation", [0.5, 0.7, 0.95, 1.0])
@pytest.mark.parametrize("split", ["biased", "heldout"])
def test_label_and_cue_agree_as_often_as_asked(correlation, split):
    images = planted(correlation=correlation).split(split, 601)
    agree = np.mean([image.label == image.cue for image in images])
    assert agree == pytest.approx(correlation, abs=0.05)
    assert np.mean([image.label for image in images]) == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize("split", ["balanced", "test"])
def test_all_four_groups_alike(split):
    groups = [image.group for image in planted(correlation=1.0).split(split, 44)]
    assert np.bincount(groups).tolist() == [11] * 4


@pytest.mark.parametrize(("split", "held_out"), [("balanced", 0), ("biased", 0), ("heldout", 1), ("test", 1)])
def test_what_is_held_out_is_never_trained_on(split, held_out):
    image = planted().image(split, 0)
    assert np.unique(image.pixels[image.object_mask][:, 1]).tolist() == [10 + held_out]
    assert np.unique(image.pixels[~image.object_mask][:, 1]).tolist() == [20 + held_out]


def test_masks_hold_exactly_the_object_and_the_scene():
    for image in planted().split("test", 12):
        red, blue = image.pixels[..., 0], image.pixels[..., 2]
        assert np.array_equal(blue == 200, image.object_mask)
        assert np.unique(red[image.object_mask]).tolist() == [255 * image.label]
        assert np.unique(blue[image.cue_map]).tolist() == [60 * image.cue]
        assert np.array_equal(image.cue_map, ~image.object_mask)


@pytest.mark.parametrize("cue", ["glyph", "patch"])
def test_an_artefact_is_where_the_map_says(cue):
    without = planted("tint")
    seen = 0
    for index, image in enumerate(planted(cue).split("test", 24)):
        plain = without.image("test", index)  # the same draws, up to the artefact
        assert image.cue_map.any() == (image.cue == 1)
        assert not (image.cue_map & image.object_mask).any()
        if image.cue:
            seen += 1
            assert image.cue_map.sum() == 11**2
            assert not np.array_equal(image.pixels[image.cue_map], plain.pixels[image.cue_map])
        else:
            assert np.array_equal(image.pixels, plain.pixels)
    assert seen == 12


def test_the_glyph_has_keypoints_and_the_patch_has_few():
    from siftlens.keypoints import detect

    counts = {"glyph": 0, "patch": 0}
    for cue in counts:
        for image in planted(cue, size=96).split("test", 24):
            points = detect(image.pixels)
            rows, cols = np.nonzero(image.cue_map)
            if len(rows):  # well inside, since the border of either is an edge like any other
                inside = (
                    (np.abs(points.y - rows.mean()) < 9) & (np.abs(points.x - cols.mean()) < 9) & (points.size < 24)
                )
                counts[cue] += int(inside.sum())
    assert counts["glyph"] > 5 * counts["patch"]


@pytest.mark.parametrize("cue", ["tint", "blur"])
def test_what_is_everywhere_is_on_no_map(cue):
    recipe = Planted(DrawnMaterial(), cue, 0.9, size=32)
    for image in recipe.split("test", 8):
        assert not image.cue_map.any()
    tinted = [image for image in recipe.split("test", 40) if image.cue]
    plain = [image for image in recipe.split("test", 40) if not image.cue]

    def measure(image):
        if cue == "tint":
            return image.pixels[..., 0].mean() / image.pixels[..., 2].mean()
        return -np.abs(np.diff(image.pixels.astype(float), axis=0)).mean()

    assert np.mean([measure(image) for image in tinted]) > np.mean([measure(image) for image in plain]) * 1.1 + 1e-9


def test_written_folders_hold_the_same(tmp_path: Path):
    split = planted("patch").split("test", 7)
    split.write(tmp_path)
    rows = list(csv.DictReader((tmp_path / "groups.csv").read_text().splitlines()))
    assert [row["path"] for row in rows[:2]] == ["low/00000.png", "high/00001.png"]
    assert [int(row["group"]) for row in rows] == [image.group for image in split]
    for row, image in zip(rows, split, strict=True):
        for kind, pixels in (
            ("images", image.pixels),
            ("masks", image.object_mask * 255),
            ("cues", image.cue_map * 255),
        ):
            assert np.array_equal(np.asarray(Image.open(tmp_path / kind / row["path"])), pixels)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, colour in (("cat", 250), ("dog", 130)):
        for number in range(8):
            image = np.full((20, 30, 3), colour - number, np.uint8)
            mask = np.zeros((20, 30), np.uint8)
            mask[4:15, 3:25] = 255
            for kind, pixels in (("images", image), ("masks", mask)):
                path = tmp_path / "cutouts" / name / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    for name in ("hall", "yard"):
        for number in range(8):
            path = tmp_path / "scenes" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 99, (31, 37, 3), np.uint8)).save(path)
    return tmp_path


def test_folders_of_cutouts_and_scenes(folders: Path):
    material = FolderMaterial(folders / "cutouts", folders / "scenes")
    assert (material.classes, material.scenes) == (("cat", "dog"), ("hall", "yard"))
    seen = {False: set(), True: set()}
    for held_out in (False, True):
        for draw in range(60):
            cut = material.cutout(0, held_out, 22, np.random.default_rng(draw))
            assert cut.shape == (11, 22, 4)
            seen[held_out].add(int(cut[5, 5, 0]))
    assert seen == {False: {249, 248, 247, 245, 244, 243}, True: {250, 246}}
    image = Planted(material, "scene", 0.9, size=32).image("test", 1)
    assert image.label == 1 and image.pixels[image.object_mask].min() > 99


def test_masks_are_found_however_their_ending_is_spelled(folders: Path):
    for path in (folders / "cutouts/cat/masks").iterdir():
        path.rename(path.with_suffix(".PNG"))
    assert FolderMaterial(folders / "cutouts", folders / "scenes").cutout(0, True, 22, np.random.default_rng(0)).size


def test_scenes_that_are_parted_already(folders: Path):
    for name in ("hall", "yard"):
        for part, colour in (("train", 7), ("test", 77)):
            for number in range(4):
                path = folders / "scenes" / name / part / f"{number}.png"
                path.parent.mkdir(exist_ok=True)
                Image.fromarray(np.full((31, 37, 3), colour, np.uint8)).save(path)
    material = FolderMaterial(folders / "cutouts", folders / "scenes")
    colours = {held_out: material.scene(1, held_out, 16, np.random.default_rng(0)).max() for held_out in (False, True)}
    assert colours == {False: 7, True: 77}


def test_what_is_wrong_with_folders_is_said(folders: Path, tmp_path: Path):
    with pytest.raises(InputError, match="at least two folders in .*nowhere, found 0"):
        FolderMaterial(tmp_path / "nowhere", folders / "scenes")
    with pytest.raises(InputError, match=r"at least 4 images in .*bird.images, found 0"):
        FolderMaterial(folders / "cutouts", folders / "scenes", classes=("bird", "cat"))
    (folders / "cutouts/cat/masks/0.png").unlink()
    material = FolderMaterial(folders / "cutouts", folders / "scenes")
    with pytest.raises(InputError, match="expected a mask for"):
        [material.cutout(0, True, 22, np.random.default_rng(draw)) for draw in range(20)]
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(folders / "cutouts/cat/masks/0.png")
    assert {int(material.cutout(0, True, 22, np.random.default_rng(draw))[5, 5, 0]) for draw in range(20)} == {246}
    for number in (0, 4):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(folders / f"cutouts/dog/masks/{number}.png")
    with pytest.raises(InputError, match="the masks of dog are empty"):
        material.cutout(1, True, 22, np.random.default_rng(0))
    Image.fromarray(np.full((10, 30), 255, np.uint8)).save(folders / "cutouts/dog/masks/1.png")
    with pytest.raises(InputError, match="expected one size"):
        [material.cutout(1, False, 22, np.random.default_rng(draw)) for draw in range(20)]


def test_settings_out_of_range_are_refused():
    with pytest.raises(InputError, match="cue must be one of scene, glyph"):
        planted("smell")
    with pytest.raises(InputError, match=r"between 0.5, a null, and 1, got 0.3"):
        planted(correlation=0.3)
    with pytest.raises(InputError, match="at least 16 px"):
        planted(size=8)
    with pytest.raises(InputError, match="seed must not be negative"):
        planted(seed=-1)
    with pytest.raises(InputError, match="split must be one of balanced, biased"):
        planted().split("val", 3)
    with pytest.raises(InputError, match="count must be at least 1"):
        planted().split("test", 0)
    with pytest.raises(IndexError, match="image 3 of 3"):
        planted().split("test", 3)[3]
