"""Writes the list of the songs of rendered-v1, with fingerprints and statistics of their labels.

    python benchmarks/freeze_rendered.py src/musicfm/render/rendered_v1.json

It was run once. Running it again with the same generator gives the same file; with another one,
other songs, which are another benchmark.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from musicfm.render.benchmark import NAME, fingerprint, statistics
from musicfm.render.composition import compose
from musicfm.render.labels import jams_text
from musicfm.render.soundfont import load_font

# The first thousand test songs of each kind are left to trials, such as benchmarks/retrieval.py.
SETS = {
    "train": (1_000_000, 200),
    "valid": (1_000_200, 50),
    "test": (1_100_001_000, 200),
    "heldout": (1_200_001_000, 200),
    "degraded": (1_300_001_000, 200),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    font = load_font()
    sets: dict[str, Any] = {}
    for name, (first_seed, count) in SETS.items():
        seeds = track(range(first_seed, first_seed + count), name, console=Console(stderr=True))
        songs = [json.loads(jams_text(compose(seed, version=1), font)) for seed in seeds]
        sets[name] = {
            "first_seed": first_seed,
            "statistics": statistics(songs),
            "fingerprints": [fingerprint(song) for song in songs],
        }
    content = {"name": NAME, "generator_version": 1, "sets": sets}
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
