"""The report in a real browser: what a reader clicks, and that nothing leaves the file."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from siftlens.report import render

CHROMIUM = Path("/usr/bin/chromium")
HOSTILE = "<img src=x onerror=document.title='owned'>"

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the playwright package")
    if not CHROMIUM.exists():
        pytest.skip(f"needs {CHROMIUM}: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(CHROMIUM), args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, tmp_path):
    """Opens a report from disk; fails on any word on the console and on any request but the file itself."""
    seen, pages = [], []

    def go(result, width=1440, **options):
        path = tmp_path / "index.html"
        path.write_text(render(result), "utf-8")
        page = browser.new_page(viewport={"width": width, "height": 900}, **options)
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("request", lambda request: request.url.startswith("data:image/") or seen.append(request.url))
        page.goto(path.as_uri())
        assert seen == [path.as_uri()]
        seen.clear()
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert seen == []


def test_a_cell_tells_its_numbers_and_carries_its_head_along(visit, make_result):
    result = make_result()
    page = visit(result)
    cell = (
        page.get_by_role("grid", name="Pull toward keypoints").get_by_role("row").nth(3).get_by_role("gridcell").nth(1)
    )
    cell.hover()
    tip = page.locator("#tip")
    assert tip.is_visible()
    rows = result.heads.set_index(["statistic", "layer", "head"])
    row = rows.loc[("semantic_pull", 2, 1)]
    said = tip.inner_text()
    assert said.startswith("Layer 2, head 1")
    for text in (
        f"effect +{row['effect']:.2f} SD",
        f"95 % interval +{row['low']:.2f} to +{row['high']:.2f}",
        "q < 0.001",
    ):
        assert text in said
    assert "n = 307 images" in said
    cell.click()
    assert page.locator("#one select").input_value() == "1"
    assert page.locator("#images output").inner_text() == "2 blocks.2.attn"
    assert f"+{row['effect']:.2f} SD" in page.locator("#against").inner_text()
    level = page.get_by_role("grid", name="Attention from level to level").get_by_role("gridcell").nth(8)
    lift = float(result.arrays["level_lift"][2, 1, 1, 2])
    assert level.inner_text() == f"{lift:+.2f}".replace("-", "−")


def test_the_keyboard_reaches_every_head(visit, make_result):
    page = visit(make_result())
    first = page.get_by_role("grid", name="Pull toward keypoints").get_by_role("gridcell").nth(1)
    first.focus()
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#tip").inner_text().startswith("Layer 2, head 1")
    assert page.locator("#one output").inner_text().startswith("2 ")
    page.keyboard.press("Escape")
    assert page.locator("#tip").is_hidden()


def test_the_slider_goes_through_depth_everywhere(visit, make_result):
    page = visit(make_result())
    page.locator("#images input[type=range]").fill("1")
    assert page.locator("#one output").inner_text().startswith("1 ")
    curve = page.get_by_role("slider", name="Pull toward keypoints, by layer").first
    assert curve.get_attribute("aria-valuenow") == "1"
    curve.press("ArrowRight")
    assert page.locator("#images input[type=range]").input_value() == "2"


def test_a_patch_reads_out_its_attention(visit, make_result):
    result = make_result()
    page = visit(result)
    page.locator("#images select").select_option("2")
    page.locator("#images input[type=range]").fill("3")
    views = page.locator("#views .stack")
    assert views.count() == 4
    views.nth(2).focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    share = 100 * float(result.gallery[0].cls_attention[3, 2, 2, 2]) / 255 * 0.06
    said = page.locator("#patch").inner_text()
    assert "patch in row 2, column 2" in said
    assert f"attention of the class token {share:.{2 if share < 1 else 1}f}\u00a0%" in said
    page.locator("#thumbs button").nth(1).click()
    assert page.locator("#patch").inner_text().startswith("class/001.jpg")


def test_without_class_token_three_views_stand(visit, make_result):
    page = visit(make_result(class_token=False))
    assert page.locator("#views .stack").count() == 3
    assert page.get_by_role("grid", name="Class token's pull, layers by heads").count() == 0


@pytest.mark.parametrize(
    ("scheme", "shape"),
    [("light", {}), ("dark", {}), ("light", {"layers": 1, "heads": 1}), ("light", {"layers": 24, "heads": 16})],
)
def test_a_phone_never_scrolls_sideways(visit, make_result, scheme, shape):
    page = visit(make_result(**shape, n=13, gallery=1), width=390, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_hostile_names_stay_text(visit, make_result):
    result = make_result(layers=2, heads=2, n=13, gallery=1)
    result.heads["layer_name"] = HOSTILE
    arrays = result.arrays.assign_coords(image=[f"{HOSTILE}{i}" for i in range(13)])
    gallery = (replace(result.gallery[0], identity=HOSTILE),)
    run = replace(result.run, model={"name": HOSTILE}, settings={"measure": HOSTILE})
    page = visit(replace(result, arrays=arrays, gallery=gallery, run=run))
    page.locator("#thumbs button").first.click()
    assert HOSTILE in page.locator("#extremes").inner_text()
    assert page.title().startswith(HOSTILE)
    assert page.locator("img[onerror]").count() == 0


def test_every_control_has_a_name(visit, make_result):
    page = visit(make_result())
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, select, a, [tabindex], [role=grid], img")]
        .filter((e) => !(e.ariaLabel || e.alt || e.textContent.trim() || e.title))
        .filter((e) => !e.closest("button, [role=application]")).map((e) => e.outerHTML)"""
    )
    assert nameless == []


def test_more_heat_maps_unfold(visit, make_result):
    page = visit(make_result())
    page.get_by_text("More heat maps").click()
    page.get_by_role("grid", name="Entropy, layers by heads").wait_for(timeout=5000)


CONTRAST = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const luminance = (color) => {
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((value) => value / 255);
    const [r, g, b] = parts.map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const cells = [...document.querySelectorAll(".grid .cell:not(.mark-missing, .mark-unclear)")];
  const styles = cells.map((cell) => getComputedStyle(cell));
  return Math.min(...styles.map((style) => ratio(luminance(style.color), luminance(style.backgroundColor))));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_numbers_stand_out_from_their_cells(visit, make_result, scheme):
    effects = np.linspace(-0.6, 0.6, 35).reshape(5, 7)
    page = visit(make_result(heads=7, effects=effects), color_scheme=scheme)
    assert page.evaluate(CONTRAST) > 4.4  # in mid scale black and white both reach 4.58 at best
