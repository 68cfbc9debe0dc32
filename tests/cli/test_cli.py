"""The command line as a user meets it: whole outputs and exit codes."""

import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer import Exit
from typer.testing import CliRunner

import siftlens
from siftlens.cli import demo as demo_command
from siftlens.cli.app import app
from siftlens.cli.demo import PHOTOGRAPHS, find_photographs
from siftlens.cli.failure import reported
from siftlens.core import InputError

FACTORY = """
import os
import time
import torch
from timm.models.vision_transformer import VisionTransformer

def make(**settings):
    torch.manual_seed(5)
    model = VisionTransformer(img_size=(40, 56), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=11)
    model.normalize, model.size = "imagenet", (40, 56)
    return model

class Slow(VisionTransformer):
    def forward(self, x):
        time.sleep(float(os.environ.get("SLOW", 0)))
        return super().forward(x)

def slow():
    model = make()
    model.__class__ = Slow
    return model

def cnn():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.Flatten())
    model.normalize, model.size = None, 40
    return model

def nan():
    model = make()
    with torch.no_grad():
        model.blocks[1].mlp.fc2.bias.fill_(torch.finfo(torch.float32).max)
    return model
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model and 13 pictures in two folders, one file that is no image among them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIFTLENS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TERMINAL_WIDTH", "100")
    Path("model.py").write_text(FACTORY)
    rng = np.random.default_rng(5)
    for number in range(13):
        small = Image.fromarray(rng.integers(0, 255, (10, 14, 3), dtype=np.uint8))
        path = Path("photos") / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        small.resize((56, 40), Image.Resampling.NEAREST).save(path)
    Path("photos/b/notes.txt").write_text("not an image")
    return tmp_path


def siftlens_cli(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments)])


def analyze(*arguments, model="model.py:make", images="photos", out="out"):
    return siftlens_cli("analyze", "--model", model, "--images", images, "--out", out, *arguments)


def failed(result):
    """What a failed command printed, where it printed nothing else."""
    assert result.stdout == ""
    return result.stderr


SUMMARY = re.compile(
    r"""report     out/index\.html
images     13, and 1 set aside \(reasons in out/quarantine\.csv\)
keypoints  in \d+% of the patches, on average over images

None of 6 heads pulls toward or away from keypoints by 0\.1 SD or more \(q < 0\.05\)\.
The largest effect: layer [01], head [012]: [+-]\d\.\d\d\d SD \[[+-]\d\.\d\d\d, [+-]\d\.\d\d\d\]; q = [\d.]+
Significant, but too small to matter: \d heads?\.

