"""A run: it learns, stops and goes on exactly, and many processes are as one."""

import errno
import json
import math
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, safe_open

from oracles.runs import SETTINGS, SIZE, STEPS, assert_as_one, assert_same_weights, rows, run
from siftlens.core import InputError, ModelError, SiftlensError, StudyError
from siftlens.data import held, write_record
from siftlens.keypoints import SiftSettings
from siftlens.pretraining import checkpoint, images, loop, watch
from siftlens.pretraining.autoencoder import MaskedAutoencoder
from siftlens.pretraining.choice import PartialDecoding
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.detection import detect_images
from siftlens.pretraining.learner import Learner
from siftlens.pretraining.loop import Pace
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.neighbours import labels_of
from siftlens.pretraining.schedule import rate_at
from siftlens.pretraining.trouble import step_errors

pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")


def test_a_run_leaves_an_encoder_logs_and_pictures(whole):
    out, result = whole
    log = rows(out / "log.csv")
    assert log[0] == ["step", "loss"]
    assert [int(row[0]) for row in log[1:]] == list(range(STEPS))
    losses = [float(row[1]) for row in log[1:]]
    assert result.finished.loss == pytest.approx(np.mean(losses[-3:]), abs=1e-5)
    assert result.finished.steps == STEPS
    assert [row[:2] for row in rows(out / "knn.csv")] == [["step", "epoch"], ["3", "1"], ["6", "2"], ["9", "3"]]
    assert rows(out / "knn.csv")[-1][2] == f"{result.finished.knn:.4f}"
    with Image.open(out / "reconstructions.png") as picture:
        assert picture.size == (3 * (SIZE + 4) + 4, 8 * (SIZE + 4) + 4)
    assert (result.images, result.aside) == (20, ())
    assert [path.name for path in out.glob(".*")] == [".siftlens"]


@pytest.mark.parametrize(("fewest", "share", "count"), [(7, 0.0, 7), (7, 1.0, 10), (7, 5.0, 15), (40, 1.0, 15)])
def test_watching_costs_a_share_of_training(photos, tmp_path, monkeypatch, fewest, share, count):
    counts = []
    monkeypatch.setattr(watch, "watch_knn", lambda *given: counts.append(given[-1]) or 0.5)
    for name, value in {"_FEWEST": fewest, "_SHARE": share, "_WATCHED": 15}.items():
        monkeypatch.setattr(watch, name, value)
    run(photos, tmp_path, replace(SETTINGS, epochs=2), pace=Pace(evaluations=4))
    assert counts == [count] * 2  # of 20 images: 4 looks at 10 of them are as many as 2 epochs see


def test_knn_is_of_images_in_class_folders(photos, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(photos / "a", images)
    shutil.copytree(photos / "a", images / "a")
    one = replace(SETTINGS, epochs=1, batch_size=5)
    assert run(images, tmp_path / "none", one).finished.knn is None
    assert not (tmp_path / "none" / "knn.csv").exists()
    shutil.copytree(photos / "b", images / "b")
    seen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watch, "labels_of", lambda groups: seen.append(groups) or labels_of(groups))
        assert run(images, tmp_path / "some", one).finished.knn is not None
    assert set(seen[0]) == {"a", "b"}  # those beside the folders have no class


def test_the_encoder_loads_into_timm_as_it_is(whole):
    out, result = whole
    with safe_open(result.encoder, "pt") as file:
        about = file.metadata()
    assert (about["timm"], about["size"]) == ("test_vit", str(SIZE))
    model = timm.create_model(
        "test_vit", depth=1, patch_size=8, img_size=SIZE, num_classes=0, checkpoint_path=str(result.encoder)
    )
    state = load_file(out / "state.safetensors")
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, state[f"model.encoder.{name}"])


def killed(photos, out, stop, settings=SETTINGS):
    """A run that is stopped after so many steps, with a state of each."""

    def die(_stage, images, _total):
        if images > stop * settings.batch_size:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop, "_CHECKED", 1)
        run(photos, out, settings, pace=Pace(save_every=0), progress=die)


