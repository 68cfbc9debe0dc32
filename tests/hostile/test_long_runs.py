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
@pytest.mark.parametrize(("of", "moments"), [([], 4), (["--audit"], 3)])
def test_stopped_at_random_moments_a_run_goes_on_to_the_same_numbers(of, moments):
    command = [sys.executable, "-W", "ignore", BENCHMARKS / "stops.py", "--moments", str(moments), "--seed", "3", *of]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    stops = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(stops) == moments, done.stderr
    assert [stop["faults"] for stop in stops] == [[]] * moments
    assert done.returncode == 0
    assert any(
        stop["committed"] and not stop["finished"] for stop in stops
    )  # not all before the first or after the end


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
