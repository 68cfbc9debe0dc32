"""`analyze` on models and images of the caller's own, and studies on disk, whole and damaged."""

import json
import shutil
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import siftlens
from siftlens.core import InputError, ModelError, StudyError
from siftlens.data import NORMALIZATIONS, held

HEIGHT, WIDTH = 40, 56
FILES = [
    "arrays.nc",
    "gallery.npz",
    "heads.parquet",
    "layers.parquet",
    "images.parquet",
    "index.html",
    "quarantine.csv",
    "run.json",
]


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIFTLENS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(5)
    return VisionTransformer(
        img_size=(HEIGHT, WIDTH), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=11
    ).eval()


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    small = rng.integers(0, 255, (13, 10, 14, 3), dtype=np.uint8)
    return [np.asarray(Image.fromarray(one).resize((WIDTH, HEIGHT), Image.Resampling.NEAREST)) for one in small]


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    path = tmp_path_factory.mktemp("images")
    for number, picture in enumerate(pictures):
        (path / f"g{number % 2}").mkdir(exist_ok=True)
        Image.fromarray(picture).save(path / f"g{number % 2}" / f'{number:02}, "é"\n.png')
    (path / "none.jpg").write_bytes(b"")
    return path


@pytest.fixture(scope="module")
def study(vit, folder):
    return siftlens.analyze(vit, folder, normalize="imagenet", size=(HEIGHT, WIDTH), group_by="folder")


@pytest.fixture(scope="module")
def saved(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "of" / "mine"
    study.save(path)
    return path


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.heads, other.heads)
    pd.testing.assert_frame_equal(one.images, other.images)
    pd.testing.assert_frame_equal(one.quarantine, other.quarantine)
    xr.testing.assert_identical(one.arrays.load(), other.arrays.load())


def copy(saved, tmp_path):
    """The saved study in a folder that may be damaged."""
    target = tmp_path / "copy"
    target.mkdir()
    for file in saved.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_masks_tell_how_far_concentration_marks_the_object(vit, folder, tmp_path):
    masks = tmp_path / "masks"
    expected = {}
    grid = siftlens.PatchGrid(5, 7, 8, 8)
    for number, path in enumerate(sorted(folder.glob("g0/*.png"))):
        patches = np.random.default_rng(number).random((5, 7)) < 0.4
        mask = masks / "g0" / f"{path.stem}.bmp"
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(patches, np.ones((8, 8), np.uint8)) * 255).save(mask)
        weights = siftlens.concentration(siftlens.detect(np.asarray(Image.open(path))), grid).numpy()
        above = weights[patches][:, None] - weights[~patches]
        expected[f"g0/{path.name}"] = ((above > 0) + 0.5 * (above == 0)).mean()
    (masks / "g0" / f"{path.stem}.bmp").write_bytes(b"damaged")
    del expected[f"g0/{path.name}"]
    with_masks = siftlens.analyze(vit, folder, normalize="imagenet", size=(HEIGHT, WIDTH), masks=masks)
    found = with_masks.images.set_index("identity")["mask_auroc"].dropna()
    assert found.to_dict() == pytest.approx(expected, abs=1e-6)
    with_masks.save(tmp_path / "out")
    mean = np.mean(list(expected.values()))
    assert f"with an AUROC of {mean:.2f}" in " ".join((tmp_path / "out" / "index.html").read_text("utf-8").split())
    assert with_masks.run.settings["masks"] == str(masks)