@pytest.mark.parametrize("stop", [4, 6, 8])  # in the middle of an epoch, at its end, and in the last one
def test_killed_and_resumed_is_as_if_uninterrupted(photos, whole, tmp_path, stop):
    done = []
    killed(photos, tmp_path, stop)
    result = run(photos, tmp_path, resume=True, progress=lambda *given: done.append(given))
    assert result.finished.steps == STEPS - stop
    assert_same_weights(whole[0], tmp_path, rtol=0, atol=0)
    for name in ("log.csv", "knn.csv"):
        assert (tmp_path / name).read_bytes() == (whole[0] / name).read_bytes()


def test_a_run_that_goes_on_in_another_way_says_so(photos, tmp_path):
    """And run.json tells both ways; where no step is left, nothing was computed, and nothing is told."""
    killed(photos, tmp_path, 4)
    with pytest.warns(
        UserWarning, match="another way than before: precision was 32-true and is bf16-mixed, accum"
    ) as told:
        run(photos, tmp_path, resume=True, precision="bf16", pace=Pace(accumulate=2))
    assert "accumulate was 1 and is 2; its weights will differ" in str(told[0].message)
    parts = json.loads((tmp_path / "run.json").read_text())["parts"]
    assert [(part["from_step"], part["precision"], part["accumulate"]) for part in parts] == [
        (0, "32-true", 1),
        (4, "bf16-mixed", 2),
    ]
    assert parts[0]["torch"] == torch.__version__ and parts[0]["processes"] == 1
    before = (tmp_path / "run.json").read_bytes()
    run(photos, tmp_path, resume=True)
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_part_that_came_to_no_checkpoint_is_told_no_more(photos, tmp_path, monkeypatch):
    killed(photos, tmp_path, 4)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="another"):
        patched.setattr(loop.Learner, "step", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run(photos, tmp_path, resume=True, pace=Pace(accumulate=2))
    run(photos, tmp_path, resume=True)
    parts = json.loads((tmp_path / "run.json").read_text())["parts"]
    assert [(part["from_step"], part["accumulate"]) for part in parts] == [(0, 1), (4, 1)]


@pytest.mark.parametrize("content", ["{", "[]", '{"parts": [3]}', None])
def test_a_damaged_run_json_does_not_stop_a_run(photos, tmp_path, content):
    killed(photos, tmp_path, 4)
    (tmp_path / "run.json").unlink() if content is None else (tmp_path / "run.json").write_text(content)
    run(photos, tmp_path, resume=True)
    assert [part["from_step"] for part in json.loads((tmp_path / "run.json").read_text())["parts"]] == [4]


def test_a_state_that_cannot_be_written_leaves_the_last_one(photos, whole, tmp_path, monkeypatch):
    """A full disk, half way through a file."""
    monkeypatch.setattr(loop, "_CHECKED", 1)
    usual, written = checkpoint.save_file, []

    def full(tensors, target, metadata):
        written.append(metadata["step"])
        if len(written) == 3:
            Path(target).write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        usual(tensors, target, metadata)

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full)
        with pytest.raises(InputError, match="the disk is full"):
            run(photos, tmp_path, pace=Pace(save_every=0))
    assert written == ["1", "2", "3"]
    assert run(photos, tmp_path, resume=True).finished.steps == STEPS - 2
    assert_same_weights(whole[0], tmp_path, rtol=0, atol=0)


GROWING = replace(SETTINGS, first_size=16, optimizer="adamw")  # for 6 of 9 steps


@pytest.fixture(scope="module")
def grown(photos, tmp_path_factory):
    """A run whose views grow, and the size of every step's views."""
    out, sizes, usual = tmp_path_factory.mktemp("grown"), [], Learner.step
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Learner, "step", lambda *given: sizes.append(given[2][0].views.shape) or usual(*given))
        return out, run(photos, out, GROWING), sizes


def test_views_grow_and_the_encoder_is_of_full_size(whole, grown):
    out, result, sizes = grown
    assert sizes == [(6, 3, 16, 16)] * 6 + [(6, 3, SIZE, SIZE)] * 3
    losses = [float(row[1]) for row in rows(out / "log.csv")[1:]]
    assert len(losses) == STEPS
    assert losses != [float(row[1]) for row in rows(whole[0] / "log.csv")[1:]]
    assert all(map(math.isfinite, losses))
    assert len(rows(out / "knn.csv")) == 1 + 3
    with safe_open(result.encoder, "pt") as file:
        assert file.metadata()["size"] == str(SIZE)
    model = timm.create_model("test_vit", depth=1, patch_size=8, img_size=SIZE, num_classes=0)
    model.load_state_dict(load_file(result.encoder), strict=True)
    assert torch.equal(model.pos_embed, load_file(whole[0] / "encoder.safetensors")["pos_embed"])


