"""A classifier of known leanings must be told from one that has none."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import ExifTags, Image

import siftlens
from oracles.leaning import CLASSES, Leaning, pictures
from siftlens.auditing import gallery, run
from siftlens.auditing.classifier import match_logits
from siftlens.auditing.outside import expect_masks
from siftlens.auditing.properties import PROPERTIES, properties_of
from siftlens.auditing.sample import take_sample
from siftlens.auditing.settings import AuditSettings
from siftlens.auditing.tables import RELIED_ON
from siftlens.core import InputError
from siftlens.data import ImageRef, Preprocessing, open_images

PICTURES = pictures(240)
PIXELS = [picture.pixels for picture in PICTURES]
LABELS = [picture.label for picture in PICTURES]


def audited(model, labels=LABELS, images=PIXELS, **settings):
    return siftlens.audit(model.eval(), images, labels, normalize=None, **{"vocabularies": ("colour",)} | settings)


@pytest.fixture(scope="module")
def leaning():
    return audited(Leaning(on_object=1, on_cue=2))


@pytest.fixture(scope="module")
def upright():
    return audited(Leaning(on_object=1, on_cue=0))


def share_on(cue, what):
    """Share of the cue's patches on the planted cue, or on the object, and of those that it finds."""
    found = np.array([cue.patches(picture.pixels) for picture in PICTURES])
    true = np.array([getattr(picture, what) for picture in PICTURES])
    return (found & true).sum() / found.sum(), (found & true).sum() / true.sum()


def on_planted(audit):
    """Rows of cues that lie on the planted cue."""
    return [i for i, cue in enumerate(audit) if share_on(cue, "cue_map")[0] > 0.5]


def test_a_cue_that_is_leaned_on_is_found_first(leaning):
    assert leaning.cues["label"][0] == "1"
    assert leaning.cues["verdict"][0] == "harmful reliance"
    precision, recall = share_on(leaning.cue(0), "cue_map")
    assert precision > 0.98 and recall > 0.98
    assert leaning.cues["p"][0] < 0.01


def test_a_cue_that_only_goes_along_is_not_claimed(upright):
    """It goes with the class as much as above."""
    assert set(upright.cues["verdict"][on_planted(upright)]) <= {"associated", "not associated"}


def test_a_cue_that_hardly_counts_is_tested_and_not_claimed():
    """Fails where the causal step is left out: it goes with the class, and is used, by a fiftieth of the margin."""
    audit = audited(Leaning(on_object=1, on_cue=0.03))
    found = on_planted(audit)
    assert found and set(audit.cues["verdict"][found]) == {"associated"}
    assert (audit.cues["p_removal"][found] < 0.05).all()


def test_the_object_is_relied_on_but_does_no_harm(upright):
    on_object = [i for i, cue in enumerate(upright) if share_on(cue, "object_map")[0] > 0.9]
    # Some of it is explained by the colour of the whole image too, which the objects change.
    assert {"relied on"} <= set(upright.cues["verdict"][on_object]) <= {"relied on", "global"}
    assert {upright.cues["label"][i] for i in on_object} == {"0", "1"}


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_labels_find_nothing(seed):
    labels = np.random.default_rng(seed).permutation(LABELS)
    cues = audited(Leaning(on_object=1, on_cue=2), labels.tolist()).cues
    assert cues.empty or not cues["verdict"].isin(RELIED_ON).any()


def test_effects_are_what_the_model_computes(leaning):
    """Two red patches weigh (230 - 2 * 20) / 255 each, twice; a control holds none and costs nothing."""
    for effect in ("removal", "swap", "transplant"):
        assert leaning.cues[effect][0] == pytest.approx(2 * 2 * (230 - 40) / 255, rel=0.15)
        assert leaning.cues[f"{effect}_low"][0] < leaning.cues[effect][0] < leaning.cues[f"{effect}_high"][0]


def test_images_that_the_cue_misleads_are_told(leaning):
    against = np.array([picture.cue != picture.label for picture in PICTURES])
    risk = leaning.images["risk"].to_numpy()
    assert risk[against].min() > risk[~against].max()
    wrong = leaning.images["predicted"] != leaning.images["label"]
    assert wrong[against].mean() > 0.5 and not wrong[~against].any()


ON_DISK = {"normalize": None, "size": Leaning.size, "vocabularies": ("colour",)}


