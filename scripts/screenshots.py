"""Take the README's picture of a report, in headless Chromium.

Usage: python scripts/screenshots.py STUDY [--chromium /usr/bin/chromium]

STUDY is a folder with a study of freely shared images, as `make demo` writes it to out/demo. Writes
docs/images/report.png.
"""

import argparse
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent.parent / "docs" / "images"
WIDTH, HEIGHT = 1280, 900


def take(page: Page, study: Path) -> None:
    """The section that shows images with keypoints, concentration and attention."""
    page.goto((study / "index.html").resolve().as_uri())
    page.wait_for_function("document.fonts.ready.then(() => true)")
    page.locator("#images").screenshot(path=IMAGES / "report.png")


def main() -> None:
    """Parse the command line and take the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"])
        take(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light"), options.study)
        browser.close()


if __name__ == "__main__":
    main()
