"""Segment retrieval: does a segment find its song when it is played by others?

    python benchmarks/retrieval.py --model nano
    python benchmarks/retrieval.py --model runs/mine/model --songs 60 --seed 1200000000
    python benchmarks/retrieval.py --model nano --music GAMES

Test songs are composed and rendered twice: as composed, and as another take: the same notes, with
other instruments, mix, gain, reverb and noise. A query is a segment of the other take. Candidates
are all segments of all songs as composed, without the query's own place and its neighbours: what
finds the song must hear what its sections have in common. Figures are the part of queries whose
nearest candidate is of the right song (top 1), and the mean reciprocal rank of the first right one
(MRR). Nothing is trained here.

Compared are the model's layers, the same layers with the weights that training began with, the mel
spectrogram, and chroma (from a constant-Q-like sum over the STFT): of each the mean over a segment,
and the mean together with the deviation. The ceiling is the same search with what the composer
wrote: how long each pitch class sounds. All features are standardised over the candidates and
compared by cosine.

With ``--music``, of real recordings, GAMES/GAME/TRACK.flac: does a segment find another track of
its game? Candidates are the segments of all other tracks. Segments are the six of 10 s in the
middle of a track, of 12 tracks of a game at most. So that neither levels nor codecs tell games
apart, all are cut off at 8 kHz, brought to -20 dB and encoded as Ogg Vorbis of 64 kbps. A game
counts as much as any other. In brackets, 95 % of the bootstrap over tracks, the same for all rows.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track

from musicfm import Embedder, MusicFM
from musicfm.audio import reading
from musicfm.embedding.embedder import wanted_layers
from musicfm.pretraining.recipe import Recipe
from musicfm.pretraining.run import build_model
from musicfm.render.composition import compose
from musicfm.render.effects import level, ogg
from musicfm.render.song import Song, Span
from musicfm.render.soundfont import load_font
from musicfm.render.synthesis import synthesize

Array = npt.NDArray[np.float64]
Features = Mapping[str, Sequence[Array]]
"""By method, for each kind of pooling: (segments, dimensions)."""

MIN_SECONDS = 4.0
RENDERED_RATE = 24_000
CHROMA_FFT = 8_192
TRACKS_OF_A_GAME = 12


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--songs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1_100_000_000, help="of the first test song")
    parser.add_argument("--music", type=Path, help="a folder of games, with a folder each")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()

    model = MusicFM.from_pretrained(arguments.model)
    methods = {"": model, "untrained ": untrained(arguments.model, model)}
    if arguments.music:
        find_games(arguments.music, methods)
        return
    candidates: list[Features] = []
    queries: list[Features] = []
    seeds = range(arguments.seed, arguments.seed + arguments.songs)
    for seed in track(seeds, "Rendering and embedding", console=Console(stderr=True)):
        candidates.append(describe(compose(seed), methods))
        queries.append(describe(compose(seed, take=1), methods))
    figures = {
        name: [
            evaluate([c[name][pooling] for c in candidates], [q[name][pooling] for q in queries])
            for pooling in range(len(candidates[0][name]))
        ]
        for name in candidates[0]
    }
    count = sum(len(q["chroma"][0]) for q in queries)
    print(f"{count} segments of {len(seeds)} songs, seeds {seeds.start} to {seeds.stop - 1}\n")
    print("| | mean: top 1 | MRR | mean and deviation: top 1 | MRR |\n|---|---|---|---|---|")
    for name, rows in figures.items():
        cells = [f"{figure:.3f}" for row in rows for figure in row]
        print(f"| {' | '.join([name, *cells, *[''] * (4 - len(cells))])} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def untrained(source: str, model: MusicFM) -> MusicFM:
    """The model as its training began; from another seed if that is not known."""
    facts = Path(source) / "training.json"
    recipe = (
        Recipe.from_dict(json.loads(facts.read_bytes())["recipe"])
        if facts.is_file()
        else Recipe(model=model.config)
    )
    return build_model(recipe).eval()


def describe(song: Song, models: Mapping[str, MusicFM]) -> Features:
    """Features of each segment of a song, by method."""
    stereo = synthesize(song, load_font(), RENDERED_RATE)
    samples = reading.resample(stereo.T, RENDERED_RATE, 24_000)
    spans = [
        span
        for span in song.labels.segments
        if span.end - span.start >= MIN_SECONDS and span.value != "silence"
    ]
    written = [np.stack([pitch_classes(song, span) for span in spans])]
    return {**features_of(samples, spans, models), "ceiling: the written notes": written}


def features_of(
    samples: npt.NDArray[np.float32], spans: list[Span], models: Mapping[str, MusicFM]
) -> Features:
    """Features of some spans of a recording, by method."""
    found: dict[str, Sequence[Array]] = {}
    for name, model in models.items():
        embedding = Embedder(model, "all")(samples)
        for layer, frames in enumerate(embedding.frames.double().numpy()):
            found[f"{name}layer {layer}"] = pooled(frames, embedding.times, spans)
    mel = next(iter(models.values())).features(torch.from_numpy(samples)[None])[0].double().numpy()
    times = np.arange(len(mel)) / 100
    found["mel"] = pooled(mel, times, spans)
    chroma, times = chroma_of(samples)
    found["chroma"] = pooled(chroma, times, spans)
    return found


def find_games(folder: Path, methods: Mapping[str, MusicFM]) -> None:
    """Prints how often the nearest segment of another track is of the same game."""
    spans = [Span(start, start + 10.0, "") for start in np.arange(6) * 10.0]
    games: list[str] = []
    tracks: list[Features] = []
    paths = [
        path
        for game in sorted(folder.iterdir())
        for path in spread(sorted(game.glob("*.*")), TRACKS_OF_A_GAME)
    ]
    for path in track(paths, "Embedding", console=Console(stderr=True)):
        samples = reading.load(path, 24_000)
        middle = max(0, (len(samples) - 60 * 24_000) // 2)
        clip = samples[middle : middle + 60 * 24_000]
        if len(clip) == 60 * 24_000:
            games.append(path.parent.name)
            tracks.append(features_of(normalised(clip), spans, methods))
    names, game = np.unique(games, return_inverse=True)
    same = (game[:, None] == game) & ~np.eye(len(game), dtype=bool)
    chance = by_game(same.sum(axis=1) / (len(game) - 1), game)
    print(f"{len(game)} tracks of {len(names)} games; by chance {chance:.3f}\n")
    usual = f"layer {wanted_layers(methods[''], None)[0]}"
    print(f"| | mean | {usual} less that | mean and deviation | {usual} less that |")
    print("|---|---|---|---|---|")
    draws = np.random.default_rng(0).integers(0, len(game), (1_000, len(game)))

    def cell(values: Array) -> str:
        low, high = np.percentile([by_game(values[d], game[d]) for d in draws], [2.5, 97.5])
        return f"{by_game(values, game):.3f} ({low:.2f} to {high:.2f})"

    for name in tracks[0]:
        cells = []
        for pooling in range(2):
            right, of_usual = (
                same_game([t[which][pooling] for t in tracks], game) for which in (name, usual)
            )
            cells += [cell(right), cell(of_usual - right) if name != usual else ""]
        print(f"| {name} | {' | '.join(cells)} |")


def spread(paths: Sequence[Path], count: int) -> Sequence[Path]:
    """So many of them at most, at equal distances."""
    chosen = np.linspace(0, len(paths) - 1, min(count, len(paths))).round().astype(int)
    return [paths[i] for i in chosen]


def normalised(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Without what is above 8 kHz, at one level, and encoded alike."""
    spectrum = np.fft.rfft(samples)
    spectrum[np.fft.rfftfreq(len(samples), 1 / 24_000) > 8_000] = 0.0
    low = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    found: npt.NDArray[np.float32] = ogg(level(np.stack([low, low]), -20.0), 24_000, 64)[0]
    return found


