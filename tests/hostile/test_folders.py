"""What siftlens wrote itself, damaged afterwards, through the commands that read it."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import siftlens
from hostile.corpus import encoded, picture
from oracles import leaning
from siftlens.data import PROGRESS, content_hash
from siftlens.interrelation.spool import Spool
from siftlens.keypoints import KeypointStore, SiftSettings

STUDY = ("run.json", "heads.parquet", "layers.parquet", "images.parquet", "arrays.nc", "gallery.npz", "quarantine.csv")
AUDIT = (
    "audit.json",
    "codebooks.safetensors",
    "cues.parquet",
    "images.parquet",
    "properties.parquet",
    "pictures.parquet",
)
LEANING = """
import sys
sys.path.insert(0, {folder!r})
from oracles.leaning import Leaning

def factory():
    return Leaning(on_object=1, on_cue=2)
"""


def gone(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 1
    path.write_bytes(whole)


def other(path: Path) -> None:
    path.write_bytes(b"<script>alert(1)</script>\n" * 99)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGE = (gone, empty, cut, flipped, other, folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A study, an audit of a model that leans on a cue, and a prompt that takes it away."""
    place = tmp_path_factory.mktemp("kept")
    model = leaning.Leaning(on_object=1, on_cue=2).eval()
    pictures = leaning.pictures(160)
    pixels = [one.pixels for one in pictures]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIFTLENS_CACHE", str(place / "cache"))
        siftlens.analyze(model, pixels[:12], normalize=None, out=place / "study").arrays.close()
        labels = [leaning.CLASSES[one.label] for one in pictures]
        audit = siftlens.audit(model, pixels, labels, normalize=None, vocabularies=("colour",))
        audit.save(place / "audit")
    policy = siftlens.Policy.from_json('{"tokens": {"keep": 0.8}, "maps": {"cues": 1, "rows": [0]}}')
    siftlens.try_prompt(model, policy, pixels[:12], audit=audit, normalize=None, out=place / "prompt")
    return place


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", STUDY)
def test_a_damaged_study_is_refused_by_the_name_of_its_file(place, siftlens_cli, kept, name, damage):
    shutil.copytree(kept / "study", place / "study")
    damage(place / "study" / name)
    told = siftlens_cli("export", "study", out="exported").failed(
        r"(copy|run) (it|the)|has no run.json: it holds no study"
    )
    assert name in told
    assert "<script>" not in told
    assert not (place / "exported").exists()


def test_every_command_that_reads_a_study_says_so(place, siftlens_cli, kept):
    shutil.copytree(kept / "study", place / "study")
    (place / "model.py").write_text(LEANING.format(folder=str(Path(leaning.__file__).parent.parent)))
    (place / "a.png").write_bytes(encoded(picture(0), "PNG"))
    flipped(place / "study" / "run.json")
    siftlens_cli("compare", "study", "study", out="compared").failed("run.json was changed|damaged")
    command = ("analyze", "--model", "model.py:factory", "--images", "*.png")
    siftlens_cli(*command, "--resume", out="study").failed("run.json was changed|damaged")
    siftlens_cli(*command, out="study").failed("study holds a finished study; choose another folder")


def test_a_pipe_in_place_of_a_record_is_never_opened(place, siftlens_cli, kept):
    shutil.copytree(kept / "study", place / "study")
    (place / "study" / "run.json").unlink()
    os.mkfifo(place / "study" / "run.json")
    siftlens_cli("export", "study", out="exported").failed("run.json is damaged or cut off .not a file.")


@pytest.mark.parametrize("name", ["run.json", "audit.json", "prompt.json"])
@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"format": 99}', "format 99, this siftlens reads up to 1; update siftlens"),
        ("[" * 100_000, "damaged or cut off"),
        ("null", "damaged"),
        ('{"format": 1, "checksums": {"../../etc/passwd": ""}}', "changed since it was written|damaged"),
    ],
)
def test_records_of_another_kind(place, kept, name, text, told):
    kind = {"run.json": "study", "audit.json": "audit", "prompt.json": "prompt"}[name]
    shutil.copytree(kept / kind, place / kind)
    (place / kind / name).write_text(text)
    read = {
        "study": siftlens.load_study,
        "audit": siftlens.load_audit,
        "prompt": lambda path: siftlens.load_prompted(path, leaning.Leaning().eval()),
    }
    with pytest.raises(siftlens.StudyError, match=told) as refused:
        read[kind](place / kind)
    assert "\n" not in str(refused.value)


@pytest.fixture
def photos(place):
    """A folder with an image in it: images are looked for before anything else is."""
    (place / "photos").mkdir()
    picture(0).save(place / "photos" / "0.png")
    return "photos"


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", AUDIT)
def test_a_damaged_audit_is_refused(place, siftlens_cli, kept, photos, name, damage):
    shutil.copytree(kept / "audit", place / "audit")
    damage(place / "audit" / name)
    policy = '{"tokens": {"keep": 0.8}, "maps": {"cues": 1}}'
    command = ("prompt", "--model", "model.py:make", "--images", photos, "--policy", policy, "--audit", "audit")
    assert name in siftlens_cli(*command, out="out").failed("audit")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["prompt.json", "predictions.parquet", "audit/cues.parquet"])
