"""What README.md and docs/ show is run: each page from top to bottom, offline, beside a folder `photos`.

Blocks marked `python` and the `$ siftlens` lines of blocks marked `console` are run; `py` and `sh` are for what needs a
network, hours or a GPU.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from siftlens.cli.app import app

REPOSITORY = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[tuple[str, str, int]]:
    """Language, code and first line of every fenced block that is to be run."""
    text = page.read_text("utf-8")
    found = [(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in BLOCK.finditer(text)]
    return [block for block in found if block[0] in ("python", "console")]


RUN = [page for page in PAGES if blocks(page)]


@pytest.mark.parametrize("page", RUN, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_the_page_shows_runs(page, photographs, monkeypatch):
    monkeypatch.chdir(photographs.parent)
    names = {"__name__": "__main__"}
    for language, code, line in blocks(page):
        where = f"{page.relative_to(REPOSITORY)}:{line}"
        if language == "python":
            exec(compile("\n" * (line - 1) + code, str(page), "exec"), names)
            continue
        for command in re.findall(r"^\$ siftlens (.*)$", code.replace("\\\n", ""), re.MULTILINE):
            program = [str(Path(sys.executable).with_name("siftlens")), *shlex.split(command)]
            done = subprocess.run(program, capture_output=True, text=True)
            assert done.returncode == 0, f"{where}: siftlens {command}\n{done.stdout}{done.stderr}"


def test_the_readme_and_the_tutorial_are_among_them():
    assert {REPOSITORY / "README.md", REPOSITORY / "docs" / "tutorial.md"} <= set(RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_to_files_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text("utf-8"))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_command_line_page_has_every_option_and_no_other():
    commands = typer.main.get_command(app).commands
    page = (REPOSITORY / "docs" / "reference" / "cli.md").read_text("utf-8")
    sections = dict(re.findall(r"^## `siftlens (\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = {
            max(parameter.opts, key=len) for parameter in command.params if parameter.param_type_name == "option"
        }
        assert set(re.findall(r"^\| `(--[\w-]+)", sections[name], re.MULTILINE)) == options
