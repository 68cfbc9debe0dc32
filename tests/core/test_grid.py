import numpy as np
import pytest

from siftlens.core import InputError, PatchGrid, TokenLayout

GRID = PatchGrid(rows=3, cols=5, patch_height=7, patch_width=11)


def patch_by_loop(grid: PatchGrid, x: float, y: float) -> int:
    for row in range(grid.rows):
        for col in range(grid.cols):
            left, top = col * grid.patch_width, row * grid.patch_height
            if left <= x < left + grid.patch_width and top <= y < top + grid.patch_height:
                return row * grid.cols + col
    return -1


def test_sizes():
    assert (GRID.patches, GRID.height, GRID.width) == (15, 21, 55)


def test_a_point_on_every_border_belongs_to_the_right_and_lower_patch():
    for row in range(GRID.rows + 1):
        for col in range(GRID.cols + 1):
            x, y = np.array([col * 11.0]), np.array([row * 7.0])
            inside = row < GRID.rows and col < GRID.cols
            assert GRID.locate(x, y) == [row * 5 + col if inside else -1]
            assert GRID.locate(x, y) == [patch_by_loop(GRID, col * 11.0, row * 7.0)]


@pytest.mark.parametrize("dx", [-1e-3, 0.0, 1e-3])
@pytest.mark.parametrize("dy", [-1e-3, 0.0, 1e-3])
def test_points_beside_every_border_agree_with_a_loop(dx: float, dy: float):
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(-1, 7) * 11.0 + dx, np.arange(-1, 5) * 7.0 + dy))
    assert GRID.locate(x, y).tolist() == [patch_by_loop(GRID, a, b) for a, b in zip(x, y, strict=True)]


def test_float32_positions_are_not_rounded_across_a_border():
    x = np.array([np.nextafter(np.float32(11), np.float32(0))], np.float32)
    assert GRID.locate(x, np.zeros(1, np.float32)) == [0]


def test_centres_are_row_major_and_located_in_their_own_patch():
    centres = GRID.centres()
    assert centres.shape == (15, 2)
    assert centres[0].tolist() == [5.5, 3.5]
    assert centres[1].tolist() == [16.5, 3.5]
    assert centres[5].tolist() == [5.5, 10.5]
    assert GRID.locate(centres[:, 0], centres[:, 1]).tolist() == list(range(15))


@pytest.mark.parametrize("bad", [0, -2, True])
@pytest.mark.parametrize("name", ["rows", "cols", "patch_height", "patch_width"])
def test_sizes_must_be_positive_integers(name: str, bad: int):
    sizes = {"rows": 3, "cols": 5, "patch_height": 7, "patch_width": 11, name: bad}
    with pytest.raises(InputError, match=rf"{name} must be a whole number, at least 1, got {bad}"):
        PatchGrid(**sizes)


def test_a_grid_covers_its_image_but_for_an_incomplete_patch():
    grid = PatchGrid(3, 5, 7, 11)
    for height, width in ((21, 55), (27, 65)):
        grid.expect_covers(height, width)
    for height, width in ((20, 55), (28, 55), (21, 54), (21, 66)):
        with pytest.raises(InputError, match=f"the grid covers 55x21 px, but the model sees {width}x{height} px; give"):
            grid.expect_covers(height, width)


@pytest.mark.parametrize(("class_tokens", "registers"), [(0, 0), (1, 0), (2, 0), (1, 4)])
def test_the_prefix_stands_before_the_patches(class_tokens: int, registers: int):
    layout = TokenLayout(GRID, class_tokens, registers)
    assert layout.prefix == class_tokens + registers
    assert layout.tokens == layout.prefix + 15


@pytest.mark.parametrize("name", ["class_tokens", "registers"])
def test_a_prefix_is_a_number_of_tokens(name: str):
    for bad in (-1, True):
        with pytest.raises(InputError, match=rf"{name} must be a whole number, at least 0, got {bad}"):
            TokenLayout(GRID, **{name: bad})
