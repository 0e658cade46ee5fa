"""Keys as people, players and disc jockeys write them, and which of them go together."""

import re
from dataclasses import dataclass
from typing import Literal, Self

from musicfm.errors import ConfigError, DataError

Notation = Literal["standard", "camelot", "openkey"]

_NATURAL = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_SPELLED = re.compile(r"([A-Ga-g])([#♯b♭]?)[ :]*(|M|m|maj|min|major|minor|Major|Minor)")
_CAMELOT = re.compile(r"(1[0-2]|[1-9])([ABab])")
_CIRCLE = 12


@dataclass(frozen=True)
class Key:
    """A major or minor key."""

    tonic: int
    """Semitones above C, from 0 to 11."""
    is_minor: bool

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "Am", "A minor", "a:min", "F# major", "Eb", or Camelot's "8A".

        Raises ConfigError.
        """
        if found := _CAMELOT.fullmatch(text.strip()):
            is_minor = found[2] in "Aa"
            # 8B is C major, and 8A its relative minor; a step up is a fifth.
            return cls(((int(found[1]) - 8) * 7 + (9 if is_minor else 0)) % 12, is_minor)
        if found := _SPELLED.fullmatch(text.strip()):
            shift = {"": 0, "#": 1, "♯": 1, "b": -1, "♭": -1}[found[2]]
            mode = found[3]
            is_minor = mode == "m" or mode.lower().startswith("min")
            return cls((_NATURAL[found[1].upper()] + shift) % 12, is_minor)
        raise ConfigError(f"'{text}' is not a key; give one such as Am, 'Eb minor', F# or 8A")

    @property
    def camelot(self) -> tuple[int, str]:
        """Its place on Camelot's wheel: 1 to 12, and "A" for minor or "B" for major."""
        major = self.tonic + 3 if self.is_minor else self.tonic
        return (major * 7 + 7) % 12 + 1, "A" if self.is_minor else "B"

    def distance(self, other: "Key") -> int:
        """Steps on Camelot's wheel: 1 to the relative key, and 1 for each fifth. Keys up to 1 apart
        go together.
        """
        fifths = abs(self.camelot[0] - other.camelot[0])
        return min(fifths, _CIRCLE - fifths) + (self.is_minor != other.is_minor)

    def spellings(self) -> list[str]:
        """All its names, as mir_eval writes them: "Eb minor", "D# minor"."""
        mode = "minor" if self.is_minor else "major"
        shifts = {"": 0, "#": 1, "b": -1}
        return [
            f"{letter}{sign} {mode}"
            for letter, pitch in _NATURAL.items()
            for sign, shift in shifts.items()
            if (pitch + shift) % 12 == self.tonic
        ]


ALL = [Key(tonic, is_minor) for is_minor in (False, True) for tonic in range(12)]


_WRITTEN = re.compile(r"([A-G][#b]?)[: ](major|minor)")


def write_key(key: str, notation: Notation = "standard") -> str:
    """A key in another notation.

    Args:
        key: such as "Eb minor" or "Eb:minor".
        notation: "standard" is that of the ID3 tag TKEY ("Ebm", "C"); "camelot" has 8B for C major
            and 8A for A minor; "openkey" has 1d and 1m for them. In both, the number grows by
            one with each fifth up, and goes from 12 to 1.

    Raises DataError if it is not a key.
    """
    found = _WRITTEN.fullmatch(key)
    if found is None:
        raise DataError(f"'{key}' is not a key; give one such as 'Eb minor'")
    tonic, mode = found.groups()
    number, letter = Key.parse(key).camelot
    if notation == "standard":
        return tonic + ("m" if mode == "minor" else "")
    if notation == "openkey":
        return f"{(number - 8) % 12 + 1}{'m' if mode == 'minor' else 'd'}"
    return f"{number}{letter}"
