"""The report: how long it takes to write, how large it is, and how fast it answers in a browser.

    python benchmarks/report.py --images ../shared/data/imagenette-128/val      about 5 minutes on 2 cores

Two studies: the demo model on 1000 photographs, and a ViT-B/16 with random weights (its size is what counts here) on
64. Browser: headless Chromium; a click is timed inside the page, from the event to the frame after it.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

import machine
import siftlens
from siftlens.report import render

STUDIES = {"demo model, 1000 images": ("demo", 1000), "ViT-B/16, 64 images": ("timm/vit_base_patch16_224", 64)}
LOADS, CLICKS = 5, 40

# Milliseconds from each event to the end of the next frame.
_TIMED = """async ([events, act]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const run = { click: (i) => {
    const stack = document.querySelector("#stage .stack"), box = stack.getBoundingClientRect();
    const at = (length, k) => length * ((i * k) % 97 + 0.5) / 97;
    const place = { clientX: box.left + at(box.width, 31), clientY: box.top + at(box.height, 57) };
    stack.dispatchEvent(new MouseEvent("click", place));
  }, slide: (i) => {
    const slider = document.querySelector("#images input[type=range]");
    slider.value = i % (Number(slider.max) + 1);
    slider.dispatchEvent(new Event("input"));
  } }[act];
  const times = [];
  for (let i = 0; i < events; i++) {
    await frame();
    const start = performance.now();
    run(i);
    await frame();
    times.push(performance.now() - start);
  }
  return times;
}"""


def summed_up(milliseconds: list[float]) -> dict[str, float]:
    return {"median_ms": round(statistics.median(milliseconds), 1), "worst_ms": round(max(milliseconds), 1)}


def unpacked(page: Page) -> None:
    """Wait until the rows of the shown image are at hand."""
    page.locator(".told", has_text="Stored in 8 bits").wait_for()


def opened(browser: Browser, path: Path) -> Page:
    page = browser.new_page(viewport={"width": 1440, "height": 900})
    page.goto(path.as_uri())
    unpacked(page)
    return page


def in_browser(browser: Browser, path: Path) -> dict[str, Any]:
    """First paint, clicks, the slider through depth, and another image."""
    paints = []
    for _ in range(LOADS):
        page = opened(browser, path)
        paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
        page.close()
    page = opened(browser, path)
    page.locator("#stage").scroll_into_view_if_needed()
    clicks, slides = (page.evaluate(_TIMED, [CLICKS, act]) for act in ("click", "slide"))
    images = []
    for button in range(1, page.locator("#thumbs button").count()):
        start = time.perf_counter()
        page.locator("#thumbs button").nth(button).click()
        unpacked(page)
        images.append(1000 * (time.perf_counter() - start))
    page.close()
    return {
        "first_paint": summed_up(paints),
        "click": summed_up(clicks),
        "slider": summed_up(slides),
        "other_image": summed_up(images),
    }


def measured(browser: Browser, spec: str, images: str, limit: int) -> dict[str, Any]:
    """One study: made, written again, opened."""
    with tempfile.TemporaryDirectory() as scratch:
        model = siftlens.load_model(spec, random_init=spec != "demo")
        study = siftlens.analyze(model, images, limit=limit, out=Path(scratch) / "study")
        start = time.perf_counter()
        text = render(study.result)
        rendered = time.perf_counter() - start
        start = time.perf_counter()
        study.save(Path(scratch) / "again")
        saved = time.perf_counter() - start
        path = Path(scratch) / "study" / "index.html"
        each = [len(part) for part in text.split('{"name":"')[1:]]
        return {
            "images": study.run.images,
            "gallery": len(study.result.gallery),
            "gallery_seconds": round(study.run.timings["gallery"], 2),
            "render_seconds": round(rendered, 2),
            "save_seconds": round(saved, 2),
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "largest_image_megabytes": round(max(each) / 1e6, 2),
            **in_browser(browser, path),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    options = parser.parse_args()
    result: dict[str, Any] = {"seed": 0, "studies": {}}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.chromium, args=["--no-sandbox", "--disable-gpu"])
        result["browser"] = f"Chromium {browser.version}"
        for name, (spec, limit) in STUDIES.items():
            result["studies"][name] = row = measured(browser, spec, options.images, limit)
            path = machine.save_result("report", result)
            print(name, *(f"{key}: {value}" for key, value in row.items()), sep="\n  ")
        browser.close()
    print(path)


if __name__ == "__main__":
    main()
