from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest

from musicfm.errors import AudioError
from musicfm.render import effects
from sound_fonts import PLAIN

RATE = 24_000
Samples = npt.NDArray[np.float32]
Codec = Callable[[Samples, int, int], Samples]

QUIET = replace(PLAIN, noise_db=-200.0, level_db=-70.0)  # impulses stay clear of the limiter


def rms_db(sound: Samples) -> float:
    return 10 * np.log10(np.mean(sound.astype(np.float64) ** 2))


def silence(num_samples: int) -> Samples:
    return np.zeros((2, num_samples), np.float32)


def impulse(num_samples: int, at: int) -> Samples:
    sound = silence(num_samples)
    sound[:, at] = 0.1
    return sound


@pytest.fixture(scope="module")
def music() -> Samples:
    """Two bars of plucked tones on both sides."""
    generator = np.random.default_rng(0)
    sound = silence(4 * RATE)
    times = np.arange(RATE // 2) / RATE
    for number, channel in enumerate([0, 1, 1, 0, 1, 0, 0, 1]):
        tone = np.sin(2 * np.pi * 220 * 2 ** (number / 4) * times) * np.exp(-8 * times)
        tone[:200] += generator.standard_normal(200) * 0.3
        sound[channel, number * RATE // 2 :][: len(tone)] += tone.astype(np.float32)
    return sound


def test_the_result_is_as_long_and_as_loud_as_asked(music: Samples) -> None:
    for level_db in (-30.0, -18.0, -12.0):
        production = replace(PLAIN, level_db=level_db)
        finished = effects.produce(music, music, production, RATE)
        assert finished.shape == music.shape
        assert finished.dtype == np.float32
        assert rms_db(finished) == pytest.approx(level_db, abs=0.1)
        assert np.abs(finished).max() <= 1


@pytest.mark.parametrize("codec", ["none", "mp3", "ogg"])
def test_no_sample_is_exactly_silent(codec: Literal["none", "mp3", "ogg"]) -> None:
    production = replace(PLAIN, noise_db=-70.0, codec=codec)
    dry = impulse(2 * RATE, 100)
    finished = effects.produce(dry, silence(2 * RATE), production, RATE)
    assert np.all(finished != 0)
    assert rms_db(finished[:, RATE:]) == pytest.approx(-70, abs=0.5)


def test_a_seed_gives_the_same_and_another_seed_another(music: Samples) -> None:
    first, again, other = (
        effects.produce(music, music, replace(PLAIN, seed=seed), RATE) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert rms_db(first - other) > -60


@pytest.mark.parametrize("frequency", [60.0, 440.0, 6_000.0])
@pytest.mark.parametrize("gain_db", [-12.0, 9.0])
def test_the_equalizer_changes_its_frequency_and_little_else(
    frequency: float, gain_db: float
) -> None:
    production = replace(QUIET, equalizer=((frequency, gain_db),))
    dry = impulse(2 * RATE, 1_000)
    finished = effects.produce(dry, silence(2 * RATE), production, RATE)
    plain = effects.produce(dry, silence(2 * RATE), QUIET, RATE)
    spectrum = np.abs(np.fft.rfft(finished[0]) / np.fft.rfft(plain[0]))
    frequencies = np.fft.rfftfreq(2 * RATE, 1 / RATE)
    at = np.interp([frequency, 8 if frequency > 100 else 2_000], frequencies, spectrum)
    assert 20 * np.log10(at[0] / at[1]) == pytest.approx(gain_db, abs=0.1)


def test_filters_in_series_add_up_and_those_beyond_the_spectrum_are_left_out() -> None:
    one = effects.equalizer_response([(300, 4)], 4_096, RATE)
    both = effects.equalizer_response([(300, 4), (2_000, -5), (12_000, 20)], 4_096, RATE)
    np.testing.assert_allclose(
        both, one * effects.equalizer_response([(2_000, -5)], 4_096, RATE), rtol=1e-5
    )


def test_equalizer_and_reverb_come_after_what_they_act_on() -> None:
    at = 30_000
    production = replace(QUIET, equalizer=((80, -9), (5_000, 9)), reverb_seconds=1.5)
    dry = impulse(3 * RATE, at)
    finished = effects.produce(dry, dry, production, RATE)
    assert np.abs(finished[:, :at]).max() < 1e-5 * np.abs(finished).max()
    assert np.abs(finished).argmax() % finished.shape[1] == at


def test_time_does_not_matter_to_equalizer_and_reverb() -> None:
    """Wherever the blocks of the convolution begin."""
    production = replace(QUIET, equalizer=((80, 9),), reverb_seconds=0.3)
    length = 20 * RATE
    responses = []
    for at in (0, 77_777, 15 * RATE):
        dry = impulse(length, at)
        finished = effects.produce(dry, 0.5 * dry, production, RATE)
        responses.append(finished[:, at : at + 4 * RATE])
    for response in responses[1:]:
        assert np.abs(response - responses[0]).max() < 1e-5 * np.abs(responses[0]).max()


@pytest.mark.parametrize("seconds", [0.4, 2.0])
def test_the_reverb_falls_by_60_db_in_its_time(seconds: float) -> None:
    tail = effects.reverb_tail(seconds, RATE, np.random.default_rng(0))
    assert tail.shape == (2, round(seconds * RATE))
    np.testing.assert_allclose((tail**2).sum(axis=1), 1, rtol=1e-5)
    for channel in tail:
        left = 10 * np.log10(np.cumsum(channel[::-1] ** 2)[::-1])  # Schroeder's integral
        fallen = [int(np.argmax(left < -level)) / RATE for level in (5, 35)]
        assert 2 * (fallen[1] - fallen[0]) == pytest.approx(seconds, rel=0.1)


def test_left_and_right_of_the_reverb_are_independent() -> None:
    tail = effects.reverb_tail(1.0, RATE, np.random.default_rng(0))
    assert abs(np.dot(tail[0], tail[1])) < 0.1


def test_the_reverb_is_as_loud_as_what_is_sent() -> None:
    dry = np.random.default_rng(0).standard_normal((1, 10 * RATE)).astype(np.float32) * 0.1
    dry = np.repeat(dry, 2, axis=0)
    wet = effects.produce(silence(10 * RATE), dry, replace(QUIET, level_db=-30), RATE)
    both = effects.produce(dry, dry, replace(QUIET, level_db=-30), RATE)
    # The sum is 3 dB louder than either, so its dry part is found 3 dB lower.
    share_db = 20 * np.log10(np.vdot(both, dry) / np.vdot(dry, dry)) + rms_db(dry) - rms_db(both)
    assert share_db == pytest.approx(-3, abs=0.3)
    assert abs(np.corrcoef(wet[0], dry[0])[0, 1]) < 0.1


def test_width_scales_the_difference(music: Samples) -> None:
    mono, half, same = (effects.widen(music, width) for width in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(mono[0], mono[1])
    np.testing.assert_allclose(same, music, atol=1e-6)
    np.testing.assert_allclose(half[0] - half[1], (music[0] - music[1]) / 2, atol=1e-6)
    np.testing.assert_allclose(half.sum(axis=0), music.sum(axis=0), atol=1e-6)


def test_the_limiter_bends_what_is_loud_and_leaves_the_rest() -> None:
    ramp = np.linspace(-5, 5, 10_001, dtype=np.float32)[None].repeat(2, axis=0)
    limited = effects.limit(ramp)
    quiet = np.abs(ramp) <= 0.8
    np.testing.assert_array_equal(limited[quiet], ramp[quiet])
    assert np.abs(limited).max() <= 1
    assert np.all(np.diff(limited, axis=1) >= 0)
    assert np.diff(limited, axis=1).max() <= 1.01 * np.diff(ramp, axis=1).max()  # no corner
    np.testing.assert_allclose(limited, -limited[:, ::-1], atol=1e-6)


def test_a_level_beyond_the_limiter_is_missed_but_ends() -> None:
    peaky = impulse(RATE, 5)
    finished = effects.level(peaky, -6.0)
    assert np.abs(finished).max() <= 1
    assert rms_db(finished) < -40
    np.testing.assert_array_equal(effects.level(silence(10), -20), silence(10))


@pytest.mark.parametrize("slope_db", [0.0, -3.0, -6.0])
def test_noise_has_its_level_and_its_slope(slope_db: float) -> None:
    noise = effects.noise(20 * RATE, RATE, -50.0, slope_db, np.random.default_rng(0))
    assert noise.shape == (2, 20 * RATE)
    assert noise.dtype == np.float32
    assert rms_db(noise) == pytest.approx(-50, abs=0.2)
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies = np.fft.rfftfreq(20 * RATE, 1 / RATE)
    octaves = [
        power[:, (frequencies >= low) & (frequencies < 2 * low)].mean()
        for low in (50, 100, 200, 400, 800, 1_600, 3_200)
    ]
    np.testing.assert_allclose(np.diff(10 * np.log10(octaves)), slope_db, atol=0.8)
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.05


def delay_of(sound: Samples, original: Samples) -> float:
    """By how many seconds a sound comes later, from the peak of their correlation."""
    length = 2 * original.shape[1]
    spectrum = np.fft.rfft(sound, length) * np.conj(np.fft.rfft(original, length))
    correlation = np.fft.irfft(spectrum.sum(axis=0), length)
    peak = int(correlation.argmax())
    return (peak - length * (peak > length // 2)) / RATE


@pytest.mark.parametrize("sample_rate", [16_000, RATE, 44_100])
@pytest.mark.parametrize("num_samples", [1, 1_000, 70_001])
def test_codecs_return_as_many_samples_as_they_got(
    sample_rate: int, num_samples: int, music: Samples
) -> None:
    sound = 0.3 * music[:, :num_samples]
    for codec in (effects.mp3, effects.ogg):
        decoded = codec(sound, sample_rate, 96)
        assert decoded.shape == sound.shape
        assert decoded.dtype == np.float32


@pytest.mark.parametrize("kbps", [48, 128])
@pytest.mark.parametrize("codec", [effects.mp3, effects.ogg])
def test_codecs_move_nothing(codec: Codec, kbps: int, music: Samples) -> None:
    decoded = codec(0.3 * music, RATE, kbps)
    assert abs(delay_of(decoded, music)) < 0.001
    error = rms_db(decoded - 0.3 * music) - rms_db(0.3 * music)
    assert -60 < error < -8  # a lossy round trip did happen, and left much the same


@pytest.mark.parametrize("codec", [effects.mp3, effects.ogg])
def test_more_bits_are_nearer(codec: Codec, music: Samples) -> None:
    errors = [rms_db(codec(0.3 * music, RATE, kbps) - 0.3 * music) for kbps in (32, 64, 128)]
    assert errors == sorted(errors, reverse=True)


def test_a_rate_that_mp3_lacks_is_an_error(music: Samples) -> None:
    with pytest.raises(AudioError, match="mp3 has no sample rate of 96000 Hz"):
        effects.produce(music, music, replace(PLAIN, codec="mp3"), 96_000)


# Mastering


def test_the_limiter_that_looks_ahead_keeps_below_its_ceiling_and_else_does_nothing() -> None:
    sound = np.random.default_rng(0).standard_normal((2, 5_001)).astype(np.float32) * 0.2
    sound = sound.clip(-0.9, 0.9)
    np.testing.assert_array_equal(effects.look_ahead(sound, RATE), sound)
    sound[:, 2_000] = 3.0
    limited = effects.look_ahead(sound, RATE)
    assert np.abs(limited).max() <= 0.9801
    np.testing.assert_array_equal(limited[:, :1_800], sound[:, :1_800])
    assert np.abs(limited / sound)[:, 2_010].max() < 0.4  # it comes back gradually
    np.testing.assert_allclose(limited[:, -500:], sound[:, -500:], rtol=0.01)


def test_records_can_be_loud(music: Samples) -> None:
    loud = replace(PLAIN, level_db=-9.0, compression_db=12.0, saturation_db=6.0, brickwall=True)
    finished = effects.produce(music, music, loud, RATE)
    assert rms_db(finished) == pytest.approx(-9, abs=0.5)
    assert np.abs(finished).max() <= 1


def test_a_compressor_brings_loud_and_soft_together() -> None:
    times = np.arange(2 * RATE) / RATE
    sound = np.tile(0.5 * np.sin(2 * np.pi * 300 * times), (2, 1)).astype(np.float32)
    sound[:, RATE:] *= 0.1
    squashed = effects.compress(sound, 10.0, RATE)
    change = [rms_db(squashed[:, part]) - rms_db(sound[:, part])
              for part in (slice(RATE // 2, RATE), slice(-RATE // 2, None))]  # fmt: skip
    assert change == pytest.approx([-10, 0], abs=0.2)


def test_a_band_is_what_remains_of_a_bad_transmission() -> None:
    sound = np.random.default_rng(0).standard_normal((2, 4 * RATE)).astype(np.float32)
    power = np.abs(np.fft.rfft(effects.bandpass(sound, (300.0, 3_400.0), RATE)[0])) ** 2
    low, middle, high = (power[4 * f : 8 * f].mean() for f in (50, 800, 5_500))
    assert low < 0.01 * middle
    assert high < 0.3 * middle


def test_hum_is_as_loud_as_asked() -> None:
    assert rms_db(effects.hum(RATE, RATE, -40.0)) == pytest.approx(-40, abs=0.01)


def test_saturation_bends_peaks_alone() -> None:
    sound = np.full((2, 1_000), 0.01, np.float32)
    sound[:, ::100] = 1.0
    bent = effects.saturate(sound, 6.0)
    assert bent.max() < 0.5
    np.testing.assert_allclose(bent[:, 1], sound[:, 1], rtol=0.01)
