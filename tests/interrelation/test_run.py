"""The run loop, on a tiny model and images drawn here: resume, batches, groups, quarantine, refusals."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from siftlens.core import InputError, ModelError, NothingReadableError
from siftlens.data import NORMALIZATIONS, Preprocessing, discard_progress, has_progress, open_images
from siftlens.interrelation import reference
from siftlens.interrelation.run import run
from siftlens.interrelation.settings import MAX_GROUPS, Settings
from siftlens.models import LoadedModel, hash_weights

HEIGHT, WIDTH, PATCH, LAYERS, HEADS = 40, 56, 8, 2, 3  # 5 x 7 patches


def draw(seed):
    """A picture with something to find: discs and bars on a ramp."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = np.stack([x * 2.0, y * 3.0, 60 + 0 * x], axis=2)
    for _ in range(6):
        cy, cx, radius = rng.uniform(0, HEIGHT), rng.uniform(0, WIDTH), rng.uniform(2, 9)
        picture[(y - cy) ** 2 + (x - cx) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    return picture.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    vit = VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=24, depth=LAYERS, num_heads=HEADS, num_classes=11
    )
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(12)  # attention that is not even
    return loaded(vit)


def loaded(vit):
    return LoadedModel(
        module=vit.eval(),
        spec="test/tiny",
        name="tiny",
        preprocessing=Preprocessing(HEIGHT, WIDTH),
        normalization=NORMALIZATIONS["imagenet"],
        weights_hash=hash_weights(vit),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """17 pictures in 2 folders, and 3 files that are none."""
    path = tmp_path_factory.mktemp("images")
    for number in range(17):
        group = path / ("cats" if number % 3 else "dogs")
        group.mkdir(exist_ok=True)
        Image.fromarray(draw(number)).save(group / f"{number:02}.png")
    (path / "dogs" / "00a.jpg").write_bytes(b"")
    (path / "cats" / '04, "b".jpg').write_bytes((path / "cats" / "04.png").read_bytes()[:300])
    (path / "cats" / "notes.txt").write_text("not an image")
    return path


@contextmanager
def analysed(model, images, where, *, settings=None, **options):
    result = run(model, open_images(images), settings or Settings(batch_size=5, workers=0), where, **options)
    with result.arrays:
        yield result


@pytest.fixture(scope="module")
def plain(model, folder, tmp_path_factory):
    """What the others are compared with."""
    with analysed(model, folder, tmp_path_factory.mktemp("plain")) as result:
        yield replace(result, arrays=result.arrays.load())


class Stop:
    """Ctrl-C after so many images of the main pass."""

    def __init__(self, after):
        self.after = after

    def __call__(self, stage, done, total):
        if stage == "images" and done >= self.after:
            raise KeyboardInterrupt


def assert_same(one, other, **tolerance):
    if tolerance:
        pd.testing.assert_frame_equal(one.heads, other.heads, **tolerance)
        xr.testing.assert_allclose(one.arrays, other.arrays, **tolerance)
    else:
        pd.testing.assert_frame_equal(one.heads, other.heads)
        xr.testing.assert_identical(one.arrays.load(), other.arrays.load())
    pd.testing.assert_frame_equal(one.images, other.images)
    pd.testing.assert_frame_equal(one.quarantine, other.quarantine)


def test_a_run_counts_what_it_read_and_what_it_set_aside(plain, folder):
    result = plain
    assert (result.run.images, result.run.quarantined, result.run.pool) == (17, 3, 17)
    assert sorted(result.quarantine["identity"]) == ['cats/04, "b".jpg', "cats/notes.txt", "dogs/00a.jpg"]
    assert list(result.images["identity"]) == [
        ref.identity for ref in open_images(folder) if ref.identity[-3:] == "png"
    ]
    assert list(result.arrays["image"].values) == list(result.images["identity"])
    assert set(result.images["group"]) == {"cats", "dogs"}
    assert result.images["keypoints"].gt(0).any()
    assert result.run.covered == pytest.approx(result.images["covered"].mean())
    assert result.run.model["rows"] == 5
    assert result.run.model["cols"] == 7
    assert set(result.run.timings) >= {"pool", "waiting for images", "model", "sums", "commits", "gallery"}


def test_rows_per_image_average_to_the_table(model, folder, tmp_path):
    with analysed(model, folder, tmp_path, settings=Settings(batch_size=5, workers=0, entropy=True)) as result:
        for statistic in ("semantic_pull", "partial_pull", "assortativity", "cls_pull", "class_mass", "entropy"):
            found = result.heads.query("statistic == @statistic").pivot(index="layer", columns="head", values="value")
            np.testing.assert_allclose(result.arrays[statistic].mean("image"), found, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batches_of_another_size_give_the_same(model, folder, plain, tmp_path, batch_size):
    settings = Settings(batch_size=batch_size, workers=0)
    with analysed(model, folder, tmp_path, settings=settings) as found:
        assert_same(found, plain, rtol=1e-5, atol=1e-5)


def test_worker_processes_give_the_same(model, folder, plain, tmp_path):
    with analysed(model, folder, tmp_path, settings=Settings(batch_size=5, workers=2)) as found:
        assert_same(found, plain)


@pytest.mark.parametrize("after", [5, 9, 20])
def test_a_stopped_run_goes_on_to_the_same_numbers(model, folder, plain, tmp_path, after):
    settings = Settings(batch_size=5, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run(model, open_images(folder), settings, tmp_path, progress=Stop(after), commit_seconds=0)
    assert has_progress(tmp_path)
    seen = []

    def watch(stage, done, _):
        if stage == "images":
            seen.append(done)

    with analysed(model, folder, tmp_path, resume=True, progress=watch) as found:
        assert_same(found, plain)
    assert seen[0] >= 5  # finished work is not done again
    discard_progress(tmp_path)
    assert not has_progress(tmp_path)


def test_a_stopped_run_does_not_go_on_with_other_settings(model, folder, tmp_path):
    settings = Settings(batch_size=5, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run(model, open_images(folder), settings, tmp_path, progress=Stop(5), commit_seconds=0)
    with pytest.raises(InputError, match="was begun with seed 0, now it is 1"):
        run(model, open_images(folder), replace(settings, seed=1), tmp_path, resume=True)
    with pytest.raises(InputError, match="was begun with images 20, now it is 4"):
        run(model, open_images(folder, limit=4), settings, tmp_path, resume=True)
    # Speed may change.
    run(model, open_images(folder), replace(settings, batch_size=3), tmp_path, resume=True).arrays.close()


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("png", "was begun with images whose files had other sizes; resume with the same, or choose another folder"),
        ("bmp", "the images have changed since the analysis in .* was begun, which they cannot resume; begin anew"),
    ],
)
def test_a_stopped_run_does_not_go_on_with_other_images(model, tmp_path, kind, told):
    images = tmp_path / "in"
    images.mkdir()
    for number in range(11):
        Image.fromarray(draw(number)).save(images / f"{number:02}.{kind}")
    settings = Settings(batch_size=5, workers=0)
    with pytest.raises(KeyboardInterrupt):
        run(model, open_images(images), settings, tmp_path, progress=Stop(5), commit_seconds=0)
    Image.fromarray(draw(99)).save(images / f"07.{kind}")
    with pytest.raises(InputError, match=told):
        run(model, open_images(images), settings, tmp_path, resume=True)


def test_groups_are_analysed_apart(model, folder, plain, tmp_path):
    settings = Settings(batch_size=5, workers=0, group_by="folder")
    with analysed(model, folder, tmp_path, settings=settings) as result:
        table = result.heads_by_group
        assert list(table.columns) == ["group", *result.heads.columns]
        for group in ("cats", "dogs"):
            own = (result.images["group"] == group).to_numpy()
            found = table.query("group == @group and statistic == 'semantic_pull'")
            assert set(found["n"]) == {own.sum()}
            np.testing.assert_allclose(
                found.pivot(index="layer", columns="head", values="value"),
                result.arrays["semantic_pull"].isel(image=own).mean("image"),
                rtol=1e-5,
                atol=1e-6,
            )
        assert plain.heads_by_group is None
        pd.testing.assert_frame_equal(result.heads, plain.heads, rtol=1e-9)


def test_too_many_groups_are_refused(model, tmp_path):
    for number in range(MAX_GROUPS + 1):
        (tmp_path / "in" / f"{number}").mkdir(parents=True)
        Image.fromarray(draw(number)).save(tmp_path / "in" / f"{number}" / "a.png")
    with pytest.raises(InputError, match="expected at most 32 groups, got 33 folders"):
        run(model, open_images(tmp_path / "in"), Settings(group_by="folder", workers=0), tmp_path / "out")


def test_unreadable_images_of_the_pool_give_way(model, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "POOL_SIZE", 7)
    images = tmp_path / "in"
    images.mkdir()
    for number in range(13):
        Image.fromarray(draw(number)).save(images / f"{number:02}.png")
    with analysed(model, images, tmp_path / "a") as result:
        assert result.run.pool == 7
        first = [image.identity for image in result.gallery]
    assert len(first) == 7  # those of the pool, in its order
    for identity in first[:2]:
        (images / identity).write_bytes(b"")
    with analysed(model, images, tmp_path / "b") as result:
        assert (result.run.pool, result.run.quarantined) == (7, 2)
        assert [image.identity for image in result.gallery][:5] == first[2:]


def test_copies_of_an_image_stand_once_in_the_pool(model, tmp_path):
    images = tmp_path / "in"
    images.mkdir()
    for number in range(11):
        Image.fromarray(draw(number % 4)).save(images / f"{number:02}.png")
    with analysed(model, images, tmp_path / "a") as result:
        assert (result.run.images, result.run.pool, len(result.gallery)) == (11, 4, 4)


def test_nothing_readable_is_an_error_of_its_own(model, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    (tmp_path / "in" / "b.jpg").write_text("text")
    with pytest.raises(NothingReadableError, match=r"none of the 2 images could be read; the first: [ab]\.jpg: "):
        run(model, open_images(tmp_path / "in"), Settings(workers=0), tmp_path / "out")
    assert not has_progress(tmp_path / "out")


def test_the_reasons_of_the_first_images_are_told(model, tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(7):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(b"")
    with pytest.raises(NothingReadableError, match=r"none of the 7 images .*(\d\.jpg: [^;]*; ){5}and 2 more$"):
        run(model, open_images(tmp_path / "in"), Settings(workers=0), tmp_path / "out")


def test_one_image_has_no_null(model, tmp_path):
    with analysed(model, [draw(1)], tmp_path) as result:
        pull = result.heads.query("statistic == 'semantic_pull'")
        assert np.isfinite(pull["value"]).all()
        assert pull["effect"].isna().all()
        assert not pull["significant"].any()


def test_another_seed_gives_other_nulls_only(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(reference, "POOL_SIZE", 7)
    with (
        analysed(model, folder, tmp_path / "a") as one,
        analysed(model, folder, tmp_path / "b", settings=Settings(batch_size=5, workers=0, seed=1)) as other,
    ):
        pull = [result.heads.query("statistic == 'semantic_pull'") for result in (one, other)]
        np.testing.assert_array_equal(pull[0]["value"], pull[1]["value"])
        assert not np.allclose(pull[0]["null_mean"], pull[1]["null_mean"])


def test_a_measure_of_ones_own_is_used_and_named(model, folder, tmp_path):
    def left(pixels, grid):
        assert pixels.shape == (HEIGHT, WIDTH, 3)
        return np.arange(grid.cols, 0, -1.0) + np.zeros((grid.rows, 1))

    with analysed(model, folder, tmp_path, settings=Settings(measure=left, batch_size=5, workers=0)) as result:
        assert result.run.settings["measure"].endswith("left")
        np.testing.assert_array_equal(result.gallery[0].concentration[2], np.arange(7, 0, -1))
        # The same map for every image: other images' maps explain all of it.
        pull = result.heads.query("statistic == 'semantic_pull'")
        np.testing.assert_allclose(pull["effect"], 0, atol=1e-6)
        assert pull["value"].abs().max() > 1e-3


class Spoilt(torch.nn.Module):
    """The model, with something wrong in it."""

    def __init__(self, vit, spoil):
        super().__init__()
        self.vit, self.spoil = vit, spoil

    def forward(self, x):
        return self.spoil(self.vit(x))


def test_nan_in_an_attention_names_the_layer(folder, tmp_path, model):
    vit = VisionTransformer(img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=24, depth=LAYERS, num_heads=HEADS)
    with torch.no_grad():
        vit.blocks[1].attn.qkv.weight[0, 0] = torch.inf
    with pytest.raises(ModelError, match=r"the attention of blocks\.1\.attn has NaN or infinity; check the weights"):
        run(loaded(vit), open_images(folder), Settings(workers=0), tmp_path)


@pytest.mark.parametrize("wrap", [lambda y: y, lambda y: (y, y.long()), lambda y: {"logits": [y]}])
def test_nan_in_the_output_is_refused_whatever_it_is_wrapped_in(folder, tmp_path, model, wrap):
    spoilt = replace(model, module=Spoilt(model.module, lambda y: wrap(y.log() * 0 - torch.inf)).eval())
    with pytest.raises(ModelError, match="the model's output has NaN or infinity"):
        run(spoilt, open_images(folder), Settings(workers=0), tmp_path)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_a_batch_that_does_not_fit_says_what_to_do(folder, tmp_path, model, error):
    def fail(logits):
        if len(logits) == 5:
            raise error
        return logits

    spoilt = replace(model, module=Spoilt(model.module, fail).eval())
    with pytest.raises(InputError, match="a batch of 5 images does not fit into memory; lower --batch-size"):
        run(spoilt, open_images(folder), Settings(workers=0, batch_size=5), tmp_path)


def test_other_errors_of_the_model_are_its_own(folder, tmp_path, model):
    def fail(_):
        raise RuntimeError("a fault of the model")

    spoilt = replace(model, module=Spoilt(model.module, fail).eval())
    with pytest.raises(RuntimeError, match="a fault of the model"):
        run(spoilt, open_images(folder), Settings(workers=0), tmp_path)


def test_a_folder_that_cannot_be_written_says_so(model, folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file"):
        run(model, open_images(folder), Settings(workers=0), tmp_path / "file")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"weighting": "values"}, "weighting must be one of attention, value_norm, got 'values'"),
        ({"group_by": "label"}, "group_by must be one of folder, or None; got 'label'"),
        ({"batch_size": 0}, "batch_size must be a whole number, at least 1, got 0"),
        ({"workers": -1}, "workers must be a whole number from 0 to 1024, or None, got -1"),
        ({"workers": 100_000}, "workers must be a whole number from 0 to 1024, or None, got 100000"),
    ],
)
def test_settings_are_checked(settings, told):
    with pytest.raises(InputError, match=told):
        Settings(**settings)


def test_tokens_of_outlier_norm_are_counted_and_can_be_left_out(model, folder, plain, tmp_path):
    vit = VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=PATCH, embed_dim=24, depth=LAYERS, num_heads=HEADS, num_classes=11
    )
    with torch.no_grad():
        vit.pos_embed[0, 1 + 11] = 1000
    settings = Settings(batch_size=5, workers=0, exclude_outliers=True)
    with analysed(loaded(vit), folder, tmp_path, settings=settings) as result:
        assert set(result.images["outlier_tokens"]) == {1}
        assert result.arrays["level_n"].sum() == 17 * 34
        assert plain.arrays["level_n"].sum() == 17 * 35


def test_a_model_whose_blocks_hide_their_tokens_cannot_leave_out_any(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("siftlens.attention.modules.ModuleTracker._note_norms", lambda *_: None)
    settings = Settings(batch_size=5, workers=0, exclude_outliers=True)
    with pytest.raises(
        InputError, match="no block returns its tokens, so outlier tokens cannot be told; leave out --excl"
    ):
        run(model, open_images(folder), settings, tmp_path)
