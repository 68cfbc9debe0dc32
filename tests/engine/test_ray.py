"""The engine on Ray: the numbers of one process, whatever the workers, and whoever is killed meanwhile."""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from PIL import Image
from typer.testing import CliRunner

import siftlens
from oracles import leaning
from siftlens.cli.app import app
from siftlens.core import InputError, ModelError, PatchGrid, SiftlensError
from siftlens.data import Preprocessing, open_images
from siftlens.engine import LocalEngine, open_engine
from siftlens.engine.cluster import _knock, connected
from siftlens.keypoints import KeypointCache
from siftlens.models import LoadedModel
from siftlens.patchmaps import PrepareSettings, Quarantined
from siftlens.pretraining.detection import detect_images

if find_spec("ray") is None:
    pytest.skip("needs Ray: pip install 'siftlens[scale]'", allow_module_level=True)

SETTINGS = PrepareSettings(Preprocessing(40, 56), PatchGrid(5, 7, 8, 8), rivals=False)


def whole(image):
    return image


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """One for the whole file: starting it takes seconds. What the tests open uses it, and leaves it as it is."""
    with connected(None):
        for pickler in ("cloudpickle", "ray.cloudpickle"):  # processes that start others have not this file's path
            for module in (sys.modules[__name__], leaning):
                importlib.import_module(pickler).register_pickle_by_value(module)
        yield


def on_ray(workers, gpu=False):
    """Not at the top: siftlens imports Ray, and quietens it, when it is first used."""
    return importlib.import_module("siftlens.engine.on_ray").RayEngine(workers, gpu=gpu)


@dataclass(frozen=True)
class Once:
    """Kills the process that it is called in, the first time."""

    flag: Path

    def __call__(self):
        if not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Names:
    """Work that says which images it got, after a while that is longest for the first."""

    once: Once | None = None

    def __call__(self, chunk):
        if self.once and "cats/10.png" in {image.identity for image in chunk}:
            self.once()
        time.sleep(0.3 if chunk[0].identity.startswith("cats/01") else 0)
        return [image.identity for image in chunk]


@dataclass(frozen=True)
class Deadly(Preprocessing):
    """Ends the process that decodes one of the images, as a fault in a decoder does."""

    def apply(self, image):
        pixels = super().apply(image)
        if pixels.sum() == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        return pixels

    fatal: int = -1


def assert_same(study, expected):
    tolerance = {"rtol": 1e-9, "atol": 1e-12}
    for name in ("heads", "layers", "images"):
        pd.testing.assert_frame_equal(getattr(study, name), getattr(expected, name), **tolerance)
    pd.testing.assert_frame_equal(study.quarantine, expected.quarantine)
    xr.testing.assert_allclose(study.arrays, expected.arrays, **tolerance)


@pytest.fixture(scope="module")
def alone(model, folder):
    """The study that one process makes."""
    return siftlens.analyze(model, folder, batch_size=5, workers=0, cache=False)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_numbers_are_those_of_one_process(alone, model, folder, workers):
    study = siftlens.analyze(model, folder, batch_size=5, engine="ray", workers=workers, cache=False)
    assert_same(study, alone)
    assert len(study.quarantine) == 3
    assert (study.run.settings["engine"], study.run.settings["workers"]) == ("ray", workers)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_chunks_come_in_the_order_of_the_source_and_each_once_though_processes_are_killed(
    folder, workers, tmp_path, capfd
):
    source = open_images(folder)
    expected = list(LocalEngine(0).work(source, SETTINGS, None, Names(), 4))
    flag = tmp_path / "killed"
    found = on_ray(workers).work(source, SETTINGS, None, Names(Once(flag)), 4)
    assert list(found) == expected
    assert flag.exists()
    assert capfd.readouterr() == ("", "")  # Ray would tell of the process that died


def test_a_study_counts_no_image_twice_when_a_worker_is_killed(alone, model, folder, tmp_path):
    flag = tmp_path / "killed"
    spoilt = LoadedModel(**{**vars(model), "module": model.module})
    hook = model.module.register_forward_pre_hook(lambda module, args: Once(flag)() if len(args[0]) == 4 else None)
    try:
        flag.touch()
        study = siftlens.analyze(spoilt, folder, batch_size=5, workers=0, cache=False)
        flag.unlink()
        killed = siftlens.analyze(spoilt, folder, batch_size=5, engine="ray", workers=2, cache=False)
    finally:
        hook.remove()
    assert flag.exists()
    assert_same(killed, study)
    assert_same(killed, alone)


