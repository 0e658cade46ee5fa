"""What shortcuts score: how hard is it to label a folder of recordings without a model?

    musicfm render 50 songs --seed 1100000000
    python benchmarks/difficulty.py songs
    python benchmarks/difficulty.py songs --json difficulty.json

A task that a shortcut solves says little about a model that solves it too. Scored are, with the
tasks' own metrics:

- beats at 120 per minute, and every fourth a downbeat;
- beats of one tempo from the autocorrelation of the onset strength, with a prior around 120 per
  minute, as a grid with the best phase; and tracked by dynamic programming (Ellis, "Beat tracking
  by dynamic programming", JNMR 2007); downbeats are where the bass has the strongest onsets, every
  fourth beat, or every second, third or fourth, whichever stands out most;
- the commonest chord and key of these recordings, and "verse" from the beginning to the end;
- a major triad on the strongest pitch class of the bass, smoothed, and the key of the one that
  lasts longest;
- a boundary wherever the loudness changes, and "verse" between them.

Means over the recordings; nothing is trained.
"""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from musicfm.audio import reading
from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.datasets.labelled import read_labelled
from musicfm.datasets.splits import Splitting
from musicfm.model.config import MelConfig
from musicfm.model.mel import LogMel
from musicfm.tasks.base import Task, edges
from musicfm.tasks.beat import Beat
from musicfm.tasks.chord import NAMES as CHORDS
from musicfm.tasks.chord import Chord, chord_class
from musicfm.tasks.key import NAMES as KEYS
from musicfm.tasks.key import Key, key_class
from musicfm.tasks.peaks import local_maxima
from musicfm.tasks.spans import UNKNOWN, runs, viterbi
from musicfm.tasks.structure import Structure

Array = npt.NDArray[np.float64]

TASKS: tuple[Task[Any], ...] = (Beat(), Chord(), Structure(), Key())
COLUMNS = (
    "beat",
    "downbeat",
    "chord",
    "chord_majmin",
    "structure",
    "hr_05",
    "hr_05_trimmed",
    "key",
)

RANGE_DB = 60.0
"""Below the loudest, what is heard: silence has no onsets."""
LOW_HZ = 200.0
"""Up to which onsets count as the bass's."""
BEATS_PER_MINUTE = (55.0, 215.0)
PRIOR_TEMPO, PRIOR_OCTAVES = 120.0, 0.9
TIGHTNESS = 100.0
"""Ellis's alpha: how evenly beats have to come."""

NOVELTY_SECONDS, NOVELTY_DB = 8.0, 2.0
"""Before and after a boundary; the least change of loudness that is one."""

BASS_HZ = (50.0, 250.0)
BASS_FFT = 8_192
BASS_CHANGE_COST = 4.0


@dataclass(frozen=True)
class Heard:
    """What shortcuts hear of a recording."""

    duration: float
    rate: float
    """Of onsets and loudness, in Hz; value k is at ``k / rate`` seconds."""
    onsets: Array
    """(frames,) rise of the log-mel spectrum in dB, averaged over its bands."""
    low_onsets: Array
    """(frames,) the same of the bass alone."""
    loudness: Array
    """(frames,) in dB."""
    bass: Array
    """(outputs, 12) how the energy of the bass spreads over pitch classes, at the chords' rate."""


