"""The report as one HTML file that opens from disk and loads nothing."""

import base64
import hashlib
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from siftlens.interrelation.results import Result
from siftlens.report.page import page
from siftlens.report.payload import as_script

STYLES = ("figures.css", "page.css")
SCRIPTS = ("base.js", "heads.js", "depth.js", "head.js", "gallery.js", "main.js")


def render(result: Result) -> str:
    """One self-contained HTML page of a finished analysis.

    It needs no network: styles, scripts, data and images stand in the file, and its content security policy lets only
    its own script run and nothing be fetched. Every name from outside is escaped.

    Args:
        result: the finished analysis.
    """
    environment = Environment(
        loader=PackageLoader("siftlens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    view = page(result)
    style = "\n".join(_asset(name) for name in STYLES)
    script = '(() => {\n"use strict";\n' + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    return environment.get_template("report.html.j2").render(
        page=view,
        style=Markup(style),  # noqa: S704  # our own files
        script=Markup(script),  # noqa: S704  # our own files
        policy=Markup(policy),  # noqa: S704  # our own text
        figures=Markup(as_script(view.figures)),  # noqa: S704  # escaped for a script element
    )


def _asset(name: str) -> str:
    return (files("siftlens.report") / "assets" / name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