PICTURES = leaning.pictures(80)
LABELS = [leaning.CLASSES[picture.label] for picture in PICTURES]
PIXELS = [picture.pixels for picture in PICTURES]


def audited(images, model=None, **settings):
    model = model or leaning.Leaning(on_object=1, on_cue=2)
    given = {"normalize": None, "size": model.size, "vocabularies": ("colour",), "batch_size": 17}
    return siftlens.audit(model.eval(), images, **given | settings)


def assert_same_audit(audit, expected):
    for name in ("cues", "images", "properties", "shown"):
        assert len(getattr(expected, name))
        pd.testing.assert_frame_equal(getattr(audit, name), getattr(expected, name), rtol=1e-9, atol=1e-12)
    pd.testing.assert_frame_equal(audit.pictures, expected.pictures)
    for name in audit.info.keys() - {"settings", "started", "seconds"}:
        assert audit.info[name] == expected.info[name]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Images in files with all that is known of them, and the audit that one process makes."""
    folder = tmp_path_factory.mktemp("planted")
    for number, (picture, label) in enumerate(zip(PICTURES, LABELS, strict=True)):
        whole = picture.object_map.repeat(leaning.SIDE, 0).repeat(leaning.SIDE, 1)
        for kind, pixels in (("images", picture.pixels), ("masks", whole * np.uint8(255))):
            path = folder / kind / label / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    settings = {"images": folder / "images", "masks": folder / "masks", "environment": folder / "images"}
    settings |= {"probe": True, "vocabularies": ("colour", "token")}
    return settings, audited(**settings)


@pytest.mark.parametrize("workers", [1, 2])
def test_an_audit_is_that_of_one_process(planted, workers):
    settings, expected = planted
    seen = []
    audit = audited(**settings, engine="ray", workers=workers, progress=lambda *at: seen.append(at))
    assert_same_audit(audit, expected)
    assert audit.info["settings"]["engine"] == "ray"
    cues = len(audit.cues)
    assert seen == [("images", min(17 * i, 80), 80) for i in range(1, 6)] + [("cues", i, cues) for i in range(cues + 1)]


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_an_audit_of_one_file_of_images(planted, kind, tmp_path):
    """Each machine reads its images in place; names differ from those of a folder, cues do not."""
    folder, file = planted[0]["images"], tmp_path / f"images.{kind}"
    paths = sorted(folder.glob("*/*.png"))
    labels = [path.parent.name for path in paths]
    if kind == "tar":
        with tarfile.open(file, "w") as tar:
            for path in paths:
                tar.add(path, path.relative_to(folder))
    else:
        rows = [{"image": {"bytes": path.read_bytes(), "path": path.name}} for path in paths]
        pq.write_table(pa.Table.from_pylist(rows), file)
    audit = audited(file, labels=labels, engine="ray", workers=1)
    assert_same_audit(audit, audited(file, labels=labels))
    pd.testing.assert_frame_equal(audit.cues, audited(folder, labels=labels).cues, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def in_memory():
    """The audit of images in memory that one process makes."""
    return audited(PIXELS, labels=LABELS)


@pytest.mark.parametrize("stage", ["images", "cues"])
def test_an_audit_counts_nothing_twice_when_a_worker_is_killed(in_memory, stage, tmp_path):
    begun, flag, here = tmp_path / "begun", tmp_path / "killed", os.getpid()
    model = leaning.Leaning(on_object=1, on_cue=2)
    model.register_forward_pre_hook(lambda *_: Once(flag)() if begun.exists() and os.getpid() != here else None)
    audit = audited(
        PIXELS,
        model,
        labels=LABELS,
        engine="ray",
        workers=2,
        progress=lambda at, *_: begun.touch() if at == stage else None,
    )
    assert flag.exists()
    assert_same_audit(audit, in_memory)


def test_what_cannot_be_copied_to_other_processes_is_told():
    work = partial(print, threading.Lock())
    with (
        pytest.raises(InputError, match="cannot be copied to other processes .cannot pickle '_thread.lock'"),
        on_ray(1).hire(work),
    ):
        pass


def test_an_image_that_kills_its_process_is_set_aside_alone_with_the_reason_of_one_machine(folder):
    fatal = int(np.asarray(siftlens.data.decode(list(open_images(folder))[6], SETTINGS.preprocessing)).sum())
    settings = PrepareSettings(Deadly(40, 56, fatal=fatal), SETTINGS.grid, rivals=False)
    found = list(on_ray(1).prepare(open_images(folder), settings, None, whole))
    expected = list(LocalEngine(1).prepare(open_images(folder), settings, None, whole))
    aside = [image for image in found if isinstance(image, Quarantined)]
    assert len(aside) == 4
    assert aside == [image for image in expected if isinstance(image, Quarantined)]
    assert [image.identity for image in found] == [image.identity for image in expected]


def test_keypoints_are_remembered_by_this_process_and_read_by_the_others(folder, tmp_path):
    engine, source = on_ray(1), open_images(folder)
    with KeypointCache(tmp_path / "cache.sqlite") as cache:
        first = [
            image for image in engine.prepare(source, SETTINGS, cache, whole) if not isinstance(image, Quarantined)
        ]
        assert len(first) == 23
        for image in first:
            assert len(cache.get(image.content, SETTINGS.sift)) == len(image.keypoints)
            cache.put(image.content, SETTINGS.sift, first[0].keypoints)
        cache.flush()
        again = [
            image for image in engine.prepare(source, SETTINGS, cache, whole) if not isinstance(image, Quarantined)
        ]
    assert {len(image.keypoints) for image in again} == {len(first[0].keypoints)}


def refuse(chunk):
    raise ModelError("expected another model")


def die(chunk):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_the_work_raises_is_raised_here(folder):
    with pytest.raises(ModelError, match="^expected another model$"):
        list(on_ray(1).work(open_images(folder), SETTINGS, None, refuse, 9))


def test_work_that_kills_every_process_ends_with_one_line(folder):
    with pytest.raises(SiftlensError, match="the cluster lost the images from cats/01.png on, again and again"):
        list(on_ray(1).work(open_images(folder, limit=1), SETTINGS, None, die, 9))


def busy(pixels, grid):
    """A measure of the user's own."""
    return pixels[: grid.rows, : grid.cols, 0].astype(float)


