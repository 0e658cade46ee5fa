"""Collections for rekordbox, read back."""

import io
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pytest
import soundfile

import audio_files
from musicfm.analysis.analyzer import Analysis
from musicfm.audio import reading
from musicfm.datasets.annotations import Annotations, make_beats, make_spans
from musicfm.library.database import Track
from musicfm.library.rekordbox import cut_by_decoder, grids, plays, write_collection

RATE = 44_100


def track(path: Path | str, number: int = 1, **changes: object) -> Track:
    values = {
        "id": number, "path": str(path), "size": 1_000, "modified": 0, "sound": "",
        "missing": False, "title": "A <b> & ☕ \x01", "artist": "Örjan", "album": "X",
        "duration": 10.4, "tempo": 120.0, "key": "Eb minor", "tags": {}, "warnings": (),
        "vector": 0, "first_segment": 0, "num_segments": 1,
    }  # fmt: skip
    return Track(**{**values, **changes})  # type: ignore[arg-type]


def analysis(times: np.ndarray, positions: list[int]) -> Analysis:
    found = Annotations(
        beats=make_beats(times, positions),
        segments=make_spans([(0.0, 4.0, "intro"), (4.0, 10.0, "verse")]),
    )
    return Analysis("", 10.4, found, np.eye(1, dtype=np.float32), {})


def written(*tracks: tuple[Track, Analysis | None]) -> bytes:
    file = io.BytesIO()
    write_collection(tracks, file)
    return file.getvalue()


def test_pyrekordbox_reads_it_back(tmp_path: Path) -> None:
    pyrekordbox = pytest.importorskip("pyrekordbox.rbxml")
    path = tmp_path / "out.xml"
    song = tmp_path / "a folder" / "sø#ng.flac"
    beats = analysis(1.0 + 0.5 * np.arange(16), [3, 4, *[1, 2, 3, 4] * 3, 1, 2])
    other = track(tmp_path / "b.wav", 2, tempo=None, key=None)
    path.write_bytes(written((track(song), beats), (other, None)))
    collection = pyrekordbox.RekordboxXml(path)
    assert collection.num_tracks == 2
    found = collection.get_track(TrackID=1)
    assert (found["Artist"], found["Tonality"], found["AverageBpm"]) == ("Örjan", "Ebm", 120.0)
    assert found["Name"] == "A <b> & ☕ \\x01"
    assert Path("/", found["Location"]) == song  # pyrekordbox takes the first slash off
    (tempo,) = found.tempos
    assert (tempo["Inizio"], tempo["Bpm"], tempo["Metro"], tempo["Battito"]) == (
        2.0,
        120.0,
        "4/4",
        1,
    )
    assert [(mark["Name"], mark["Start"], mark["Num"]) for mark in found.marks] == [
        ("intro", 0.0, -1), ("verse", 4.0, -1)
    ]  # fmt: skip
    assert not collection.get_track(TrackID=2).tempos


def test_the_address_of_a_file_is_quoted(tmp_path: Path) -> None:
    root = xml.fromstring(written((track(Path("/music/a b/ü#%.mp3")), None)))
    (found,) = root.iter("TRACK")
    assert found.attrib["Location"] == "file://localhost/music/a%20b/%C3%BC%23%25.mp3"
    assert root.find("COLLECTION") is not None
    assert root.find("COLLECTION").attrib["Entries"] == "1"  # type: ignore[union-attr]


def test_what_rekordbox_plays() -> None:
    assert plays(track(Path("/a.MP3")))
    assert not plays(track(Path("/a.ogg")))
    assert not plays(track("s3://bucket/a.mp3"))


def impulse(path: Path, at: int, **options: str) -> Path:
    """An MP3 of silence and one click."""
    samples = np.zeros((2 * RATE, 2), np.float32)
    samples[at] = 0.9
    audio_files.encode(path, samples, RATE, "libmp3lame", "mp3", {"id3v2_version": "0", **options})
    return path


