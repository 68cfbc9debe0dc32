"""Processes that die, as no exception shows: killed from outside, one or all of a run."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from safetensors import SafetensorError, safe_open

from oracles.runs import SETTINGS, STEPS, assert_as_one, assert_same_weights, run

pytest.importorskip("lightning_fabric", reason="needs Lightning Fabric: pip install 'siftlens[pretrain]'")

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from siftlens.pretraining import loop
from siftlens.pretraining.choice import PartialDecoding
from siftlens.pretraining.decoder import DecoderSettings
from siftlens.pretraining.learner import Learner
from siftlens.pretraining.masking import MaskPolicy
from siftlens.pretraining.pretrain import pretrain
from siftlens.pretraining.settings import PretrainSettings

{before}
loop._CHECKED = 1
pretrain(
    Path(sys.argv[1]), Path(sys.argv[2]), {settings!r}, device="cpu", precision="fp32", pace=loop.Pace(save_every=0),
    progress=lambda *_: time.sleep(0.1),
)
"""


def started(photos, out, *, before="", **environment):
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.format(settings=SETTINGS, before=before))
    command = [sys.executable, script, photos, out]
    return subprocess.Popen(command, env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True)


def step_of(out):
    try:
        with safe_open(out / "state.safetensors", "pt") as file:
            return int(file.metadata()["step"])
    except (FileNotFoundError, SafetensorError) as error:
        assert "No such file" in str(error)
        return 0


def test_killed_without_warning_a_run_goes_on_and_ends_with_the_same_weights(photos, whole, tmp_path):
    out = tmp_path / "out"
    process = started(photos, out)
    while step_of(out) < 4:  # in the middle of the second epoch
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.kill()
    process.wait()
    process.stderr.close()
    left = step_of(out)
    assert 4 <= left < STEPS
    result = run(photos, out, resume=True)
    assert result.finished.steps == STEPS - left
    assert_same_weights(whole[0], out, rtol=0, atol=0)
    assert (out / "log.csv").read_bytes() == (whole[0] / "log.csv").read_bytes()


DYING = """
usual = Learner.step
def step(self, number, parts):
    if number == 5 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    return usual(self, number, parts)
Learner.step = step
"""


def test_when_one_process_dies_the_others_say_so_and_the_run_goes_on(photos, whole, tmp_path):
    out = tmp_path / "out"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"TORCHELASTIC_RUN_ID": "test"}  # as torchrun sets them; torchrun itself would end the other process
    pair = [started(photos, out, before=DYING, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    told = [process.communicate(timeout=120)[1] for process in pair]
    assert pair[1].returncode == -signal.SIGKILL
    assert pair[0].returncode == 1
    assert told[0].strip().splitlines()[-1].removeprefix("[rank0]: ") == (
        "siftlens.core.errors.SiftlensError: another process of this run is gone, see what it printed; "
        f"--resume goes on in {out}"
    )
    assert step_of(out) == 5
    with pytest.warns(UserWarning, match="goes on in another way than before: processes was 2 and is 1; its weights"):
        run(photos, out, resume=True)
    assert_as_one(whole[0], out, SETTINGS)