def same_game(tracks: Sequence[Array], game: npt.NDArray[np.intp]) -> Array:
    """(tracks,) the part of a track's segments whose nearest is of another one of its game."""
    size = len(tracks[0])
    stacked = np.concatenate(tracks)
    rows = unit((stacked - stacked.mean(axis=0)) / (stacked.std(axis=0) + 1e-9))
    owner = np.repeat(np.arange(len(tracks)), size)
    similarity = np.where(owner[:, None] == owner, -np.inf, rows @ rows.T)
    nearest = owner[similarity.argmax(axis=1)]
    right: Array = (game[nearest] == game[owner]).reshape(-1, size).mean(axis=1)
    return right


def by_game(values: Array, game: npt.NDArray[np.intp]) -> float:
    """The mean over games of the mean over a game's tracks."""
    return float(np.mean([values[game == one].mean() for one in np.unique(game)]))


def means(frames: Array, times: Array, spans: list[Span]) -> Array:
    """The mean over each span; (spans, dimensions)."""
    return np.stack([frames[(times >= s.start) & (times < s.end)].mean(axis=0) for s in spans])


def pooled(frames: Array, times: Array, spans: list[Span]) -> Sequence[Array]:
    """The mean over each span, (spans, dimensions), and the same with the deviation after it."""
    mean = means(frames, times, spans)
    deviation = np.sqrt(np.maximum(0.0, means(frames**2, times, spans) - mean**2))
    return [mean, np.concatenate([mean, deviation], axis=1)]


