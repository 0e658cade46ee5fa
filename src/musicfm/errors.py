"""The errors that musicfm raises on bad input.

Every message is one sentence that says what is wrong, where, and what to do. They derive from one
class: ``except musicfm.MusicFMError`` catches whatever the user, rather than the code, got wrong.
"""


class MusicFMError(Exception):
    """Base class of all errors about input, files and settings."""


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