def test_masks_that_belong_to_no_image_are_refused(vit, folder, pictures, tmp_path):
    (tmp_path / "other.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"no mask in .* is named as one of the images; expected, say, .*g0"):
        siftlens.analyze(vit, folder, normalize="imagenet", size=(HEIGHT, WIDTH), masks=tmp_path)
    with pytest.raises(InputError, match="pass images as a path too"):
        siftlens.analyze(vit, pictures, normalize="imagenet", masks=tmp_path)


def test_a_study_tells_what_it_holds(study, folder):
    assert repr(study) == "Study(model='VisionTransformer', images=13, quarantined=1)"
    assert list(study.quarantine["identity"]) == ["none.jpg"]
    assert set(study.heads["statistic"]) >= {"semantic_pull", "partial_pull", "assortativity", "cls_pull"}
    assert {"measure": "count", "limit": None, "source": str(folder)}.items() <= study.run.settings.items()
    assert set(study.heads_by_group["group"]) == {"g0", "g1"}


def test_saving_and_loading_gives_the_same_study(study, saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, "heads_by_group.parquet"])
    found = siftlens.load_study(saved)
    with found.arrays:
        assert_same(found, study)
    assert found.run == study.run
    pd.testing.assert_frame_equal(found.heads_by_group, study.heads_by_group)
    for one, other in zip(found.result.gallery, study.result.gallery, strict=True):
        np.testing.assert_array_equal(one.received, other.received)


def test_a_loaded_study_can_be_saved_elsewhere(saved, tmp_path):
    study = siftlens.load_study(saved)
    study.save(tmp_path / "again")
    again = siftlens.load_study(tmp_path / "again")
    with study.arrays, again.arrays:
        assert_same(study, again)


def test_a_study_is_not_overwritten(study, saved):
    with pytest.raises(InputError, match="holds a finished study; choose another folder, or remove that one first"):
        study.save(saved)


def test_the_report_is_written_with_the_study(saved):
    page = (saved / "index.html").read_text(encoding="utf-8")
    assert "VisionTransformer" in page


@pytest.mark.parametrize("name", sorted({*FILES} - {"index.html"}))
def test_a_missing_file_is_named(saved, tmp_path, name):
    path = copy(saved, tmp_path)
    (path / name).unlink()
    with pytest.raises(StudyError, match=name.replace(".", r"\.")):
        siftlens.load_study(path)


@pytest.mark.parametrize("name", sorted({*FILES} - {"index.html"}))
@pytest.mark.parametrize("share", [0, 0.5, 0.98])
def test_a_file_that_was_cut_off_is_named(saved, tmp_path, name, share):
    path = copy(saved, tmp_path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(
        StudyError, match=rf"{name.replace('.', '[.]')} is damaged or cut off[, ].*; copy it again, or run"
    ):
        siftlens.load_study(path)


def test_numbers_that_were_changed_are_not_shown(saved, tmp_path):
    path = copy(saved, tmp_path)
    heads = pd.read_parquet(path / "heads.parquet")
    heads.assign(effect=1.0).to_parquet(path / "heads.parquet", index=False)
    with pytest.raises(StudyError, match=r"heads\.parquet is damaged or cut off, or was changed since it was written"):
        siftlens.load_study(path)


def test_a_page_that_was_changed_or_removed_does_no_harm(saved, study, tmp_path):
    path = copy(saved, tmp_path)
    (path / "index.html").unlink()
    found = siftlens.load_study(path)
    with found.arrays:
        assert_same(found, study)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, r"run\.json has format 2, this siftlens reads up to 1; update siftlens"),
        ({"format": None}, r"run\.json names no format"),
        ({"images": 14}, r"run\.json was changed since it was written; copy it again, or run the analysis again"),
        ({"checksums": {}}, r"run\.json was changed since it was written"),
        ({"checksums": None}, r"run\.json has no checksums: of a siftlens before there were any, or changed"),
    ],
)
def test_a_record_that_was_changed_is_refused(saved, tmp_path, change, told):
    path = copy(saved, tmp_path)
    record = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps(record | change))
    with pytest.raises(StudyError, match=told):
        siftlens.load_study(path)


@pytest.mark.parametrize(("text", "told"), [("[]", "names no format"), ('{"format": 1}', "has no checksums")])
def test_a_record_of_another_kind_is_refused(saved, tmp_path, text, told):
    path = copy(saved, tmp_path)
    (path / "run.json").write_text(text)
    with pytest.raises(StudyError, match=told):
        siftlens.load_study(path)