Only 13 images stand behind the null: read this as a preview\.
"""
)


def test_images_without_a_keypoint_tell_nothing(place):
    for path in Path("photos").rglob("*.png"):
        Image.new("RGB", (56, 40), (90, 90, 90)).save(path)
    result = analyze()
    assert result.exit_code == 0
    assert result.stdout.endswith("\n\nNot one image has a keypoint: nothing can be told of where attention goes.\n")
    assert "Not one image has a keypoint" in Path("out/index.html").read_text()


def test_a_single_patch_is_refused(place):
    result = analyze("--size", "8", model="demo")
    assert result.exit_code == 2
    assert "demo has one patch at this size, and no attention between patches; choose a larger one" in failed(result)


def test_of_too_few_images_nothing_is_told_from_chance(place):
    result = analyze("--limit", 3)
    assert result.exit_code == 0
    assert "\nNo effect can be told from chance: that takes 4 images or more.\n" in result.stdout
    page = Path("out/index.html").read_text()
    assert "No head can be told from chance: that takes 4 images or more." in page
    assert "reaches furthest" not in page


def test_a_mistyped_path_is_told_before_the_model_is_loaded(place):
    Path("model.py").write_text("def make():\n    raise AssertionError('loaded')\n")
    result = analyze(images="fotos")
    assert result.exit_code == 2
    assert failed(result).startswith("siftlens: error: no images at fotos: nothing is there")


def test_analyze_writes_a_study_and_sums_it_up(place):
    result = analyze("--entropy", "--group-by", "folder", "--batch-size", 5, "--seed", 3)
    assert result.exit_code == 0
    assert SUMMARY.fullmatch(result.stdout)
    assert result.stderr == ""  # not a terminal: no progress
    study = siftlens.load_study("out")
    assert study.run.settings["seed"] == 3
    assert "entropy" in set(study.heads["statistic"])
    assert list(study.heads_by_group["group"].unique()) == ["a", "b"]
    study.arrays.close()

    again = analyze()
    assert again.exit_code == 2
    assert failed(again) == (
        "siftlens: error: out holds a finished study; choose another folder, or remove that one first\n"
    )


def test_every_option_reaches_the_analysis(place):
    result = analyze(
        *("--limit", 7, "--measure", "footprint", "--weighting", "value_norm", "--exclude-outliers"),
        *("--dtype", "bf16", "--workers", 1, "--size", "40x56", "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    run = siftlens.load_study("out").run
    assert run.images + run.quarantined == 7
    assert {name: run.settings[name] for name in ("measure", "weighting", "exclude_outliers", "dtype", "workers")} == {
        "measure": "footprint",
        "weighting": "value_norm",
        "exclude_outliers": True,
        "dtype": "bfloat16",
        "workers": 1,
    }


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"images": "nowhere"}, r"siftlens: error: .*nowhere.*\n"),
        ({"model": "resnet"}, r"siftlens: error: a model must be timm/NAME, .*, got 'resnet'\n"),
        ({"model": "timm/vit_tiny_patch16_225"}, r"siftlens: error: timm has no model .*did you mean .*\n"),
        ({"model": "model.py:cnn"}, r"siftlens: error: Sequential: expected a vision transformer, .*\n"),
        ({"model": "model.py:nan"}, r"siftlens: error: expected finite numbers, but .* has NaN or infinity; .*\n"),
        ({"out": "model.py"}, r"siftlens: error: cannot write model\.py.*\n"),
        ({"out": "a" * 300}, r"siftlens: error: cannot write to a+: file name too long; choose another\n"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(place, arguments, told):
    result = analyze(**arguments)
    assert result.exit_code == 2
    assert re.fullmatch(told, failed(result))


@pytest.mark.parametrize("size", ["0", "3x", "axb", "1x2x3", "-4", "٣"])
def test_a_size_that_is_none_is_refused(place, size):
    result = analyze("--size", size)
    assert result.exit_code == 2
    assert failed(result) == (
        f"siftlens: error: --size must be one number (384) or HEIGHTxWIDTH (384x512), got {size!r}\n"
    )


def test_options_of_another_kind_show_what_is_expected(place):
    result = analyze("--measure", "mass")
    assert result.exit_code == 2
    assert "'count'" in failed(result)
    assert "'footprint'" in failed(result)
    assert siftlens_cli("analyze").exit_code == 2


def test_an_empty_name_is_nowhere_to_write_to(place):
    result = analyze(out="")
    assert result.exit_code == 2
    assert "expected a name, got an empty one; is a shell variable" in failed(result)


def test_nothing_readable_is_exit_1(place):
    Path("broken").mkdir()
    Path("broken/a.jpg").write_bytes(b"")
    result = analyze(images="broken")
    assert result.exit_code == 1
    assert re.fullmatch(r"siftlens: error: none of the 1 images could be read; the first: a\.jpg: .*\n", failed(result))


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EROFS, "writing is not permitted; choose a folder that you can write to"),
        (errno.EACCES, "writing is not permitted; choose a folder that you can write to"),
        (errno.ENOSPC, "the disk is full; free some space or choose another folder"),
    ],
)
def test_a_folder_that_cannot_be_written_says_so(place, monkeypatch, number, told):
    # Raised here, because root may write anywhere.
    make = Path.mkdir

    def fail(path, *arguments, **options):
        if "out" in path.parts:
            raise OSError(number, os.strerror(number))
        make(path, *arguments, **options)

    monkeypatch.setattr("pathlib.Path.mkdir", fail)
    result = analyze()
    assert result.exit_code == 2
    assert failed(result) == f"siftlens: error: cannot write out/.progress: {told}\n"


def test_help_and_version():
    result = siftlens_cli("--help")
    assert result.exit_code == 0
    for word in ("analyze", "demo", "Exit codes: 0 done, 1 no image could be read, 2 bad input"):
        assert word in result.stdout
    result = siftlens_cli("analyze", "--help")
    for option in (
        *(
            "--model",
            "--images",
            "--out",
            "--weights",
            "--random-init",
            "--device",
            "--dtype",
            "--batch-size",
            "--limit",
        ),
        *("--size", "--measure", "--weighting", "--group-by", "--entropy", "--seed", "--resume", "--workers"),
    ):
        assert option in result.stdout
    assert siftlens_cli("--version").stdout == f"siftlens {siftlens.__version__}\n"
    as_module = subprocess.run([sys.executable, "-m", "siftlens", "--version"], capture_output=True, text=True)
    assert as_module.stdout == f"siftlens {siftlens.__version__}\n"


def test_help_does_not_wait_for_torch():
    code = "import sys, siftlens.cli.app; sys.exit('torch' in sys.modules or 'cv2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's threads are GNU's on Linux only")
@pytest.mark.parametrize(
    ("own", "spins"), [({}, "10000"), ({"GOMP_SPINCOUNT": "77"}, "77"), ({"OMP_WAIT_POLICY": "passive"}, "0")]
)
def test_idle_threads_do_not_take_cores_from_detection_unless_told_to(own, spins):
    code = """
