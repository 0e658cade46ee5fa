"""The page of a song, in a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tones
from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.page import render_page
from musicfm.analysis.sound import BIT_RATE, FRAME_BYTES, PEAK_RATE, Sound, tag
from musicfm.datasets.annotations import Annotations, Beats, Spans

pytestmark = pytest.mark.browser
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")
EVIL = """</script><script>alert(1)</script> "quoted" & 'so' ☕ $title \u2028 <b>"""

Page = Any


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tones.write_tones(tmp_path_factory.mktemp("tones"), 1)
    return Sound.of(folder / "tone_0.wav")


def analysis() -> Analysis:
    """A song of all kinds, with texts that a page has to beware of."""
    known = tones.annotations(0)
    assert known.beats is not None
    beats = replace(known.beats, confidences=np.linspace(0.2, 0.9, len(known.beats.times)))
    sections = Spans(
        np.array([[0.0, 4.0], [4.0, 8.0], [8.0, 12.0], [12.0, tones.SECONDS]]),
        ("constructor", "verse", EVIL, "verse"),
        np.array([0.9, 0.8, 0.7, 0.6]),
    )
    chords = Spans(
        np.array([[0.0, 4.0], [4.0, 8.0], [8.0, tones.SECONDS]]), ("C#:maj", "Bb:min7/b3", "N")
    )
    found = replace(
        known, beats=beats, segments=sections, chords=chords, tags={EVIL: 0.5, "b": 0.9}
    )
    stretches = np.linspace(-1.0, 1.0, 20, dtype=np.float32)
    return Analysis(
        EVIL,
        tones.SECONDS,
        found,
        np.outer(stretches, stretches),
        {"model": "nano", "is_trial": True},
        artist=EVIL,
        file="so ng.wav",
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    arguments = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


class Opened:
    """A page, opened from disk, and what went wrong in it."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}, **options}
        )
        self.context.set_default_timeout(60_000)
        self.page: Page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.context.route(re.compile(r"^(?!file:|blob:)"), lambda route: route.abort())
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-ready]")

    def time(self) -> float:
        """Where the playhead is, as the page says."""
        return float(self.page.locator("#position").input_value())

    def reaches(self, time: float) -> bool:
        """Whether the playhead comes to a time."""
        self.page.wait_for_function(
            "time => Math.abs(document.querySelector('#position').value - time) < 0.06", arg=time
        )
        return True

    def now(self) -> dict[str, str]:
        """What is shown at the playhead."""
        boxes = self.page.locator("#now > div")
        return dict(
            zip(
                boxes.locator(".eyebrow").all_text_contents(),
                boxes.locator("strong").all_text_contents(),
                strict=True,
            )
        )


def open_page(browser: Any, annotations: Annotations, sound: Sound, folder: Path) -> Opened:
    made = Analysis("song", tones.SECONDS, annotations, np.eye(1, dtype=np.float32), {})
    path = folder / "page.html"
    path.write_text(render_page(made, sound), encoding="utf-8")
    return Opened(browser, path)


