"""Makes the pictures of the documentation: docs/page.png, docs/similarity.png and docs/map.png.

``python tools/screenshots.py`` analyses the demo song with nano, opens its page in Chromium, and
takes the first two. ``python tools/screenshots.py LIB`` takes that of the map of a library. Needs
the extra ``dev`` and Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import musicfm
from musicfm.library.map import map_page

ROOT = Path(__file__).parents[1]
SONG = ROOT / "examples" / "demo_song.ogg"
WIDTH, HEIGHT = 1280, 860


def song(browser: Browser, folder: Path, out: Path) -> None:
    """The page of the demo song, and its self-similarity matrix."""
    path = folder / "page.html"
    path.write_text(musicfm.analyze(SONG).to_html(), encoding="utf-8")
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.locator("#position").fill("20")
    page.screenshot(path=out / "page.png")
    page.set_viewport_size({"width": WIDTH, "height": 3 * HEIGHT})  # so that no bar lies over it
    page.locator("#matrix").screenshot(path=out / "similarity.png")


def library(browser: Browser, folder: Path, out: Path, lib: Path) -> None:
    """The map of a library, with one track chosen."""
    path = folder / "map.html"
    opened = musicfm.Library(lib)
    above = Path(opened.tracks()[0].path).parents[1]  # so that little of where it lies is seen
    path.write_text(map_page(opened, above), encoding="utf-8")
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
    page.set_default_timeout(120_000)
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#near button")
    page.wait_for_timeout(2_000)
    page.screenshot(path=out / "map.png")


def main(out: Path, lib: Path | None) -> None:
    """Writes pictures to a folder."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("this needs Chromium; on Debian: apt install chromium")
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=arguments)
        if lib is None:
            song(browser, Path(folder), out)
        else:
            library(browser, Path(folder), out, lib)
        browser.close()


if __name__ == "__main__":
    main(ROOT / "docs", Path(sys.argv[1]) if len(sys.argv) > 1 else None)
