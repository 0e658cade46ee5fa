"""The errors that musicfm raises on bad input.

Every message is one sentence that says what is wrong, where, and what to do. They derive from one
class: ``except musicfm.MusicFMError`` catches whatever the user, rather than the code, got wrong.
"""

import difflib
import re
from collections.abc import Iterable

# What moves a terminal's cursor, colours or clears it, ends a line, turns text around, or is no
# character at all.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """A text that is safe to print and stays on one line, as names of files and tags need not.

    Control characters, those that turn text around, and bytes that are no text become escapes.
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_text(path: str) -> str:
    """A path as text: file names may have bytes that are no UTF-8."""
    return path.encode("utf-8", "backslashreplace").decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Part of a sentence that suggests the known name nearest to one; empty if none is near."""
    near = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f" (did you mean '{near[0]}'?)" if near else ""


class MusicFMError(Exception):
    """Base class of all errors about input, files and settings."""

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(MusicFMError, ValueError):
    """A configuration is unknown, malformed or contradictory."""


class AudioError(MusicFMError, ValueError):
    """A recording or waveform cannot be used; the message names the file where there is one."""


class CheckpointError(MusicFMError, ValueError):
    """A checkpoint is missing, damaged, or not what it was said to be."""


class DataError(MusicFMError, ValueError):
    """A collection, its manifest or a shard is missing, damaged, or not what it was said to be."""


class OutputError(MusicFMError, OSError):
    """A result cannot be written, or what is there belongs to other settings."""


class SoundFontError(MusicFMError, ValueError):
    """A sound font is missing or damaged, or lacks what a song asks for."""


class AudioWarning(UserWarning):
    """A damaged recording was used as far as it could be decoded."""


class TrainingError(MusicFMError, RuntimeError):
    """A training run cannot go on; what was saved stays."""