def chroma_of(samples: npt.NDArray[np.float32]) -> tuple[Array, Array]:
    """Energy by pitch class from 65 Hz to 2 kHz, each frame of unit sum, and the frames' times."""
    hop = CHROMA_FFT // 4
    spectrum = torch.stft(
        torch.from_numpy(samples),
        CHROMA_FFT,
        hop,
        window=torch.hann_window(CHROMA_FFT),
        return_complex=True,
    )
    magnitude = spectrum.abs().double().numpy()
    frequencies = np.fft.rfftfreq(CHROMA_FFT, 1 / 24_000)
    used = (frequencies > 65) & (frequencies < 2_000)
    pitches = np.rint(69 + 12 * np.log2(frequencies[used] / 440)).astype(int) % 12
    chroma = np.zeros((12, magnitude.shape[1]))
    np.add.at(chroma, pitches, magnitude[used])
    chroma /= np.maximum(chroma.sum(axis=0), 1e-9)
    return chroma.T, np.arange(chroma.shape[1]) * hop / 24_000


def pitch_classes(song: Song, span: Span) -> Array:
    """How long each pitch class sounds within a span, (12,)."""
    found = np.zeros(12)
    for part in song.parts:
        for note in () if part.is_drums else part.notes:
            overlap = min(note.end, span.end) - max(note.start, span.start)
            found[note.pitch % 12] += max(0.0, overlap)
    return found / max(found.sum(), 1e-9)


def evaluate(candidates: list[Array], queries: list[Array]) -> tuple[float, float]:
    """Top-1 accuracy and mean reciprocal rank, over all segments that have a candidate left."""
    stacked = np.concatenate(candidates)
    centre, spread = stacked.mean(axis=0), stacked.std(axis=0) + 1e-9
    database = unit((stacked - centre) / spread)
    songs = np.repeat(np.arange(len(candidates)), [len(c) for c in candidates])
    places = np.concatenate([np.arange(len(c)) for c in candidates])
    ranks = []
    for song, segments in enumerate(queries):
        similarities = unit((segments - centre) / spread) @ database.T
        for place, similarity in enumerate(similarities):
            allowed = (songs != song) | (abs(places - place) > 1)
            right = allowed & (songs == song)
            if right.any():
                better = similarity[allowed & (songs != song)] > similarity[right].max()
                ranks.append(1 + better.sum())
    return float(np.mean(np.array(ranks) == 1)), float(np.mean(1 / np.array(ranks)))


def unit(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
