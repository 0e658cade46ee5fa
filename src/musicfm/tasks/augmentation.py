"""Augmentation: other keys and tempi, other rooms and other productions, for what a model learns.

Resampling shifts pitch and tempo together, cheaply and without artefacts; labels follow exactly,
since keys and chords move by whole semitones. The rest changes the sound and leaves labels alone.
"""

import numpy as np
import numpy.typing as npt
import scipy.fft
import soxr
import torch
from torch import Tensor

Samples = npt.NDArray[np.float32]

MAX_DETUNING = 0.3
"""Semitones off the equal temperament of the labels."""


def draw_speed(rng: np.random.Generator, max_semitones: int) -> tuple[float, int]:
    """How much faster a clip is to be played, and how many semitones its labels move up."""
    semitones = int(rng.integers(-max_semitones, max_semitones + 1))
    detuning = rng.uniform(-MAX_DETUNING, MAX_DETUNING) * (rng.random() < 0.7)
    return float(2.0 ** ((semitones + detuning) / 12)), semitones


def play_at(samples: Samples, speed: float, length: int) -> Samples:
    """(length,) the samples played faster, and so higher; silence where they have ended."""
    played = samples if speed == 1.0 else soxr.resample(samples, speed, 1.0, quality="LQ")
    out = np.zeros(length, np.float32)
    out[: len(played)] = played[:length]
    return out


def change_sound(samples: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Another production of a clip: equalised, driven, noisy, at another level, as chance has it.

    Args:
        samples: (samples,).
        sample_rate: in Hz.
        rng: all that is random.
    """
    x = samples
    if rng.random() < 0.7:
        x = _equalise(x, sample_rate, rng)
    if rng.random() < 0.25:
        x = _reverberate(x, sample_rate, rng)
    if rng.random() < 0.3:
        x = _compress(x, sample_rate, rng)
    loudness = float(np.sqrt(np.mean(x**2))) + 1e-6
    if rng.random() < 0.5:  # a soft limiter; at 3 and more it is distortion
        drive = float(np.exp(rng.uniform(np.log(0.3), np.log(4.0))))
        x = np.tanh(x * (drive / loudness)) * loudness
    if rng.random() < 0.3:
        level = loudness * 10.0 ** (rng.uniform(-50.0, -18.0) / 20)
        noise = rng.standard_normal(len(x), dtype=np.float32)
        if rng.random() < 0.5:  # red rather than white
            noise = np.cumsum(noise, dtype=np.float32)
            noise -= np.convolve(noise, np.full(255, 1 / 255, np.float32), "same")
            noise /= noise.std() + 1e-6
        x = x + level * noise
    loudness = float(np.sqrt(np.mean(x**2))) + 1e-6
    wanted = 10.0 ** (rng.uniform(-32.0, -8.0) / 20)
    x = x * (min(wanted / loudness, 100.0) * rng.choice([-1.0, 1.0]))
    return np.clip(x, -1.0, 1.0).astype(np.float32)


def _equalise(samples: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """A random curve over frequency, of some dB, and at times without the lows or the highs."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / sample_rate)
    octaves = np.log2(np.maximum(hertz, 20.0) / 20.0)
    corners = np.linspace(0.0, octaves[-1], 7)
    decibels = np.interp(octaves, corners, rng.normal(0.0, 4.0, len(corners)))
    if rng.random() < 0.2:
        top = np.log2(rng.uniform(2_500.0, 10_000.0) / 20.0)
        decibels -= np.clip(24.0 * (octaves - top), 0.0, 60.0)
    if rng.random() < 0.2:
        bottom = np.log2(rng.uniform(40.0, 300.0) / 20.0)
        decibels -= np.clip(12.0 * (bottom - octaves), 0.0, 60.0)
    return np.fft.irfft(spectrum * 10.0 ** (decibels / 20), len(samples)).astype(np.float32)


def _reverberate(samples: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """In a room: noise that dies away by 60 dB within 0.2 to 2.5 s is added to the sound itself."""
    seconds = float(np.exp(rng.uniform(np.log(0.2), np.log(2.5))))
    length = int(seconds * sample_rate)
    room = rng.standard_normal(length, dtype=np.float32)
    room *= np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    room *= 10.0 ** (rng.uniform(-20.0, -3.0) / 20) / np.sqrt(np.sum(room**2))
    size = len(samples) + length - 1
    size = scipy.fft.next_fast_len(size, real=True)
    wet = scipy.fft.irfft(scipy.fft.rfft(samples, size) * scipy.fft.rfft(room, size), size)
    return (samples + wet[: len(samples)]).astype(np.float32)


def _compress(samples: Samples, sample_rate: int, rng: np.random.Generator) -> Samples:
    """Less dynamic: the level of blocks of 10 ms, as it falls within 50 to 400 ms, to a power."""
    block = sample_rate // 100
    count = -(-len(samples) // block)
    padded = np.zeros(count * block, np.float32)
    padded[: len(samples)] = samples
    level = np.sqrt(np.mean(padded.reshape(count, block) ** 2, axis=1)) + 1e-5
    kept = float(np.exp(-0.01 / rng.uniform(0.05, 0.4)))
    held = np.empty_like(level)
    last = 0.0
    for i, now in enumerate(level.tolist()):
        last = max(now, last * kept)
        held[i] = last
    gain = (held / held.max()).clip(1e-2) ** -rng.uniform(0.2, 0.8)
    at = np.arange(len(samples)) / block - 0.5
    return (samples * np.interp(at, np.arange(count), gain)).astype(np.float32)


def transposed(classes: Tensor, semitones: Tensor) -> Tensor:
    """Class probabilities, or anything else by class, moved up.

    Args:
        classes: (batch, time, 24 or 25): twelve major, twelve minor, and no chord if that is there.
        semitones: (batch,) int64.
    """
    source = (torch.arange(12, device=classes.device) - semitones[:, None]) % 12
    index = source[:, None].expand(-1, classes.shape[1], -1)
    major, minor = classes[..., :12].gather(2, index), classes[..., 12:24].gather(2, index)
    return torch.cat([major, minor, classes[..., 24:]], dim=2)