def on_disk(folder, high=255, suffix=".png"):
    """Images, and masks of their objects with this value on them."""
    for number, picture in enumerate(PICTURES):
        mask = picture.object_map.repeat(4, 0).repeat(4, 1) * high
        for kind, pixels, ending in (("images", picture.pixels, ".png"), ("masks", mask.astype(np.uint8), suffix)):
            path = folder / kind / CLASSES[picture.label] / f"{number:03}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


def test_a_cue_of_many_images_of_which_few_are_tested_is_not_taken_for_one_that_fills_them(monkeypatch):
    monkeypatch.setattr(run, "MOST", 20)  # of some 50 with the cue, as 256 of a thousand
    audit = audited(Leaning(on_object=0, on_cue=2))
    assert audit.cues["n"][0] == 20 and audit.cues["verdict"][0] in RELIED_ON


@pytest.mark.parametrize(("high", "suffix"), [(255, ".png"), (1, ".png"), (1, ".gif")])
def test_masks_confirm(tmp_path, high, suffix):
    on_disk(tmp_path, high, suffix)
    model = Leaning(on_object=1, on_cue=2).eval()
    audit = siftlens.audit(model, tmp_path / "images", masks=tmp_path / "masks", **ON_DISK)
    assert audit.cues["verdict"][0] == "confirmed spurious"
    assert audit.cues["label"][0] == CLASSES[1]
    assert audit.cues["off_object"][0] > 0.95
    on_object = [i for i, cue in enumerate(audit) if share_on(cue, "object_map")[0] > 0.9]
    assert on_object and (audit.cues["off_object"][on_object] < 0.1).all()
    assert "confirmed spurious" not in set(audit.cues["verdict"][on_object])


def test_without_evidence_from_outside_nothing_is_confirmed(tmp_path):
    on_disk(tmp_path)
    model, settings = Leaning(on_object=1, on_cue=2).eval(), ON_DISK
    plain = siftlens.audit(model, tmp_path / "images", **settings)
    assert "confirmed spurious" not in set(plain.cues["verdict"])
    elsewhere = siftlens.audit(model, tmp_path / "images", environment=tmp_path / "images", **settings)
    assert "confirmed spurious" not in set(elsewhere.cues["verdict"])  # there the cue goes with the class as well


def test_another_environment_confirms_a_cue_that_does_not_go_with_the_class_there(tmp_path):
    on_disk(tmp_path)
    for path in list((tmp_path / "images").glob("*/*.png")):  # every other image under the other class's name
        name = CLASSES[1 - CLASSES.index(path.parent.name)] if int(path.stem) // 2 % 2 else path.parent.name
        (tmp_path / "elsewhere" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "elsewhere" / name)
    model = Leaning(on_object=1, on_cue=2).eval()
    audit = siftlens.audit(model, tmp_path / "images", environment=tmp_path / "elsewhere", **ON_DISK)
    assert audit.cues["verdict"][0] == "confirmed spurious"
    assert 0.3 < audit.cues["lift_elsewhere"][0] < 0.6


def test_an_environment_that_can_tell_nothing_is_refused_before_the_model_runs(tmp_path):
    on_disk(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "images", elsewhere)
    (elsewhere / CLASSES[0] / "x.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"elsewhere: .*x\.png cannot be read \(.*\); take it out"):
        siftlens.audit(Untouched().eval(), tmp_path / "images", environment=elsewhere, **ON_DISK)
    (elsewhere / CLASSES[0] / "x.png").unlink()
    for path in sorted((elsewhere / CLASSES[1]).iterdir())[3:]:
        path.unlink()
    with pytest.raises(InputError, match=r"elsewhere holds \d+ images of .* and 3 of other classes, .* at least 32"):
        siftlens.audit(Untouched().eval(), tmp_path / "images", environment=elsewhere, **ON_DISK)


class Untouched(Leaning):
    def forward(self, images):
        raise AssertionError("the model ran before the masks were looked at")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (
            lambda path: path.unlink(),
            r"expected a mask for green/\d+.png at .*\.png or with another image suffix, found none",
        ),
        (lambda path: path.write_bytes(b"x"), r"the mask .*\.png cannot be read; make it anew"),
        (
            lambda path: Image.new("L", (29, 20)).save(path),
            r"the mask .* is \(29, 20\) px, its image \(28, 20\) px; expected one size",
        ),
    ],
)
def test_masks_that_do_not_fit_are_refused_before_the_model_runs(tmp_path, spoil, told):
    on_disk(tmp_path)
    for path in (tmp_path / "masks" / CLASSES[0]).iterdir():
        spoil(path)
    with pytest.raises(siftlens.InputError, match=told):
        siftlens.audit(Untouched().eval(), tmp_path / "images", masks=tmp_path / "masks", **ON_DISK)


