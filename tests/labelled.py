"""Annotations for tests of the tasks."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from musicfm.datasets.annotations import Annotations, read_jams
from musicfm.embedding.pooling import pooled_times
from musicfm.render.composition import compose
from musicfm.render.labels import to_jams
from musicfm.render.soundfont import SoundFont
from musicfm.tasks.base import Array

SEEDS = range(12)


@cache
def song(seed: int) -> tuple[Annotations, float]:
    """Annotations and duration of a composed song, by way of a file."""
    composed = compose(seed, version=1)  # of moderate tempi; tests name songs by their seed
    font = SoundFont("none", "0" * 64, "none", {})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "song.jams"
        path.write_text(json.dumps(to_jams(composed, font)))
        read = read_jams(path)
    assert read.problems == ()
    return read.annotations, composed.duration


def output_times(duration: float, rate: float) -> Array:
    """Centres of outputs at a rate that are pooled from frames at 25 Hz."""
    return pooled_times(int(np.ceil(duration * 25)), 25.0, rate)
