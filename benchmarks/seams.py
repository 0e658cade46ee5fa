"""How far stitched frames lie from the same frames seen in the middle of a window.

    python benchmarks/seams.py RECORDING [--model msd] [--layer 7]

The recording must be longer than two contexts. For several overlaps, the frames around
the first seam are compared with those of a window whose middle is that seam. Differences are
relative: the length of the difference over the length of the frame, both after subtracting the mean
frame; medians over frames. The last row is what a change of context does even far from any edge.
"""

import argparse

from torch import Tensor

from musicfm import Embedder, MusicFM
from musicfm.audio import reading


def difference(frames: Tensor, reference: Tensor, mean: Tensor) -> str:
    """Median and largest relative difference of (time, dim) frames."""
    error = (frames - reference).norm(dim=1) / (reference - mean).norm(dim=1)
    return f"median {error.median():.4f}, largest {error.max():.4f}"


def main() -> None:
    """Prints a line per overlap."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording")
    parser.add_argument("--model", default="msd")
    parser.add_argument("--layer", type=int, default=None)
    options = parser.parse_args()
    model = MusicFM.from_pretrained(options.model)
    context, frame = model.config.context_samples, model.config.samples_per_frame
    samples = reading.load(options.recording, model.config.sample_rate)
    samples = samples[: 2 * context + frame]
    window = context // frame

    for fraction in (0.0, 1 / 30, 1 / 12, 1 / 6, 1 / 3):
        overlap = model.config.context_seconds * fraction
        embedder = Embedder(model, options.layer, overlap_seconds=overlap)
        stitched = embedder(samples).frames
        hop = embedder.windowing.hop
        seam = (hop + window) // 2  # the middle of the overlap
        start = seam - window // 2
        middle = embedder(samples[start * frame : start * frame + context]).frames
        near = slice(seam - window // 12, seam + window // 12)
        around = slice(near.start - start, near.stop - start)
        print(
            f"overlap {overlap:4.1f} s, {window // 6 / embedder.rate:.1f} s around the seam:",
            difference(stitched[near], middle[around], middle.mean(dim=0)),
        )
    alone = embedder(samples[:context]).frames[start:]
    quarter = window // 4
    print(
        "two windows, far from the edges of both:",
        difference(
            alone[quarter:-quarter], middle[quarter : len(alone) - quarter], middle.mean(dim=0)
        ),
    )


if __name__ == "__main__":
    main()
