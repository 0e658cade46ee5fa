"""Keys as players and disc jockeys write them: Ebm, 2A on the Camelot wheel, 7m as Open Key."""

import re
from typing import Literal

from musicfm.errors import DataError

Notation = Literal["standard", "camelot", "openkey"]

_KEY = re.compile(r"([A-G])(#|b)?[: ](major|minor)")
_FIFTHS = "FCGDAEB"


def write_key(key: str, notation: Notation = "standard") -> str:
    """A key in another notation.

    Args:
        key: such as "Eb minor" or "Eb:minor".
        notation: "standard" is that of the ID3 tag TKEY ("Ebm", "C"); "camelot" has 8B for C major
            and 8A for A minor; "openkey" has 1d and 1m for them. In both, the number grows by
            one with each fifth up, and goes from 12 to 1.

    Raises DataError if it is no key.
    """
    found = _KEY.fullmatch(key)
    if found is None:
        raise DataError(f"'{key}' is no key; give one such as 'Eb minor'")
    note, accidental, mode = found.groups(default="")
    if notation == "standard":
        return note + accidental + ("m" if mode == "minor" else "")
    fifths = _FIFTHS.index(note) - 1 + {"": 0, "#": 7, "b": -7}[accidental]  # up from C
    if mode == "minor":
        fifths -= 3  # as the relative major key
    if notation == "openkey":
        return f"{fifths % 12 + 1}{'m' if mode == 'minor' else 'd'}"
    return f"{(fifths + 7) % 12 + 1}{'A' if mode == 'minor' else 'B'}"
