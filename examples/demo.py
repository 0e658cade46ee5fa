"""Embed a short piece and look at what comes out: `make demo`.

The weights are random, made on the spot in the layout of the published checkpoints, so that the
demo downloads nothing. Everything else is what happens to any recording.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from musicfm import Embedder, Embedding, MusicFM, preset, published

EXAMPLES = Path(os.path.relpath(Path(__file__).parent))
SONG = EXAMPLES / "demo_song.ogg"
SECTIONS = EXAMPLES / "demo_song.sections.txt"
PICTURE_RATE = 2.0  # Hz

ABOUT_THE_WEIGHTS = """\
The weights are RANDOM: this shows that all parts work, not what a trained model hears. These
embeddings know nothing but what a random network keeps of the spectrum. Trained weights come with
--model msd (see the end).
"""
ABOUT_THE_PICTURE = """\
           It shows layer 0, the front end's output, which hears a quarter of a second around
           each frame. Deeper layers hear their whole window of 30 s, and untrained they mostly
           average it: there the windows would show, and hide the sections.
"""


class Section(NamedTuple):
    """A part of the piece, in seconds."""

    start: float
    end: float
    name: str


def run(out: Path) -> None:
    """Embeds the piece in Python and from the command line; results go to ``out``."""
    checkpoint = write_random_checkpoint(out)
    model = MusicFM.from_pretrained(checkpoint)
    print(ABOUT_THE_WEIGHTS)

    embedding = Embedder(model)(SONG)
    print(f"model      {checkpoint}, {sum(p.numel() for p in model.parameters()):,} weights")
    print(f"recording  {SONG}, {embedding.duration:.1f} s")
    print(f"frames     {shape(embedding.frames)} at {embedding.rate:g} Hz")
    print(f".at(8.0)   {shape(embedding.at(8.0))}, token level")
    print(f".mean()    {shape(embedding.mean())}, sequence level")

    picture = out / "self_similarity.png"
    draw(Embedder(model, layer=0)(SONG), read_sections(SECTIONS), picture)
    print(f"picture    {picture}\n{ABOUT_THE_PICTURE}\nThe same from the command line:\n")

    results = out / "embeddings"
    command = ["embed", str(SONG), "--model", str(checkpoint), "--out", str(results), "--overwrite"]
    print("$ musicfm", *command, flush=True)
    subprocess.run([sys.executable, "-m", "musicfm", *command], check=True)
    print(f"\n{results / SONG.stem}.npz holds")
    with np.load(results / f"{SONG.stem}.npz") as file:
        for name, array in file.items():
            print(f"  {name:<9} {array.dtype!s:<8} {array.shape if array.shape else array}")

    program = Path(sys.executable).with_name("musicfm")
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    print("\nNow your own music, with trained weights (1.3 GB, downloaded once):\n")
    print(f"  {program} embed ~/Music --model msd --out embeddings")


def write_random_checkpoint(folder: Path) -> Path:
    """A tiny model in the published layout, ``tiny.pt`` and its statistics; the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MusicFM(preset("tiny"))
    path = folder / "tiny.pt"
    published.write(model.config, model.state_dict(), path)
    return path


def read_sections(path: Path) -> list[Section]:
    """Sections from an Audacity label file."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [Section(float(start), float(end), name) for start, end, name in rows]


def self_similarity(frames: torch.Tensor) -> npt.NDArray[np.float32]:
    """Cosine similarity of each of (time, dim) frames, less their mean, to each: (time, time)."""
    directions = F.normalize(frames - frames.mean(dim=0), dim=1)
    return np.asarray((directions @ directions.T).numpy(), np.float32)


def draw(embedding: Embedding, sections: list[Section], path: Path) -> None:
    """Draws the self-similarity of a recording, with its sections."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
    image = axes.imshow(
        self_similarity(embedding.at(PICTURE_RATE)),
        cmap="RdBu_r",
        vmin=-1,
        vmax=1,
        origin="lower",
        extent=(0, embedding.duration, 0, embedding.duration),
        interpolation="nearest",
    )
    for section in sections[1:]:
        axes.axvline(section.start, color="black", linewidth=0.8)
        axes.axhline(section.start, color="black", linewidth=0.8)
    axes.set(xlabel="time (s)", ylabel="time (s)")
    middles = [(section.start + section.end) / 2 for section in sections]
    names = [section.name for section in sections]
    top, right = axes.secondary_xaxis("top"), axes.secondary_yaxis("right")
    top.set_xticks(middles, names)
    right.set_yticks(middles, names, rotation=-90, va="center")
    for axis in (top, right):
        axis.tick_params(length=0)
    figure.colorbar(image, ax=axes, label="cosine similarity", shrink=0.6, aspect=25)
    axes.set_title(f"{SONG.name} against itself\ntiny model, layer 0, random weights", pad=12)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def shape(array: torch.Tensor) -> str:
    """The shape, to print."""
    return str(tuple(array.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Embed a short piece with random weights.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo"), help="default: demo")
    run(parser.parse_args().out)