def test_a_damaged_prompt_is_refused(place, kept, name, damage):
    shutil.copytree(kept / "prompt", place / "prompt")
    damage(place / "prompt" / name)
    with pytest.raises(siftlens.StudyError, match="damaged|lacks|has no prompt.json") as refused:
        siftlens.load_prompted(place / "prompt", leaning.Leaning(on_object=1, on_cue=2).eval())
    assert Path(name).name in str(refused.value)


@pytest.mark.parametrize(
    "given", ["{", "[]", "nowhere.json", ".", "\0", "x" * 5000, "binary.json", '{"bias": [{"strength": null}]}']
)
def test_a_policy_that_is_none_is_refused(place, siftlens_cli, photos, given):
    (place / "binary.json").write_bytes(b"\xff\xfe\0")
    command = ("prompt", "--model", "model.py:make", "--images", photos)
    siftlens_cli(*command, "--policy", given, out="out").failed("polic|strength must be a number")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[("state.json", damage) for damage in (cut, flipped, other, folder)],
        *[("rows.f32", damage) for damage in (gone, cut, folder)],
        *[("images.jsonl", damage) for damage in (gone, cut, other, folder)],
        *[("state-1-0.npz", damage) for damage in (gone, cut, flipped, other, folder)],
    ],
)
def test_a_damaged_interruption_is_refused(place, name, damage):
    spool = Spool(place / "out" / PROGRESS, {})
    spool.append(np.ones((3, 5, 2, 7), np.float32), [{"identity": f"{number}.png"} for number in range(3)])
    spool.commit(3, {"": {"sum": np.arange(11.0)}})
    spool.close()
    damage(place / "out" / PROGRESS / name)
    with pytest.raises(siftlens.InputError, match=r"remove .* and run again|cannot write"):
        spool = Spool(place / "out" / PROGRESS, {}, resume=True)
        try:
            spool.sums()
            list(spool.image_lines())
        finally:
            spool.close()


def test_no_word_of_resuming_what_cannot_be_resumed(place, siftlens_cli, photos):
    (place / "out" / PROGRESS).mkdir(parents=True)
    (place / "out" / PROGRESS / "state.json").write_text("garbage")
    command = ("analyze", "--model", "model.py:make", "--images", photos, "--resume")
    line = siftlens_cli(*command, out="out").failed(r"state\.json is damaged or cut off .*; remove .* and run again$")
    assert "goes on" not in line


@pytest.fixture
def pretraining(place):
    """Images, their keypoints, and the command that pre-trains on them."""
    pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")
    found = []
    for number in range(8):
        path = place / "photos" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(number, 32).save(path)
        pixels = np.asarray(Image.open(path))
        found.append((f"{'ab'[number % 2]}/{number}.png", content_hash(pixels), siftlens.detect(pixels)))
    KeypointStore.gather(sorted(found), 32, SiftSettings()).save(place / "kp.safetensors")
    command = "pretrain --images photos --keypoints kp.safetensors --policy hints --model test_vit --size 32"
    return (*command.split(), "--epochs", "1", "--batch-size", "4", "--device", "cpu")


@pytest.mark.parametrize("damage", [gone, empty, cut, other, folder])  # one bit flipped is not noticed
def test_a_damaged_file_of_keypoints_is_refused(place, siftlens_cli, pretraining, damage):
    damage(place / "kp.safetensors")
    siftlens_cli(*pretraining, out="out").failed("siftlens keypoints")


@pytest.mark.parametrize("damage", [empty, cut, other, folder])
def test_a_damaged_state_of_a_pretraining_is_refused(place, siftlens_cli, pretraining, damage):
    (place / "out").mkdir()
    (place / "out" / "state.safetensors").write_bytes(b"x")
    damage(place / "out" / "state.safetensors")
    siftlens_cli(*pretraining, "--resume", out="out").failed(
        r"state.safetensors is damaged .*, and cannot be resumed; begin anew in another"
    )


@pytest.mark.filterwarnings("always")
def test_a_damaged_cache_is_begun_anew_and_said(place, siftlens_cli):
    (place / "photos").mkdir()
    for number in range(3):
        picture(number).save(place / "photos" / f"{number}.png")
    (place / "cache").mkdir()
    (place / "cache" / "keypoints.sqlite").write_bytes(b"SQLite format 3\0" + b"\xff" * 9000)
    result = siftlens_cli("analyze", "--model", "model.py:make", "--images", "photos", out="out")
    assert result.code == 0
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("siftlens: warning: the keypoint cache ")


@pytest.mark.parametrize("command", ["analyze", "audit", "prompt", "keypoints"])
def test_an_output_folder_whose_name_is_too_long(place, siftlens_cli, photos, command):
    model = () if command == "keypoints" else ("--model", "model.py:factory")
    policy = ("--policy", "policy.json") if command == "prompt" else ()
    siftlens_cli(command, *model, *policy, "--images", photos, out="a" * 300).failed("file name too long")
