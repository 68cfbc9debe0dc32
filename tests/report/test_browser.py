"""The report in a real browser: what a reader clicks, and that nothing leaves the file."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import siftlens
from oracles.rows import kept_rows

HOSTILE = "<img src=x onerror=document.title='owned'>"

pytestmark = pytest.mark.browser


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


def test_a_head_in_a_finding_leads_to_its_figures(visit, make_result):
    page = visit(make_result())
    page.locator("#found a", has_text="layer 4, head 2").first.click()
    assert page.locator("#one output").inner_text().startswith("4 ")
    assert page.locator("#one select").input_value() == "2"
    assert page.url.endswith("#one")


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


def ready(page):
    """Waits until the rows of the shown image are unpacked."""
    page.locator(".told", has_text="Stored in 8 bits").wait_for()
    return page


def choose(page, layer, head):
    page.locator("#images input[type=range]").fill(str(layer))
    page.locator("#images select").select_option(str(head))


def patch_at(page, row, col, rows=7, cols=11):
    """Where on the stage a patch lies."""
    box = page.locator("#stage .stack").bounding_box()
    return {"x": (col + 0.5) * box["width"] / cols, "y": (row + 0.5) * box["height"] / rows}


def share(text):
    """ "4.2 %" as 0.042."""
    return float(text.replace("\u00a0", " ").removesuffix(" %")) / 100


def told(page):
    """What the stage says: the held share, the strongest keys with theirs, the error."""
    text = page.locator(".told").inner_text().replace("\u00a0", " ")
    held = share(re.search(r"get ([\d.]+ %)", text)[1])
    row, col = map(int, re.search(r"patch in row (\d+), column (\d+)", text).groups())
    keys = {}
    for words, value in re.findall(r"(itself|row \d+, column \d+) \(([\d.]+ %)\)", text.partition("Most goes to")[2]):
        place = (row, col) if words == "itself" else tuple(map(int, re.findall(r"\d+", words)))
        keys[place] = share(value)
    return (row, col), held, keys, share(re.search(r"off by more than ([\d.]+ %)", text)[1])


DIGIT = 0.0005 + 1e-9  # half of the last digit shown of a share above 1 %


def agrees(page, exact, cols=11):
    """Every number on the stage against the exact shares of the chosen patch, (patch, patch); returns the patch."""
    (row, col), held, keys, error = told(page)
    shares = exact[row * cols + col]
    assert len(keys) == 3
    for (key_row, key_col), value in keys.items():
        assert value == pytest.approx(shares[key_row * cols + key_col], abs=error + DIGIT)
    assert sum(keys.values()) == pytest.approx(sum(sorted(shares)[-3:]), abs=3 * (error + DIGIT))
    assert 0 < error < 0.01
    return (row, col), held


@pytest.fixture
def explored(make_result):
    """A result whose first image has rows of which the exact shares are known."""
    result = make_result()
    whole, strongest, exact = kept_rows(5, 3, 77, np.random.default_rng(11), whole=[(3, 2), (0, 0)])
    image = replace(result.gallery[0], whole=whole, strongest=strongest)
    return replace(result, gallery=(image, *result.gallery[1:])), exact


def test_a_click_shows_where_a_patch_attends(visit, explored):
    result, exact = explored
    page = ready(visit(result))
    choose(page, 3, 2)
    richest = np.unravel_index(result.gallery[0].concentration.argmax(), (7, 11))
    assert agrees(page, exact[3, 2])[0] == richest
    page.locator("#stage .stack").click(position=patch_at(page, 5, 8))
    place, held = agrees(page, exact[3, 2])
    assert place == (5, 8)
    assert held == pytest.approx(exact[3, 2][5 * 11 + 8].sum(), abs=2 * DIGIT)
    assert "all 77 patches are shown" in page.locator(".told").inner_text()
    page.locator("#views .stack").nth(1).click(position={"x": 3, "y": 3})
    assert agrees(page, exact[3, 2])[0] == (0, 0)


@pytest.mark.parametrize("head", [1, 3])  # 3 is the mean over heads
def test_of_other_heads_the_strongest_keys_are_shown_and_what_they_hold(visit, explored, head):
    result, exact = explored
    page = ready(visit(result))
    choose(page, 2, head)
    page.locator("#stage .stack").click(position=patch_at(page, 4, 9))
    place, held = agrees(page, exact[2, head])
    assert place == (4, 9)
    row = exact[2, head][4 * 11 + 9]
    assert held == pytest.approx(sum(sorted(row)[-5:]), abs=2 * DIGIT)
    assert "its 5 strongest keys are shown" in page.locator(".told").inner_text()
    weakest = np.unravel_index(row.argmin(), (7, 11))
    page.locator("#stage .stack").hover(position=patch_at(page, *weakest))
    least = sorted(row)[-5]
    said = page.locator("#patch").inner_text().replace("\u00a0", " ")
    assert share(re.search(r"gets at most ([\d.]+ %) of the chosen patch's attention", said)[1]) == pytest.approx(
        least, abs=0.002
    )


def test_a_patch_reads_out_its_values_in_every_panel(visit, explored):
    result, exact = explored
    page = ready(visit(result))
    choose(page, 3, 2)
    views = page.locator("#views .stack")
    assert views.count() == 4
    page.locator("#stage .stack").hover(position=patch_at(page, 2, 2))
    said = page.locator("#patch").inner_text().replace("\u00a0", " ")
    assert "patch in row 2, column 2" in said
    from_class = 100 * float(result.gallery[0].cls_attention[3, 2, 2, 2]) / 255 * 0.06
    assert f"attention of the class token {from_class:.{2 if from_class < 1 else 1}f} %" in said
    query = result.gallery[0].concentration.argmax()
    own = share(re.search(r"gets ([\d.]+ %) of the chosen patch's attention", said)[1])
    assert own == pytest.approx(exact[3, 2][query, 2 * 11 + 2], abs=0.002)


def test_the_keyboard_chooses_a_patch(visit, explored):
    result, exact = explored
    page = ready(visit(result))
    choose(page, 0, 0)
    page.locator("#stage .stack").click(position=patch_at(page, 3, 4))
    page.locator("#stage .stack").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown"):
        page.keyboard.press(key)
    assert "patch in row 5, column 5" in page.locator("#patch").inner_text()
    assert told(page)[0] == (3, 4)
    page.keyboard.press("Enter")
    assert agrees(page, exact[0, 0])[0] == (5, 5)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press(" ")
    assert agrees(page, exact[0, 0])[0] == (5, 4)


def test_another_image_brings_its_own_rows(visit, explored):
    result, _ = explored
    page = ready(visit(result))
    choose(page, 0, 0)
    page.locator("#thumbs button").nth(1).click()
    ready(page)
    image = result.gallery[1]
    exact = np.zeros((77, 77))
    exact[:] = image.whole.shares()[0]
    assert agrees(page, exact)[0] == np.unravel_index(image.concentration.argmax(), (7, 11))
    assert page.locator("#shown").inner_text().startswith("class/001.jpg: ")


def test_what_the_file_leaves_out_is_said(visit, explored):
    result, _ = explored
    image = replace(result.gallery[0], whole=None, strongest=result.gallery[0].strongest.map(4))
    page = visit(replace(result, gallery=(image,)))
    layer, head = image.strongest.heads[0].tolist()
    choose(page, layer, head)
    ready(page)
    choose(page, 4, 1)
    assert "Layer 4, head 1: its rows are not in this file" in page.locator(".told").inner_text()
    carried = page.locator("#carried").inner_text()
    assert "no rows for 14 heads" in carried
    assert "in full" not in carried


def test_the_explorer_shows_what_attention_maps_computes(visit):
    """From pixels to the page: every number shown of a real model's rows is the exact one, within the stated error."""
    torch.manual_seed(5)
    vit = VisionTransformer(img_size=(40, 56), patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=11).eval()
    with torch.no_grad():
        for block in vit.blocks:
            block.attn.qkv.weight.mul_(12)  # attention that is not even
    pictures = np.random.default_rng(5).integers(0, 255, (7, 40, 56, 3), dtype=np.uint8)
    result = siftlens.analyze(vit, list(pictures), normalize="imagenet", cache=False).result
    image = result.gallery[0]
    mean, std = (torch.tensor(part)[:, None, None] for part in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.from_numpy(image.pixels.copy()).permute(2, 0, 1) / 255 - mean) / std
    with torch.no_grad():
        maps = siftlens.attention_maps(vit, x[None])
    page = ready(visit(result))
    whole = tuple(image.whole.heads[0].tolist())
    other = next(place for place in [(0, 0), (0, 1), (1, 2)] if list(place) not in image.whole.heads.tolist())
    for layer, head in (whole, other):
        choose(page, layer, head)
        exact = maps[layer][0, head, 1:, 1:].double().numpy()
        for row, col in ((0, 0), (4, 6), (2, 3)):
            page.locator("#stage .stack").click(position=patch_at(page, row, col, 5, 7))
            place, held = agrees(page, exact, cols=7)
            assert place == (row, col)
            shown = np.sort(exact[row * 7 + col])[-(35 if (layer, head) == whole else 16) :]
            assert held == pytest.approx(shown.sum(), abs=2 * DIGIT)


def test_groups_are_drawn_where_images_were_grouped(visit, make_result):
    result = make_result()
    heads = pd.concat([result.heads.assign(group=group) for group in ("cats", HOSTILE)])
    page = visit(replace(result, heads_by_group=heads))
    cells = page.get_by_role("grid", name="cats, layers by heads").get_by_role("gridcell")
    assert cells.count() == 1 + 5 * 3  # the corner, and no mean over heads
    cells.nth(8).hover()
    row = result.heads.set_index(["statistic", "layer", "head"]).loc[("semantic_pull", 2, 1)]
    assert f"effect {row['effect']:+.2f}".replace("-", "−") in page.locator("#tip").inner_text()
    assert visit(result).locator("#groups").count() == 0


def test_without_class_token_three_views_stand(visit, make_result):
    page = visit(make_result(class_token=False))
    assert page.locator("#views .stack").count() == 3
    ready(page)
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