@pytest.mark.parametrize("has_header", [True, False])
def test_mp3_time_counts_from_the_first_frame(tmp_path: Path, has_header: bool) -> None:
    """As decoders count that know nothing of the header: the click is where rekordbox has it."""
    path = impulse(tmp_path / "click.mp3", RATE, write_xing=str(int(has_header)))
    assert (b"Info" in path.read_bytes()[:200] or b"Xing" in path.read_bytes()[:200]) == has_header
    ours = int(np.abs(reading.load(path, RATE)).argmax()) / RATE
    offset = cut_by_decoder(str(path))
    assert offset == pytest.approx(1_105 / RATE if has_header else 0.0)
    # The encoder's delay and the decoder's, of 576 and 529 samples, are before the click.
    assert ours + offset == pytest.approx(1.0 + 1_105 / RATE, abs=1 / RATE)


def test_grids_and_cues_are_moved_in_mp3_alone(tmp_path: Path) -> None:
    mp3 = impulse(tmp_path / "a.mp3", RATE)
    flac = tmp_path / "a.flac"
    soundfile.write(flac, np.zeros(RATE), RATE)
    found = analysis(1.0 + 0.5 * np.arange(16), [1, 2, 3, 4] * 4)
    for path, first, verse in ((mp3, "1.025", "4.025"), (flac, "1.000", "4.000")):
        (element,) = xml.fromstring(written((track(path), found))).iter("TRACK")
        assert [tempo.attrib["Inizio"] for tempo in element.iter("TEMPO")] == [first]
        assert [mark.attrib["Start"] for mark in element.iter("POSITION_MARK")][1] == verse
    assert cut_by_decoder(str(tmp_path / "gone.mp3")) == 0.0


def test_a_steady_tempo_is_one_grid_whatever_the_jitter() -> None:
    jitter = np.random.default_rng(0).uniform(-0.02, 0.02, 400)
    times = 0.7 + 60 / 127.3 * np.arange(400) + jitter
    beats = make_beats(times, [*([1, 2, 3] * 134)][:400])
    (grid,) = grids(beats, 127.0)
    assert grid.bpm == pytest.approx(127.3, abs=0.05)
    assert grid.start == pytest.approx(0.7, abs=0.01)
    assert (grid.position, grid.meter) == (1, 3)


def test_a_change_of_tempo_or_a_break_begins_another_grid() -> None:
    slow = 0.5 * np.arange(40)
    fast = slow[-1] + 0.5 + 0.4 * np.arange(40)
    after_break = fast[-1] + 7.33 + 0.4 * np.arange(40)
    times = np.concatenate([slow, fast, after_break])
    found = grids(make_beats(times, [1, 2, 3, 4] * 30), 120.0)
    assert len(found) == 3
    assert [grid.bpm for grid in found] == pytest.approx([120.0, 150.0, 150.0], abs=0.5)
    assert found[2].start == pytest.approx(after_break[0], abs=0.05)
    # Every beat lies on the grid that holds there.
    for time in times:
        grid = [grid for grid in found if grid.start <= time + 0.05][-1]
        beat = (time - grid.start) * grid.bpm / 60
        assert abs(beat - round(beat)) * 60 / grid.bpm < 0.08


def test_no_grid_begins_before_the_recording() -> None:
    times = np.array([0.0, *(0.48 + 0.5 * np.arange(15))])
    (grid,) = grids(make_beats(times, [1, 2, 3, 4] * 4), 120.0)
    assert (grid.position, grid.meter) == (2, 4)
    assert grid.start == pytest.approx(0.48, abs=0.01)


def test_too_little_to_make_a_grid_of() -> None:
    assert grids(None, 120.0) == []
    assert grids(make_beats([1.0]), 120.0) == []
    assert grids(make_beats([1.0, 1.5], [0, 0]), None) == []
    (grid,) = grids(make_beats([1.0, 1.5], [0, 0]), 118.0)
    assert (grid.bpm, grid.position, grid.meter) == (118.0, 1, 4)
