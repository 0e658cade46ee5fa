"""Keys in other notations, against the wheel as it is printed."""

import pytest

from musicfm.errors import DataError
from musicfm.library.keys import write_key

# The Camelot wheel from 1 to 12: minor keys (A), major keys (B).
MINOR = ("Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E", "B", "F#", "Db")
MAJOR = ("B", "F#", "Db", "Ab", "Eb", "Bb", "F", "C", "G", "D", "A", "E")


@pytest.mark.parametrize("number", range(1, 13))
def test_the_wheel(number: int) -> None:
    minor, major = f"{MINOR[number - 1]} minor", f"{MAJOR[number - 1]}:major"
    assert write_key(minor, "camelot") == f"{number}A"
    assert write_key(major, "camelot") == f"{number}B"
    assert write_key(minor, "openkey") == f"{(number - 8) % 12 + 1}m"
    assert write_key(major, "openkey") == f"{(number - 8) % 12 + 1}d"


def test_spellings_and_errors() -> None:
    assert write_key("Eb minor") == "Ebm"
    assert write_key("C major") == "C"
    assert write_key("D# minor", "camelot") == write_key("Eb minor", "camelot")
    for wrong in ("", "H minor", "C", "N", "C dorian"):
        with pytest.raises(DataError, match="is not a key"):
            write_key(wrong)