@pytest.fixture(scope="module")
def song(sound: Sound, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "so ng #1.html"
    path.write_text(render_page(analysis(), sound), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def shared(browser: Any, song: Path) -> Iterator[Opened]:
    opened = Opened(browser, song)
    yield opened
    opened.context.close()


@pytest.fixture
def opened(shared: Opened) -> Iterator[Opened]:
    """The song's page, at its beginning. Nothing is fetched, and nothing goes wrong."""
    shared.page.keyboard.press("0")
    shared.page.locator("#position").fill("0")
    yield shared
    assert not shared.complaints
    assert {url.split(":")[0] for url in shared.requests} <= {"file", "blob"}
    assert sum(url.startswith("file:") for url in shared.requests) == 1


def test_texts_are_shown_and_not_obeyed(opened: Opened) -> None:
    shown = " ".join(EVIL.replace("\u2028", " ").split())
    assert " ".join(opened.page.title().replace("\u2028", " ").split()) == shown
    for text in (
        "h1",
        "#by",
        "#tags li >> nth=1 >> span >> nth=0",
        ".sections li >> nth=2 >> .label",
    ):
        content = opened.page.locator(text).text_content().replace("\u2028", " ")
        assert shown.lower() in " ".join(content.split()).lower()


def test_what_is_known_is_shown(opened: Opened) -> None:
    facts = opened.page.locator("#facts").inner_text()
    assert "120.0 bpm" in facts
    assert "4 beats" in facts
    assert "C major" in facts
    assert opened.page.locator("#sections button").count() == 4
    names = opened.page.locator(".sections .label").all_text_contents()
    assert names[1].startswith("Verse 1")
    assert "80 %" in names[1]
    assert names[3].startswith("Verse 2")
    tags = opened.page.locator("#tags li").all_inner_texts()
    assert tags[0].split() == ["b", "90", "%"]
    assert opened.now()["Chord"] == "C♯"
    notes = opened.page.locator("#now small").all_text_contents()
    assert notes == ["then B♭m7/♭3", "", "90 % sure, then Verse 1"]


def test_it_plays(opened: Opened) -> None:
    before = opened.page.locator("#playhead").bounding_box()["x"]
    opened.page.get_by_role("button", name="Play").click()
    opened.page.wait_for_function("() => document.querySelector('#position').value > 0.5")
    assert opened.page.locator("#playhead").bounding_box()["x"] > before + 10
    opened.page.get_by_role("button", name="Pause").click()
    stopped = opened.time()
    opened.page.wait_for_timeout(300)
    assert opened.time() == pytest.approx(stopped, abs=0.1)


def test_a_section_is_clicked(opened: Opened) -> None:
    opened.page.locator("#sections button").nth(1).click()
    assert opened.reaches(4.0)
    assert opened.now() == {
        "Chord": "B♭m7/♭3",
        "Bar . beat": "2.4",
        "Section": "Verse 1",
    }
    assert opened.page.locator("#sections [aria-current]").inner_text().startswith("Verse 1")
    lane = opened.page.get_by_role("img", name="Sections: Constructor")
    lane.click(position={"x": 0.75 * lane.bounding_box()["width"], "y": 10})
    assert opened.reaches(tones.SECONDS * 0.75)


def test_the_chart_has_the_chords_of_each_bar(opened: Opened) -> None:
    bars = opened.page.locator("#chart button")
    assert bars.all_inner_texts()[:4] == ["1\nC♯", "2\nC♯ B♭m7/♭3", "3\nB♭m7/♭3", "4\nB♭m7/♭3 N.C."]
    bars.nth(2).click()
    assert opened.reaches(4.25)
    assert bars.nth(2).get_attribute("aria-current") == "true"


def test_a_bar_belongs_to_the_section_that_most_of_it_is_in(
    browser: Any, sound: Sound, tmp_path: Path
) -> None:
    """Bars begin at 0.25 s, 2.25 s, 4.25 s ..."""
    late = Spans(np.array([[0.0, 4.5], [4.5, tones.SECONDS]]), ("verse", "chorus"))
    opened = open_page(browser, replace(analysis().annotations, segments=late), sound, tmp_path)
    assert opened.page.locator(".part h3").all_inner_texts() == ["Verse", "Chorus"]
    assert opened.page.locator(".part >> nth=0 >> button").count() == 2
    opened.context.close()


def test_unlikely_tags_are_folded_away(browser: Any, sound: Sound, tmp_path: Path) -> None:
    tags = {f"tag {number}": 0.92 - 0.05 * number for number in range(14)}
    opened = open_page(browser, replace(analysis().annotations, tags=tags), sound, tmp_path)
    shown = opened.page.get_by_text(re.compile("^tag "))
    assert sum(tag.is_visible() for tag in shown.all()) == 9
    opened.page.get_by_text("5 unlikely").click()
    assert all(tag.is_visible() for tag in shown.all())
    opened.context.close()


def test_a_click_on_the_matrix_goes_there(opened: Opened) -> None:
    matrix = opened.page.locator("#similarity")
    side = matrix.bounding_box()["width"] - 10  # besides the sections
    matrix.click(position={"x": 10 + 0.5 * side, "y": 10 + 0.25 * side})
    assert opened.reaches(tones.SECONDS * 0.5)
    assert "0:08" in opened.page.locator("#pair").inner_text()
    opened.page.locator("#counterpart").click()
    assert opened.reaches(tones.SECONDS * 0.25)


def test_the_keyboard_moves_by_beats_and_sections(opened: Opened) -> None:
    press = opened.page.keyboard.press
    for key, time in [
        ("ArrowRight", 0.25),
        ("ArrowRight", 0.75),
        ("ArrowLeft", 0.25),
        ("ArrowDown", 4.0),
        ("ArrowDown", 8.0),
        ("ArrowUp", 4.0),
        ("ArrowRight", 4.25),
    ]:
        press(key)
        assert opened.reaches(time)
    press("Space")
    opened.page.get_by_role("button", name="Pause").wait_for()
    press("Space")
    opened.page.get_by_role("button", name="Play").wait_for()


def test_the_player_comes_first_and_all_that_has_the_focus_has_a_name(opened: Opened) -> None:
    assert opened.page.get_by_role("region", name="Player").is_visible()
    opened.page.locator("#theme").focus()
    names = []
    for _ in range(10):
        opened.page.keyboard.press("Tab")
        names.append(
            opened.page.evaluate(
                """() => {
                  const inner = document.activeElement.shadowRoot?.activeElement;
                  return (inner ?? document.activeElement).ariaLabel;
                }"""
            )
        )
    assert names == [
        "Play",
        "Position in the song",
        None,  # the sliders for speed and volume, and two switches, have labels
        None,
        None,
        None,
        "Zoom out",
        "Zoom in",
        "Show the whole song",
        "Waveform",
    ]
    opened.page.evaluate("document.activeElement.blur()")


def test_a_section_repeats(opened: Opened) -> None:
    opened.page.locator("#sections button").nth(1).click()
    assert opened.reaches(4.0)
    opened.page.keyboard.press("l")
    assert opened.page.locator("#loop").get_attribute("aria-pressed") == "true"
    opened.page.locator("#position").fill("7.7")
    opened.page.keyboard.press("Space")
    opened.page.wait_for_function(
        "() => { const at = document.querySelector('#position').value; return at >= 4 && at < 6; }"
    )
    opened.page.keyboard.press("Space")
    opened.page.keyboard.press("l")
    assert opened.page.locator("#loop").get_attribute("aria-pressed") == "false"


def test_it_clicks_on_every_beat_and_slows_down(opened: Opened) -> None:
    opened.page.locator("#speed").fill("50")
    assert opened.page.locator("#speed-value").inner_text() == "50 %"
    opened.page.locator("#click").click()
    opened.page.get_by_role("button", name="Play").click()
    opened.page.wait_for_function("() => document.documentElement.dataset.clicks >= 2")
    assert 0.6 < opened.time() < 1.5  # the second beat is at 0.75 s
    opened.page.get_by_role("button", name="Pause").click()
    opened.page.locator("#click").click()
    opened.page.locator("#speed").fill("100")


def test_chords_are_transposed_in_the_new_key(opened: Opened) -> None:
    first = opened.page.locator("#chart button").nth(1)
    assert first.inner_text() == "2\nC♯ B♭m7/♭3"
    opened.page.locator("#transpose").select_option("-4")
    assert first.inner_text() == "2\nA G♭m7/♭3"
    opened.page.locator("#transpose").select_option("0")
    assert first.inner_text() == "2\nC♯ B♭m7/♭3"


def test_results_can_be_saved(opened: Opened) -> None:
    links = opened.page.locator("#downloads a").all_inner_texts()
    kinds = ("beats", "chords", "sections", "key")
    assert links == [".jams", ".csv", *(f".{kind}.labels.txt" for kind in kinds)]
    with opened.page.expect_download() as started:
        opened.page.locator("#downloads a").first.click()
    assert started.value.suggested_filename == "so ng.jams"
    saved = json.loads(Path(started.value.path()).read_text(encoding="utf-8"))
    assert saved == json.loads(json.dumps(analysis().to_jams()))


def test_a_trial_model_is_named(opened: Opened, browser: Any, sound: Sound, tmp_path: Path) -> None:
    assert opened.page.locator("#trial").is_visible()
    opened.page.locator("#trial a").click()
    assert opened.page.locator("#about p").is_visible()
    other = open_page(browser, analysis().annotations, sound, tmp_path)
    assert other.page.locator("#trial").is_hidden()
    other.context.close()


def test_the_chord_chart_is_printed(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    assert opened.page.locator("#chart").is_visible()
    for hidden in ("#play", "#timeline", "#tags-card", "#print"):
        assert opened.page.locator(hidden).is_hidden()
    opened.page.emulate_media(media="screen")


def test_it_zooms_around_the_playhead(opened: Opened) -> None:
    opened.page.locator("#sections button").nth(2).click()
    opened.reaches(8.0)
    assert opened.page.locator("#view").is_hidden()
    before = opened.page.locator("#playhead").bounding_box()["x"]
    for _ in range(3):
        opened.page.keyboard.press("+")
    width = opened.page.locator("#view").evaluate("view => parseFloat(view.style.width)")
    assert width == pytest.approx(100 / 1.5**3, rel=0.05)
    assert opened.page.locator("#playhead").bounding_box()["x"] == pytest.approx(before, abs=3)
    opened.page.get_by_role("button", name="Show the whole song").click()
    assert opened.page.locator("#view").is_hidden()


def test_the_look_follows_the_system_and_the_switch(browser: Any, song: Path) -> None:
    opened = Opened(browser, song, color_scheme="dark")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    switch = opened.page.get_by_role("button", name="Dark")
    others = opened.page.get_by_role("button", name="Zoom in")
    face = "button => getComputedStyle(button).backgroundColor"
    dark = opened.page.evaluate(colour)
    assert switch.get_attribute("aria-pressed") == "true"
    assert switch.evaluate(face) != others.evaluate(face)
    switch.click()
    light = opened.page.evaluate(colour)
    assert switch.evaluate(face) == others.evaluate(face)
    assert sum(map(int, re.findall(r"\d+", dark))) < 150 < sum(map(int, re.findall(r"\d+", light)))
    opened.page.reload()
    opened.page.wait_for_selector("html[data-ready]")
    assert opened.page.evaluate(colour) == light
    assert not opened.complaints
    opened.context.close()


def test_it_fits_a_phone(browser: Any, song: Path) -> None:
    opened = Opened(browser, song, viewport={"width": 400, "height": 800}, has_touch=True)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 400
    for name in ("Play", "Zoom in", "Dark"):
        box = opened.page.get_by_role("button", name=name).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 400
        assert min(box["width"], box["height"]) >= 40
    opened.page.get_by_role("button", name="Play").tap()
    opened.page.wait_for_function("() => document.querySelector('#position').value > 0.2")
    assert not opened.complaints
    opened.context.close()


def empty() -> Annotations:
    nothing = Spans(np.empty((0, 2)), ())
    return Annotations(Beats(np.empty(0), np.empty(0, np.int64)), nothing, nothing, nothing, {})


@pytest.mark.parametrize(
    ("annotations", "said"),
    [
        (Annotations(), "Not analysed: beats, chords, sections, key, tags."),
        (empty(), "None found: beats, chords, sections"),
        (
            Annotations(beats=Beats(np.array([0.1, 0.6]), np.zeros(2, np.int64))),
            "Not analysed: chords, sections, key, tags.",
        ),
    ],
    ids=["nothing", "none", "beats alone"],
)
def test_what_is_missing_is_left_out(
    annotations: Annotations, said: str, browser: Any, sound: Sound, tmp_path: Path
) -> None:
    opened = open_page(browser, annotations, sound, tmp_path)
    assert said in opened.page.locator("#hint").inner_text()
    for key in ("ArrowRight", "ArrowDown", "ArrowUp", "ArrowLeft", "+", "0"):
        opened.page.keyboard.press(key)
    assert not opened.complaints
    opened.context.close()


@pytest.mark.parametrize("warnings", [(), ("song.ogg is damaged: only 5 s was decoded.",)])
def test_damage_is_shown(
    warnings: tuple[str, ...], browser: Any, sound: Sound, tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(render_page(replace(analysis(), warnings=warnings), sound), encoding="utf-8")
    opened = Opened(browser, path)
    assert opened.page.locator("#damage").inner_text() == " ".join(warnings)
    assert opened.page.locator("#damage").is_visible() == bool(warnings)
    assert not opened.complaints
    opened.context.close()


def test_the_shortest_song_opens(browser: Any, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "short.wav", np.full(2_205, 0.1), 44_100)
    made = Analysis("short", 0.05, empty(), np.eye(1, dtype=np.float32), {"model": "nano"})
    path = tmp_path / "short.html"
    path.write_text(render_page(made, Sound.of(tmp_path / "short.wav")), encoding="utf-8")
    opened = Opened(browser, path)
    opened.page.keyboard.press("ArrowRight")
    assert opened.time() <= 0.05
    assert not opened.complaints
    opened.context.close()


def test_an_hour_opens_and_plays(browser: Any, sound: Sound, tmp_path: Path) -> None:
    duration = 3_600.0
    times = np.arange(0.25, duration, 0.5)
    bounds = np.arange(0.0, duration + 1, 2.0)
    chords = Spans(np.stack([bounds[:-1], bounds[1:]], axis=1), ("C:maj", "A:min") * 900)
    long = Annotations(beats=Beats(times, 1 + np.arange(len(times)) % 4), chords=chords)
    made = Analysis("hour", duration, long, np.eye(240, dtype=np.float32), {"model": "nano"})
    frames = sound.mp3[FRAME_BYTES:]
    frames *= round(duration * BIT_RATE / 8) // len(frames)
    mp3 = tag(frames[:4], FRAME_BYTES + len(frames)) + frames
    peaks = np.full(round(duration * PEAK_RATE), 0.5, np.float32)
    path = tmp_path / "hour.html"
    path.write_text(render_page(made, Sound(mp3, peaks)), encoding="utf-8")
    opened = Opened(browser, path)
    opened.page.locator("#position").fill("3000")
    assert opened.reaches(3000.0)
    assert opened.now() == {"Chord": "C", "Bar . beat": "1500.4"}
    opened.page.get_by_role("button", name="Show the whole song").click()
    opened.page.keyboard.press("+")
    opened.page.get_by_role("button", name="Play").click()
    opened.page.wait_for_function("() => document.querySelector('#position').value > 3000.2")
    assert not opened.complaints
    opened.context.close()