@pytest.mark.parametrize("stop", [4, 6])  # among small views, and between the last small one and the first of full size
def test_killed_while_views_are_small_and_resumed_is_as_if_uninterrupted(photos, grown, tmp_path, stop):
    killed(photos, tmp_path, stop, GROWING)
    if stop == 4:  # after the first epoch they were drawn small, after the second at full size
        with Image.open(tmp_path / "reconstructions.png") as picture:
            assert picture.size == (3 * (16 + 4) + 4, 8 * (16 + 4) + 4)
    assert run(photos, tmp_path, GROWING, resume=True).finished.steps == STEPS - stop
    assert_same_weights(grown[0], tmp_path, rtol=0, atol=0)
    for name in ("log.csv", "knn.csv"):
        assert (tmp_path / name).read_bytes() == (grown[0] / name).read_bytes()


def test_a_run_whose_views_grow_is_not_resumed_as_another(photos, grown, tmp_path):
    shutil.copytree(grown[0], tmp_path / "out")
    with pytest.raises(StudyError, match=r"first_part was 0\.6 and is 0\.5"):
        run(photos, tmp_path / "out", replace(GROWING, first_part=0.5), resume=True)
    with pytest.raises(StudyError, match="first_size was 16 and is None"):
        run(photos, tmp_path / "out", resume=True)


def test_resuming_a_finished_run_changes_nothing(photos, whole, tmp_path):
    run(photos, tmp_path)
    result = run(photos, tmp_path, resume=True)
    assert result.finished.steps == 0
    assert_same_weights(whole[0], tmp_path, rtol=0, atol=0)
    assert rows(tmp_path / "log.csv") == rows(whole[0] / "log.csv")


@pytest.mark.parametrize(("name", "settings"), [("whole", SETTINGS), ("grown", GROWING)])
def test_accumulating_gradients_gives_the_same_weights(photos, tmp_path, request, name, settings):
    run(photos, tmp_path, settings, pace=Pace(accumulate=3))
    assert_as_one(request.getfixturevalue(name)[0], tmp_path, settings)


SCRIPT = """
import sys
from pathlib import Path
from siftlens.pretraining.choice import PartialDecoding
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.loop import Pace
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.pretrain import pretrain
from siftlens.pretraining.settings import PretrainSettings

if __name__ == "__main__":
    pretrain(Path(sys.argv[1]), Path(sys.argv[2]), {settings!r}, pace={pace!r}, device="cpu", precision="fp32")
"""