import sys
from siftlens.cli import main
sys.argv[1:] = ["--version"]
try:
    main()
except SystemExit:
    import torch
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("GOMP_", "OMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=environment | {"OMP_DISPLAY_ENV": "verbose"} | own,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr


def test_ctrl_c_keeps_what_is_done_and_resume_ends_with_the_same_numbers(place):
    options = ["--batch-size", "1", "--workers", "0"]
    # A commit after every batch, so that the test need not wait for one.
    code = textwrap.dedent("""
        from siftlens.interrelation import run
        run.run.__kwdefaults__["commit_seconds"] = 0
        from siftlens.cli import main
        main()
    """)
    command = [sys.executable, "-c", code, "analyze", "--model", "model.py:slow", "--images", "photos", "--out", "out"]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"SLOW": "0.5"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell ignores it
    )
    deadline = time.monotonic() + 120
    while not Path("out/.progress/state.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    printed, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert (printed, told) == ("", "\nsiftlens: stopped; --resume goes on from the last state in out\n")

    refused = analyze(*options, model="model.py:slow")
    assert refused.exit_code == 2
    assert failed(refused) == (
        "siftlens: error: out holds an interrupted run; add --resume (resume=True) to go on with it, or choose "
        "another folder\n"
    )

    assert analyze(*options, "--resume", model="model.py:slow").exit_code == 0
    assert analyze(*options, model="model.py:slow", out="whole").exit_code == 0
    for table in ("heads.parquet", "images.parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(f"out/{table}"), pd.read_parquet(f"whole/{table}"))
    assert not Path("out/.progress").exists()


@pytest.mark.parametrize("resumes", [True, False])
def test_only_a_command_with_resume_speaks_of_it(resumes, tmp_path, capsys):
    (tmp_path / "state.safetensors").touch()
    with pytest.raises(Exit) as stopped, reported(tmp_path, resumes=resumes):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    hint = f"; --resume goes on from the last state in {tmp_path}" if resumes else ""
    assert capsys.readouterr().err == f"\nsiftlens: stopped{hint}\n"


@pytest.mark.parametrize(
    "command",
    [
        ["export", "nowhere"],
        ["compare", "nowhere", "elsewhere"],
        ["prompt", "--model", "demo", "--images", "photos", "--policy", "nowhere.json"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_begin_again_do_not_offer_to_go_on(command, place):
    Path("out/.progress").mkdir(parents=True)
    Path("out/.progress/state.json").touch()
    told = CliRunner().invoke(app, [*command, "--out", "out"])
    assert told.exit_code == 2 and told.stderr.startswith("siftlens: error: ") and "--resume" not in told.stderr


def test_keypoints_go_on_without_it(tmp_path, capsys):
    (tmp_path / "kept.partial").mkdir()
    with pytest.raises(Exit), reported(tmp_path / "kept", resumes=True):
        raise KeyboardInterrupt
    assert (
        capsys.readouterr().err == f"\nsiftlens: stopped; the same command goes on from {tmp_path / 'kept'}.partial\n"
    )


def test_warnings_are_one_line_too(capsys):
    with reported(Path("out")):
        warnings.simplefilter("always")
        warnings.warn("the cache is damaged;\nit is begun anew", RuntimeWarning, stacklevel=1)
    assert capsys.readouterr().err == "siftlens: warning: the cache is damaged; it is begun anew\n"


def test_the_demos_photographs_come_with_scikit_image():
    found = find_photographs()
    assert [path.name for path in found] == list(PHOTOGRAPHS)


def test_the_demo_runs_offline_on_what_is_installed(place):
    result = siftlens_cli("demo", "--out", "demo")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("report     demo/index.html\nimages     18\nkeypoints  in ")
    study = siftlens.load_study("demo")
    study.arrays.close()
    assert list(study.images["identity"]) == list(PHOTOGRAPHS)
    assert study.run.settings["source"] == "demo/photographs.txt"
    told = result.stdout.partition("An audit of a model that was taught to take a glyph for a star")[2]
    assert "audit      demo/audit/index.html\nIts answers hang on " in told
    audit = siftlens.load_audit("demo/audit")
    glyph = np.stack([np.asarray(Image.open(f"demo/planted/cues/{name}")) > 0 for name in audit.images["identity"]])
    glyph = glyph.reshape(-1, 8, 8, 8, 8).mean(axis=(2, 4)) > 0.5
    model = siftlens.load_model("demo-shortcut")
    pictures = [Image.open(f"demo/planted/images/{name}") for name in audit.images["identity"][:60]]
    on_it = [
        np.mean(glyph[:60][np.stack([cue.patches(picture, model) for picture in pictures])])
        for cue in audit
        if cue.verdict == "harmful reliance" and cue.label == "star"
    ]
    assert max(on_it) > 0.5  # patches of one of the cues that do harm are the glyph's
    told = told.partition("The same model with attention moved off what does harm")[2]
    assert "report     demo/prompt/index.html\nimages     400\n" in told
    effect = pd.read_parquet("demo/prompt/predictions.parquet").set_index("identity")
    group = pd.read_csv("demo/planted_test/groups.csv").set_index("path")["group"]
    misled = effect[group.reindex(effect.index) == 1]  # ellipses with the glyph
    before, after = ((misled[name] == "ellipse").mean() for name in ("before", "after"))
    assert before < 0.7 and after > before + 0.05
    better = siftlens.load_prompted("demo/prompt", model)
    assert better.policy.biased and better.audit is not None
    refused = siftlens_cli("demo", "--out", "demo")
    assert refused.exit_code == 2
    expected = "expected a new or an empty folder, but demo holds files; remove it, or choose another"
    assert failed(refused) == f"siftlens: error: {expected}\n"


def test_the_demo_says_what_to_install(place, monkeypatch):
    monkeypatch.setattr(demo_command, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"come with scikit-image; install it: pip install 'siftlens\[demo\]'"):
        find_photographs()
    result = siftlens_cli("demo", "--out", "out")
    assert result.exit_code == 2
    assert failed(result).startswith("siftlens: error: the demo's photographs come with scikit-image")


def test_the_current_folder_is_no_reason_to_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Exit), reported(Path()):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == "\nsiftlens: stopped\n"
