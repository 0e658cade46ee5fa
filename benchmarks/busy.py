"""Which part of a run of `musicfm embed` over many MP3 files the model computes.

    python benchmarks/busy.py RECORDING --files 200 --model nano [--device cuda --compile]

Cuts so many pieces of 20 to 60 s out of the recording, as MP3, and embeds them as the command does,
with all its processes. Busy is the time within the model over the time from the first look at the
folder to the last result; loading the model is left out, since it does not grow with the files.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import torch
from machine import machine
from torch import Tensor

from musicfm.embedding.collection import embed_collection
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.windows import Samples
from musicfm.memory import tune_malloc
from musicfm.model.musicfm import MusicFM


class Watched(Embedder):
    """Notes how long it computes."""

    seconds = 0.0

    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        begin = time.monotonic()
        try:
            return super().batch(windows)
        finally:
            self.seconds += time.monotonic() - begin


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recording", type=Path)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--model", default="nano", help="as embed's")
    parser.add_argument("--layer", type=int, default=None)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--device", default="cpu", help="cuda computes in bfloat16")
    parser.add_argument("--compile", action="store_true", help="the model, on a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tune_malloc()

    rng = np.random.default_rng(0)
    dtype = torch.float32 if given.device == "cpu" else torch.bfloat16
    model = MusicFM.from_pretrained(given.model).to(given.device, dtype)
    embedder = Watched(model, given.layer, compile=given.compile)
    with tempfile.TemporaryDirectory() as folder:
        music, hours = Path(folder) / "music", 0.0
        music.mkdir()
        samples, rate = soundfile.read(given.recording, dtype="float32", always_2d=True)
        for number in range(given.files):
            length = int(rng.uniform(20.0, 60.0) * rate)
            start = int(rng.integers(0, max(1, len(samples) - length)))
            piece = samples[start : start + length]
            soundfile.write(music / f"{number}.mp3", piece, rate)
            hours += len(piece) / rate / 3600
        begin = time.monotonic()
        summary = embed_collection(
            embedder, [music], Path(folder) / "out", num_workers=given.workers
        )
        seconds = time.monotonic() - begin
    assert summary.done == given.files
    print(f"{given.model}, {given.files} MP3 files; {machine()}; threads: {given.threads}\n")
    print("| hours | seconds | x real time | model busy |\n|---|---|---|---|")
    print(
        f"| {hours:.2f} | {seconds:.0f} | {hours * 3600 / seconds:.0f} | "
        f"{embedder.seconds / seconds:.0%} |"
    )


if __name__ == "__main__":
    main()
