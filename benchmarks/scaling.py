"""Recordings per second of `musicfm embed`, in one process and on Ray, and where the rest goes.

    python benchmarks/scaling.py RECORDING --copies 48 --actors 1 2

RECORDING is embedded so many times. "pause" stands for a model on a GPU, whose processor waits: it
computes nothing and sleeps a set time for each window, so that a machine with few cores shows what
Ray itself costs. "model" is a real one, which needs a core for each actor.
"""

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from musicfm.audio import reading
from musicfm.embedding.collection import Run, Written, embed_collection
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.windows import Samples
from musicfm.journal import Recording
from musicfm.model.config import preset
from musicfm.model.musicfm import MusicFM
from musicfm.scale.ray_embedding import embed_on_ray

OPTIONS: dict[str, Any] = {"pooling": "mean", "file_format": "parquet", "num_workers": 1}


class Pause(Embedder):
    """Takes a set time for each window, and no processor."""

    seconds = 0.05

    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        time.sleep(self.seconds * len(windows))
        dim = self.config.encoder.dim
        return [
            torch.ones(len(self.layers), self.config.num_frames(len(window)), dim)
            for window in windows
        ]


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--copies", type=int, default=48)
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--model", default="tiny", help="a preset, with random weights")
    parser.add_argument("--kinds", nargs="+", default=["pause", "model"])
    given = parser.parse_args()

    torch.set_num_threads(1)
    seconds, cpu_seconds = decode(given.recording)
    print(
        f"recording: {given.recording.suffix[1:]}, {seconds:.1f} s; load {os.getloadavg()[0]:.1f}"
    )
    print(f"decoding: {seconds / cpu_seconds:.0f}x real time for each core")
    print("\n| encoder | where | wall | recordings/s | until the first | after it, recordings/s |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        music = Path(folder, "music")
        music.mkdir()
        for number in range(given.copies):
            shutil.copy(given.recording, music / f"{number:04}{given.recording.suffix}")
        for kind in given.kinds:
            embedder = {"pause": Pause, "model": Embedder}[kind](MusicFM(preset(given.model)))
            for actors in [0, *given.actors]:
                measure(embedder, kind, music, Path(folder, f"{kind}-{actors}"), actors)


def decode(recording: Path) -> tuple[float, float]:
    """Seconds of audio, and of processor time to decode it."""
    reading.load(recording, 24_000)
    before = time.process_time()
    samples = reading.load(recording, 24_000)
    return len(samples) / 24_000, time.process_time() - before


def measure(embedder: Embedder, kind: str, music: Path, out: Path, actors: int) -> None:
    """Prints a line of the table."""
    times: list[float] = []
    on_done = Run.on_done

    def timed(run: Run, done: Written[Recording]) -> None:
        times.append(time.monotonic())
        on_done(run, done)

    begin = time.monotonic()
    with patch.object(Run, "on_done", timed):
        if actors:
            embed_on_ray(embedder, [music], out, actors=actors, **OPTIONS)
        else:
            embed_collection(embedder, [music], out, **OPTIONS)
    wall = time.monotonic() - begin
    # What came with the first is not counted: it was worked on before.
    later = [moment for moment in times if moment > times[0] + 0.1]
    rate = len(later) / (times[-1] - times[0]) if later else float("nan")
    where = f"Ray, {actors} actors" if actors else "one process"
    print(
        f"| {kind} | {where} | {wall:.1f} s | {len(times) / wall:.2f} | {times[0] - begin:.1f} s "
        f"| {rate:.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
