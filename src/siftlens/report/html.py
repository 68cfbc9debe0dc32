"""Pages as one HTML file each, which open from disk and load nothing."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from siftlens.auditing import AuditResult
from siftlens.comparison.results import Comparison
from siftlens.interrelation.results import Result
from siftlens.prompting.effect import PromptEffect
from siftlens.report.audit_page import audit_page
from siftlens.report.comparison_page import comparison_page
from siftlens.report.page import page
from siftlens.report.payload import as_script
from siftlens.report.prompt_page import prompt_page

STYLES = ("figures.css", "page.css")
COMPARISON_STYLES = (*STYLES, "comparison.css")
AUDIT_STYLES = ("page.css", "audit.css")
PROMPT_STYLES = ("page.css", "prompt.css")
SCRIPTS = ("base.js", "heads.js", "depth.js", "head.js", "packed.js", "explorer.js", "main.js")


def render(result: Result) -> str:
    """One self-contained HTML page of a finished analysis.

    It needs no network: styles, scripts, data and images stand in the file, and its content security policy lets only
    its own script run and nothing be fetched. Every name from outside is escaped.

    Args:
        result: the finished analysis.
    """
    view = page(result)
    script = '(() => {\n"use strict";\n' + "\n".join(map(_asset, SCRIPTS)) + "})();\n"
    return _document(
        "report.html.j2",
        STYLES,
        f"script-src '{_digest(script)}'",
        page=view,
        script=Markup(script),  # noqa: S704  # our own files
        figures=Markup(as_script(view.figures)),  # noqa: S704  # escaped for a script element
    )


def render_comparison(comparison: Comparison) -> str:
    """One self-contained HTML page of a comparison of studies; it holds no script at all.

    Args:
        comparison: the finished comparison.
    """
    return _document("comparison.html.j2", COMPARISON_STYLES, "script-src 'none'", page=comparison_page(comparison))


def render_audit(audit: AuditResult) -> str:
    """One self-contained HTML page of an audit; it holds no script at all.

    Args:
        audit: the finished audit.
    """
    return _document("audit.html.j2", AUDIT_STYLES, "script-src 'none'", page=audit_page(audit))


def render_prompt(effect: PromptEffect) -> str:
    """One self-contained HTML page of what a prompt changed; it holds no script at all.

    Args:
        effect: the answers before and after.
    """
    return _document("prompt.html.j2", PROMPT_STYLES, "script-src 'none'", page=prompt_page(effect))


def _document(template: str, styles: Sequence[str], scripts: str, **values: Any) -> str:
    """A page from its template, which may use its own style and `scripts`, and fetch nothing."""
    environment = Environment(
        loader=PackageLoader("siftlens.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style = "\n".join(map(_asset, styles))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; {scripts}"
    )
    return environment.get_template(template).render(
        style=Markup(style),  # noqa: S704  # our own files
        policy=Markup(policy),  # noqa: S704  # our own text
        **values,
    )


def _asset(name: str) -> str:
    return (files("siftlens.report") / "assets" / name).read_text("utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
