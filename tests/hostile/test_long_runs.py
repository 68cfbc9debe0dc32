"""Small versions of `benchmarks/stops.py` and `benchmarks/soak.py`, which say more in more time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytest.importorskip("skimage", reason="needs scikit-image, whose wheel holds textures")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_stopped_at_random_moments_an_analysis_goes_on_to_the_same_numbers():
    command = [sys.executable, "-W", "ignore", BENCHMARKS / "stops.py", "--moments", "4", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    stops = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(stops) == 4, done.stderr
    assert [stop["faults"] for stop in stops] == [[]] * 4
    assert done.returncode == 0
    assert any(0 < stop["committed"] < 96 for stop in stops)  # not all before the first image or after the last


def test_nothing_stays_behind(tmp_path):
    code = "import json, soak; soak.IMAGES, soak.ANALYSED = 72, 12; print(json.dumps(soak.soak(0)))"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(BENCHMARKS), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout.splitlines()[-1])["rounds"]
    for kind in ("open_files", "threads", "children"):
        assert second[kind] <= first[kind], kind
    assert second["hooks"] == second["switched_off"] == 0
    assert second["temporary_files"] <= first["temporary_files"]
    assert second["resident_mb"] - first["resident_mb"] < 50
    assert second["objects"] - first["objects"] < 5000
