"""Makes the pictures in README.md: docs/page.png, of the analysis page, and docs/similarity.png.

``python tools/screenshots.py`` analyses the demo song with nano, opens its page in Chromium, and
takes both. Needs the extra ``dev`` and Chromium.
"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import musicfm

ROOT = Path(__file__).parents[1]
SONG = ROOT / "examples" / "demo_song.ogg"
WIDTH, HEIGHT = 1280, 860


def main(out: Path) -> None:
    """Writes both pictures to a folder."""
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("this needs Chromium; on Debian: apt install chromium")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        path = Path(folder) / "page.html"
        path.write_text(musicfm.analyze(SONG).to_html(), encoding="utf-8")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]")
        page.locator("#position").fill("20")
        page.screenshot(path=out / "page.png")
        page.locator("#matrix").screenshot(path=out / "similarity.png")
        browser.close()


if __name__ == "__main__":
    main(ROOT / "docs")
