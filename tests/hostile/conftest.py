"""A place to work in, and commands whose every failure must be one line."""

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from siftlens.cli.app import app

MODEL = """
import torch
from timm.models.vision_transformer import VisionTransformer

class Model(VisionTransformer):
    normalize, size = "imagenet", 64

def make():
    torch.manual_seed(5)
    return Model(img_size=64, patch_size=16, embed_dim=24, depth=2, num_heads=3, num_classes=3)
"""


@dataclass(frozen=True)
class Command:
    """What a command printed, and how it ended."""

    code: int
    out: str
    err: str

    def failed(self, pattern: str) -> str:
        """Its one line, where it failed as it should."""
        assert self.code in (1, 2), (self.out, self.err)
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("siftlens: error: ")
        assert lines[0].isprintable()
        assert re.search(pattern, lines[0]), lines[0]
        return lines[0]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A working folder with a model in it; nothing may be written beside it."""
    inner = tmp_path / "place"
    inner.mkdir()
    monkeypatch.chdir(inner)
    monkeypatch.setenv("SIFTLENS_CACHE", str(inner / "cache"))
    monkeypatch.setenv("TMPDIR", str(inner))
    Path("model.py").write_text(MODEL)
    yield inner
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


@pytest.fixture
def siftlens_cli(place):
    """Runs a command, and sees that it writes nothing but what it was told to."""

    def run(*arguments, out=None):
        given = [*map(str, arguments), *(("--out", str(out)) if out else ())]
        before = listing(place, out)
        result = CliRunner().invoke(app, given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert listing(place, out) == before
        return Command(result.exit_code, result.stdout, result.stderr)

    return run


def listing(place: Path, out: Path | str | None) -> set[str]:
    """Every file below a folder, without the cache and what belongs to one output."""
    own = {"cache", *([str(out)] if out else [])}
    return {str(path.relative_to(place)) for path in place.rglob("*") if path.relative_to(place).parts[0] not in own}
