"""The page to drop recordings on, in a browser."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tones
from heads_of import write_heads
from musicfm.analysis.analyzer import load_encoder
from musicfm.serving.limits import Limits
from musicfm.serving.service import Service
from served import Client, serving

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    loaded = load_encoder("nano", write_heads(tmp_path_factory.mktemp("heads")))
    limits = Limits(max_bytes=2_000_000)
    with serving(Service(*loaded, limits, num_workers=1, timeout_seconds=60.0)) as (client, _):
        yield client


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tones.write_tones(tmp_path_factory.mktemp("tones"), 1)
    return (folder / "tone_0.wav").rename(folder / "<i>tone<i>.wav")


@pytest.fixture
def page(browser: Any, client: Client) -> Iterator[Any]:
    """The page. Whatever a test does, nothing but the server is asked, and nothing goes wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(100_000)
    page = context.new_page()
    asked, complaints = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(client.url)
    yield page
    context.close()
    assert complaints == []
    assert all(url.startswith((client.url, "blob:")) for url in asked)


def test_a_file_that_is_chosen_becomes_a_page(page: Any, song: Path, client: Client) -> None:
    page.evaluate(
        """() => {
          window.states = new Set();
          const watch = () => document.querySelectorAll(".song-state").forEach(
            (state) => window.states.add(state.textContent.split(/[ :…]/)[0]));
          new MutationObserver(watch).observe(
            document.body, { subtree: true, childList: true, characterData: true });
        }"""
    )
    page.set_input_files("#file", song)
    frame = page.frame_locator("#frame iframe")
    frame.locator("html[data-ready]").wait_for()
    assert frame.locator("h1").inner_text() == "<i>tone<i>"
    frame.locator("#play").wait_for()
    assert {"Sending", "Analysing", "Done."} <= set(page.evaluate("[...window.states]"))
    with page.expect_download() as download:
        page.click("#viewer-save")
    assert download.value.suggested_filename.endswith("tone_i_.html")
    assert "<title>&lt;i&gt;tone&lt;i&gt;</title>" in download.value.path().read_text()

    page.go_back()
    assert page.locator("#viewer").is_hidden()
    assert page.locator(".song-name").all_inner_texts() == ["<i>tone<i>.wav"]
    page.click(".song .open")
    page.frame_locator("#frame iframe").locator("html[data-ready]").wait_for()
    page.keyboard.press("Escape")


def test_a_reload_comes_back_to_what_is_shown(page: Any, song: Path, client: Client) -> None:
    page.set_input_files("#file", song)
    frame = page.frame_locator("#frame iframe")
    frame.locator("html[data-ready]").wait_for()
    page.reload()
    frame.locator("html[data-ready]").wait_for()
    assert frame.locator("h1").inner_text() == "<i>tone<i>"
    page.go_back()
    assert page.locator(".song-state").all_inner_texts() == ["Done."]
    with page.expect_download() as download:
        page.click('.song-files [data-format="csv"]')
    assert download.value.path().read_text().startswith("kind,start,end")


def test_a_page_in_its_frame_has_no_rights_here(page: Any, song: Path, client: Client) -> None:
    page.set_input_files("#file", song)
    page.frame_locator("#frame iframe").locator("html[data-ready]").wait_for()
    inside = page.frames[-1]
    assert inside.evaluate("window.origin") == "null"
    assert inside.evaluate("() => { try { parent.document } catch (error) { return error.name } }")


def test_files_that_are_dropped_are_done_one_after_the_other(page: Any, song: Path) -> None:
    page.evaluate(
        """([sound, size]) => {
          const bytes = Uint8Array.from(atob(sound), (char) => char.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File(["no sound"], "bad.mp3"));
          data.items.add(new File([new Uint8Array(size)], "large.wav"));
          data.items.add(new File([bytes], "good.wav"));
          const options = { dataTransfer: data, bubbles: true, cancelable: true };
          document.body.dispatchEvent(new DragEvent("drop", options));
        }""",
        [base64.b64encode(song.read_bytes()).decode(), 2_000_001],
    )
    page.frame_locator("#frame iframe").locator("html[data-ready]").wait_for()
    states = dict(
        zip(
            page.locator(".song-name").all_text_contents(),
            page.locator(".song-state").all_text_contents(),
            strict=True,
        )
    )
    assert states["bad.mp3"].startswith("bad.mp3 is not audio in a known format")
    assert states["large.wav"] == "The file is larger than 2 MB."
    assert states["good.wav"] == "Done."


def test_a_song_can_be_cancelled(page: Any, song: Path) -> None:
    page.set_input_files("#file", [song, song, song])
    states = page.locator(".song-state")
    for number in (0, 2):  # one that is on its way, and one that waits
        page.locator(".song .cancel").nth(number).click()
    page.frame_locator("#frame iframe").locator("html[data-ready]").wait_for()
    assert states.all_text_contents() == ["Cancelled.", "Done.", "Cancelled."]


@pytest.mark.parametrize("width", [400, 1280])
def test_it_fits_the_window_and_can_be_used_by_keyboard(page: Any, song: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    for name in ("theme", "file"):
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == name
    page.set_input_files("#file", song)
    page.frame_locator("#frame iframe").locator("html[data-ready]").wait_for()
    page.go_back()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".song .open").bounding_box()["height"] >= 40


def test_the_documentation_of_the_interface_needs_no_other_host(page: Any, client: Client) -> None:
    page.goto(f"{client.url}/docs")
    for path in ("/v1/embed", "/v1/analyze", "/healthz"):
        page.locator(f'[data-path="{path}"]').wait_for()
