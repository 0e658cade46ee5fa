"""The sound in a page."""

import io
import tracemalloc
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from musicfm.analysis.sound import FRAME_BYTES, FRAME_SAMPLES, PEAK_RATE, SAMPLE_RATE, Sound
from musicfm.audio import reading
from musicfm.errors import AudioError

RATE = 44_100
SECONDS = 3.456


@pytest.fixture(scope="module")
def clicks() -> npt.NDArray[np.float64]:
    return np.array([0.1, 1.0, 2.345, 3.4])


@pytest.fixture(scope="module")
def recording(clicks: npt.NDArray[np.float64], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clicks on a low tone, too loud in one channel."""
    time = np.arange(round(SECONDS * RATE)) / RATE
    samples = 0.05 * np.sin(2 * np.pi * 110.0 * time)
    samples[np.round(clicks * RATE).astype(int)] = 0.9
    path = tmp_path_factory.mktemp("sound") / "clicks.wav"
    soundfile.write(path, np.stack([samples, 1.5 * samples], axis=1), RATE, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def made(recording: Path) -> Sound:
    return Sound.of(recording)


def decoded(mp3: bytes) -> npt.NDArray[np.float32]:
    return reading.load(io.BytesIO(mp3), SAMPLE_RATE)


def test_clicks_are_where_they_were(made: Sound, clicks: npt.NDArray[np.float64]) -> None:
    samples = np.abs(decoded(made.mp3))
    for click in clicks:
        near = round(click * SAMPLE_RATE) + np.arange(-1_000, 1_000)
        near = near[near < len(samples)]
        assert abs(near[samples[near].argmax()] / SAMPLE_RATE - click) < 1e-4
    assert 0 <= len(samples) - SECONDS * SAMPLE_RATE < 2 * FRAME_SAMPLES


def test_counting_bytes_finds_any_time(made: Sound) -> None:
    """Of what is cut off at a frame, the beginning is that frame's, to the bit."""
    assert len(made.mp3) % FRAME_BYTES == 0
    whole = decoded(made.mp3)
    number = 70
    cut = made.mp3[FRAME_BYTES * (1 + number) :]
    with av.open(io.BytesIO(cut), "r", format="mp3") as container:
        part = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    begin = FRAME_SAMPLES  # its first overlaps with the one that is missing
    expected = whole[number * FRAME_SAMPLES :][begin : begin + 5_000]
    assert np.abs(part[begin : begin + 5_000] - expected).max() < 1e-6


def test_the_length_is_declared(made: Sound) -> None:
    with av.open(io.BytesIO(made.mp3), "r") as container:
        duration = (container.duration or 0) / av.time_base
    assert duration == pytest.approx(len(decoded(made.mp3)) / SAMPLE_RATE, abs=1e-4)


def test_a_minute_takes_half_a_megabyte(made: Sound) -> None:
    assert 60 * len(made.mp3) / SECONDS == pytest.approx(480_000, rel=0.02)


def test_peaks_follow_the_recording(made: Sound, recording: Path) -> None:
    samples = np.abs(reading.load(recording, SAMPLE_RATE)).clip(0.0, 1.0)
    assert len(made.peaks) == np.ceil(len(samples) / (SAMPLE_RATE // PEAK_RATE))
    assert made.peaks[0] == samples[: SAMPLE_RATE // PEAK_RATE].max()
    assert made.peaks.max() == samples.max()
    assert made.peaks[100] > 3 * np.median(made.peaks)  # the click after one second


def test_nothing_depends_on_where_blocks_end(
    made: Sound, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = reading.stream
    monkeypatch.setattr(reading, "stream", partial(stream, block_seconds=0.017))
    again = Sound.of(recording)
    assert again.mp3 == made.mp3
    assert (again.peaks == made.peaks).all()


def test_memory_grows_with_the_result_alone(
    recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(path: Path, rate: int, on_damage: str) -> Iterator[npt.NDArray[np.float32]]:
        for _ in range(120):
            yield np.zeros(rate, np.float32)

    monkeypatch.setattr(reading, "stream", stream)
    tracemalloc.start()
    made = Sound.of(recording)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    one_second = SAMPLE_RATE * 4
    assert peak < 3 * len(made.mp3) + 10 * one_second < 60 * one_second


@pytest.mark.parametrize("seconds", [0.043, 0.1])
def test_the_shortest_recordings_have_a_sound(seconds: float, tmp_path: Path) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.full(round(seconds * RATE), 0.1), RATE)
    made = Sound.of(path)
    assert len(made.peaks) == np.ceil(seconds * PEAK_RATE)
    assert len(decoded(made.mp3)) >= seconds * SAMPLE_RATE


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "bad.wav"
    path.write_bytes(b"no sound" * 100)
    with pytest.raises(AudioError, match=r"bad\.wav"):
        Sound.of(path)
