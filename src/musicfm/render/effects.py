"""A song's production: from the sound of its parts to the sound of its file.

In this order: the reverb is added, the equalizer, stereo width, level with a soft limiter, the
codec, and the noise floor, which thus is in every sample. Nothing moves in time: the equalizer has
minimum phase, the reverb follows what excites it, and codecs give back as many samples as they
got. Sounds are float32, shape (2, samples), left and right.
"""

import io
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import av
import numpy as np
import numpy.typing as npt
import scipy.signal
import soundfile
import soxr

from musicfm.errors import AudioError
from musicfm.render.song import Production

_Samples: TypeAlias = npt.NDArray[np.float32]
_Spectrum: TypeAlias = npt.NDArray[np.complex64]

_EQUALIZER_Q = 1.0  # a filter is an octave and a half wide
_EQUALIZER_SECONDS = 0.5  # after which the response to an impulse is below -100 dB from 20 Hz on
_REVERB_CUTOFF = 4_000.0  # Hz; air and walls swallow what is higher
_LOWEST_NOISE = 20.0  # Hz; below it, the noise no longer grows
_KNEE = 0.8  # up to which the limiter leaves samples alone
_MOST_LIMITING = 4.0
_CEILING = 0.98  # that the other limiter leaves samples below
_LIMITER_SECONDS = 0.002
_RELEASE_DB = 100.0  # a second
_COMPRESSOR_SECONDS = 0.01
_LEVEL_STEPS = 8  # of the search for the gain

_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
# libvorbis takes a quality; these are its bit rates at 44100 Hz for quality 0, 0.1, ... 1, in kbps.
_VORBIS_KBPS = (64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 500)
_BLOCK_SECONDS = 1.0  # written at once: libsndfile overflows its stack on minutes of Vorbis


def produce(dry: _Samples, send: _Samples, production: Production, sample_rate: int) -> _Samples:
    """Finish a song.

    Args:
        dry: the sound of the parts, shape (2, samples).
        send: what goes to the reverb, shape (2, samples).
        production: what happens to them.
        sample_rate: Hz.

    Returns:
        Shape (2, samples), within ±1. Its RMS is ``production.level_db``, as far as the limiter
        lets it, plus the noise.

    Raises:
        AudioError: the codec does not have the sample rate.
    """
    noise_seed, reverb_seed = np.random.SeedSequence(production.seed).spawn(2)
    tail = reverb_tail(production.reverb_seconds, sample_rate, np.random.default_rng(reverb_seed))
    sound = _equalized_with_reverb(dry, send, tail, production.equalizer, sample_rate)
    sound = widen(sound, production.width)
    if production.compression_db:
        sound = compress(sound, production.compression_db, sample_rate)
    if production.saturation_db:
        sound = saturate(sound, production.saturation_db)
    if production.band is not None:
        sound = bandpass(sound, production.band, sample_rate)
    limiter = partial(look_ahead, sample_rate=sample_rate) if production.brickwall else limit
    sound = level(sound, production.level_db, limiter)
    if production.codec != "none":
        trip = mp3 if production.codec == "mp3" else ogg
        sound = trip(sound, sample_rate, production.codec_kbps)
        sound = level(sound, production.level_db, limiter)  # LAME turns it down a little
    if production.hum_db is not None:
        sound += hum(sound.shape[1], sample_rate, production.hum_db)
    sound += noise(
        sound.shape[1],
        sample_rate,
        production.noise_db,
        production.noise_slope_db,
        np.random.default_rng(noise_seed),
    )
    return np.clip(sound, -1, 1) if production.brickwall else limit(sound)