def main() -> None:
    """Prints a row for each shortcut."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="recordings with .jams files beside them")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()

    labelled = read_labelled([arguments.folder], Splitting())
    for problem in labelled.problems:
        Console(stderr=True).print(problem)
    truths = [item.annotations for item in labelled.tracks]
    heard = [
        listen(item.audio)
        for item in track(labelled.tracks, "Listening", console=Console(stderr=True))
    ]
    figures = {
        name: evaluate(truths, [shortcut(recording) for recording in heard])
        for name, shortcut in shortcuts(truths).items()
    }
    print(f"{len(truths)} recordings\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|---{'|---' * len(COLUMNS)}|")
    for name, row in figures.items():
        cells = [f"{row[column]:.3f}" if column in row else "" for column in COLUMNS]
        print(f"| {' | '.join([name, *cells])} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def shortcuts(truths: Sequence[Annotations]) -> Mapping[str, Callable[[Heard], Annotations]]:
    """By name. The commonest labels are those of the recordings themselves."""
    chord = CHORDS[commonest((truth.chords for truth in truths), chord_class)]
    key = KEYS[commonest((truth.keys for truth in truths), key_class)]

    def always(heard: Heard) -> Annotations:
        return Annotations(
            beats=in_fours(np.arange(0.0, heard.duration, 0.5)),
            chords=whole(heard, chord),
            segments=whole(heard, "verse"),
            keys=whole(heard, key),
        )

    return {
        f"120 beats a minute, {chord}, verse, {key}": always,
        "tempo, grid, bars of 4": lambda heard: in_bars(heard, grid(heard), [4]),
        "tempo, grid, bars of 2, 3 or 4": lambda heard: in_bars(heard, grid(heard), [2, 3, 4]),
        "tempo, tracked, bars of 4": lambda heard: in_bars(heard, tracked(heard), [4]),
        "tempo, tracked, bars of 2, 3 or 4": lambda heard: in_bars(
            heard, tracked(heard), [2, 3, 4]
        ),
        "bass note, major": bass_chords,
        "changes of loudness, verse": loudness_segments,
    }


def evaluate(
    truths: Sequence[Annotations], estimates: Sequence[Annotations]
) -> Mapping[str, float]:
    """The columns that an estimate has something to say about."""
    found: dict[str, float] = {}
    parts = ("beats", "chords", "segments", "keys")
    for task, part in zip(TASKS, parts, strict=True):
        scores = [
            task.score(truth, estimate)
            for truth, estimate in zip(truths, estimates, strict=True)
            if task.is_labelled(truth) and getattr(estimate, part) is not None
        ]
        found |= task.summarise(scores)
    return {column: found[column] for column in COLUMNS if column in found}


def listen(path: Path) -> Heard:
    """Decodes a recording and keeps what the shortcuts go by."""
    config = MelConfig()
    samples = torch.from_numpy(reading.load(path, config.sample_rate))
    mel = LogMel(config)(samples[None])[0].double().numpy()
    loudness = 10.0 * np.log10((10.0 ** (mel / 10.0)).mean(axis=1))
    mel = np.maximum(mel, mel.max() - RANGE_DB)
    rises = np.maximum(0.0, np.diff(mel, axis=0, prepend=mel[:1]))
    centres = 700.0 * (10.0 ** (np.linspace(0.0, top_mel(config), config.n_mels + 2) / 2595.0) - 1)
    return Heard(
        duration=len(samples) / config.sample_rate,
        rate=config.sample_rate / config.hop_length,
        onsets=rises.mean(axis=1),
        low_onsets=rises[:, centres[1:-1] < LOW_HZ].mean(axis=1),
        loudness=loudness,
        bass=bass_of(samples, config.sample_rate),
    )


def top_mel(config: MelConfig) -> float:
    """Half the sampling rate on the HTK scale."""
    return float(2595.0 * np.log10(1.0 + config.sample_rate / 2 / 700.0))


def bass_of(samples: torch.Tensor, sample_rate: int) -> Array:
    """(outputs, 12) energy by pitch class between 50 and 250 Hz, each row of unit sum."""
    hop = round(sample_rate / Chord.rate)
    spectrum = torch.stft(
        samples, BASS_FFT, hop, window=torch.hann_window(BASS_FFT), return_complex=True
    )
    energy = spectrum.abs().square().double().numpy()
    frequencies = np.fft.rfftfreq(BASS_FFT, 1 / sample_rate)
    used = (frequencies > BASS_HZ[0]) & (frequencies < BASS_HZ[1])
    classes = np.rint(69 + 12 * np.log2(frequencies[used] / 440)).astype(int) % 12
    bass = np.zeros((12, energy.shape[1]))
    np.add.at(bass, classes, energy[used])
    bass += 1e-9
    return (bass / bass.sum(axis=0)).T


def commonest(spans: Iterable[Spans | None], class_of: Callable[[str], int]) -> int:
    """The class that lasts longest in all of them."""
    seconds: dict[int, float] = {}
    for each in spans:
        for label, length in each.total().items() if each else ():
            number = class_of(label)
            if number != UNKNOWN:
                seconds[number] = seconds.get(number, 0.0) + length
    return max(seconds, key=seconds.__getitem__)


def whole(heard: Heard, label: str) -> Spans:
    """One label from the beginning to the end."""
    return Spans(np.array([[0.0, heard.duration]]), (label,))


def in_fours(times: Array) -> Beats:
    """Beats that are counted from the first one."""
    return Beats(times, 1 + np.arange(len(times)) % 4)


def period_of(heard: Heard) -> float:
    """Frames per beat: the peak of the weighted autocorrelation of the onsets."""
    onsets = heard.onsets - heard.onsets.mean()
    power = np.abs(np.fft.rfft(onsets, 2 * len(onsets))) ** 2
    correlation = np.fft.irfft(power)
    fast, slow = (round(60 * heard.rate / tempo) for tempo in reversed(BEATS_PER_MINUTE))
    lags = np.arange(fast, slow + 1)
    octaves = np.log2(60 * heard.rate / lags / PRIOR_TEMPO)
    prior = np.exp(-0.5 * (octaves / PRIOR_OCTAVES) ** 2)
    return float(lags[(correlation[lags] * prior).argmax()])


def grid(heard: Heard) -> Array:
    """Times of evenly spaced beats: the best period near the tempo's, and the best phase."""
    best, found = -np.inf, np.empty(0)
    frames = np.arange(len(heard.onsets))
    for period in period_of(heard) * np.linspace(0.98, 1.02, 81):
        for phase in np.arange(0.0, period, 2.0):
            beats = np.arange(phase, len(heard.onsets) - 1, period)
            strength = float(np.interp(beats, frames, heard.onsets).mean())
            if strength > best:
                best, found = strength, beats
    return found / heard.rate


