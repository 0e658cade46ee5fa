"""Small libraries, without a model that listens."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

import tones
from musicfm.analysis.analyzer import Analysis
from musicfm.audio.reading import sound_hash
from musicfm.journal import Recording
from musicfm.library.adding import Writer
from musicfm.library.database import Database, Settings
from musicfm.library.library import Library
from musicfm.library.listening import Vectors
from musicfm.library.transform import fit

DIM = 8


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
            Vectors(vector, vector[None]),
            analysis,
            tones.SECONDS,
            (),
        )
    fit(database)
    return Library(folder)
