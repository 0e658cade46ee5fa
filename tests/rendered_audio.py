"""How well the labels of rendered songs fit what is heard.

``python tests/rendered_audio.py COUNT`` renders songs and prints where onsets lie relative to the
beats' labels, and for how much of the time the labelled chord fits better than when transposed.
"""

import sys
from typing import Any, TypeAlias

import mir_eval
import numpy as np
import numpy.typing as npt

from musicfm.render.composition import compose
from musicfm.render.song import Song
from musicfm.render.soundfont import load_font
from musicfm.render.synthesis import synthesize

SAMPLE_RATE = 24_000
EDGES = np.arange(-0.055, 0.06, 0.01)
"""Of the histogram, in seconds."""

_Array: TypeAlias = npt.NDArray[Any]


def spectrum(samples: _Array, size: int, hop: int) -> tuple[_Array, _Array]:
    """Magnitudes, shape (frames, bins), and the time at each frame's centre in seconds."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, size)[::hop]
    times = (np.arange(len(frames)) * hop + size / 2) / SAMPLE_RATE
    return np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)), times


def onset_offsets(samples: _Array, song: Song, reach: float = 0.05) -> _Array:
    """Seconds from each beat's label to the steepest rise of sound near it; NaN for no clear one.

    The rise is spectral flux; it has to be thrice the song's median within some distance.
    """
    magnitudes, times = spectrum(samples, 480, 120)
    loudness = np.log(magnitudes + 1e-3 * magnitudes.max())
    flux = np.maximum(np.diff(loudness, axis=0), 0.0).sum(axis=1)
    middles = (times[1:] + times[:-1]) / 2
    offsets = []
    for beat in song.labels.beats:
        near = np.abs(middles - beat.time) < reach
        rise = flux[near]
        clear = rise.size and rise.max() > 3 * np.median(flux)
        offsets.append(middles[near][rise.argmax()] - beat.time if clear else np.nan)
    return np.array(offsets)


def chords_heard(samples: _Array, song: Song) -> float:
    """The share of the time that a chord's pitch classes are louder than any transposition's."""
    magnitudes, times = spectrum(samples, 8192, 2400)
    frequencies = np.fft.rfftfreq(8192, 1 / SAMPLE_RATE)
    used = (frequencies > 60) & (frequencies < 2000)
    semitones = 69 + 12 * np.log2(frequencies[used] / 440) - song.production.cents / 100
    pitch_classes = np.round(semitones).astype(int) % 12
    chroma = np.stack(
        [np.sqrt(magnitudes[:, used][:, pitch_classes == p]).sum(axis=1) for p in range(12)], axis=1
    )
    heard = total = 0.0
    for span in song.labels.chords:
        inside = (times > span.start + 0.1) & (times < span.end - 0.05)
        if span.value == "N" or inside.sum() < 2:
            continue
        root, bitmap, _ = mir_eval.chord.encode(span.value)
        template = np.roll(bitmap, root)
        fits = [chroma[inside].mean(axis=0) @ np.roll(template, shift) for shift in range(12)]
        total += span.end - span.start
        heard += (span.end - span.start) * (int(np.argmax(fits)) == 0)
    return heard / total


def render(seed: int, max_seconds: float | None = None) -> tuple[Song, _Array]:
    """A song, and its samples in mono."""
    song = compose(seed, max_seconds=max_seconds)
    return song, synthesize(song, load_font(), SAMPLE_RATE).mean(axis=1)


def main(count: int) -> None:
    """Prints the figures for some songs."""
    offsets, chords = [], []
    for seed in range(count):
        song, samples = render(seed)
        offsets.append(onset_offsets(samples, song))
        chords.append(chords_heard(samples, song))
    together = np.concatenate(offsets)
    clear = together[np.isfinite(together)]
    counts, _ = np.histogram(clear, EDGES)
    for low, number in zip(EDGES[:-1], counts, strict=True):
        print(f"{1000 * low:6.0f} to {1000 * low + 10:4.0f} ms {100 * number / len(clear):5.1f} %")
    print(
        f"{len(together)} beats, {len(clear) / len(together):.1%} with a clear onset within 50 ms"
    )
    print(f"of these {np.mean(np.abs(clear) < 0.02):.1%} within 20 ms")
    print(f"median {1000 * np.median(clear):.1f} ms, deviation {1000 * clear.std():.1f} ms")
    print(f"labelled chord fits best {np.mean(chords):.1%} of the time (chance: 8.3%)")
    print(f"song by song, from {min(chords):.1%} to {max(chords):.1%}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