def tracked(heard: Heard) -> Array:
    """Times of beats that are strong and about evenly spaced, after Ellis (2007)."""
    onsets, period = heard.onsets / heard.onsets.std(), period_of(heard)
    gaps = np.arange(round(period / 2), round(2 * period) + 1)
    cost = TIGHTNESS * np.log(gaps / period) ** 2
    total, before = onsets.copy(), np.full(len(onsets), -1)
    for frame in range(gaps[0], len(onsets)):
        possible = gaps <= frame
        options = total[frame - gaps[possible]] - cost[possible]
        best = int(options.argmax())
        total[frame] += options[best]
        before[frame] = frame - gaps[best]
    last = len(total) - round(period)
    beats = [last + int(total[last:].argmax())]
    while before[beats[-1]] >= 0:
        beats.append(int(before[beats[-1]]))
    return np.array(beats[::-1]) / heard.rate


def in_bars(heard: Heard, times: Array, metres: Sequence[int]) -> Annotations:
    """Downbeats where the bass has the strongest onsets on average."""
    around = [-2, -1, 0, 1, 2]  # frames
    frames = np.clip(
        np.rint(times * heard.rate).astype(int)[:, None] + around, 0, len(heard.low_onsets) - 1
    )
    strength = heard.low_onsets[frames].max(axis=1)
    contrast = {
        (metre, phase): float(strength[phase::metre].mean() - strength.mean())
        for metre in metres
        for phase in range(metre)
    }
    metre, phase = max(contrast, key=contrast.__getitem__)
    return Annotations(beats=Beats(times, 1 + (np.arange(len(times)) - phase) % metre))


def bass_chords(heard: Heard) -> Annotations:
    """The bass note, for the root of a major triad."""
    path = viterbi(np.log(heard.bass), BASS_CHANGE_COST)
    bounds = edges(np.arange(len(path)) / Chord.rate, heard.duration)
    chords = runs(path, heard.bass, CHORDS, bounds)
    # The first twelve classes of chords and keys are major, on the same roots.
    return Annotations(chords=chords, keys=whole(heard, KEYS[commonest([chords], chord_class)]))


def loudness_segments(heard: Heard) -> Annotations:
    """Boundaries where the mean loudness before and after differs most."""
    width = round(NOVELTY_SECONDS * heard.rate)
    loudness = np.maximum(heard.loudness, heard.loudness.max() - RANGE_DB)
    sums = np.concatenate([[0.0], loudness.cumsum()])
    frames = np.arange(width, len(loudness) - width)
    novelty = np.abs(sums[frames + width] - 2.0 * sums[frames] + sums[frames - width]) / width
    inner = local_maxima(novelty, frames / heard.rate, NOVELTY_SECONDS, NOVELTY_DB)
    bounds = np.concatenate([[0.0], inner, [heard.duration]])
    intervals = np.stack([bounds[:-1], bounds[1:]], axis=1)
    return Annotations(segments=Spans(intervals, ("verse",) * len(intervals)))


if __name__ == "__main__":
    main()
