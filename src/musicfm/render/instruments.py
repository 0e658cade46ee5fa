"""The instruments of General MIDI by family, with what each can play.

Of every family some presets are reserved for held-out songs.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Family:
    """Instruments that sound alike, and share a tag."""

    tag: str
    programs: tuple[int, ...]
    """General MIDI programs from 0."""
    reserved: tuple[int, ...]
    """Programs for held-out songs only."""
    low: int
    high: int
    """Range of a melody, in MIDI pitch."""
    gain_db: float
    """Gain that brings it to the loudness of the others."""


FAMILIES: dict[str, Family] = {
    "piano": Family("piano", (0, 1), (2, 3), 36, 96, 4),
    "electric piano": Family("electric piano", (4,), (5,), 36, 91, -2),
    "clavinet": Family("clavinet", (7,), (6,), 41, 84, 0),
    "mallets": Family("mallets", (8, 11, 12), (10, 13), 53, 89, 1),
    "organ": Family("organ", (16, 17, 19), (18, 20), 41, 89, -1),
    "accordion": Family("accordion", (21, 22), (23,), 53, 74, -2.5),
    "acoustic guitar": Family("acoustic guitar", (25,), (24,), 43, 81, 2),
    "electric guitar": Family("electric guitar", (27,), (26,), 43, 84, 5),
    "distorted guitar": Family("distorted guitar", (30,), (29,), 43, 84, -3.5),
    "plucked folk": Family("plucked strings", (46, 105, 104), (107, 15), 50, 84, 3.5),
    "acoustic bass": Family("acoustic bass", (32,), (43,), 28, 50, -1),
    "electric bass": Family("electric bass", (33, 34), (35, 36), 28, 50, 0),
    "synth bass": Family("synth bass", (38,), (39,), 28, 50, -1),
    "low strings": Family("low strings", (42,), (45,), 28, 60, 0),
    "solo strings": Family("violin", (40,), (41, 110), 56, 91, -5),
    "strings": Family("strings", (48, 49), (50, 44), 43, 88, 0),
    "choir": Family("choir", (52, 53), (54, 85), 50, 83, -2),
    "brass": Family("brass", (56, 61), (57, 60), 48, 84, 2),
    "saxophone": Family("saxophone", (65, 66), (64, 67), 50, 84, -3),
    "woodwind": Family("woodwind", (73, 71, 68), (74, 75, 70), 60, 88, -4),
    "synth lead": Family("synth lead", (80, 81), (84, 86), 53, 86, -2),
    "synth pad": Family("synth pad", (89, 90, 94), (88, 91, 95), 45, 84, 0),
}


@dataclass(frozen=True, slots=True)
class Kit:
    """Drum kits that sound alike."""

    programs: tuple[int, ...]
    """Programs of bank 128."""
    reserved: tuple[int, ...]
    gain_db: float


KITS: dict[str, Kit] = {
    "acoustic": Kit((0, 8), (16,), -1),
    "electronic": Kit((24,), (25,), 0),
    "jazz": Kit((32,), (40,), 8),
}


def programs_of(instruments: Family | Kit, reserved: bool) -> tuple[int, ...]:
    """The presets that a song may take."""
    return instruments.reserved if reserved else instruments.programs
