"""The map of a library: places and neighbours, and the page in a browser."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import audio_files
import libraries
from command_line import Run
from musicfm.library import map as maps
from musicfm.library.library import Library

pytest.importorskip("sklearn")

CHROMIUM = shutil.which("chromium")
EVIL = """</script><script>alert(1)</script> "quoted" & 'so' ☕ $title \u2028 <b>"""


def groups(count: int, size: int) -> np.ndarray:
    """Vectors of length 1, in groups, one group after the other."""
    random = np.random.default_rng(0)
    centres = np.repeat(random.standard_normal((count, 16)), size, axis=0)
    vectors = centres + 0.1 * random.standard_normal(centres.shape)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_similar_tracks_are_near_each_other_and_always_at_the_same_places() -> None:
    vectors = groups(3, 12)
    places = maps.places(vectors)
    assert places.shape == (36, 2)
    assert np.abs(places).max() == pytest.approx(0.95)
    distances = np.linalg.norm(places[:, None] - places[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    assert (distances.argmin(axis=1) // 12 == np.arange(36) // 12).all()
    np.testing.assert_array_equal(places, maps.places(vectors))
    numbers = maps.clusters(vectors)
    assert len({tuple(group) for group in np.sort(numbers).reshape(-1, 1)}) >= 3


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_small_libraries_have_places_too(count: int) -> None:
    vectors = groups(1, count)
    assert np.isfinite(maps.places(vectors)).all()
    assert maps.neighbours(vectors, 8).shape == (count, count - 1)
    assert maps.clusters(vectors).shape == (count,)


def test_equal_vectors_have_places() -> None:
    assert np.isfinite(maps.places(np.repeat(groups(1, 1), 20, axis=0))).all()


def test_neighbours_are_the_most_similar(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = groups(4, 5)
    found = maps.neighbours(vectors, 3)
    products = vectors @ vectors.T
    np.fill_diagonal(products, -np.inf)
    np.testing.assert_array_equal(found, np.argsort(-products, axis=1)[:, :3])
    monkeypatch.setattr(maps, "_BLOCK", 3)
    np.testing.assert_array_equal(maps.neighbours(vectors, 3), found)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """Three songs, of which the last has a name to beware of."""
    folder = tmp_path_factory.mktemp("maps")
    (folder / "mu sic").mkdir()
    songs = []
    for number in range(3):
        path = audio_files.write(folder / "mu sic", "tone.flac", seconds=1.0 + number)
        songs.append(path.rename(path.with_name(f"söng #{number}%.flac")))
    made = libraries.make(folder / "lib", songs)
    with made.database.connect() as connection:
        connection.execute("UPDATE tracks SET title = ?, album = ? WHERE id = 3", [EVIL, EVIL])
        connection.execute("UPDATE tracks SET artist = 'Ørsted' WHERE id = 1")
    return made


def test_the_page_holds_texts_as_data(library: Library) -> None:
    page = maps.map_page(library, library.path.parent)
    assert "alert(1)</script>" not in page
    assert page.count("</script>") == 6
    assert "mu%20sic/s%C3%B6ng%20%230%25.flac" in page
    assert str(library.path.parent) not in page


def test_addresses(tmp_path: Path, library: Library) -> None:
    track = library.tracks()[0]
    assert maps._address(track, None) == f"v1/tracks/{track.id}/audio"
    assert maps._address(replace(track, path="https://a/b.mp3"), tmp_path) == "https://a/b.mp3"
    assert maps._address(replace(track, path=str(tmp_path / "a" / "b")), tmp_path / "c") == "../a/b"


# ---- in a browser ----


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    software = ["--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # as there is no GPU
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required", *software]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def address(library: Library, run: Run) -> str:
    out = library.path.parent / "the map.html"
    status, _, err = run("library", "map", library.path, "--out", out)
    assert status == 0, err
    return out.as_uri()


class Opened:
    """A page, opened from disk, and what went wrong in it."""

    def __init__(self, browser: Any, address: str, **options: Any) -> None:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 860}, **options})
        context.set_default_timeout(60_000)
        self.page = context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        context.route(re.compile(r"^(?!file:|blob:)"), lambda route: route.abort())
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).text_content())

    def middle(self) -> tuple[float, float]:
        """Of the map, where the second of three tracks is."""
        box = self.page.locator("#plot").bounding_box()
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def close(self) -> None:
        """Nothing went wrong."""
        assert [text for text in self.complaints if "GPU stall" not in text] == []
        self.page.context.close()


@pytest.mark.browser
def test_a_track_is_found_and_played(browser: Any, address: str, library: Library) -> None:
    opened = Opened(browser, address)
    page = opened.page
    assert opened.text("#facts").startswith("Tracks3")
    page.mouse.click(*opened.middle())
    page.wait_for_function("document.querySelector('#near').children.length === 2")
    assert opened.text("#track-title") == "söng #1%"
    assert "120 bpm" in opened.text("#track-facts")
    assert "mu sic/söng #1%.flac" in opened.text("#track-file")
    page.click("#near button >> nth=0")
    assert opened.text("#track-title") in ("söng #0%", EVIL)

    page.keyboard.press("/")
    page.keyboard.type("orsted")
    page.wait_for_selector("#chosen:has-text('0 tracks found')")  # Ø is no O with a mark
    page.fill("#search", "ØRSTED SONG")
    page.keyboard.press("Enter")
    assert opened.text("#chosen-title") == "1 track found"
    assert opened.text("#track-title") == "söng #0%"
    page.keyboard.press("Escape")
    assert page.locator("#chosen").is_hidden()

    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    page.wait_for_selector("#play.playing")
    page.wait_for_function("Number(document.querySelector('#position').value) > 0")
    assert {url.rsplit("/", 1)[-1] for url in opened.requests} > {"the%20map.html"}
    assert all(url.startswith("file:") for url in opened.requests)
    opened.close()


@pytest.mark.browser
def test_a_lasso_saves_a_playlist(browser: Any, address: str, library: Library) -> None:
    opened = Opened(browser, address)
    page = opened.page
    box = page.locator("#plot").bounding_box()
    page.click("#lasso")
    corners = [(0.02, 0.1), (0.98, 0.1), (0.98, 0.8), (0.02, 0.8), (0.02, 0.12)]
    points = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    page.mouse.move(*points[0])
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*point, steps=8)
        page.wait_for_timeout(50)
    page.mouse.up()
    page.wait_for_selector("#chosen:not([hidden])")
    assert opened.text("#chosen-title") == "3 tracks chosen"
    assert page.get_attribute("#lasso", "aria-pressed") == "false"
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "lib.m3u8"
    lines = Path(download.value.path()).read_text(encoding="utf-8").split("\n")
    assert lines[0] == "#EXTM3U"
    assert lines[2:-1:2] == [track.path for track in library.tracks()]
    assert lines[1] == "#EXTINF:16,Ørsted – söng #0%"
    opened.close()


@pytest.mark.browser
def test_colours_and_looks(browser: Any, address: str) -> None:
    opened = Opened(browser, address, color_scheme="dark")
    page = opened.page
    assert page.get_attribute("#theme", "aria-pressed") == "true"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    options = page.locator("#colour option").all_text_contents()
    assert options == ["Album", "Artist", "Tempo", "Key", "Tag"]  # too few tracks for clusters
    page.select_option("#colour", "key")
    assert page.locator("#legend button").all_text_contents() == ["C major", "A minor"]
    page.click("#legend button >> nth=0")
    assert opened.text("#chosen-title") == "2 tracks chosen"
    page.select_option("#colour", "tag")
    assert page.locator("#tag option").all_text_contents() == ["piano", "rock", "slow"]
    opened.close()


@pytest.mark.browser
def test_a_phone_has_all_of_it(browser: Any, address: str) -> None:
    opened = Opened(
        browser, address, viewport={"width": 400, "height": 800}, has_touch=True, is_mobile=True
    )
    page = opened.page
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    page.touchscreen.tap(*opened.middle())
    page.wait_for_function("document.querySelector('#near').children.length === 2")
    assert opened.text("#track-title") == "söng #1%"
    opened.close()


class Fingers:
    """Touches, as a screen reports them."""

    def __init__(self, page: Any) -> None:
        self._page, self._screen = page, page.context.new_cdp_session(page)

    def _send(self, kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        self._screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def move(self, *ways: list[tuple[float, float]]) -> None:
        """Fingers that come down one after the other, move together, and leave."""
        for count in range(1, len(ways) + 1):
            self._send("touchStart", *(way[0] for way in ways[:count]))
        for places in list(zip(*ways, strict=True))[1:]:
            self._send("touchMove", *places)
            self._page.wait_for_timeout(40)
        self._send("touchEnd")


@pytest.fixture
def phone(browser: Any, address: str) -> Iterator[Opened]:
    viewport = {"width": 400, "height": 800}
    opened = Opened(browser, address, viewport=viewport, has_touch=True, is_mobile=True)
    yield opened
    opened.close()


@pytest.mark.browser
def test_a_finger_draws_a_lasso(phone: Opened) -> None:
    box = phone.page.locator("#plot").bounding_box()
    phone.page.tap("#lasso")
    corners = np.array([(0.02, 0.1), (0.98, 0.1), (0.98, 0.9), (0.02, 0.9), (0.02, 0.12)])
    steps = np.linspace(0, 4, 33)
    x, y = (np.interp(steps, range(5), corners[:, axis]) for axis in range(2))
    way = list(zip(box["x"] + box["width"] * x, box["y"] + box["height"] * y, strict=True))
    Fingers(phone.page).move(way)
    phone.page.wait_for_selector("#chosen:not([hidden])")
    assert phone.text("#chosen-title") == "3 tracks chosen"
    assert phone.page.get_attribute("#lasso", "aria-pressed") == "false"


@pytest.mark.browser
def test_two_fingers_zoom(phone: Opened) -> None:
    page, (x, y) = phone.page, phone.middle()
    # The last of three tracks is half of the way from the middle to the right.
    place = x + 1.5 * page.locator("#plot").bounding_box()["width"] / 4, y
    page.touchscreen.tap(*place)
    page.wait_for_timeout(300)
    steps = np.linspace(40, 60, 8)
    Fingers(page).move([(x - step, y) for step in steps], [(x + step, y) for step in steps])
    page.wait_for_timeout(300)
    assert page.locator("#near button").count() == 0  # a pinch is no tap, and there was no track
    page.touchscreen.tap(*place)
    page.wait_for_function("document.querySelector('#near').children.length === 2")
    assert phone.text("#track-title") == EVIL


@pytest.mark.browser
def test_a_recording_that_is_gone_is_told_in_a_sentence(
    browser: Any, address: str, library: Library
) -> None:
    away = Path(library.tracks()[1].path)
    away.rename(away.with_suffix(".away"))
    try:
        opened = Opened(browser, address)
        opened.page.mouse.click(*opened.middle())
        opened.page.click("#play")
        opened.page.wait_for_selector("#trouble:not([hidden])")
        assert "cannot be played: mu sic/söng #1%.flac is not there" in opened.text("#trouble")
    finally:
        away.with_suffix(".away").rename(away)


@pytest.mark.browser
def test_without_webgl_there_are_lists(browser: Any, address: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    assert "does not draw with WebGL" in str(page.locator("#trouble").text_content())
    page.fill("#search", "song")
    page.wait_for_selector("#list button")
    page.click("#list button >> nth=0")
    assert page.locator("#track-title").text_content() == "söng #0%"
    context.close()