@pytest.mark.parametrize(("orientation", "fits"), [(6, True), (3, False)])
def test_a_mask_is_as_large_as_its_image_is_shown(orientation, fits, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "masks").mkdir()
    Image.new("L", (20, 30)).save(tmp_path / "masks" / "photo.png")
    refs = [ImageRef("photo.jpg", "", tmp_path / "photo.jpg")]
    if fits:
        expect_masks(tmp_path / "masks", refs)
    else:
        with pytest.raises(siftlens.InputError, match=r"is \(20, 30\) px, its image \(30, 20\) px; expected one size"):
            expect_masks(tmp_path / "masks", refs)


def test_a_mask_that_is_cut_off_is_told(tmp_path):
    """Its header is whole: found where it is read."""
    on_disk(tmp_path)
    for path in (tmp_path / "masks").rglob("*.png"):
        path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(siftlens.InputError, match=r"the mask .*\.png cannot be read \(.*\); make it anew"):
        siftlens.audit(Leaning(on_object=1, on_cue=2).eval(), tmp_path / "images", masks=tmp_path / "masks", **ON_DISK)


def test_saved_and_loaded(leaning, tmp_path):
    leaning.save(tmp_path / "audit")
    loaded = siftlens.load_audit(tmp_path / "audit")
    assert loaded.cues.drop(columns=["words", "map"]).equals(leaning.cues.drop(columns=["words", "map"]))
    assert loaded.images.equals(leaning.images)
    assert loaded.info == leaning.info
    for old, new in zip(leaning, loaded, strict=True):
        assert np.array_equal(old.patches(PIXELS[3]), new.patches(PIXELS[3]))
    with pytest.raises(siftlens.InputError, match="holds a finished audit"):
        leaning.save(tmp_path / "audit")
    (tmp_path / "audit" / "images.parquet").write_bytes(b"x")
    with pytest.raises(siftlens.StudyError, match=r"images\.parquet is damaged or cut off, .* run the audit again"):
        siftlens.load_audit(tmp_path / "audit")
    with pytest.raises(siftlens.StudyError, match=r"has no audit.json"):
        siftlens.load_audit(tmp_path)


def test_the_same_seed_gives_the_same_audit(leaning):
    again = audited(Leaning(on_object=1, on_cue=2), batch_size=17)
    assert again.cues["verdict"].tolist() == leaning.cues["verdict"].tolist()
    assert np.allclose(again.cues["removal"], leaning.cues["removal"], atol=1e-4)


def test_cost(leaning):
    assert leaning.info["passes_per_image"] <= 20


def test_bad_input_is_said():
    model = Leaning()
    with pytest.raises(siftlens.InputError, match="at least two classes, got 0"):
        audited(model, [0] * 40, PIXELS[:40])
    with pytest.raises(siftlens.InputError, match="expected a label for each of 240 images, got 3"):
        audited(model, [0, 1, 0])
    with pytest.raises(siftlens.InputError, match="have no label"):
        audited(model, None)
    with pytest.raises(siftlens.InputError, match="at least 32 different images, the largest of 2 has 3"):
        audited(model, [0, 1] * 3, PIXELS[:6])
    with pytest.raises(siftlens.InputError, match="do not match the model's 2 outputs"):
        audited(model, [("a", "b", "c")[i % 3] for i in range(240)])
    with pytest.raises(siftlens.InputError, match="vocabularies must be some of sift, colour, token"):
        audited(model, vocabularies=("taste",))
    with pytest.raises(siftlens.InputError, match="layer must lie between 0 and 1, got 2"):
        audited(model, layer=2)


@pytest.mark.parametrize("name", ["seed", "batch_size", "layer"])
def test_settings_are_checked(name):
    with pytest.raises(InputError, match=f"{name} must be a whole number, at least [01], got -1"):
        AuditSettings(**{name: -1})


def test_labels_that_cannot_fit_are_told():
    with pytest.raises(InputError, match="limit leaves images out, so that labels would not fit"):
        audited(Leaning(on_object=1, on_cue=2), limit=40)
    with pytest.raises(InputError, match="a list with the class of each image as labels, got 'abc'"):
        audited(Leaning(on_object=1, on_cue=2), labels="abc")