@pytest.mark.parametrize(("name", "settings"), [("whole", SETTINGS), ("grown", GROWING)])
def test_two_processes_are_as_one(photos, tmp_path, request, name, settings):
    whole = request.getfixturevalue(name)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(settings=settings, pace=Pace()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, script, photos, tmp_path / "out"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert_as_one(whole[0], tmp_path / "out", settings)
    ours, theirs = rows(whole[0] / "log.csv"), rows(tmp_path / "out" / "log.csv")
    np.testing.assert_allclose([float(row[1]) for row in ours[1:]], [float(row[1]) for row in theirs[1:]], rtol=1e-4)
    assert not (tmp_path / "out" / "images.npy").exists()


NOWHERE = """
from types import SimpleNamespace
from siftlens.pretraining import images

images._SHARE = 0.0
images.shutil.disk_usage = lambda _: SimpleNamespace(free=9)
"""


def test_two_processes_stream_what_neither_memory_nor_disk_holds(photos, whole, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(NOWHERE + SCRIPT.format(settings=SETTINGS, pace=Pace()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, script, photos, tmp_path / "out"], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("has no room") == 1
    assert_as_one(whole[0], tmp_path / "out", SETTINGS)


def test_streamed_images_give_the_very_weights(photos, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_SHARE", 0.0)
    monkeypatch.setattr(images.shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.warns(UserWarning, match="decoded anew whenever it is needed"):
        run(photos, tmp_path / "out")
    assert not (tmp_path / "out" / "images.npy").exists()
    assert_same_weights(whole[0], tmp_path / "out", rtol=0, atol=0)
    assert rows(tmp_path / "out" / "knn.csv") == rows(whole[0] / "knn.csv")


EAGERLY = """
import torch

def eager(graph, _):
    print("a graph")
    return graph

usual = torch.nn.Module.compile
def compile(module):  # by dynamo as always, without the minutes of code generation
    print("compiled", type(module).__name__)
    usual(module, backend=eager, fullgraph=True)

torch.nn.Module.compile = compile
"""


@pytest.mark.parametrize(("name", "settings", "sizes"), [("whole", SETTINGS, 1), ("grown", GROWING, 2)])
def test_a_compiled_run_ends_with_the_same_weights(photos, tmp_path, request, name, settings, sizes):
    # Apart from the tests' own process: dynamo does not see through their shape checks.
    script = EAGERLY + SCRIPT.format(settings=settings, pace=Pace(compile=True))
    command = [sys.executable, "-c", script, photos, tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout == "compiled MaskedAutoencoder\n" + sizes * "a graph\n"
    assert_as_one(request.getfixturevalue(name)[0], tmp_path / "out", settings)


ARMS = {
    "random": {"policy": MaskPolicy("random")},
    "high": {"policy": MaskPolicy("keypoint-high")},
    "another image's": {"policy": MaskPolicy("keypoint-high"), "guide": "other"},
    "partial": {"policy": MaskPolicy("random"), "decoding": PartialDecoding(0.5, 0.0)},
    "ranked partial": {"policy": MaskPolicy("random"), "decoding": PartialDecoding(0.5, 0.5)},
    "hints": {"policy": MaskPolicy("hints")},
    "weighted loss": {"policy": MaskPolicy("random"), "loss_temperature": 0.5},
    "cross-attention": {"policy": MaskPolicy("random"), "decoder": DecoderSettings(16, 1, 2, "cross")},
}


@pytest.fixture(scope="module")
def keypoints(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("keypoints") / "file"
    detect_images(photos, out, side=SIZE)
    return out


@pytest.fixture(scope="module")
def losses(photos, keypoints, tmp_path_factory):
    """Of one epoch, by arm."""
    found = {}
    for name, changes in ARMS.items():
        out = tmp_path_factory.mktemp("arm")
        settings = replace(SETTINGS, **{"guide": "keypoints", "epochs": 1} | changes)
        run(photos, out, settings, keypoints=keypoints if settings.needs_keypoints else None)
        found[name] = [row[1] for row in rows(out / "log.csv")[1:]]
    return found


def test_keypoints_that_nothing_is_guided_by_are_refused(photos, tmp_path):
    settings = replace(SETTINGS, policy=MaskPolicy("random"), decoding=PartialDecoding(0.5), loss_temperature=None)
    with pytest.raises(InputError, match="nowhere was named, but nothing is guided by keypoints; say what is"):
        run(photos, tmp_path / "out", settings, keypoints=Path("nowhere"))
    assert not (tmp_path / "out").exists()


def test_every_arm_trains_and_differs_from_every_other(losses):
    assert len({tuple(loss) for loss in losses.values()}) == len(ARMS)
    assert all(math.isfinite(float(value)) for loss in losses.values() for value in loss)


def test_only_what_is_guided_asks_for_keypoints():
    needs = {
        name: replace(SETTINGS, **{"guide": "keypoints"} | changes).needs_keypoints for name, changes in ARMS.items()
    }
    assert {name for name, needed in needs.items() if not needed} == {"random", "partial", "cross-attention"}
    assert not SETTINGS.needs_keypoints


def test_a_run_learns(photos, tmp_path):
    settings = replace(SETTINGS, epochs=60, learning_rate=0.1, smallest_crop=1.0, policy=MaskPolicy(), norm_pix=False)
    run(photos, tmp_path, settings, pace=Pace(evaluations=1))
    assert [row[1] for row in rows(tmp_path / "knn.csv")] == ["epoch", "60"]
    loss = [float(row[1]) for row in rows(tmp_path / "log.csv")[1:]]
    assert np.mean(loss[-6:]) < 0.6 * np.mean(loss[:3])


def test_bf16_is_near_fp32(photos, whole, tmp_path):
    run(photos, tmp_path, precision="bf16")
    ours, theirs = (np.array(rows(out / "log.csv")[1:], float)[:, 1] for out in (whole[0], tmp_path))
    assert not np.array_equal(ours, theirs)
    np.testing.assert_allclose(ours, theirs, rtol=0.02)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKED", 1)
    usual, steps = MaskedAutoencoder.forward, []

    def poisoned(self, *given):
        steps.append(1)
        return usual(self, *given) * (math.nan if len(steps) == 6 else 1)

    monkeypatch.setattr(MaskedAutoencoder, "forward", poisoned)
    with pytest.raises(SiftlensError, match="the loss is nan at step 5; what .* holds is from before"):
        run(photos, tmp_path, pace=Pace(save_every=0))
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        assert file.metadata()["step"] == "5"
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118


@pytest.mark.parametrize("last", [5, STEPS])
def test_weights_that_are_not_finite_are_never_kept(photos, tmp_path, monkeypatch, last):
    """The loss of a step is finite when its update is not."""
    monkeypatch.setattr(loop, "_CHECKED", 1)
    usual = Learner.step

    def poisoned(self, step, parts):
        loss = usual(self, step, parts)
        if step == last - 1:
            next(iter(self.optimizers[0].param_groups[0]["params"])).data.flatten()[0] = math.nan
        return loss

    monkeypatch.setattr(Learner, "step", poisoned)
    with pytest.raises(SiftlensError, match=f"weights are not finite after step {last}; what .* holds is from before"):
        run(photos, tmp_path, pace=Pace(save_every=0))
    with safe_open(tmp_path / "state.safetensors", "pt") as file:
        assert file.metadata()["step"] == str(last - 1)
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    assert not (tmp_path / "encoder.safetensors").exists()


def test_the_first_checkpoint_comes_early(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "_CHECKED", 1)
    monkeypatch.setattr(loop, "_FIRST", 0.0)
    saved = []
    monkeypatch.setattr(loop, "save_state", lambda *given: saved.append(given[3]))
    run(photos, tmp_path, pace=Pace(save_every=3600))
    assert saved == [1, STEPS]


@pytest.mark.parametrize("glob", ["**/*", "*/*", "*/*.png", "out/*.p?g"])
def test_nothing_is_written_where_a_glob_would_find_it(photos, tmp_path, glob):
    for place in {"**/*": (photos, photos / "a"), "out/*.p?g": (photos / "out",)}.get(glob, (photos / "a",)):
        with pytest.raises(InputError, match="where its pictures would be trained on; choose a folder elsewhere"):
            run(str(photos / glob), place)
    with pytest.raises(InputError, match="no images"):
        run(str(photos / "none" / glob), tmp_path / "out")


def test_nothing_is_written_among_the_images(photos, tmp_path):
    shutil.copytree(photos, tmp_path / "photos")
    for out in (tmp_path / "photos", tmp_path / "photos" / "out"):
        with pytest.raises(InputError, match="where its pictures would be trained on; choose a folder elsewhere"):
            run(tmp_path / "photos", out)
    assert sorted(path.name for path in (tmp_path / "photos").iterdir()) == ["a", "b"]


def test_files_of_another_origin_are_left_alone(photos, tmp_path):
    (tmp_path / "log.csv").write_text("mine")
    with pytest.raises(InputError, match="holds log.csv already; choose another folder, or remove that file first"):
        run(photos, tmp_path)
    assert (tmp_path / "log.csv").read_text() == "mine"


def test_a_damaged_log_does_not_stop_a_run(photos, whole, tmp_path):
    run(photos, tmp_path)
    log = tmp_path / "log.csv"
    log.write_text(log.read_text().replace("step,loss\n", "step,loss\n\nnonsense\n"))
    run(photos, tmp_path, resume=True)
    assert rows(log) == rows(whole[0] / "log.csv")


def test_too_little_memory_says_what_helps(photos, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(MaskedAutoencoder, "forward", full)
    helps = "out of memory in a training step; --accumulate 2 needs about half; "
    with pytest.raises(SiftlensError, match=f"{helps}no checkpoint was due yet: begin anew"):
        run(photos, tmp_path)
    (tmp_path / "state.safetensors").touch()
    with pytest.raises(SiftlensError, match=f"{helps}--resume goes on in {tmp_path}"), step_errors(tmp_path):
        full()


def test_other_settings_are_not_resumed(photos, tmp_path):
    run(photos, tmp_path, replace(SETTINGS, epochs=1))
    with pytest.raises(StudyError, match="had other settings: epochs was 1 and is 3; resume with the settings and"):
        run(photos, tmp_path, resume=True)
    with pytest.raises(StudyError, match=r"policy\.name was 'ramped' and is 'random'"):
        run(photos, tmp_path, replace(SETTINGS, epochs=1, policy=MaskPolicy()), resume=True)
    with pytest.raises(InputError, match="holds a run already; go on with it"):
        run(photos, tmp_path)


def test_where_nothing_can_be_written_nothing_is_decoded(photos, tmp_path):
    (tmp_path / "file").touch()
    stages = []
    with pytest.raises(InputError, match="cannot write .*: a file stands where a folder is needed"):
        run(photos, tmp_path / "file" / "out", progress=lambda *told: stages.append(told))
    assert not stages


def test_a_folder_that_another_run_writes_to_is_refused(photos, tmp_path):
    out = tmp_path / "out"
    with held(out), pytest.raises(InputError, match=f"another run is writing to {out}; wait for it to end"):
        run(photos, out)
    assert not out.exists()


def test_a_run_that_was_finished_meanwhile_is_left_as_it_is(photos, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"

    @contextmanager
    def another_was_faster(place):
        shutil.copytree(whole[0], place)
        yield

    monkeypatch.setattr(sys.modules["siftlens.pretraining.pretrain"], "held", another_was_faster)
    with pytest.raises(InputError, match="holds a run already; go on with it"):
        run(photos, out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in whole[0].iterdir()
    }


def test_a_run_that_ended_before_its_first_checkpoint_can_begin_anew(photos, whole, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_state", stop)
        run(photos, tmp_path / "out")
    assert (tmp_path / "out" / "log.csv").exists()
    run(photos, tmp_path / "out")
    assert_same_weights(whole[0], tmp_path / "out", rtol=0, atol=0)


def test_a_study_is_not_overwritten(photos, tmp_path):
    write_record(tmp_path / "run.json", {"settings": {}}, ())
    with pytest.raises(InputError, match="holds a study, an audit or a prompt; choose another folder"):
        run(photos, tmp_path, resume=True)


def test_other_images_are_not_resumed_and_nothing_is_overwritten(photos, tmp_path):
    images, out = tmp_path / "photos", tmp_path / "out"
    shutil.copytree(photos, images)
    run(images, out, replace(SETTINGS, epochs=1))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (images / "a" / "00.png").unlink()
    with pytest.raises(StudyError, match="images was '20 images, .{16}' and is '19 images, .{16}'"):
        run(images, out, replace(SETTINGS, epochs=1), resume=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_keypoints_detected_otherwise_are_not_resumed(photos, keypoints, tmp_path):
    settings = replace(SETTINGS, epochs=1, guide="keypoints")
    run(photos, tmp_path / "out", settings, keypoints=keypoints)
    detect_images(photos, tmp_path / "others", side=SIZE, settings=SiftSettings(contrast_threshold=0.01))
    with pytest.raises(StudyError, match=r"keypoints\.contrast_threshold was 0\.04 and is 0\.01"):
        run(photos, tmp_path / "out", settings, keypoints=tmp_path / "others", resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-7],
        lambda content: content[:-7] + bytes([content[-7] ^ 1]) + content[-6:],  # one bit of a weight
        lambda content: content.replace(b'"step":"3"', b'"step":"2"'),
        lambda content: content.replace(b"exp_avg.encoder.cls_token", b"exp_avh.encoder.cls_token"),
        lambda content: content.replace(b"model.encoder.cls_token", b"model.encoder.clt_token"),
    ],
    ids=["cut off", "a bit", "the step", "a moment's name", "a weight's name"],
)
def test_a_damaged_state_is_refused_and_the_encoder_stays(photos, tmp_path, damage):
    run(photos, tmp_path, replace(SETTINGS, epochs=1))
    state, encoder = tmp_path / "state.safetensors", (tmp_path / "encoder.safetensors").read_bytes()
    content = state.read_bytes()
    state.write_bytes(damage(content))
    assert state.read_bytes() != content
    with pytest.raises(StudyError, match=r"state\.safetensors is damaged .*, and cannot be resumed; begin anew"):
        run(photos, tmp_path, replace(SETTINGS, epochs=1), resume=True)
    assert (tmp_path / "encoder.safetensors").read_bytes() == encoder


def test_what_a_killed_run_left_half_written_goes(photos, tmp_path):
    half = tmp_path / ".state.safetensors.9gl5bb1i.tmp"
    half.write_bytes(b"half")
    run(photos, tmp_path, replace(SETTINGS, epochs=1))
    assert not half.exists()


@pytest.mark.parametrize("name", ["timm/test_vit", "test_vit"])
def test_the_encoder_is_named_as_elsewhere(name):
    assert replace(SETTINGS, model=name).model == "test_vit"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"guide": "keypoints"}, InputError, r"needs their file; make it \(siftlens keypoints --size 32\)"),
        ({"model": "vit_tini_patch16_224"}, ModelError, "did you mean timm/vit_tiny_patch16_224"),
        (
            {"size": 36},
            ModelError,
            "views of 36 px are no whole number of patches of 8x8 px; the nearest size is 32 px",
        ),
        ({"size": 30}, ModelError, "no whole number of patches of 8x8 px; the nearest size is 32 px"),
        (
            {"first_size": 12},
            ModelError,
            "first views of 12 px are no whole number of patches of 8x8 px; choose a multiple of 8 px",
        ),
        ({"first_size": 8}, ModelError, "first views of 8 px are one patch, of which nothing can be masked"),
        ({"batch_size": 21}, InputError, "a batch of 21 needs as many images, got 20"),
        (
            {"decoding": PartialDecoding(0.99)},
            InputError,
            "a share of 0.99 of 12 masked patches is all of them; choose",
        ),
        ({"decoding": PartialDecoding(0.5, 0.01)}, InputError, "a part of 0.01 of 6 decoded patches is none; choose"),
    ],
)
def test_what_cannot_be_done_is_said(photos, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run(photos, tmp_path, replace(SETTINGS, source=None, **changes))
    assert not list(tmp_path.iterdir())


def test_a_batch_that_cannot_be_shared_is_refused(photos, tmp_path):
    with pytest.raises(
        InputError, match="a batch of 6 images cannot be shared equally by 4 parts; choose a multiple of 4"
    ):
        run(photos, tmp_path, pace=Pace(accumulate=4))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number, at least 1, got 0"),
        ({"learning_rate": math.inf}, r"learning_rate must be positive and at most 1e\+30, got inf"),
        ({"learning_rate": 0.0}, r"learning_rate must be positive and at most 1e\+30, got 0.0"),
        ({"seed": -1}, "seed must be a whole number, at least 0, got -1"),
        ({"seed": 2**64}, r"seed must be below 2\*\*63, got"),
        ({"warm_up": 0.0}, "warm_up must lie between 0 and 1, got 0.0"),
        ({"source": 16}, "views of 32 px cannot be cut from squares of 16 px"),
        ({"first_size": 0}, "first_size must be positive and smaller than size, 32 px, got 0"),
        ({"first_size": 32}, "first_size must be positive and smaller than size, 32 px, got 32"),
        ({"first_part": 0.0}, "first_part must lie between 0 and 1, got 0.0"),
        ({"first_part": 1.0}, "first_part must lie between 0 and 1, got 1.0"),
        ({"first_part": math.nan}, "first_part must lie between 0 and 1, got nan"),
        ({"loss_temperature": 0.0}, "loss_temperature must be at least 0.001, got 0.0"),
        ({"loss_temperature": 1e-40}, "loss_temperature must be at least 0.001, got 1e-40"),
        ({"optimizer": "sgd"}, "optimizer must be one of muon, muon-encoder, adamw, got 'sgd'"),
        ({"guide": "depth"}, "guide must be one of keypoints, other, gradient, got 'depth'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        replace(SETTINGS, **changes)


def test_views_are_small_for_the_first_part_alone():
    growing = replace(SETTINGS, first_size=16, first_part=0.25)
    assert [growing.size_at(progress) for progress in (0.0, 0.2499, 0.25, 1.0)] == [16, 16, SIZE, SIZE]
    assert SETTINGS.size_at(0.0) == SETTINGS.size_at(1.0) == SIZE
    assert {name: growing.describe()[name] for name in ("first_size", "first_part")} == {
        "first_size": 16,
        "first_part": 0.25,
    }


def test_the_rate_rises_and_falls():
    rates = [rate_at(progress, 0.1) for progress in (0.0, 0.05, 0.1, 0.55, 1.0)]
    np.testing.assert_allclose(rates, [0, 0.5, 1, 0.5, 0], atol=1e-12)