def test_no_folder_is_no_study(tmp_path):
    with pytest.raises(StudyError, match="expected the folder of a study, but .*nowhere does not exist"):
        siftlens.load_study(tmp_path / "nowhere")
    with pytest.raises(StudyError, match=r"has no run\.json: it holds no study"):
        siftlens.load_study(tmp_path)
    (tmp_path / ".progress").mkdir()
    (tmp_path / ".progress" / "state.json").touch()
    with pytest.raises(StudyError, match=r"has no run\.json: it was interrupted \(go on with it by --resume\)"):
        siftlens.load_study(tmp_path)


def test_a_study_on_disk_is_the_one_in_memory(vit, folder, study, tmp_path):
    options = {"normalize": "imagenet", "size": (HEIGHT, WIDTH), "group_by": "folder"}
    found = siftlens.analyze(vit, folder, out=tmp_path, **options)
    with found.arrays:
        assert_same(found, study)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "heads_by_group.parquet"])
    with pytest.raises(InputError, match="holds a finished study"):
        siftlens.analyze(vit, folder, out=tmp_path, **options)
    again = siftlens.analyze(vit, folder, out=tmp_path, resume=True, **options)  # nothing left to do
    with again.arrays:
        assert_same(again, study)
    with pytest.raises(InputError, match="was begun with seed 0, now it is 1; resume with the same, or choose"):
        siftlens.analyze(vit, folder, out=tmp_path, resume=True, seed=1, **options)


def test_another_kind_of_result_is_not_overwritten(vit, pictures, study, saved, tmp_path):
    (tmp_path / "audit.json").write_text("{}")
    (tmp_path / "prompted").mkdir()
    (tmp_path / "prompted" / "prompt.json").write_text("{}")
    with pytest.raises(InputError, match="holds a finished audit; choose another folder"):
        siftlens.analyze(vit, pictures, normalize=None, out=tmp_path, resume=True)
    with pytest.raises(InputError, match="holds a finished prompt; choose another folder"):
        study.save(tmp_path / "prompted")
    with pytest.raises(InputError, match="holds a finished study; choose another folder"):
        siftlens.audit(vit, pictures, [0, 1] * 6 + [1], normalize=None, out=saved, resume=True)


def test_an_output_folder_among_the_images(vit, pictures, tmp_path):
    for number, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
    given = {"normalize": None, "size": (HEIGHT, WIDTH), "out": tmp_path / "out"}
    with siftlens.analyze(vit, tmp_path, **given).arrays, siftlens.analyze(vit, tmp_path, resume=True, **given).arrays:
        pass
    (tmp_path / "out" / "run.json").write_text('{"mine": 1}')
    with pytest.raises(InputError, match="images.parquet has no column of image bytes"):  # no result of ours
        siftlens.analyze(vit, tmp_path, normalize=None, size=(HEIGHT, WIDTH))


