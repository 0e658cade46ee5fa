"""What vectors of a library find in real music: copies, more of a recording, the same game.

    python benchmarks/real_music.py fetch CLIPS
    python runs/game_music.py OTHERS
    python benchmarks/similar_music.py CLIPS --others OTHERS

CLIPS are recordings that the model was not trained on, whose names begin with their game
(`wesnoth_love_theme.flac`); of each, three excerpts of 20 s are taken. OTHERS are any recordings;
of these, as many excerpts as are wanted, that do not overlap. Looked for are:

- copies of the middle excerpts: with 1.2 s of silence before them, 3 dB louder, as MP3 of 96 kbit/s
  (made by ffmpeg), among all excerpts. The margin is by how much the original is more similar than
  the next.
- another part of the same recording: the nearest of all excerpts, and of those of CLIPS.
- the same game: the nearest excerpt of another recording among those of CLIPS.

The last two are compared with vectors of the same kind (means and standard deviations over time,
whitened as a library does) of the mel spectrogram, and of a model with the weights that training
begins with. In brackets, 95 % of the bootstrap over recordings.
"""

import argparse
import math
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from musicfm import Embedder, MusicFM
from musicfm.audio import reading
from musicfm.audio.folders import recordings_in
from musicfm.embedding.embedder import wanted_layers
from musicfm.library.matrices import Matrix
from musicfm.library.pooling import Vectors, pooled
from musicfm.library.transform import unit, whitening
from musicfm.pretraining.recipe import Recipe
from musicfm.pretraining.run import build_model

SECONDS = 20.0
RATE = 24_000
PARTS = 3
Method = Callable[[Any], Vectors]
Excerpt = tuple[Path, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("clips", type=Path)
    parser.add_argument("--others", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=1_050, help="excerpts of OTHERS")
    arguments = parser.parse_args()

    model = MusicFM.from_pretrained(arguments.model)
    methods = {
        arguments.model: of_model(model),
        "mel": of_mel(model),
        "random weights": of_model(build_model(Recipe(model=model.config)).eval()),
    }
    clips = excerpts(arguments.clips, PARTS)
    files = list(recordings_in(arguments.others, print, {}))
    others = excerpts(arguments.others, math.ceil(arguments.count / len(files)))
    others = [others[i] for i in np.linspace(0, len(others) - 1, arguments.count).astype(int)]
    found = {name: [method(cut(each)) for each in shown(clips)] for name, method in methods.items()}
    trained = methods[arguments.model]
    known = [trained(cut(each)) for each in shown(others)]
    middle = range(PARTS // 2, len(clips), PARTS)
    with tempfile.TemporaryDirectory() as folder:
        queries = [trained(copied(clips[i], Path(folder, f"{i}.mp3"))) for i in shown(middle)]

    everything, copies = compared(found[arguments.model] + known, queries)
    margins = []
    for query, place in zip(copies, middle, strict=True):
        products = everything @ query
        margins.append(products[place] - np.delete(products, place).max())
    print(
        f"copies: {sum(m > 0 for m in margins)} of {len(margins)} first among {len(everything)} "
        f"excerpts; margin median {np.median(margins):.3f}, least {min(margins):.3f}"
    )
    recordings, rows = np.array([str(path) for path, _ in clips]), range(len(clips))
    is_same = [nearest(everything, i)[0] in same_recording(recordings, i) for i in rows]
    print(f"another part of the recording is nearest of all: {interval(is_same, recordings)}")
    games = np.array([path.name.split("_")[0] for path, _ in clips])
    print("\n| | another part of the recording | the same game |\n|---|---|---|")
    for name, vectors in found.items():
        whitened, _ = compared(vectors, [])
        parts, alike = [], []
        for i in rows:
            parts.append(nearest(whitened, i)[0] in same_recording(recordings, i))
            elsewhere = [j for j in nearest(whitened, i) if recordings[j] != recordings[i]]
            alike.append(games[elsewhere[0]] == games[i])
        print(f"| {name} | {interval(parts, recordings)} | {interval(alike, recordings)} |")
    chance = [np.mean(games[recordings != recordings[i]] == games[i]) for i in rows]
    print(f"| by chance | {(PARTS - 1) / (len(clips) - 1):.2f} | {np.mean(chance):.2f} |")


def of_model(model: MusicFM) -> Method:
    """The vectors that a library stores."""
    (layer,) = wanted_layers(model, None)
    embedder = Embedder(model, [layer])

    def vectors(samples: Any) -> Vectors:
        return pooled(embedder(samples).frames[0].numpy().astype(np.float16), embedder.rate)

    return vectors


def of_mel(model: MusicFM) -> Method:
    """The same of the mel spectrogram that the model is given."""

    def vectors(samples: Any) -> Vectors:
        frames = model.features(torch.from_numpy(samples)[None])[0]
        return pooled(frames.numpy().astype(np.float16), 100.0)

    return vectors


def excerpts(folder: Path, most: int) -> list[Excerpt]:
    """Of each recording, at most so many that do not overlap, spread over it."""
    found = []
    for file in recordings_in(folder, print, {}):
        seconds = reading.probe(Path(file)).duration_seconds or 0.0
        count = min(most, int(seconds / SECONDS))
        starts = np.linspace(0.0, max(0.0, seconds - SECONDS), max(1, count))
        found += [(Path(file), float(start)) for start in starts if seconds >= SECONDS]
    return found


def cut(excerpt: Excerpt) -> Any:
    path, start = excerpt
    return reading.load(path, RATE, start_seconds=start, duration_seconds=SECONDS)


def copied(excerpt: Excerpt, target: Path) -> Any:
    """A copy with silence before it, louder, and coded."""
    path, start = excerpt
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-ss",
        f"{start:.3f}",
        "-t",
        f"{SECONDS:g}",
        "-i",
        str(path),
    ]
    command += ["-af", "volume=3dB,adelay=1200:all=1", "-b:a", "96k", str(target)]
    subprocess.run(command, check=True)
    return reading.load(target, RATE)


def compared(vectors: list[Vectors], queries: list[Vectors]) -> tuple[Matrix, Matrix]:
    """Vectors of tracks as a library compares them, and those of queries."""
    mean, projection = whitening(np.concatenate([each.segments for each in vectors]))
    tracks, others = (
        unit((np.array([each.track for each in some]).reshape(-1, len(mean)) - mean) @ projection)
        for some in (vectors, queries)
    )
    return tracks, others


def nearest(matrix: Matrix, row: int) -> list[int]:
    """The other rows, the most similar first."""
    order = np.argsort(-(matrix @ matrix[row])).tolist()
    return [each for each in order if each != row]


def same_recording(recordings: Any, row: int) -> set[int]:
    return {*np.flatnonzero(recordings == recordings[row]).tolist()} - {row}


def interval(values: list[Any], recordings: Any) -> str:
    """The mean, and 95 % of the bootstrap over recordings."""
    groups = [np.array(values)[recordings == name] for name in np.unique(recordings)]
    means, rng = np.array([group.mean() for group in groups]), np.random.default_rng(0)
    drawn = rng.choice(means, (2_000, len(means))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{means.mean():.2f} [{low:.2f}, {high:.2f}]"


def shown(items: Any) -> Any:
    return track(list(items), console=Console(stderr=True))


if __name__ == "__main__":
    main()
