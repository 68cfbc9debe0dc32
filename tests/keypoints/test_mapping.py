import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.tv_tensors import Image, KeyPoints

from siftlens.core import InputError, PatchGrid
from siftlens.keypoints import Keypoints, View, detect, map_keypoints

HEIGHT, WIDTH = 97, 131
BOXES = [(17, 11, 67, 53), (0, 0, 131, 97), (64, 48, 1, 1), (120, 3, 11, 94)]  # left, top, width, height


def keypoints_at(points, angle: float = 30.0) -> Keypoints:
    x, y = np.asarray(points, np.float32).reshape(-1, 2).T
    ones = np.ones(len(x), np.float32)
    return Keypoints(x, y, 7 * ones, 0.1 * ones, angle * ones, np.zeros(len(x), np.int16), None, HEIGHT, WIDTH)


def by_torchvision(points, view: View) -> np.ndarray:
    """The same through torchvision, whose points outside are kept where they are, as far as it allows.

    Its crop and resize count from the pixel's outer edge, as here; its flip alone counts from pixel centres
    (x' = width - 1 - x), which is 1 px less.
    """
    boxed = KeyPoints(torch.tensor(points, dtype=torch.float64), canvas_size=(HEIGHT, WIDTH))
    box = (int(view.top), int(view.left), int(view.crop_height), int(view.crop_width))
    cropped = v2.functional.crop(boxed, *box)
    resized = v2.functional.resize(cropped, [view.height, view.width])
    flipped = v2.functional.horizontal_flip(resized) if view.flip else resized
    return (flipped.as_subclass(torch.Tensor) + torch.tensor([float(view.flip), 0.0])).numpy()


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", BOXES)
def test_points_go_where_torchvision_puts_them(box, flip):
    points = np.random.default_rng(3).uniform((0, 0), (WIDTH, HEIGHT), (211, 2)).astype(np.float32)
    left, top, width, height = box
    inside = (points >= (left, top)).all(1) & (points < (left + width, top + height)).all(1)
    view = View(*box, width=83, height=71, flip=flip)
    mapped = map_keypoints(keypoints_at(points), view)
    expected = by_torchvision(points[inside].astype(np.float64), view)
    np.testing.assert_allclose(np.stack([mapped.x, mapped.y], 1), expected, atol=1e-4)  # its ratios are float32
    assert (mapped.width, mapped.height) == (83, 71)


@pytest.mark.parametrize("flip", [False, True])
def test_left_and_upper_edge_belong_to_the_view_the_others_do_not(flip):
    left, top, width, height = 17, 11, 67, 53
    across = [left - 1e-3, left, left + width - 1e-3, left + width]
    points = [(x, top) for x in across] + [(left + 5, y) for y in (top - 1e-3, top + height - 1e-3, top + height)]
    mapped = map_keypoints(keypoints_at(points), View(left, top, width, height, width=67, height=53, flip=flip))
    kept = [0.0, 67 - 1e-3] if not flip else [1e-3, 0.0]  # mirrored, the box's left edge is the view's right one
    np.testing.assert_allclose(mapped.x, [*kept, 62.0 if flip else 5.0], atol=1e-5)
    np.testing.assert_allclose(mapped.y, [0.0, 0.0, 53 - 1e-3], atol=1e-5)


def test_nothing_is_clamped_into_the_border_patches():
    """torchvision once did so (its issue 9223): points outside piled up at the border."""
    beyond = [(x, y) for x in (0, 5, 100, 130) for y in (0, 5, 80, 96)]
    mapped = map_keypoints(keypoints_at(beyond), View(20, 20, 50, 40, width=64, height=64))
    assert len(mapped) == 0


def test_every_patch_corner_falls_into_the_patch_it_begins():
    grid = PatchGrid(5, 7, 11, 13)
    corners = grid.centres() - (6.5, 5.5)
    view = View(10, 6, grid.width, grid.height, width=grid.width, height=grid.height)
    mapped = map_keypoints(keypoints_at(corners + np.array([10, 6])), view)
    assert grid.locate(mapped.x, mapped.y).tolist() == list(range(35))


def test_size_scales_by_the_geometric_mean_and_angles_turn_with_the_picture():
    point = keypoints_at([(40, 30)], angle=30.0)
    mapped = map_keypoints(point, View(20, 10, 50, 40, width=100, height=120))
    assert mapped.size[0] == pytest.approx(7 * np.sqrt(6.0))
    assert mapped.angle[0] == pytest.approx(np.degrees(np.arctan2(3 * np.sin(np.pi / 6), 2 * np.cos(np.pi / 6))))
    flipped = map_keypoints(point, View(20, 10, 50, 40, width=50, height=40, flip=True))
    assert flipped.angle[0] == pytest.approx(150.0)
    assert flipped.response[0] == point.response[0]


def test_mapped_points_lie_on_the_same_content_as_the_transformed_image():
    """The view's own pixels say where the dot went, the points follow."""
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[40:44, 60:64] = 255  # centre at (62, 42)
    view = View(30, 20, 62, 48, width=124, height=96, flip=True)
    seen = v2.functional.horizontal_flip(
        v2.functional.resized_crop(Image(torch.from_numpy(pixels).permute(2, 0, 1)), 20, 30, 48, 62, [96, 124])
    )
    rows, cols = np.nonzero(seen[0].numpy() > 127)
    mapped = map_keypoints(keypoints_at([(62, 42)]), view)
    assert mapped.x[0] == pytest.approx(cols.mean() + 0.5, abs=1e-6)
    assert mapped.y[0] == pytest.approx(rows.mean() + 0.5, abs=1e-6)


def test_detecting_in_the_flipped_image_finds_the_flipped_points():
    coarse = np.random.default_rng(0).integers(0, 255, (13, 17, 3), np.uint8)
    smooth = v2.functional.resize(torch.from_numpy(coarse).permute(2, 0, 1), [HEIGHT, WIDTH]).permute(1, 2, 0).numpy()
    mapped = map_keypoints(detect(smooth), View(0, 0, WIDTH, HEIGHT, width=WIDTH, height=HEIGHT, flip=True))
    found = detect(np.ascontiguousarray(smooth[:, ::-1]))
    apart = np.hypot(mapped.x[:, None] - found.x, mapped.y[:, None] - found.y).min(axis=1)
    assert len(mapped) > 20
    assert np.mean(apart < 0.1) > 0.9


def test_an_empty_view_is_refused():
    with pytest.raises(InputError, match=r"View\.crop_width must be positive, got 0"):
        View(0, 0, 0, 5, width=7, height=7)