def equalizer_response(
    equalizer: Sequence[tuple[float, float]], num_samples: int, sample_rate: int
) -> _Spectrum:
    """Spectrum of peaking filters in series, for a real FFT of ``num_samples``.

    They are the digital filters of second order of Bristow-Johnson's "Audio EQ Cookbook", of
    minimum phase. One at or above half of the sample rate has nothing to act on and is left out.
    """
    delay = np.exp(-2j * np.pi * np.arange(num_samples // 2 + 1) / num_samples)
    response = np.ones(len(delay), np.complex128)
    for frequency, gain_db in equalizer:
        if frequency >= sample_rate / 2:
            continue
        angle = 2 * math.pi * frequency / sample_rate
        slope = math.sin(angle) / (2 * _EQUALIZER_Q)
        amplitude = 10 ** (gain_db / 40)
        middle = -2 * math.cos(angle) * delay
        response *= 1 + slope * amplitude + middle + (1 - slope * amplitude) * delay**2
        response /= 1 + slope / amplitude + middle + (1 - slope / amplitude) * delay**2
    return response.astype(np.complex64)


def reverb_tail(seconds: float, sample_rate: int, generator: np.random.Generator) -> _Samples:
    """What the reverb answers to an impulse: noise that falls by 60 dB in ``seconds``.

    Shape (2, samples), both of energy 1: a sound comes back as loud as it was sent.
    """
    num_samples = max(2, round(seconds * sample_rate))
    falling = 10 ** (-3 * np.arange(num_samples) / num_samples)
    bright = generator.standard_normal((2, num_samples)) * falling
    relative = np.fft.rfftfreq(2 * num_samples, 1 / sample_rate) / _REVERB_CUTOFF
    dull = np.fft.irfft(np.fft.rfft(bright, 2 * num_samples) / (1 + 1j * relative))
    tail = dull[:, :num_samples]
    tail /= np.sqrt((tail**2).sum(axis=1, keepdims=True))
    return tail.astype(np.float32)


def widen(sound: _Samples, width: float) -> _Samples:
    """Scale the difference between left and right: 0 makes them equal, 1 changes nothing."""
    middle = sound.mean(axis=0)
    return middle + np.float32(width) * (sound - middle)


def limit(sound: _Samples) -> _Samples:
    """Bend what is beyond ±0.8 so that it stays within ±1; smaller samples stay as they are."""
    loud = np.abs(sound) > _KNEE
    if not loud.any():
        return sound
    limited = sound.copy()
    beyond = np.tanh((np.abs(sound[loud]) - _KNEE) / (1 - _KNEE))
    limited[loud] = np.copysign(_KNEE + (1 - _KNEE) * beyond, sound[loud])
    return limited


def look_ahead(sound: _Samples, sample_rate: int) -> _Samples:
    """Turn down what is beyond ±0.98, from 2 ms before it, and up again by a dB in 10 ms."""
    size = max(1, round(_LIMITER_SECONDS * sample_rate))
    peaks = np.abs(_blocks(sound, size)).max(axis=(0, 2))
    if peaks.max(initial=0.0) <= _CEILING:
        return sound
    # Turned up again by 100 dB a second.
    steps = np.arange(len(peaks)) * (_RELEASE_DB * _LIMITER_SECONDS)
    needed = 20 * np.log10(np.minimum(1.0, _CEILING / np.maximum(peaks, 1e-9)))
    gain = np.minimum.accumulate(needed - steps) + steps
    # As low beside a peak as at it, so that what lies in between never is above.
    padded = np.pad(np.minimum(gain, 0.0), 1, mode="edge")
    lowest = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return sound * _between(10 ** (lowest / 20), size, sound.shape[1])


def compress(sound: _Samples, most_db: float, sample_rate: int) -> _Samples:
    """Turn down what is loud, by ``most_db`` where it is loudest, and half as much 10 dB below.

    The level is the RMS of 10 ms; it takes about 10 ms to turn down and 150 ms to come back.
    """
    size = max(1, round(_COMPRESSOR_SECONDS * sample_rate))
    power = (_blocks(sound, size) ** 2).mean(axis=(0, 2))
    levels = 10 * np.log10(power + 1e-12)
    reach = 20.0  # dB below the loudest at which it begins
    over = np.maximum(0.0, levels - (levels.max(initial=-120.0) - reach))
    wanted = (over * (-most_db / reach)).tolist()
    gain, now = [], 0.0
    for target in wanted:
        now += (target - now) * (0.6 if target < now else 0.065)
        gain.append(now)
    return sound * _between(10 ** (np.array(gain) / 20), size, sound.shape[1])


def saturate(sound: _Samples, drive_db: float) -> _Samples:
    """Overdrive an amplifier: at 0 dB, peaks of four times the RMS lose a quarter."""
    rms = _rms(sound)
    if rms == 0:
        return sound
    scale = np.float32(4 * rms / 10 ** (drive_db / 20))
    return np.tanh(sound / scale) * scale


def bandpass(sound: _Samples, band: tuple[float, float], sample_rate: int) -> _Samples:
    """Cut what is below and above, by 12 dB an octave (Butterworth)."""
    sections = scipy.signal.butter(2, band, "bandpass", fs=sample_rate, output="sos")
    return scipy.signal.sosfilt(sections, sound, axis=1).astype(np.float32)


def amplify(sound: _Samples, drive_db: float, sample_rate: int) -> _Samples:
    """A guitar amplifier and its cabinet: overdriven so far beyond the sound's RMS.

    Twice as many samples are distorted, so that few harmonics fold back. Shape (samples,).
    """
    rms = _rms(sound)
    if rms == 0:
        return sound
    rate = 2 * sample_rate
    dense = soxr.resample(sound, sample_rate, rate, quality="MQ")
    low = scipy.signal.butter(1, 110, "highpass", fs=rate, output="sos")
    dense = scipy.signal.sosfilt(low, dense)
    gain = 10 ** (drive_db / 20) / (4 * rms)
    bent = np.tanh(gain * dense + 0.15) - math.tanh(0.15)  # lopsided, as valves are
    cabinet = scipy.signal.butter(2, (90, 4_500), "bandpass", fs=rate, output="sos")
    bent = scipy.signal.sosfilt(cabinet, bent).astype(np.float32)
    amplified: _Samples = soxr.resample(bent, rate, sample_rate, quality="MQ")
    finished = np.zeros_like(sound)
    finished[: len(amplified)] = amplified[: len(finished)]
    return finished * np.float32(rms / max(_rms(finished), 1e-9))


def hum(num_samples: int, sample_rate: int, hum_db: float) -> _Samples:
    """The mains' hum: 50 Hz and some of its harmonics."""
    times = np.arange(num_samples) / sample_rate
    orders = np.array([1, 2, 3, 5])
    wave = (np.sin(2 * np.pi * 50 * orders * times[:, None]) / orders).sum(axis=1)
    wave *= 10 ** (hum_db / 20) / math.sqrt(np.mean(wave**2))
    return np.broadcast_to(wave.astype(np.float32), (2, num_samples))


def _blocks(sound: _Samples, size: int) -> _Samples:
    """Cut into blocks, the last one filled up with zeros: shape (channels, blocks, size)."""
    channels, num_samples = sound.shape
    num_blocks = -(-num_samples // size)
    padded = np.zeros((channels, num_blocks * size), np.float32)
    padded[:, :num_samples] = sound
    return padded.reshape(channels, num_blocks, size)


def _between(gains: npt.NDArray[np.float64], size: int, num_samples: int) -> _Samples:
    """A gain for each sample, from one for each block: straight lines from middle to middle."""
    half = size // 2
    ends: _Samples = np.pad(gains, 1, mode="edge").astype(np.float32)
    ramp: _Samples = ((np.arange(size) + 0.5) / size).astype(np.float32)
    lines = ends[:-1, None] + ramp * np.diff(ends)[:, None]
    return lines.reshape(-1)[size - half : size - half + num_samples]


def level(
    sound: _Samples, level_db: float, limiter: Callable[[_Samples], _Samples] = limit
) -> _Samples:
    """Amplify to an RMS in dB relative to full scale, after the limiter.

    Silence stays silent. A sound whose peaks the limiter would have to push down by more than
    12 dB stays below the level.
    """
    tolerance = 0.001 if limiter is limit else 0.02
    target = 10 ** (level_db / 20)
    rms = _rms(sound)
    if rms == 0:
        return sound
    gain = target / rms
    highest = _MOST_LIMITING * gain
    for _ in range(_LEVEL_STEPS):
        finished = limiter(sound * np.float32(gain))
        missing = target / _rms(finished)
        if gain == highest or abs(missing - 1) < tolerance:
            break
        gain = min(highest, gain * missing)
    return finished


def _rms(sound: _Samples) -> float:
    return math.sqrt(np.vdot(sound, sound) / max(1, sound.size))


def noise(
    num_samples: int,
    sample_rate: int,
    noise_db: float,
    slope_db: float,
    generator: np.random.Generator,
) -> _Samples:
    """A noise floor of so many dB (RMS) relative to full scale, shape (2, samples).

    Its spectrum changes by ``slope_db`` per octave from 20 Hz on. Left and right are one noise,
    half of its length apart.
    """
    length = 2 * _fast_length(max(1, -(-num_samples // 2)))
    frequencies = np.maximum(np.fft.rfftfreq(length, 1 / sample_rate), _LOWEST_NOISE)
    shape = (frequencies / _LOWEST_NOISE) ** (slope_db / (20 * math.log10(2)))
    parts = generator.standard_normal((len(frequencies), 2), np.float32)
    parts *= shape.astype(np.float32)[:, None]
    parts[0] = 0
    left = np.fft.irfft(parts.view(np.complex64)[:, 0], length).astype(np.float32, copy=False)
    left *= np.float32(10 ** (noise_db / 20) / _rms(left))
    return np.stack([left[:num_samples], np.roll(left, length // 2)[:num_samples]])


def mp3(sound: _Samples, sample_rate: int, kbps: int) -> _Samples:
    """A round trip through mp3 (LAME), at the nearest bit rate that it has at the sample rate.

    Raises:
        AudioError: mp3 does not have the sample rate.
    """
    if sample_rate not in _MP3_RATES:
        rates = ", ".join(map(str, _MP3_RATES))
        raise AudioError(f"mp3 has no sample rate of {sample_rate} Hz; choose one of {rates}")
    file = io.BytesIO()
    size = round(_BLOCK_SECONDS * sample_rate)
    with av.open(file, "w", format="mp3") as container:
        stream = container.add_stream("libmp3lame", rate=sample_rate)
        stream.codec_context.layout = "stereo"
        stream.codec_context.format = "fltp"
        stream.codec_context.options = {"compression_level": "7"}  # three times as fast as 2
        stream.bit_rate = kbps * 1000
        for start in range(0, sound.shape[1], size):
            block = np.ascontiguousarray(sound[:, start : start + size])
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout="stereo")
            frame.sample_rate, frame.pts = sample_rate, start
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file, "r") as container:  # cuts what the encoder added at both ends
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
    decoded: _Samples = np.concatenate(frames, axis=1, dtype=np.float32)
    return decoded[:, : sound.shape[1]]  # of a few samples it gives more


def ogg(sound: _Samples, sample_rate: int, kbps: int) -> _Samples:
    """A round trip through Ogg Vorbis, at about that bit rate."""
    per_sample = kbps * 44_100 / sample_rate
    quality = float(np.interp(per_sample, _VORBIS_KBPS, np.arange(11) / 10))
    file = io.BytesIO()
    size = round(_BLOCK_SECONDS * sample_rate)
    with soundfile.SoundFile(
        file, "w", sample_rate, 2, "VORBIS", format="OGG", compression_level=1 - quality
    ) as encoder:
        for start in range(0, sound.shape[1], size):
            encoder.write(sound[:, start : start + size].T)
    file.seek(0)
    decoded, _ = soundfile.read(file, dtype="float32", always_2d=True)
    return np.ascontiguousarray(decoded.T)


def _equalized_with_reverb(
    dry: _Samples,
    send: _Samples,
    tail: _Samples,
    equalizer: Sequence[tuple[float, float]],
    sample_rate: int,
) -> _Samples:
    """Add the reverb of what is sent and equalize it all, in one pass of overlapping blocks."""
    num_samples = dry.shape[1]
    reach = tail.shape[1] + round(_EQUALIZER_SECONDS * sample_rate)
    # Powers of two transform fastest; of four times the reach, three quarters of a block are new.
    length = 1 << math.ceil(math.log2(4 * reach))
    block = length - reach
    direct = equalizer_response(equalizer, length, sample_rate)
    reverb = np.fft.rfft(tail, length) * direct
    sent = send.mean(axis=0)
    sound = np.zeros((2, num_samples + length), np.float32)
    for start in range(0, num_samples, block):
        part = slice(start, start + block)
        spectrum = np.fft.rfft(dry[:, part], length) * direct
        spectrum += np.fft.rfft(sent[part], length) * reverb
        sound[:, start : start + length] += np.fft.irfft(spectrum, length)
    return sound[:, :num_samples]


def _fast_length(at_least: int) -> int:
    """A length without prime factors above 7, which an FFT is fast at; a quarter longer at most."""
    unit = 1 << max(0, at_least.bit_length() - 3)
    return -(-at_least // unit) * unit