def test_a_measure_of_ones_own_gives_the_same_maps(folder):
    settings = replace(SETTINGS, measure=busy)
    found = on_ray(1).prepare(open_images(folder, limit=5), settings, None, whole)
    expected = LocalEngine(0).prepare(open_images(folder, limit=5), settings, None, whole)
    for one, other in zip(found, expected, strict=True):
        assert one.identity == other.identity
        assert isinstance(one, Quarantined) or np.array_equal(one.weights, other.weights)


def test_keypoints_for_pretraining_are_the_same(folder, tmp_path):
    store, aside = detect_images(folder, tmp_path / "ray", side=32, engine=on_ray(1))
    expected, others = detect_images(folder, tmp_path / "local", side=32)
    assert aside == others
    assert len(store) == 23
    for name, value in vars(expected).items():
        assert np.array_equal(getattr(store, name), value)
    assert list(tmp_path.glob("*.partial")) == []


MODEL = """
import torch
from timm.models.vision_transformer import VisionTransformer

class Own(VisionTransformer):
    pass

def make():
    torch.manual_seed(5)
    model = Own(img_size=(40, 56), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=11)
    model.normalize, model.size = "imagenet", (40, 56)
    return model
"""
DRIVER = """
import sys, time
import siftlens
from siftlens.interrelation.run import run

folder, address = sys.argv[1:]
run.__kwdefaults__["commit_seconds"] = 0.0
siftlens.analyze(
    siftlens.load_model("model.py:make"), folder, batch_size=3, engine="ray", address=address, workers=1, cache=False,
    out="study", progress=lambda stage, *_: time.sleep(0.5 if stage == "images" else 0),
)
"""


