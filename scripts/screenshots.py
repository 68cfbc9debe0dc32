"""Take the pictures of a report and of an audit's page for README and docs, in headless Chromium.

Usage: python scripts/screenshots.py STUDY [--image chelsea.png] [--chromium /usr/bin/chromium]

STUDY is a folder with a study of freely shared images, as `make demo` writes it to out/demo. Writes
docs/images/report.png and, of the audit beside it, docs/images/audit.png.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HEIGHT = 1280, 900
LAYER, HEAD, PATCH = 2, 0, (6, 5)  # the head of largest effect in the demo; a cat's eye, of 16 x 16 patches


def take(page: Page, study: Path, image: str) -> None:
    """The explorer: an image with keypoints, concentration, attention, and where a patch attends."""
    page.goto((study / "index.html").resolve().as_uri())
    page.evaluate("document.fonts.ready.then(() => true)")
    page.locator("#thumbs").get_by_role("button", name=image).click()
    page.locator(".told", has_text="Stored in 8 bits").wait_for()
    page.locator("#images input[type=range]").fill(str(LAYER))
    page.locator("#images select").select_option(str(HEAD))
    stage = page.locator("#stage .stack")
    row, col = ((place + 0.5) / 16 * stage.bounding_box()["width"] for place in PATCH)
    stage.click(position={"x": col, "y": row})
    page.mouse.move(0, 0)
    page.locator("#images").screenshot(path=IMAGES / "report.png")


def take_audit(page: Page, study: Path) -> None:
    """The first cue of the audit that the demo shows."""
    page.goto((study / "audit" / "index.html").resolve().as_uri())
    page.locator("#cue-0").screenshot(path=IMAGES / "audit.png")


def main() -> None:
    """Parse the command line and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--image", default="chelsea.png", help="the one to show")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"])
        take(
            browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light"),
            options.study,
            options.image,
        )
        take_audit(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light"), options.study)
        browser.close()


if __name__ == "__main__":
    main()
