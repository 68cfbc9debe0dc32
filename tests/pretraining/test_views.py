"""Views: where they are cut, what they look like, and that their maps follow them."""

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import RandomResizedCrop, v2

from siftlens.core import InputError, PatchGrid
from siftlens.data import content_hash
from siftlens.keypoints import KeypointStore, SiftSettings, View, detect, map_keypoints
from siftlens.patchmaps import patch_weights
from siftlens.pretraining.batches import Batches
from siftlens.pretraining.guide import GradientGuide, KeypointGuide
from siftlens.pretraining.images import HeldImages
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.randomness import image_keys
from siftlens.pretraining.sampler import epoch_order, share_of, steps_per_epoch
from siftlens.pretraining.settings import PretrainSettings
from siftlens.pretraining.views import Boxes, cut, draw_boxes, normalised

SIDE, SIZE = 97, 60
GRID = PatchGrid(5, 6, 12, 10)


def pictures(count: int) -> torch.Tensor:
    coarse = torch.rand(count, 3, 23, 23, generator=torch.Generator().manual_seed(1))
    return (torch.nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bilinear") * 255).byte()


def boxes(count: int, smallest: float = 0.2, epoch: int = 0) -> Boxes:
    return draw_boxes(image_keys(0, epoch, torch.arange(count)), SIDE, smallest)


def test_boxes_are_distributed_as_torchvisions():
    drawn = boxes(1999)
    torch.manual_seed(0)
    theirs = np.array(
        [RandomResizedCrop.get_params(torch.empty(3, SIDE, SIDE), [0.2, 1], [3 / 4, 4 / 3]) for _ in range(1999)]
    )
    for ours, column in zip((drawn.top, drawn.left, drawn.height, drawn.width), theirs.T, strict=True):
        assert stats.ks_2samp(ours.numpy(), column).pvalue > 0.01
    assert (drawn.left + drawn.width).max() == (drawn.top + drawn.height).max() == SIDE
    assert float(drawn.flip.float().mean()) == pytest.approx(0.5, abs=0.05)


def test_where_no_box_fits_the_view_is_the_whole_square():
    drawn = boxes(97, smallest=1.0)
    assert drawn.width.unique().tolist() == [SIDE]
    assert drawn.left.unique().tolist() == [0]


def test_views_are_torchvisions_resized_crops():
    images, drawn = pictures(7), boxes(7)
    views = cut(images, drawn, SIZE)
    for n in range(7):
        place = [int(column[n]) for column in (drawn.top, drawn.left, drawn.height, drawn.width)]
        expected = v2.functional.resized_crop(images[n], *place, [SIZE, SIZE], antialias=True)
        expected = v2.functional.horizontal_flip(expected) if drawn.flip[n] else expected
        assert torch.equal(views[n], expected)


def test_numbers_are_normalised_per_channel():
    x = normalised(torch.full((2, 3, 5, 7), 51, dtype=torch.uint8), (0.1, 0.2, 0.3), (0.5, 0.25, 0.1))
    np.testing.assert_allclose(x[1, :, 4, 6], [0.2, 0.0, -1.0], atol=1e-6)


def store_of(images: torch.Tensor) -> KeypointStore:
    pixels = [image.permute(1, 2, 0).contiguous().numpy() for image in images]
    found = ((str(n), content_hash(each), detect(each)) for n, each in enumerate(pixels))
    return KeypointStore.gather(found, SIDE, SiftSettings())


def test_map_of_a_view_is_the_mapped_keypoints_patch_by_patch():
    images, drawn = pictures(11), boxes(11)
    place = torch.randperm(11, generator=torch.Generator().manual_seed(0)).numpy()
    guide = KeypointGuide(store_of(images[np.argsort(place)]), place)
    batch = torch.tensor([3, 7, 3, 0])
    part = Boxes(*(column[batch] for column in vars(drawn).values()))
    found = guide(batch, batch, part, images, GRID)
    assert found.sum() > 20
    for row, image in enumerate(batch.tolist()):
        box = [int(column[image]) for column in (drawn.left, drawn.top, drawn.width, drawn.height)]
        view = View(*box, width=GRID.width, height=GRID.height, flip=bool(drawn.flip[image]))
        mapped = map_keypoints(detect(images[image].permute(1, 2, 0).contiguous()), view)
        np.testing.assert_array_equal(found[row].reshape(5, 6), patch_weights(mapped, GRID))


def test_another_images_map_is_never_ones_own_and_any_others():
    images = pictures(5)
    store = store_of(images)
    whole = Boxes(*(torch.full((200,), value) for value in (0, 0, SIDE, SIDE)), torch.zeros(200, dtype=torch.bool))
    batch = torch.arange(200) % 5
    keys = image_keys(0, 0, torch.arange(200))
    own = KeypointGuide(store, np.arange(5))(batch, keys, whole, images, GRID)
    other = KeypointGuide(store, np.arange(5), other=True)(batch, keys, whole, images, GRID)
    whose = [[n for n in range(5) if torch.equal(row, own[n])] for row in other]
    pairs = {(image, found[0]) for image, found in zip(batch.tolist(), whose, strict=True)}
    assert pairs == {(a, b) for a in range(5) for b in range(5) if a != b}


@pytest.mark.parametrize(("progress", "size", "rows", "cols"), [(0.0, 30, 3, 2), (0.2, 30, 3, 2), (0.4, 60, 6, 4)])
def test_a_small_view_is_cut_counted_and_masked_patch_by_patch(progress, size, rows, cols):
    images, names = pictures(7), tuple(map(str, range(7)))
    counted = []
    keypoints = KeypointGuide(store_of(images), np.arange(7))
    settings = PretrainSettings(
        size=SIZE,
        source=SIDE,
        first_size=30,
        first_part=0.4,
        batch_size=7,
        policy=MaskPolicy("keypoint-high", ratio=0.6),
    )
    held = HeldImages(names, names, names, images)
    made = Batches(
        held, lambda *given: counted.append(keypoints(*given)) or counted[0], PatchGrid(6, 4, 10, 15), settings
    )
    found = made.views(torch.arange(7), 0, progress=progress)

    drawn, patches = boxes(7), rows * cols
    assert torch.equal(found.views, cut(images, drawn, size))
    counts = np.zeros((7, patches))
    for n in range(7):
        points = detect(images[n].permute(1, 2, 0).contiguous().numpy())
        for x, y in zip(points.x, points.y, strict=True):
            x = (x - int(drawn.left[n])) * size / int(drawn.width[n])
            x = size - x if drawn.flip[n] else x
            y = (y - int(drawn.top[n])) * size / int(drawn.height[n])
            if 0 <= x < size and 0 <= y < size:
                counts[n, int(y // 10) * cols + int(x // 15)] += 1
    assert counts.sum() > 20
    np.testing.assert_array_equal(counted[0], counts)
    assert found.visible.shape == (7, round(0.4 * patches))
    together = torch.cat([found.visible, found.decoded], 1)
    assert torch.equal(together.sort(1).values, torch.arange(patches).expand(7, -1))


def test_gradient_map_is_the_mean_squared_gradient_of_luma():
    views = torch.randint(0, 256, (2, 3, GRID.height, GRID.width), dtype=torch.uint8)
    found = GradientGuide()(views, views, boxes(2), views, GRID)
    luma = (views.double().numpy() * np.array([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    down, right = np.gradient(luma, axis=(1, 2))
    energy = down**2 + right**2
    for row in range(5):
        for col in range(6):
            patch = energy[:, 12 * row : 12 * row + 12, 10 * col : 10 * col + 10]
            np.testing.assert_allclose(found[:, 6 * row + col], patch.mean((1, 2)), rtol=1e-4)


def test_every_epoch_has_its_own_order_of_all_images():
    orders = [epoch_order(0, epoch, 101) for epoch in range(3)]
    for order in orders:
        assert order.sort().values.tolist() == list(range(101))
    assert not torch.equal(orders[0], orders[1])
    assert torch.equal(orders[2], epoch_order(0, 2, 101))
    assert not torch.equal(orders[0], epoch_order(1, 0, 101))


def test_parts_of_a_step_make_the_step():
    step = torch.arange(24)
    parts = [share_of(step, part, 3) for part in range(3)]
    assert [len(part) for part in parts] == [8, 8, 8]
    assert torch.cat(parts).sort().values.tolist() == step.tolist()


def test_too_few_images_for_a_batch_are_refused():
    assert steps_per_epoch(101, 7) == 14
    with pytest.raises(InputError, match="a batch of 64 needs as many images, got 63; choose a smaller --batch-size"):
        steps_per_epoch(63, 64)
