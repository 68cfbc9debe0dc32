"""The package as a whole: what importing it costs, and what it hands on."""

import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import siftlens

REPOSITORY = Path(__file__).parent.parent
SOURCES = sorted((REPOSITORY / "src" / "siftlens").rglob("*.py"))
HEAVY = {"cv2", "h5py", "matplotlib", "numpy", "pandas", "pyarrow", "scipy", "timm", "torch", "transformers", "xarray"}


def modules_after(code: str, *flags: str) -> tuple[set[str], str]:
    """Top-level modules that a fresh interpreter holds after running code, and what it wrote."""
    program = f"{code}\nimport sys; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True)
    *said, names = done.stdout.splitlines()
    return set(names.split()), "\n".join(said) + done.stderr


def test_import_is_silent_and_pulls_in_nothing_heavy():
    modules, said = modules_after("import siftlens", "-W", "error")
    assert "siftlens" in modules
    assert not modules & HEAVY
    assert said == ""


def test_import_is_fast():
    code = "import time; start = time.process_time(); import siftlens; print(time.process_time() - start)"
    fastest = min(float(modules_after(code)[1]) for _ in range(3))
    assert fastest < 0.1


def test_import_changes_nothing_around_it():
    code = """
import importlib, os, random, signal, sys, threading, warnings
def state():
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    return dict(os.environ), list(warnings.filters), random.getstate(), handlers, sys.path[:], threading.active_count()
before = state()
import siftlens
print(state() == before)
"""
    assert modules_after(code)[1] == "True"


@pytest.mark.parametrize("module", ["core", "data", "keypoints", "patchmaps", "patchmaps.pipeline", "cli"])
def test_worker_processes_and_help_start_without_torch(module):
    modules, said = modules_after(f"import siftlens.{module}", "-W", "error")
    assert "torch" not in modules
    assert said == ""


def test_public_names_are_sorted_and_all_there():
    assert siftlens.__all__ == sorted(siftlens.__all__)
    for name in siftlens.__all__:
        assert getattr(siftlens, name).__doc__, f"{name} lacks a docstring"
    assert dir(siftlens) == sorted([*siftlens.__all__, "__version__"])


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'siftlens' has no attribute 'analyse'"):
        siftlens.analyse  # noqa: B018


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY / "src")))
def test_no_layer_takes_names_from_the_root(path):
    """import-linter does not see what is taken from the root, which stands above all layers."""
    nodes = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    taken = {name.name for node in nodes if node.module == "siftlens" for name in node.names}
    assert taken <= {"__version__"}


@pytest.mark.parametrize("path", [p for p in SOURCES if p.name == "__init__.py"], ids=lambda path: path.parent.name)
def test_folders_hand_on_what_they_name(path):
    module = importlib.import_module(".".join(path.relative_to(REPOSITORY / "src").parent.parts))
    assert [name for name in getattr(module, "__all__", []) if not hasattr(module, name)] == []


def test_version_is_the_same_everywhere():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["version"] == siftlens.__version__
    assert f"## [{siftlens.__version__}]" in (REPOSITORY / "CHANGELOG.md").read_text("utf-8")


def test_every_requirement_is_pinned():
    pins = {}
    for line in (REPOSITORY / "constraints.txt").read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[name.lower().replace("_", "-")] = version
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf-8"))
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {line.partition(">=")[0].partition("[")[0].lower().replace("_", "-") for line in wanted}
    assert names - {"siftlens"} <= set(pins)
