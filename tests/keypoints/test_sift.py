import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from siftlens.core import InputError
from siftlens.keypoints import SiftSettings, detect, detect_with

HEIGHT, WIDTH = 97, 131


def blob(x: float, y: float, sigma: float, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """A bright Gaussian spot whose centre is at (x, y) in the image frame."""
    rows, cols = np.mgrid[:height, :width] + 0.5
    return np.rint(40 + 180 * np.exp(-((cols - x) ** 2 + (rows - y) ** 2) / (2 * sigma**2))).astype(np.uint8)


def texture(seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (height // 5 + 1, width // 5 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("sigma", [2.0, 3.0, 6.0])
@pytest.mark.parametrize(("x", "y"), [(60.0, 40.0), (60.5, 40.5), (71.3, 50.8), (49.75, 33.2)])
def test_a_blob_is_found_where_it_is(x: float, y: float, sigma: float):
    found = detect(blob(x, y, sigma))
    strongest = found.response.argmax()
    assert abs(found.x[strongest] - x) < 0.1
    assert abs(found.y[strongest] - y) < 0.1
    # A blob of standard deviation sigma is an extremum at that scale; OpenCV's size is a diameter.
    assert found.size[strongest] == pytest.approx(2 * sigma, rel=0.2)


@pytest.mark.parametrize(("height", "width"), [(23, 41), (41, 23), (63, 67), (61, 211)])
def test_small_inputs_are_enlarged_and_mapped_back(height: int, width: int):
    x, y = width / 2 + 1.3, height / 2 - 0.7
    found = detect(blob(x, y, 2.0, height, width))
    strongest = found.response.argmax()
    assert (found.height, found.width) == (height, width)
    assert abs(found.x[strongest] - x) < 0.1
    assert abs(found.y[strongest] - y) < 0.1
    assert found.size[strongest] == pytest.approx(4, rel=0.2)


def test_every_keypoint_lies_in_the_image():
    for height, width, least in [(17, 29, 1), (43, 53, 10), (97, 131, 40)]:
        found = detect(texture(3, height, width))
        assert len(found) >= least
        assert ((found.x >= 0) & (found.x < width) & (found.y >= 0) & (found.y < height)).all()


@pytest.mark.parametrize("pixels", [np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.full((1, 1), 200, np.uint8)])
@pytest.mark.parametrize("descriptors", [False, True])
def test_a_blank_image_has_no_keypoints(pixels: np.ndarray, descriptors: bool):
    found = detect(pixels, descriptors=descriptors)
    assert len(found) == 0
    assert (found.height, found.width) == pixels.shape[:2]
    assert found.x.dtype == found.size.dtype == np.float32
    if descriptors:
        assert found.descriptors is not None
        assert found.descriptors.shape == (0, 128)


def by_opencv(pixels: np.ndarray) -> list[cv2.KeyPoint]:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return list(cv2.SIFT.create(enable_precise_upscale=True).detect(grey, None))


def test_numbers_are_opencvs_rounded_and_every_keypoint_counts_once():
    pixels = texture()
    raw = by_opencv(pixels)
    once: list[cv2.KeyPoint] = []
    for point in raw:
        if not any((p.pt, p.size, p.octave) == (point.pt, point.size, point.octave) for p in once):
            once.append(point)
    assert len(once) < len(raw)
    found = detect(pixels)
    assert len(found) == len(once)
    for index, point in enumerate(once):
        assert found.x[index] == round((point.pt[0] + 0.5) * 32) / 32
        assert found.y[index] == round((point.pt[1] + 0.5) * 32) / 32
        assert found.size[index] == pytest.approx(point.size, rel=2**-11)
        assert found.response[index] == pytest.approx(point.response, rel=2**-11)
        turn = abs(found.angle[index] - point.angle) % 360
        assert min(turn, 360 - turn) <= 360 / 256 / 2 + 1e-4
        octave = point.octave & 0xFF
        assert found.octave[index] == (octave - 256 if octave > 127 else octave)
    assert set(found.octave.tolist()) >= {-1, 0}
    assert ((found.angle >= 0) & (found.angle < 360)).all()


def test_every_kind_of_pixels_gives_the_same_keypoints():
    pixels = texture()
    first = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    expected = detect(pixels)
    kinds = [
        Image.fromarray(pixels),
        first,
        pixels / 255,
        torch.from_numpy(first),
        torch.from_numpy(first).float() / 255,
    ]
    for other in kinds:
        found = detect(other)
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.response, expected.response)


def test_detection_is_on_luma():
    spots = (texture()[:, :, 0] > 128)[:, :, None]
    red, green, grey = np.array([(196, 0, 0), (0, 100, 0), (196, 196, 196)], np.uint8)
    assert len(detect(np.where(spots, red, green))) == 0  # the same luma
    assert len(detect(np.where(spots, grey, green))) > 40


def test_descriptors_are_root_sift_of_the_same_keypoints():
    pixels = texture()
    plain, described = detect(pixels), detect(pixels, descriptors=True)
    assert plain.descriptors is None
    assert described.descriptors is not None
    for name in ("x", "y", "size", "response", "angle", "octave"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(described, name))
    assert described.descriptors.shape == (len(plain), 128)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    points, raw = cv2.SIFT.create(enable_precise_upscale=True).detectAndCompute(grey, None)
    for index in range(0, len(plain), 7):
        (same,) = [
            k
            for k, point in enumerate(points)
            if abs(point.pt[0] + 0.5 - plain.x[index]) < 0.02
            and abs(point.pt[1] + 0.5 - plain.y[index]) < 0.02
            and abs(point.size - plain.size[index]) < 0.01
            and abs((point.angle - plain.angle[index] + 180) % 360 - 180) < 0.8
        ]
        oracle = [(value / sum(raw[same].tolist())) ** 0.5 for value in raw[same].tolist()]
        np.testing.assert_allclose(described.descriptors[index], oracle, atol=1e-6)
    np.testing.assert_allclose((described.descriptors**2).sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value", "backend"),
    [
        ("n_octave_layers", 5, "nOctaveLayers"),
        ("contrast_threshold", 0.09, "contrastThreshold"),
        ("edge_threshold", 3.0, "edgeThreshold"),
        ("sigma", 2.3, "sigma"),
    ],
)
def test_every_parameter_reaches_opencv(name: str, value: float, backend: str, monkeypatch: pytest.MonkeyPatch):
    pixels, make, asked = texture(), cv2.SIFT.create, {}

    class Sift:
        @staticmethod
        def create(**settings: float) -> cv2.SIFT:
            asked.update(settings)
            return make(**settings)

    monkeypatch.setattr(cv2, "SIFT", Sift)
    usual = detect(pixels)
    assert asked == {
        "nOctaveLayers": 3,
        "contrastThreshold": 0.04,
        "edgeThreshold": 10.0,
        "sigma": 1.6,
        "enable_precise_upscale": True,
    }
    changed = detect(pixels, **{name: value})
    assert asked[backend] == value
    assert not np.array_equal(usual.x, changed.x)
    as_one = detect_with(SiftSettings(**{name: value}), pixels)
    np.testing.assert_array_equal(as_one.x, changed.x)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("n_octave_layers", 0, "n_octave_layers must be a whole number, at least 1, got 0"),
        ("contrast_threshold", -0.1, "contrast_threshold must be a number, not negative, got -0.1"),
        ("edge_threshold", 0.0, "edge_threshold must be a positive number, got 0.0"),
        ("sigma", float("nan"), "sigma must be a positive number, got nan"),
    ],
)
def test_parameters_are_checked(name: str, value: float, told: str):
    with pytest.raises(InputError, match=told):
        detect(texture(), **{name: value})


def test_the_number_of_threads_changes_nothing():
    pixels, threads = texture(5, 301, 401), cv2.getNumThreads()
    try:
        found = []
        for count in (1, 4):
            cv2.setNumThreads(count)
            found.append(detect(pixels))
    finally:
        cv2.setNumThreads(threads)
    np.testing.assert_array_equal(found[0].x, found[1].x)
    np.testing.assert_array_equal(found[0].response, found[1].response)
