"""GiantSteps-MTG-Keys: keys of 1486 excerpts of electronic dance music, of two minutes each.

What is read is the repository as it is published, with the audio in its folder ``audio``:
https://github.com/GiantSteps/giantsteps-mtg-key-dataset.

The annotators gave some excerpts several keys or none, and a confidence from 0 to 2. Used are those
with a single major or minor key that they were sure of.
"""

from pathlib import Path

from musicfm.datasets.pieces import Collected, Piece, key_name, rows_of, whole_key

SURE = "2"
"""The highest confidence."""


def collect_giantsteps_mtg(home: Path) -> Collected:
    """The excerpts with one sure key. Raises DataError if the table cannot be read."""
    path = home / "annotations" / "annotations.txt"
    pieces, num_left_out = [], 0
    for row in rows_of(path, ("ID", "MANUAL KEY", "C"), "\t"):
        key = key_name(row["MANUAL KEY"])
        if key is None or row["C"].strip() != SURE:
            num_left_out += 1
            continue
        pieces.append(Piece(home / "audio" / f"{row['ID'].strip()}.LOFI.mp3", whole_key(key)))
    problems = [f"{path}: {num_left_out} excerpts have no single key of confidence {SURE}"]
    return Collected(pieces, problems if num_left_out else [])
