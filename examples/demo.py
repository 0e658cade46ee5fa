"""Embed music with the model that comes with the package, and look at what comes out: `make demo`.

A piece that ships with the repository, against itself: repetition shows. And some songs that are
composed and rendered on the spot: segments of one song lie together, and one of them is analysed,
on a page to look at and listen to. Nothing is downloaded.
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

from musicfm import Embedder, Embedding, MusicFM
from musicfm.render.songs import render_songs

EXAMPLES = Path(os.path.relpath(Path(__file__).parent))
SONG = EXAMPLES / "demo_song.ogg"
SECTIONS = EXAMPLES / "demo_song.sections.txt"
PICTURE_RATE = 2.0  # Hz
FIRST_SEED, NUM_SONGS = 1_100_000_000, 6  # test songs: nano has not heard them
SEGMENT_SECONDS = 5.0

ABOUT = """\
The model is nano, of 19 MB: trained on rendered songs and free music, for demonstrations and
trials. The authors' models are far larger (see the end).
"""


class Section(NamedTuple):
    """A part of the piece, in seconds."""

    start: float
    end: float
    name: str


def run(out: Path) -> None:
    """Embeds in Python and from the command line; results go to ``out``."""
    model = MusicFM.from_pretrained("nano")
    embedder = Embedder(model)
    print(ABOUT)

    embedding = embedder(SONG)
    print(f"model      nano, {sum(p.numel() for p in model.parameters()):,} weights")
    print(f"recording  {SONG}, {embedding.duration:.1f} s")
    print(f"frames     {shape(embedding.frames)} at {embedding.rate:g} Hz")
    print(f".at(8.0)   {shape(embedding.at(8.0))}, token level")
    print(f".mean()    {shape(embedding.mean())}, sequence level")
    out.mkdir(parents=True, exist_ok=True)
    draw_similarity(embedding, read_sections(SECTIONS), out / "self_similarity.png")
    print(f"picture    {out / 'self_similarity.png'}: what sounds alike is red\n")

    print(f"Rendering {NUM_SONGS} songs that nano has not heard ...", flush=True)
    render_songs(NUM_SONGS, out / "songs", seed=FIRST_SEED, progress=True)
    songs = [embedder(path) for path in sorted((out / "songs").glob("*.flac"))]
    nearest = draw_segments(songs, out / "segments.png")
    print(f"picture    {out / 'segments.png'}: segments of {SEGMENT_SECONDS:g} s, by song")
    print(f"           {nearest:.0%} of them are nearest to one of their own song, other than")
    print("           their neighbours in time; by chance it would be")
    print(f"           {1 / NUM_SONGS:.0%}\n")

    print("The same from the command line:\n")
    results = out / "embeddings"
    musicfm("embed", SONG, "--model", "nano", "--out", results, "--overwrite")
    print(f"\n{results / SONG.stem}.npz holds")
    with np.load(results / f"{SONG.stem}.npz") as file:
        for name, array in file.items():
            print(f"  {name:<9} {array.dtype!s:<8} {array.shape if array.shape else array}")

    program = Path(sys.executable).with_name("musicfm")
    program = program.relative_to(Path.cwd()) if program.is_relative_to(Path.cwd()) else program
    print("\nAnd what a song is made of, as nano hears it:\n")
    song = out / "songs" / f"song_{FIRST_SEED}.flac"
    musicfm("analyze", song, "--out", out / "analysis", "--overwrite")
    page = (out / "analysis" / f"{song.stem}.html").resolve()
    print(f"\npage       {page.as_uri()}: open it in a browser")

    print("\nNow your own music, with the authors' weights (1.3 GB, downloaded once):\n")
    print(f"  {program} embed ~/Music --model msd --out embeddings")


def musicfm(*arguments: str | Path) -> None:
    """Runs a command, and shows it."""
    print("$ musicfm", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "musicfm", *map(str, arguments)], check=True)


def read_sections(path: Path) -> list[Section]:
    """Sections from an Audacity label file."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()]
    return [Section(float(start), float(end), name) for start, end, name in rows]


def self_similarity(frames: torch.Tensor) -> npt.NDArray[np.float32]:
    """Cosine similarity of each of (time, dim) frames, less their mean, to each: (time, time)."""
    directions = F.normalize(frames - frames.mean(dim=0), dim=1)
    return np.asarray((directions @ directions.T).numpy(), np.float32)


def draw_similarity(embedding: Embedding, sections: list[Section], path: Path) -> None:
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
    axes.set_title(f"{SONG.name} against itself, as nano hears it", pad=12)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_segments(songs: list[Embedding], path: Path) -> float:
    """Draws the segments of songs in the plane that keeps most of their variance.

    Returns:
        The part of the segments whose nearest one, but for its neighbours in time, is of its song.
    """
    from matplotlib import pyplot as plt

    segments = [song.at(1.0 / SEGMENT_SECONDS) for song in songs]
    owners = torch.cat([torch.full((len(s),), i) for i, s in enumerate(segments)])
    places = torch.cat([torch.arange(len(s)) for s in segments])
    points = torch.cat(segments)
    points = (points - points.mean(dim=0)) / points.std(dim=0)
    plane = points @ torch.linalg.svd(points, full_matrices=False).Vh[:2].T

    figure, axes = plt.subplots(figsize=(8, 7), layout="constrained")
    for song in range(len(songs)):
        x, y = plane[owners == song].T.numpy()
        axes.plot(x, y, "o-", linewidth=0.5, markersize=5, label=f"song {song + 1}")
    axes.set(xlabel="first principal component", ylabel="second principal component")
    axes.set_title(f"Segments of {SEGMENT_SECONDS:g} s of {len(songs)} songs, as nano hears them")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)

    directions = F.normalize(points, dim=1)
    similarity = directions @ directions.T
    near_in_time = (owners[:, None] == owners) & ((places[:, None] - places).abs() <= 1)
    nearest = similarity.masked_fill(near_in_time, -torch.inf).argmax(dim=1)
    return float((owners[nearest] == owners).float().mean())


def shape(array: torch.Tensor) -> str:
    """The shape, to print."""
    return str(tuple(array.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Embed music with the model nano.")
    parser.add_argument("out", type=Path, nargs="?", default=Path("demo"), help="default: demo")
    run(parser.parse_args().out)
