"""Many channels to one, where their mean would lose what is in them."""

import itertools
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_files import Samples, encode, tone
from musicfm.audio import reading
from musicfm.errors import AudioError, AudioWarning

RATE = 16000
MUSIC = tone(RATE, 6.0, 1)[:, 0]


def wav(path: Path, channels: list[Samples], subtype: str = "FLOAT") -> Path:
    soundfile.write(path, np.stack(channels, 1), RATE, subtype=subtype)
    return path


def assert_crops_match(path: Path, whole: Samples) -> None:
    for start, seconds in ((0.3, 0.5), (1.9, 1.7), (2.99, 0.1), (4.5, 1.5)):
        crop = reading.load(path, RATE, start_seconds=start, duration_seconds=seconds)
        first = round(start * RATE)
        np.testing.assert_allclose(crop, whole[first : first + len(crop)], atol=1e-6)
    for block in (0.07, 0.9, 3.0):
        blocks = reading.stream(path, RATE, block_seconds=block)
        np.testing.assert_array_equal(np.concatenate(list(blocks)), whole)


@pytest.mark.parametrize("num_channels", [2, 6, 8])
def test_a_channel_alone_is_that_channel(tmp_path: Path, num_channels: int) -> None:
    for channel in {0, 1, num_channels - 1}:
        channels = [0 * MUSIC] * num_channels
        channels[channel] = MUSIC
        path = wav(tmp_path / "x.wav", channels)
        decoded = reading.load(path, RATE)
        np.testing.assert_array_equal(decoded, MUSIC)
        assert_crops_match(path, decoded)


def test_stereo_in_six_channels_is_as_in_two(tmp_path: Path) -> None:
    left, right = tone(RATE, 6.0).T
    two = reading.load(wav(tmp_path / "2.wav", [left, right]), RATE)
    six = reading.load(wav(tmp_path / "6.wav", [left, right, *[0 * left] * 4]), RATE)
    np.testing.assert_array_equal(six, two)


def test_what_codecs_make_of_silence_is_no_sound(tmp_path: Path) -> None:
    channels = np.zeros((len(MUSIC), 6), np.float32)
    channels[:, 2] = MUSIC
    encode(tmp_path / "x.ac3", channels, 48000, "ac3", "ac3", {})
    decoded = reading.load(tmp_path / "x.ac3", 48000)
    assert np.std(decoded) == pytest.approx(np.std(MUSIC), rel=0.1)


def test_a_channel_that_is_silent_for_a_while_counts(tmp_path: Path) -> None:
    late = np.where(np.arange(len(MUSIC)) < 5 * RATE, 0, MUSIC[::-1])
    path = wav(tmp_path / "x.wav", [MUSIC, late])
    decoded = reading.load(path, RATE)
    np.testing.assert_array_equal(decoded, (MUSIC + late) / 2)
    assert_crops_match(path, decoded)


def test_crops_of_what_libsndfile_reads_from_its_beginning(tmp_path: Path) -> None:
    path = wav(tmp_path / "x.wav", list(tone(RATE, 6.0).T), "IMA_ADPCM")
    assert_crops_match(path, reading.load(path, RATE))


@pytest.mark.parametrize("gain", [-1.0, -0.9, -1.1])
def test_channels_that_cancel(tmp_path: Path, gain: float) -> None:
    hiss = 1e-3 * np.random.default_rng(0).standard_normal(len(MUSIC)).astype(np.float32)
    path = wav(tmp_path / "x.wav", [MUSIC, np.float32(gain) * MUSIC + hiss])
    with pytest.warns(AudioWarning, match=r"x\.wav has channels that cancel .* for 6\.0 s"):
        decoded = reading.load(path, RATE)
    np.testing.assert_array_equal(decoded, MUSIC)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        assert_crops_match(path, decoded)


def test_channels_that_cancel_for_a_while(tmp_path: Path) -> None:
    signs = np.where((np.arange(len(MUSIC)) // (2 * RATE)) == 1, -1, 1).astype(np.float32)
    path = wav(tmp_path / "x.wav", [MUSIC, signs * MUSIC])
    with pytest.warns(AudioWarning, match=r"for 2\.0 s"):
        decoded = reading.load(path, RATE)
    is_fade = np.arange(len(MUSIC)) % (2 * RATE) < 0.02 * RATE
    is_fade[:RATE] = False
    np.testing.assert_allclose(decoded[~is_fade], MUSIC[~is_fade], atol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)
        assert_crops_match(path, decoded)
        start, seconds = 0.5, 0.2  # with its margins, not yet where they cancel
        reading.load(path, RATE, start_seconds=start, duration_seconds=seconds)


def test_the_way_to_a_channel_and_back_has_no_steps(tmp_path: Path) -> None:
    """Half of a second cancels: its other half is the mean no more, but it does not click."""
    tone_: Samples = np.sin(2 * np.pi * 110 * np.arange(6 * RATE) / RATE).astype(np.float32)
    gains = np.interp(np.arange(6 * RATE) / RATE, [0, 2, 3, 6], [1, 1, -1, -1])
    path = wav(tmp_path / "x.wav", [tone_, (gains * tone_).astype(np.float32)])
    with pytest.warns(AudioWarning, match="cancel"):
        decoded = reading.load(path, RATE)
    assert np.abs(np.diff(decoded)).max() < 3 * np.abs(np.diff(tone_)).max()


def test_wide_stereo_and_silence_are_left_alone(tmp_path: Path) -> None:
    left, right = tone(RATE, 6.0).T
    for a, b in itertools.product((left, -0.5 * left, right), (left, right, 0 * left)):
        if np.array_equal(a, b):
            continue
        reading.load(wav(tmp_path / "x.wav", [a, b]), RATE)
    quiet = wav(tmp_path / "quiet.wav", [left * 1e-5, -left * 1e-5])
    np.testing.assert_array_equal(reading.load(quiet, RATE), np.zeros_like(left))


@pytest.mark.parametrize("scale", [32768.0, 40.0])
def test_floats_that_count_as_integers(tmp_path: Path, scale: float) -> None:
    path = wav(tmp_path / "x.wav", [(MUSIC / np.abs(MUSIC).max() * scale).astype(np.float32)])
    with pytest.raises(AudioError, match=r"x\.wav reaches [\d.e+]+ at \d\.\d+ s, and full scale"):
        reading.load(path, RATE)
