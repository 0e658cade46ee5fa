"""Small collections of tracks for tests."""

import os
from pathlib import Path

import soundfile

import recipe
from musicfm.datasets.tracks import Manifest, Track


def write_songs(folder: Path, count: int, seconds: float = 3.0, first_seed: int = 0) -> Manifest:
    """A folder of different songs at 24 kHz, mono."""
    folder.mkdir(parents=True, exist_ok=True)
    return Manifest(folder, [_write(folder, seconds, first_seed + i) for i in range(count)])


def _write(folder: Path, seconds: float, seed: int) -> Track:
    path = folder / f"song_{seed}.wav"
    samples = 0.5 * recipe.waveform(seed, 1, round(seconds * 24_000))[0]
    # Two processes of a test write the same songs: neither may see those of the other half written.
    written = folder / f".song_{seed}.{os.getpid()}.wav"
    soundfile.write(written, samples, 24_000, subtype="FLOAT")
    written.replace(path)
    return Track(
        path.name, seconds, 24_000, 1, path.stat().st_size, path.stat().st_mtime_ns, f"{seed:064x}"
    )
