"""What a rendered song is made of: the notes that are played, the production, and the labels.

A composer fills these in from a seed, and a synthesizer turns them into sound. All times are in
seconds of the finished recording, with tempo drift, swing and the players' jitter already in them.
"""

from dataclasses import dataclass
from typing import Literal

Version = Literal[1, 2]
"""Version of the generator: 1 is that of rendered-v1."""


@dataclass(frozen=True, slots=True)
class Note:
    """One note as played."""

    start: float
    end: float
    """Seconds at which the key is let go; the sound dies away later."""
    pitch: int
    """MIDI number; for drums, the General MIDI drum key."""
    velocity: int
    """1 to 127."""


@dataclass(frozen=True, slots=True)
class Part:
    """One instrument and all that it plays."""

    role: str
    """"bass", "chords", "lead", "drums" and so on."""
    program: int
    """General MIDI program from 0; for drums, the kit's program in bank 128."""
    is_drums: bool
    notes: tuple[Note, ...]
    """In the order of their starts."""
    gain_db: float
    pan: float
    """-1 (left) to 1 (right)."""
    reverb_db: float
    """Level of what goes to the reverb, relative to the dry sound."""
    levelled: bool = False
    """Whether ``gain_db`` counts from -20 dB (RMS while it sounds), not from the font's level."""
    drive_db: float = 0.0
    """Overdrive of a guitar amplifier; 0 for none."""


@dataclass(frozen=True, slots=True)
class Production:
    """What happens to a song between the players and the file."""

    cents: float
    """Detuning of all parts from 440 Hz."""
    equalizer: tuple[tuple[float, float], ...]
    """Peaking filters: frequency in Hz, gain in dB."""
    reverb_seconds: float
    """Seconds until the reverb has fallen by 60 dB."""
    noise_db: float
    """Level of the noise floor, in dB relative to full scale (RMS)."""
    noise_slope_db: float
    """Slope of the noise's spectrum, per octave: 0 is white, -3 pink."""
    width: float
    """Stereo width: 0 is mono, 1 as panned."""
    level_db: float
    """RMS of the finished song, in dB relative to full scale; peaks are limited softly."""
    codec: Literal["none", "mp3", "ogg"]
    """A round trip through this format."""
    codec_kbps: int
    seed: int
    """Seed of the noise and of the reverb's tail."""
    compression_db: float = 0.0
    """What a compressor takes off the loudest; what follows is done before ``level_db``."""
    saturation_db: float = 0.0
    """Overdrive of a saturating amplifier."""
    band: tuple[float, float] | None = None
    """Lowest and highest frequency of a bad transmission, in Hz."""
    hum_db: float | None = None
    """Level of the mains' hum, in dB relative to full scale (RMS)."""
    brickwall: bool = False
    """Whether a limiter looks ahead, which lets a song be loud; else peaks are bent softly."""


@dataclass(frozen=True, slots=True)
class Beat:
    """A beat and its place in the bar, from 1; on 1 falls the downbeat."""

    time: float
    position: int


@dataclass(frozen=True, slots=True)
class Span:
    """A label that holds for a time."""

    start: float
    end: float
    value: str


@dataclass(frozen=True, slots=True)
class Labels:
    """The truth about a song. Spans of a kind follow one another and fill the whole duration."""

    beats: tuple[Beat, ...]
    chords: tuple[Span, ...]
    """Chords in Harte's notation (ISMIR 2005), N for none."""
    segments: tuple[Span, ...]
    """intro, verse, chorus, bridge, inst, outro or silence; of a lead sheet also no_function, or
    none at all where they are not known."""
    keys: tuple[Span, ...]
    """Tonic and mode, such as "Eb:minor", in JAMS's spelling of key_mode."""
    tags: tuple[str, ...]
    """Tags of what is audible: instruments, style, mood of tempo and so on; sorted."""


@dataclass(frozen=True, slots=True)
class Song:
    """A song, ready to be played."""

    seed: int
    take: int
    """0 as composed; others are the same notes and labels in another arrangement and production."""
    duration: float
    parts: tuple[Part, ...]
    production: Production
    labels: Labels
    composition: str = ""
    """The name of the lead sheet that it arranges; empty: it is the generator's own."""
