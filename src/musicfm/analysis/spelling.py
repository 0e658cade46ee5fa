"""Note names that fit a key: E flat in C minor, D sharp in E minor.

Names are places on the line of fifths (... B♭ -2, F -1, C 0, G 1 ... F♯ 6 ...). Of the names of a
pitch, the one taken lies from five fifths below the tonic to six above it: the usual spelling of
the harmonic chromatic scale, with flat second, sixth and seventh degrees and a sharp fourth.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from musicfm.datasets.annotations import Spans

_NATURALS = {"F": -1, "C": 0, "G": 1, "D": 2, "A": 3, "E": 4, "B": 5}
_NOTE = re.compile(r"([A-G])([#b]*)(.*)", re.DOTALL)


def spell(label: str, tonic: str) -> str:
    """A chord in Harte's notation with its root spelled as fits a tonic.

    Args:
        label: such as "D#:min7/b3"; what begins with no note (N, X) stays as it is.
        tonic: such as "Eb". Double sharps and double flats are never written.
    """
    parts = _NOTE.fullmatch(label)
    if parts is None:
        return label
    lowest = _place(tonic) - 5
    place = (_place(parts[1] + parts[2]) - lowest) % 12 + lowest
    if place < -8:  # beyond F flat
        place += 12
    elif place > 12:  # beyond B sharp
        place -= 12
    return _name(place) + parts[3]


def spell_chords(chords: Spans, keys: Spans | None) -> Spans:
    """Chords as they are spelled in the key that holds where they begin, or is nearest to that."""
    if keys is None or not keys.labels:
        return chords
    tonics = [key.split(":")[0] for key in keys.labels]
    starts: Sequence[float] = chords.intervals[:, 0].tolist()
    begins = keys.intervals[:, 0].searchsorted(starts, side="right") - 1
    labels = [
        spell(label, tonics[max(0, int(index))])
        for label, index in zip(chords.labels, begins, strict=True)
    ]
    return replace(chords, labels=tuple(labels))


def _place(note: str) -> int:
    """On the line of fifths."""
    return _NATURALS[note[0]] + 7 * (note.count("#") - note.count("b"))


def _name(place: int) -> str:
    octaves, step = divmod(place + 1, 7)
    return "FCGDAEB"[step] + ("#" * octaves if octaves > 0 else "b" * -octaves)
