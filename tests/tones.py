"""A labelled collection of tones and clicks, in which every task has something to find."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import soundfile

from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.datasets.jams import document, observations

SECONDS = 16.0
RATE = 24_000


def annotations(number: int) -> Annotations:
    """Odd recordings are minor and high, the others major and low."""
    is_high = number % 2
    chords = ("A:min", "C:maj") if is_high else ("C:maj", "A:min")
    beats = np.arange(0.25, SECONDS, 0.5)
    halves = np.array([[0.0, SECONDS / 2], [SECONDS / 2, SECONDS]])
    return Annotations(
        beats=Beats(beats, 1 + np.arange(len(beats)) % 4),
        chords=Spans(halves, chords),
        segments=Spans(halves, ("verse", "chorus")),
        keys=Spans(np.array([[0.0, SECONDS]]), ("A:minor" if is_high else "C:major",)),
        tags={"high" if is_high else "low": 1.0, **({"odd": 1.0} if number % 4 == 1 else {})},
    )


@cache
def samples(number: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    """Sound that says what the annotations say."""
    known = annotations(number)
    assert known.chords is not None
    assert known.beats is not None
    time = np.arange(round(SECONDS * RATE)) / RATE
    pitch = np.where(np.array(known.chords.at(time)) == "C:maj", 262.0, 440.0)
    sound = 0.2 * np.sin(2 * np.pi * np.cumsum(pitch) / RATE)
    sound += 0.1 * np.sin(2 * np.pi * (3_000.0 if number % 2 else 100.0) * time)
    for beat, position in zip(known.beats.times, known.beats.positions, strict=True):
        first = round(beat * RATE)
        click = 0.5 * np.exp(-np.arange(2_000) / 300) * (2.0 if position == 1 else 1.0)
        sound[first : first + 2_000] += click[: len(sound) - first]
    return (0.5 * sound + 1e-4 * number).astype(np.float32)


def write_tones(folder: Path, count: int) -> Path:
    """Recordings with a JAMS file beside each."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        soundfile.write(folder / f"tone_{number}.wav", samples(number), RATE, subtype="PCM_16")
        jams = document(
            observations(annotations(number), SECONDS),
            SECONDS,
            title=f"Tone {number}",
            tool="tests",
            version="1",
            sandbox={},
        )
        (folder / f"tone_{number}.jams").write_text(json.dumps(jams))
    return folder