def test_a_run_whose_driver_was_killed_goes_on_from_its_last_commit(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    address = importlib.import_module("ray").get_runtime_context().gcs_address
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(folder), address])
    state = Path("study/.progress/state.json")
    while not state.exists() or json.loads(state.read_text())["refs"] < 6:
        assert driver.poll() is None
        time.sleep(0.1)
    driver.kill()
    driver.wait()
    model, seen = siftlens.load_model("model.py:make"), []
    options = {"batch_size": 3, "cache": False}
    study = siftlens.analyze(
        model,
        folder,
        engine="ray",
        workers=1,
        out="study",
        resume=True,
        progress=lambda *at: seen.append(at),
        **options,
    )
    begun = next(done for stage, done, _ in seen if stage == "images")
    assert 6 <= begun < 26
    with study.arrays:
        assert_same(study, siftlens.analyze(model, folder, workers=0, **options))


def test_the_command_prints_what_it_prints_without_ray(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.py").write_text(MODEL)
    said = {}
    for engine in ("local", "ray"):
        command = ["analyze", "--model", "model.py:make", "--images", str(folder), "--out", "out", "--batch-size", "9"]
        done = CliRunner().invoke(app, [*command, "--workers", "1", "--engine", engine])
        assert done.exit_code == 0
        assert done.stderr == ""
        said[engine] = done.stdout
        Path("out").rename(engine)
    assert said["ray"] == said["local"]
    assert "--engine ray" in Path("ray/index.html").read_text()


def test_a_gpu_that_the_cluster_lacks_is_told():
    with pytest.raises(InputError, match="the cluster has 0 GPUs, and 2 are needed"):
        on_ray(2, gpu=True)


NOBODY = "start one there: ray start --head, or copy its ~/.ray/auth_token to here if it asks for one"
CONNECT = (
    "from siftlens.engine import open_engine\nwith open_engine('ray', workers=1, address='{}') as engine: print(engine)"
)


def test_a_cluster_that_is_not_there_is_told():
    """In a process of its own, for this one is connected."""
    program = [sys.executable, "-c", CONNECT.format("127.0.0.1:9")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120)
    assert done.stderr.splitlines()[-1] == (
        "siftlens.core.errors.InputError: no Ray cluster at 127.0.0.1:9 that lets us in ([Errno 111] Connection "
        f"refused); {NOBODY}"
    )


def test_somebody_else_at_the_address_is_told_from_ray():
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            there, _ = server.accept()
            there.recv(100)
            there.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            there.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(ConnectionError, match="what answers there is no Ray"):
            _knock(f"127.0.0.1:{server.getsockname()[1]}")
    _knock(importlib.import_module("ray").get_runtime_context().gcs_address)


@pytest.mark.parametrize("where", ["file", "variable"])
def test_a_cluster_of_this_machine_that_was_killed_is_found_out_at_once(where, tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(importlib.import_module("ray._private.services"), "find_gcs_addresses", set)
    if where == "variable":
        monkeypatch.setenv("RAY_ADDRESS", address)
    else:
        (tmp_path / "ray").mkdir()
        (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    monkeypatch.setattr(importlib.import_module("ray"), "is_initialized", lambda: False)
    with pytest.raises(InputError, match=r"no Ray cluster at auto .*Connection refused"), connected("auto"):
        pass


def test_an_empty_address_is_refused():
    with pytest.raises(InputError, match="the address of the Ray cluster is empty; name one"), connected(""):
        pass


def test_a_cluster_that_asks_for_a_token_lets_this_user_in(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("RAY_AUTH_MODE", None)
    start = [Path(sys.executable).with_name("ray"), "start", "--head", "--block", "--num-cpus", "1"]
    options = ["--disable-usage-stats", "--include-dashboard=false", "--port", address.split(":")[1]]
    head = subprocess.Popen(
        [*start, *options],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        until_answered(address)
        program = [sys.executable, "-c", CONNECT.format(address)]
        done = subprocess.run(program, capture_output=True, text=True, timeout=120, env=environment)
        assert "RayEngine" in done.stdout, done.stderr
    finally:
        end_of(head)


def end_of(head: subprocess.Popen):
    """The cluster ends; a head that is in no hurry on a busy machine takes its processes with it by force."""
    os.killpg(head.pid, signal.SIGTERM)
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def until_answered(address: str):
    for _ in range(120):
        try:
            _knock(address)
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"nobody answers at {address}")


def test_no_worker_is_refused():
    with (
        pytest.raises(InputError, match=r"on Ray the model runs in worker processes; give --workers 1"),
        open_engine("ray", workers=0),
    ):
        pass