@pytest.mark.parametrize("kind", [np.array, torch.tensor, pd.Series])
def test_labels_of_any_library(kind):
    named = take_sample(open_images(PIXELS), kind(LABELS), Preprocessing(*Leaning.size), 0)
    assert named.names == ("0", "1") and named.labels.tolist() == LABELS


def test_a_photograph_is_as_wide_as_it_is_shown(tmp_path):
    """EXIF may turn it."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for number, pixels in enumerate(PIXELS):
        shown = Image.fromarray(pixels).resize((24, 48))
        path = tmp_path / str(LABELS[number]) / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        shown.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)  # as the sensor had it
    sample = take_sample(open_images(tmp_path), None, Preprocessing(*Leaning.size), 0)
    aspect = sample.properties[:, PROPERTIES.index("aspect")]
    assert np.allclose(aspect, properties_of(PIXELS[0], (24, 48))[PROPERTIES.index("aspect")])


def test_cues_are_compared_and_told_without_the_audit_they_are_of(leaning):
    again = replace(leaning, info={})
    assert leaning.cue(0) == again.cue(0) != leaning.cue(1)
    assert leaning != again and len({leaning, again}) == 2
    assert "audit" not in repr(leaning.cue(0))


def test_too_few_images_of_a_class_make_no_cue():
    labels = [label if i < 200 else 1 - label for i, label in enumerate(LABELS)]
    few = [i for i, label in enumerate(labels) if label == 0][:100] + [i for i, label in enumerate(labels) if label][:9]
    audit = audited(Leaning(on_object=1, on_cue=2), [labels[i] for i in few], [PIXELS[i] for i in few])
    assert audit.info["without_enough_images"] == ["1"]
    assert "1" not in set(audit.cues["label"])


def test_all_answers_wrong_make_no_cue():
    audit = audited(Leaning(on_object=-1, on_cue=-2))
    assert audit.cues.empty and audit.shown.empty and "verdict" in audit.cues
    assert audit.info["without_right_answers"] == ["0", "1"]


def test_the_same_image_under_two_labels_is_set_aside():
    audit = audited(Leaning(), [*LABELS, 1 - LABELS[0]], [*PIXELS, PIXELS[0]])
    assert len(audit.images) == 239
    assert [reason for _, reason in audit.info["set_aside"]] == ["the same image stands under another label too"] * 2


def test_pictures_of_a_cue_are_of_its_class_and_show_it(leaning):
    shown, images = leaning.shown, leaning.images
    first = shown[(shown["cue"] == 0) & (shown["part"] == "carries")]
    assert len(first) == 12 and set(images["label"].iloc[first["image"]]) == {"1"}
    assert set(images["half"].iloc[first["image"]]) == {"confirm"}
    taken = images.iloc[shown[(shown["cue"] == 0) & (shown["part"] == "taken")]["image"]]
    assert len(taken) == 8 and set(taken["label"]) == {"0"} and set(taken["predicted"]) == {"1"}
    assert taken["margin"].is_monotonic_increasing
    for row in first.itertuples():
        assert np.flatnonzero(leaning.cue(0).patches(PIXELS[row.image])).tolist() == list(row.patches)
    assert set(leaning.pictures["image"]) == set(shown["image"])
    assert all(jpeg.startswith(b"\xff\xd8") for jpeg in leaning.pictures["jpeg"])
    red, green, blue = leaning.cues.loc[0, ["red", "green", "blue"]]
    assert red > 200 and green < 50 and blue < 50
    assert np.reshape(leaning.cues["map"][0], (5, 7))[1:].sum() == 0  # the cue is planted in the first row


def test_pictures_stay_within_their_budget(leaning, monkeypatch):
    monkeypatch.setattr(gallery, "PICTURES", 14)
    few = audited(Leaning(on_object=1, on_cue=2))
    assert 0 < len(few.pictures) <= 14
    assert set(few.shown["cue"]) < set(leaning.shown["cue"])


def test_numbers_name_outputs_of_a_model_whose_classes_have_names():
    model = siftlens.load_model("demo-shortcut")
    assert model.classes is not None
    assert match_logits(model, ("0", "1"), 2).tolist() == [0, 1]
    assert match_logits(model, model.classes[::-1], 2).tolist() == [1, 0]
    with pytest.raises(siftlens.InputError, match="the labels 0, 2 do not match the model's classes "):
        match_logits(model, ("0", "2"), 2)
