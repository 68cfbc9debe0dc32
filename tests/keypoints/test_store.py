import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from siftlens.core import InputError
from siftlens.data import content_hash
from siftlens.keypoints import KeypointStore, SiftSettings, detect

SIDE = 97
SETTINGS = SiftSettings(contrast_threshold=0.03)
PIXELS = [
    np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8),
    np.zeros((SIDE, SIDE, 3), np.uint8),  # without keypoints
    np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), np.uint8),
]
FOUND = [detect(pixels) for pixels in PIXELS]
NAMES = ["a/é.jpg", "b.png", "a/line\nbreak.png"]


def stored() -> KeypointStore:
    found = zip(NAMES, map(content_hash, PIXELS), FOUND, strict=True)
    return KeypointStore.gather(found, SIDE, SETTINGS)


def test_what_was_saved_comes_back(tmp_path):
    path = tmp_path / "new" / "keypoints.safetensors"
    stored().save(path)
    store = KeypointStore.load(path)
    assert store.identities == ("a/é.jpg", "b.png", "a/line\\nbreak.png")
    assert store.contents == tuple(map(content_hash, PIXELS))
    assert (store.side, store.settings, len(store)) == (SIDE, SETTINGS, 3)
    for image, keypoints in enumerate(FOUND):
        points = slice(store.start[image], store.start[image + 1])
        np.testing.assert_array_equal(store.x[points] / 32, keypoints.x)
        np.testing.assert_array_equal(store.y[points] / 32, keypoints.y)
        np.testing.assert_array_equal(store.size[points], keypoints.size)
        np.testing.assert_array_equal(store.response[points], keypoints.response)


def test_300_points_take_at_most_3_kb(tmp_path):
    many = KeypointStore.gather(
        ((f"train/class/{number:08}.jpg", content_hash(PIXELS[0]), FOUND[0]) for number in range(50)), SIDE, SETTINGS
    )
    many.save(tmp_path / "file")
    beside_points = ((tmp_path / "file").stat().st_size - 8 * len(many.x)) / 50
    assert 8 * 300 + beside_points <= 3000


def test_points_of_a_batch_are_those_of_its_images():
    store = stored()
    point, owner = store.points_of(np.array([2, 1, 0, 2]))
    for place, image in enumerate((2, 1, 0, 2)):
        assert point[owner == place].tolist() == list(range(store.start[image], store.start[image + 1]))


def test_a_file_cut_off_is_refused(tmp_path):
    path = tmp_path / "keypoints.safetensors"
    stored().save(path)
    whole = path.read_bytes()
    for length in (0, 5, 200, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut off, damaged, .*; delete it and run siftlens keypoints again"):
            KeypointStore.load(path)


def test_no_file_and_another_file_are_refused(tmp_path):
    with pytest.raises(InputError, match="no keypoints at .*; make the file: siftlens keypoints"):
        KeypointStore.load(tmp_path / "none")
    save_file({"x": np.zeros(3)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match="holds no keypoints of images; name a file that siftlens keypoints wrote"):
        KeypointStore.load(tmp_path / "weights.safetensors")


def test_a_byte_that_changed_is_found_out(tmp_path):
    path = tmp_path / "keypoints.safetensors"
    stored().save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of a keypoint: the file's parts still fit together
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"damaged, .*\(its bytes have changed\); delete it and run siftlens keypoints"
    ):
        KeypointStore.load(path)


def test_a_changed_header_is_found_out(tmp_path):
    path = tmp_path / "keypoints.safetensors"
    stored().save(path)
    path.write_bytes(path.read_bytes().replace(b'"side":"97"', b'"side":"96"'))
    with pytest.raises(InputError, match=r"damaged, .*\(its bytes have changed\); delete it and run siftlens"):
        KeypointStore.load(path)


@pytest.mark.parametrize("part", ["identities", "start", "x"])
def test_parts_that_do_not_fit_together_are_refused(tmp_path, part):
    path = tmp_path / "keypoints.safetensors"
    stored().save(path)
    with safe_open(path, "numpy") as file:
        metadata, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    arrays[part] = arrays[part][:-1].copy() if part != "start" else arrays["start"] + np.array([0, 900, -900, 0])
    if part == "identities":
        arrays[part][:] = 0xFF
    save_file(arrays, path, metadata)
    with pytest.raises(InputError, match=r"cut off, damaged, .*; delete it and run siftlens keypoints again"):
        KeypointStore.load(path)
