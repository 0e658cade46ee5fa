"""One recording, analysed in this process."""

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicfm
import tones
from heads_of import write_heads
from musicfm.analysis.analyze import RecordingAnalysis
from musicfm.embedding.embedder import Embedder
from musicfm.model.musicfm import MusicFM


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write_tones(tmp_path_factory.mktemp("tones"), 1) / "tone_0.wav"


@pytest.fixture(scope="module")
def analysis(heads: list[Path], song: Path) -> RecordingAnalysis:
    return musicfm.analyze(song, model="nano", heads=heads)


def test_what_is_found_are_plain_objects(analysis: RecordingAnalysis) -> None:
    jams = {part["namespace"]: part["data"] for part in analysis.to_jams()["annotations"]}
    assert [beat.time for beat in analysis.beats] == pytest.approx(
        [row["time"] for row in jams["beat"]], abs=1e-6
    )
    for spans, namespace in (
        (analysis.chords, "chord"),
        (analysis.sections, "segment_open"),
        (analysis.keys, "key_mode"),
    ):
        assert [span.label for span in spans] == [row["value"] for row in jams[namespace]]
        assert spans[0].start == jams[namespace][0]["time"]
    assert analysis.key is not None
    assert analysis.key in {key.label.replace(":", " ") for key in analysis.keys}
    assert list(analysis.tags) == [row["value"] for row in jams["tag_open"]]
    assert (analysis.tempo is None) == (len(analysis.beats) < 2)
    assert (analysis.title, analysis.file) == ("tone_0", "tone_0.wav")


def test_bytes_and_file_objects_give_what_the_file_gives(
    analysis: RecordingAnalysis, heads: list[Path], song: Path
) -> None:
    content = song.read_bytes()
    for source in (content, io.BytesIO(content)):
        found = musicfm.analyze(source, model="nano", heads=heads)
        assert found.to_jams()["annotations"] == analysis.to_jams()["annotations"]
        assert found.file == ""
    assert "<title>tone_0</title>" in analysis.to_html()
    embedder = Embedder(MusicFM.from_pretrained("nano"))
    expected = embedder(song).frames
    for source in (content, io.BytesIO(content)):
        assert embedder(source).frames.equal(expected)


def test_damage_is_an_error_or_a_warning(heads: list[Path], tmp_path: Path, song: Path) -> None:
    samples, rate = soundfile.read(song)
    soundfile.write(tmp_path / "whole.ogg", samples, rate)
    damaged = (tmp_path / "whole.ogg").read_bytes()[:30_000]
    with pytest.raises(musicfm.AudioError, match="The recording is damaged"):
        musicfm.analyze(damaged, model="nano", heads=heads)
    with pytest.warns(musicfm.AudioWarning, match="damaged"):
        found = musicfm.analyze(damaged, model="nano", heads=heads, on_damage="warn")
    assert 0.0 < found.duration < tones.SECONDS
    assert "damaged" in found.warnings[0]


def test_what_cannot_be_analysed_is_one_sentence(heads: list[Path], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(musicfm.AudioError, match="not audio in a known format"):
            musicfm.analyze(b"no sound", model="nano", heads=heads)
        with pytest.raises(musicfm.AudioError, match=r"none\.mp3 does not exist"):
            musicfm.analyze(tmp_path / "none.mp3", model="nano", heads=heads)
    with pytest.raises(musicfm.CheckpointError, match="no heads come with 'tiny'"):
        musicfm.analyze(tmp_path / "none.mp3", model="tiny")


@pytest.mark.parametrize("bpm", [118.0, 124.0, 127.0, 130.0, 140.0])
def test_drums_have_their_tempo_and_not_that_of_half_notes(bpm: float) -> None:
    """Kick and snare at a steady tempo, without anything between them."""
    rate, rng = 24_000, np.random.default_rng(0)
    seconds = np.arange(rate // 10) / rate
    kick = np.sin(2 * np.pi * (50 + 80 * np.exp(-40 * seconds)) * seconds) * np.exp(-25 * seconds)
    snare = rng.standard_normal(len(seconds)) * np.exp(-40 * seconds)
    bell = np.sin(2 * np.pi * 262 * seconds) * np.exp(-10 * seconds)
    samples = 0.001 * rng.standard_normal(30 * rate)
    for beat, start in enumerate(np.arange(0.5, 29.8, 60 / bpm)):
        sound = kick if beat % 2 == 0 else 0.3 * kick + 0.5 * snare
        first = round(start * rate)
        samples[first : first + len(kick)] += 0.4 * (sound + 0.4 * bell * (beat % 4 == 0))
    wav = io.BytesIO()
    soundfile.write(wav, samples, rate, format="WAV")
    assert musicfm.analyze(wav.getvalue()).tempo == pytest.approx(bpm, rel=0.002)


def test_silence_has_no_music_in_it_and_that_is_said() -> None:
    wav = io.BytesIO()
    soundfile.write(wav, np.zeros(8 * 24_000), 24_000, format="WAV")
    found = musicfm.analyze(wav.getvalue())
    assert (found.key, found.tempo, found.sections, found.tags) == (None, None, [], {})
    assert [chord.label for chord in found.chords] == ["N"]
    (warning,) = found.warnings
    assert "neither beats nor chords were found, as in silence" in warning
