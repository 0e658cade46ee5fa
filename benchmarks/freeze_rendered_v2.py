"""Writes the list of the songs of rendered-v2: seeds, fonts, compositions, and their fingerprints.

    python benchmarks/freeze_rendered_v2.py SOURCES src/musicfm/render/rendered_v2.json

SOURCES is a folder with the sound fonts below and POP909's structure as POP909. It was run once.
Running it again with the same generator and sources gives the same file; with others, other songs,
which are another benchmark.
"""

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from musicfm.render.benchmark import COMPOSITIONS, NAME_V2, fingerprint, statistics
from musicfm.render.composition import GENERATOR_VERSION, compose
from musicfm.render.labels import jams_text
from musicfm.render.lead_sheets import choose, digest, read_lead_sheets
from musicfm.render.soundfont import load_font

MAX_SECONDS = 60.0
FONTS = {  # a name twice: drawn twice as often
    "train": [
        *[("FluidR3_GM.sf2", "fluid-soundfont-gm")] * 3,
        *[("MuseScore_General_Full.sf3", "musescore-general-soundfont")] * 2,
        *[("TimGM6mb.sf2", "timgm6mb-soundfont")] * 3,
        ("OPL-3_FM_128M.sf2", "opl3-soundfont"),
    ],
    "heldout": [
        *[("sf_GMbank.sf2", "csound-soundfont")] * 2,
        ("Black_Pearl_4_LV2.sf2", "avldrums.lv2-soundfont"),
        ("Red_Zeppelin_4_LV2.sf2", "avldrums.lv2-soundfont"),
    ],
}
# First seed, number, fonts, and whether POP909's songs are arranged.
SETS = {
    "train": (2_000_000, 200, "train", False),
    "valid": (2_000_200, 50, "train", False),
    "all": (1_200_100_000, 100, "heldout", True),
    "test": (1_100_100_000, 100, "train", False),
    "fonts": (1_100_100_100, 100, "heldout", False),
    "compositions": (1_100_100_200, 100, "train", True),
    "heldout": (1_200_100_100, 100, "train", False),
    "degraded": (1_300_100_000, 100, "train", False),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sources", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    font, sheets = load_font(), read_lead_sheets(arguments.sources / COMPOSITIONS)
    sets: dict[str, Any] = {}
    for name, (first_seed, count, fonts, arranged) in SETS.items():
        songs = [
            json.loads(
                jams_text(
                    compose(
                        seed,
                        max_seconds=MAX_SECONDS,
                        anywhere=True,
                        sheet=choose(sheets, seed) if arranged else None,
                    ),
                    font,
                )
            )
            for seed in range(first_seed, first_seed + count)
        ]
        sets[name] = {
            "first_seed": first_seed,
            "fonts": fonts,
            "arranged": arranged,
            "statistics": statistics(songs),
            "fingerprints": [fingerprint(song) for song in songs],
        }
        print(name, len(songs), flush=True)
    content = {
        "name": NAME_V2,
        "generator_version": GENERATOR_VERSION,
        "max_seconds": MAX_SECONDS,
        "compositions": digest(sheets),
        "fonts": {
            group: [
                {"name": name, "package": package, "sha256": _sha256(arguments.sources / name)}
                for name, package in fonts
            ]
            for group, fonts in FONTS.items()
        },
        "sets": sets,
    }
    arguments.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()
