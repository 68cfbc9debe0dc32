"""Reports checked by axe-core in a real browser: nothing that shuts out a keyboard, a screen reader or weak eyes."""

import pytest

from oracles import audits, prompts
from oracles.studies import made_up
from siftlens.comparison import compare_results
from siftlens.report import render, render_audit, render_comparison, render_prompt

pytestmark = pytest.mark.browser
SERIOUS = ("serious", "critical")


@pytest.fixture
def barriers(opened):
    """What axe-core finds on a page that is serious or worse: rule and element."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs the axe-playwright-python package")

    def find(text, **options):
        found = axe.Axe().run(opened(text, **options)).response
        return [
            (rule["id"], node["html"], node["failureSummary"])
            for rule in found["violations"]
            if rule["impact"] in SERIOUS
            for node in rule["nodes"]
        ]

    return find


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_shuts_nobody_out(barriers, make_result, scheme, width):
    assert barriers(render(make_result()), width=width, color_scheme=scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_comparison_shuts_nobody_out(barriers, scheme):
    studies = {"early": made_up(), "late": made_up(seed=8, pull=0.6)}
    assert barriers(render_comparison(compare_results(studies)), color_scheme=scheme) == []


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_audit_shuts_nobody_out(barriers, scheme, width):
    assert barriers(render_audit(audits.made_up()), width=width, color_scheme=scheme) == []


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_prompt_shuts_nobody_out(barriers, scheme, width):
    page = render_prompt(prompts.made_up(aside=[["a.png", "cut off"]]))
    assert barriers(page, width=width, color_scheme=scheme) == []


def test_a_barrier_is_found(barriers):
    page = (
        "<!doctype html><html lang='en'><title>t</title><main><p style='color:#ddd'>faint</p><img src='data:,'></main>"
    )
    assert {rule for rule, *_ in barriers(page)} == {"color-contrast", "image-alt"}
