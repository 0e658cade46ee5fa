"""What do the tokens that pretraining predicts tell of the chords?

    musicfm render 40 --out songs
    musicfm render 20 --seed 1200000000 --out others
    python benchmarks/targets.py songs others

A linear classifier sees how often each code occurs within half a second on either side, learns the
major and minor triads of one folder of labelled songs, and is scored on the other: frame accuracy,
times without a chord left out. No model is involved: what is compared are quantizers of eight
codebooks of 256 codes, of which none, half or all hear pitch.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from musicfm.audio import reading
from musicfm.datasets.annotations import read_jams
from musicfm.model.config import RandomProjectionConfig, preset
from musicfm.model.musicfm import MusicFM
from musicfm.model.quantizers import build_quantizer
from musicfm.tasks.chord import NO_CHORD, NUM_CLASSES, chord_class
from musicfm.tasks.spans import UNKNOWN, classes_at

REACH, EVERY = 12, 6  # in tokens
STEPS, BATCH, LEARNING_RATE = 400, 1_024, 0.05

Set = list[tuple[Tensor, Tensor]]
"""Stacked mel frames and classes of each song."""


def listen(model: MusicFM, folder: Path) -> Set:
    """All songs of a folder that have labels."""
    songs = []
    for path in sorted(folder.glob("*.flac")):
        samples = torch.from_numpy(reading.load(path, model.config.sample_rate))
        with torch.inference_mode():
            frames = model.token_features(samples[None])[0]
        times = (torch.arange(len(frames)) / model.config.frame_rate).double().numpy()
        chords = read_jams(path.with_suffix(".jams")).annotations.chords
        songs.append((frames, torch.from_numpy(classes_at(chords, times, chord_class))))
    return songs


def histograms(config: RandomProjectionConfig, songs: Set) -> tuple[Tensor, Tensor]:
    """(times, codes) how often each code occurs around a time, and (times,) the classes."""
    model = preset("nano")
    quantizer = build_quantizer(config, model.token_stack, model.mel)
    inputs, classes = [], []
    for frames, truth in songs:
        tokens = quantizer(frames[None])[0]
        codes = F.one_hot(tokens, config.codebook_size).float().flatten(1)
        sums = F.pad(codes.cumsum(dim=0), (0, 0, 1, 0))
        at = torch.arange(0, len(codes), EVERY)
        begin, end = (at - REACH).clamp(min=0), (at + REACH + 1).clamp(max=len(codes))
        counted = (truth[at] != UNKNOWN) & (truth[at] != NO_CHORD)
        inputs.append(((sums[end] - sums[begin]) / (end - begin)[:, None])[counted])
        classes.append(truth[at][counted])
    return torch.cat(inputs), torch.cat(classes)


def accuracy(config: RandomProjectionConfig, train: Set, test: Set) -> float:
    """Of a linear classifier on what the quantizer keeps."""
    generator = torch.Generator().manual_seed(0)
    inputs, classes = histograms(config, train)
    weights = torch.zeros(inputs.shape[1], NUM_CLASSES, requires_grad=True)
    optimizer = torch.optim.Adam([weights], LEARNING_RATE)
    for _ in range(STEPS):
        batch = torch.randint(len(inputs), (BATCH,), generator=generator)
        loss = F.cross_entropy(4.0 * inputs[batch] @ weights, classes[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    inputs, classes = histograms(config, test)
    return float(((inputs @ weights).argmax(dim=1) == classes).float().mean())


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    arguments = parser.parse_args()
    model = MusicFM(preset("nano")).eval()
    train, test = (listen(model, folder) for folder in (arguments.train, arguments.test))
    base = RandomProjectionConfig(num_codebooks=8, codebook_size=256)
    print("| codebooks that hear pitch | chord accuracy |\n|---|---|")
    for count in (0, 4, 8):
        found = accuracy(base.replace(pitch_codebooks=count), train, test)
        print(f"| {count} of 8 | {found:.3f} |", flush=True)


if __name__ == "__main__":
    main()
