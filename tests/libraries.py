"""Small libraries, without a model that encodes."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import tones
from musicfm.analysis.analyzer import Analysis
from musicfm.audio.reading import sound_hash
from musicfm.journal import Recording
from musicfm.library import transform
from musicfm.library.database import Database, Settings
from musicfm.library.library import Library
from musicfm.library.pooling import Vectors
from musicfm.library.writing import Encoded, Writer

DIM = 8
SETTINGS = Settings("nano", "f" * 64, 2, DIM, (), "")
KEYS = ("A minor", "C major", "Eb minor", "F# major")


def recording(path: Path) -> Recording:
    """A file, as it lies there."""
    status = path.stat()
    return Recording(path, path.stem, status.st_size, status.st_mtime_ns)


def encoded(number: int) -> Encoded:
    """Three segments around a place that hangs on the number, on a circle."""
    rng = np.random.default_rng(number)
    mean = np.zeros(DIM)
    mean[:2] = np.cos(number / 10), np.sin(number / 10)
    segments = np.stack([np.concatenate([mean, np.ones(DIM)]) for _ in range(3)])
    segments += 0.01 * rng.standard_normal(segments.shape)
    vectors = Vectors(segments.mean(axis=0).astype(np.float32), segments.astype(np.float32))
    analysis = {"number": number}
    return Encoded(vectors, 30.0, (), analysis, 100.0 + number, KEYS[number % 4], {"rock": 0.5})


def write_library(folder: Path, count: int) -> Library:
    """A library of files that are numbered."""
    music = folder / "music"
    music.mkdir(parents=True)
    database = Database(folder / "lib")
    with database.alone():
        Database.create(database.folder, SETTINGS)
        writer = Writer(database)
        for number in range(count):
            path = music / f"{number:03}.mp3"
            path.write_bytes(bytes([number]) * 10)
            writer.write(recording(path), f"sound {number}", encoded(number))
        transform.fit(database)
    return Library(database.folder)


def names(paths: list[str]) -> list[int]:
    """The numbers of files."""
    return [int(os.path.splitext(os.path.basename(path))[0]) for path in paths]


def make(folder: Path, music: Sequence[Path], *, has_heads: bool = True) -> Library:
    """A library of recordings, with vectors of noise and the labels of tones."""
    folder.mkdir(parents=True)
    settings = Settings("nano", "f" * 64, 3, DIM, (), "h" if has_heads else "")
    database = Database.create(folder, settings)
    writer, random = Writer(database), np.random.default_rng(0)
    for number, path in enumerate(music):
        state = os.stat(path)
        vector = random.standard_normal(2 * DIM).astype(np.float32)
        analysis = None
        if has_heads:
            found = replace(
                tones.annotations(number), tags={"rock": 0.9, "piano": 0.6, "slow": 0.2}
            )
            similarity = np.eye(1, dtype=np.float32)
            analysis = Analysis(path.stem, tones.SECONDS, found, similarity, {}, file=path.name)
        writer.write(
            Recording(path, path.stem, state.st_size, state.st_mtime_ns),
            sound_hash(path),
            Encoded(
                Vectors(vector, vector[None]),
                tones.SECONDS,
                analysis=None if analysis is None else analysis.to_jams(),
                tempo=None if analysis is None else analysis.tempo,
                key=None if analysis is None else analysis.key,
                tags=None if analysis is None else analysis.tags,
            ),
        )
    transform.fit(database)
    return Library(folder)