def test_what_is_refused_leaves_no_folder(vit, pictures, tmp_path):
    with pytest.raises(InputError, match="measure must be one of"):
        siftlens.analyze(vit, pictures, normalize=None, measure="mass", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_run_writes_to_is_refused(vit, pictures, tmp_path):
    with held(tmp_path), pytest.raises(InputError, match="another run is writing to .*; wait for it to end"):
        siftlens.analyze(vit, pictures, normalize=None, out=tmp_path, resume=True)
    assert list(tmp_path.iterdir()) == []


def test_a_study_that_was_finished_meanwhile_is_not_overwritten(vit, pictures, saved, tmp_path, monkeypatch):
    """By another command, between the first look at the folder and holding it."""

    @contextmanager
    def another_was_faster(place):
        shutil.copytree(saved, place)
        yield

    monkeypatch.setattr("siftlens.study.analysis.held", another_was_faster)
    with pytest.raises(InputError, match="holds a finished study; choose another folder"):
        siftlens.analyze(vit, pictures, normalize=None, out=tmp_path / "out")
    siftlens.load_study(tmp_path / "out").arrays.close()


def test_pixels_in_memory_are_taken_however_they_come(vit, pictures):
    expected = siftlens.analyze(vit, pictures, normalize="clip", cache=False)
    assert len(set(expected.images["identity"])) == 13
    for images in (
        [picture / 255 for picture in pictures],
        torch.from_numpy(np.stack(pictures)).movedim(-1, 1).float() / 255,
        tuple(Image.fromarray(picture) for picture in pictures),
    ):
        assert_same(siftlens.analyze(vit, images, normalize="clip", cache=False), expected)


class Normalizing(torch.nn.Module):
    """A model that normalises by itself."""

    def __init__(self, vit):
        super().__init__()
        self.vit = vit

    def forward(self, x):
        mean, std = (x.new_tensor(values)[:, None, None] for values in vars(NORMALIZATIONS["clip"]).values())
        return self.vit((x - mean) / std)


def test_what_the_model_expects_is_said_by_name_by_numbers_or_by_itself(vit, pictures):
    clip = NORMALIZATIONS["clip"]
    one, two, three = (
        siftlens.analyze(model, pictures, normalize=normalize, cache=False).heads
        for model, normalize in ((vit, "clip"), (vit, (clip.mean, clip.std)), (Normalizing(vit).eval(), None))
    )
    pd.testing.assert_frame_equal(one, two)
    pd.testing.assert_frame_equal(one.drop(columns="layer_name"), three.drop(columns="layer_name"), rtol=1e-5)


def test_a_loaded_model_brings_its_own_preprocessing(vit, folder, study):
    from siftlens.data import Preprocessing
    from siftlens.models import LoadedModel, hash_weights

    loaded = LoadedModel(
        vit, "spec", "name", Preprocessing(HEIGHT, WIDTH), NORMALIZATIONS["imagenet"], hash_weights(vit)
    )
    found = siftlens.analyze(loaded, folder)
    pd.testing.assert_frame_equal(found.heads, study.heads)
    other = siftlens.analyze(replace(loaded, normalization=None), folder, normalize="imagenet")
    pd.testing.assert_frame_equal(other.heads, study.heads)
    with pytest.raises(InputError, match="has its input size already; pass size to load_model instead"):
        siftlens.analyze(loaded, folder, size=40)
    with pytest.raises(ModelError, match=r"VisionTransformer cannot run on 40x40 px: .*; where it takes another size"):
        siftlens.analyze(vit, folder, normalize="imagenet", size=40)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, r"normalize says what the model expects of its pixels: clip, imagenet, inception, none, a \(mean, std\)"),
        ({"normalize": "imagnet"}, "normalize must be one of clip, imagenet, inception, none, got 'imagnet'"),
        (
            {"normalize": ((0.5, 0.5), (1.0, 1.0))},
            r"normalize must be a name, a \(mean, std\) pair of 3 numbers each, or None",
        ),
        ({"normalize": None, "measure": "mass"}, "measure must be one of count, response, footprint, or a callable"),
        ({"normalize": None, "resume": True}, "resume=True goes on with a run in a folder; pass out=FOLDER"),
        ({"normalize": None, "limit": 0}, "limit must be a whole number, at least 1, or None, got 0"),
    ],
)
def test_arguments_are_checked(vit, pictures, options, told):
    with pytest.raises(InputError, match=told):
        siftlens.analyze(vit, pictures, **options)


def test_a_model_in_float64_gives_the_same(vit, pictures):
    double = siftlens.analyze(deepcopy(vit).double(), pictures, normalize="imagenet", entropy=True)
    single = siftlens.analyze(vit, pictures, normalize="imagenet", entropy=True)
    pd.testing.assert_frame_equal(double.heads, single.heads, rtol=1e-4, atol=1e-4)
    assert double.run.model["dtype"] == "float64"


def test_inputs_are_checked(vit, pictures, folder):
    with pytest.raises(InputError, match="that load_model did not load is not known; pass size=PIXELS"):
        siftlens.analyze(vit, folder, normalize=None)
    with pytest.raises(InputError, match="used up after one pass"):
        siftlens.analyze(vit, (picture for picture in pictures), normalize=None)
    with pytest.raises(InputError, match=r"expected float pixels in \[0, 1\], got"):
        siftlens.analyze(vit, [picture / 127.5 - 1 for picture in pictures], normalize=None)
