"""Compose and render the demo song: `python examples/render_demo_song.py [OUT.ogg]`.

A short synth-pop piece in D major, written here as text and synthesised with NumPy alone, so that
the repository ships real music of a known form. Beside the audio it writes the sections as an
Audacity label file (start, end, name; seconds, tabs between). The samples are the same on every
run; the Ogg file is not, byte for byte: its stream has a random serial number, and encoders differ.

The script and the song are dedicated to the public domain (CC0 1.0).
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile as sf
from numpy.random import Generator

Audio = npt.NDArray[np.float64]  # (samples,) for mono, (2, samples) for stereo
Note = tuple[float, float, float, float]  # beat in its section, beats, MIDI pitch, force
Tone = Callable[[float, float, float, Generator], Audio]  # hertz, seconds, force, rng

SEED = 20240613
SAMPLE_RATE = 44_100
SECONDS_PER_BEAT = 60 / 130
SIDES = np.array([[-1.0], [1.0]])  # left, right

# --- The score -----------------------------------------------------------------------------------

CHORDS = {  # name: bass note, then the four upper voices, which voice_lead() puts in order
    "Bm9": "B1 D F# A C#", "Bm7": "B1 D F# A B", "Gmaj9": "G1 B D F# A", "Gm9": "G1 Bb D F A",
    "Gm6": "G1 Bb D E G", "D": "D2 D E F# A", "D/F#": "F#1 D E F# A", "A/E": "E1 A B C# E",
    "A/C#": "C#2 A B C# E", "F#m7/A": "A1 A C# E F#", "Em9": "E1 G B D F#", "C69": "C2 E G A D",
    "A9sus": "A1 G B D E", "A9": "A1 G B C# E", "Bbmaj9": "Bb1 D F A C",
}  # fmt: skip
OPENING, CLOSING = "Bm9 Gmaj9 D/F# A/E ", "Bm9 Gmaj9 Em9 A9sus"  # a chord a bar,
REFRAIN = "D A/C# Bm7 F#m7/A Gmaj9 D/F# Em9 A9sus:2 A9:2"  # or as many beats as it says

CALL = "-:.5 B4:.5 D5:.5 C#5:2.5  -:.5 B4:.5 A4:.5 F#4:2.5 "
VERSE = CALL + "-:.5 A4:.5 B4:.5 D5:1 E5:.5 D5:1  -:.5 C#5:.5 B4:.5 A4:2.5 "
VERSE_CLOSE = CALL + "-:.5 B4:.5 D5:.5 G5:1 F#5:.5 E5:1  E5:1.5 D5:.5 E5:2 "
HOOK = """F#5:1.5 E5:.5 D5:.5 A5:1.5   E5:1.5 D5:.5 C#5:.5 A5:1.5   D5:1.5 C#5:.5 B4:.5 F#5:1.5
          C#5:1.5 D5:.5 C#5:.5 A4:1.5  B4:1.5 D5:.5 G5:.5 F#5:1.5   A5:1.5 F#5:.5 D5:2
          E5:1.5 F#5:.5 G5:1 F#5:1     E5:1.5 D5:.5 C#5:1.5 E5:.5"""
ANSWER = """-:3 D6:.5 F#6:.5  -:3 C#6:.5 E6:.5  -:3 B5:.5 D6:.5  -:2 E6:.5 C#6:.5 A5:.5 C#6:.5
            -:3 B5:.5 D6:.5   -:3 A5:.5 D6:.5   -:3 B5:.5 D6:.5  -:2 A5:.5 C#6:.5 E6:.5 A6:.5"""
BRIDGE = "D5:3 F5:1  E5:3 G5:1  A5:2 F5:1 D5:1  E5:2 C#5:1 E5:1"
OUTRO = "F#5:1.5 E5:.5 D5:.5 B4:1.5  E5:1.5 D5:.5 Bb4:2  A4:.5 D5:.5 E5:.5 F#5:2.5"

ALL = (1, 2, 3, 4)
Pattern = list[tuple[float, float, tuple[int, ...], int]]
PATTERNS: dict[str, Pattern] = {  # over each chord: beat, beats, voices (bass 0), semitones up
    "pad": [(0, 6, ALL, 0)],
    "keys": [(0, 1.4, ALL, 0), (1.5, 0.6, ALL, 0), (2.5, 1.4, ALL, 0)],
    "arp": [(i / 2, 0.9, (voice,), 12) for i, voice in enumerate((1, 3, 2, 4, 3, 2, 4, 3))],
    "long": [(0, 1.4, (0,), 0), (1.5, 0.4, (0,), 0), (2.5, 1.4, (0,), 0)],
    "drive": [(i / 2, 0.42, (0,), 12 * (i % 4 == 3)) for i in range(8)],
    "held": [(0, 5.5, (0,), 0)],
}  # fmt: skip
GROOVES = {  # sixteen steps to the bar: X strong, x plain, o soft
    "none": {},
    "light": {"kick": "X.........x.....", "snare": "........x.......", "hat": "x.o.x.o.x.o.x.o."},
    "fuller": {"kick": "X.....x...x.....", "snare": "....x.......X..o", "hat": "xooox.ooxooox.oo"},
    "full": {"kick": "X...X...X...X..o", "snare": "....X.......X..o",
             "hat": "xo.oxo.oxo.oxo.o", "open": "..x...x...x...x."},
    "half": {"kick": "X.....o.........", "snare": "........X......."},
}  # fmt: skip
FILL = {"snare": "....X.o.x.oxX.XX", "tom": "......x..x....xx"}


class Section(NamedTuple):
    name: str
    chords: str
    parts: str  # who plays, besides the drums
    groove: str = "none"
    melody: str = ""
    answer: str = ""


CHORUS = Section("chorus", REFRAIN, "pad arp drive lead crash", "full", HOOK)
FORM = [
    Section("intro", OPENING, "pad arp riser"),
    Section("verse", OPENING + CLOSING, "keys pluck long", "light", VERSE + VERSE_CLOSE),
    CHORUS,
    Section("verse", CLOSING, "pad keys pluck long riser", "fuller", VERSE_CLOSE),
    CHORUS,
    Section("bridge", "Bbmaj9 C69 Gm9 A9sus:2 A9:2", "pad long bell riser crash", "half", BRIDGE),
    CHORUS._replace(parts=CHORUS.parts + " keys answer", answer=ANSWER),
    Section("outro", "Gmaj9 Gm6 D:8", "pad arp bell held crash", melody=OUTRO),
]

# --- From the score to notes ---------------------------------------------------------------------


def midi(name: str) -> int:
    """MIDI number of a note such as F#5; of one without octave, a number below twelve."""
    octave = int(name[-1]) if name[-1].isdigit() else -1
    return 12 * (octave + 1) + "C D EF G A B".index(name[0]) + name.count("#") - name.count("b")


def timed(text: str) -> Iterator[tuple[float, float, str]]:
    """Beat, beats (four unless given) and name of each word of a line: "F#5:1.5 E5:.5 D5"."""
    beat = 0.0
    for word in text.split():
        name, _, beats = word.partition(":")
        yield beat, float(beats or 4), name
        beat += float(beats or 4)


def num_beats(section: Section) -> float:
    return sum(beats for _, beats, _ in timed(section.chords))


def sections() -> list[tuple[str, float, float]]:
    """Name, start and end in seconds of every section, in order and without gaps."""
    edges = np.cumsum([0.0] + [num_beats(s) for s in FORM]) * SECONDS_PER_BEAT
    return [(s.name, float(edges[i]), float(edges[i + 1])) for i, s in enumerate(FORM)]


def voice_lead(tones: list[int], previous: list[int]) -> list[int]:
    """The close-position inversion of `tones` (pitch classes) whose voices move the least."""
    inversions = []
    for turn, lowest in product(range(len(tones)), (36, 48, 60)):
        voices = [lowest + tones[turn]]
        for tone in tones[turn + 1 :] + tones[:turn]:
            voices.append(voices[-1] + (tone - voices[-1]) % 12)
        inversions.append(voices)
    return min(inversions, key=lambda v: sum(abs(a - b) for a, b in zip(v, previous, strict=True)))


def accompany(section: Section, pattern: str) -> Iterator[Note]:
    voices = [57, 62, 66, 69]  # every section starts near here, so that repeats are repeats
    for start, beats, name in timed(section.chords):
        bass_note, *tones = CHORDS[name].split()
        voices = voice_lead([midi(tone) for tone in tones], voices)
        for beat, length, players, up in PATTERNS[pattern]:
            for i in players if beat < beats else ():
                pitch = [midi(bass_note), *voices][i] + up
                yield start + beat, min(length, beats - beat), pitch, 0.65 if beat % 1 else 0.8


def melody(text: str) -> Iterator[Note]:
    for beat, beats, name in timed(text):
        if name != "-":
            yield beat, beats, midi(name), 0.72 if beat % 1 else 0.85


def drum(section: Section, name: str, pitch: float) -> Iterator[Note]:
    """Hits of one drum; the last bar of a section with drums is a fill."""
    groove, bars = GROOVES[section.groove], round(num_beats(section) / 4)
    for bar in range(bars):
        steps = groove | FILL if groove and bar == bars - 1 else groove
        for i, step in enumerate(steps.get(name, "")):
            if step != ".":
                yield 4 * bar + i / 4, 1, pitch, {"X": 1.0, "x": 0.75, "o": 0.4}[step]


# --- Instruments ---------------------------------------------------------------------------------


def clock(seconds: float) -> Audio:
    return np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def gate(t: Audio, seconds: float, attack: float, release: float) -> Audio:
    """Fade in from the start and out after `seconds`: no note begins or ends with a click."""
    ramp = np.clip(t / attack, 0, 1) * np.clip((seconds + release - t) / release, 0, 1)
    return np.asarray(ramp * ramp * (3 - 2 * ramp))


def band(x: Audio, low: float, high: float) -> Audio:
    """Keep `low` to `high` Hz of `x`, with slopes of 12 dB an octave and no phase shift."""
    f = np.maximum(np.fft.rfftfreq(x.shape[-1], 1 / SAMPLE_RATE), 1e-3)
    return np.fft.irfft(np.fft.rfft(x) / (1 + (low / f) ** 2) / (1 + (f / high) ** 2), len(x.T))


def saw(cycles: Audio, hz: float, cutoff: float) -> Audio:
    """Band-limited sawtooth below a gentle low-pass; `cycles` is the phase, one per period."""
    harmonics = np.arange(1, min(200, int(16_000 / hz)))
    spectrum = np.zeros(8193, complex)
    spectrum[harmonics] = -4096j / harmonics / (1 + (harmonics * hz / cutoff) ** 2)
    return np.asarray(np.fft.irfft(spectrum)[(cycles % 1 * 16_384).astype(int)])


def synth(
    cutoff: float, attack: float, hz: float, seconds: float, force: float, rng: Generator
) -> Audio:
    """Two saws, a little apart from each other and between the ears; long notes get vibrato."""
    t = clock(seconds + attack + 0.15)
    bend = 0.03 * np.clip(t - 0.25, 0, 0.3) * np.sin(2 * np.pi * 5.3 * t)
    saws = [saw(hz * t * (1 + k * SIDES) + bend + rng.random(), hz, cutoff) for k in (2e-3, -1e-3)]
    return force * (saws[0] + 0.7 * saws[1]) * gate(t, seconds, attack, attack + 0.15)


def bass(hz: float, seconds: float, force: float, _: Generator) -> Audio:
    t = clock(seconds + 0.05)
    dark, bright = (saw(hz * t, hz, cutoff) for cutoff in (220, 1500 * force))
    tone = np.tanh(1.5 * (dark + 0.7 * bright * np.exp(-7 * t)))
    return force * tone * gate(t, seconds, 0.004, 0.05)


def string(hz: float, seconds: float, force: float, rng: Generator) -> Audio:
    """Plucked string: a noise burst in an averaging loop (Karplus and Strong, CMJ 7(2), 1983)."""
    period = int(SAMPLE_RATE / hz)
    rounds = [band(rng.uniform(-1, 1, period), 50, 2500 + 6000 * force)]
    for _ in range(int((seconds + 1) * hz) + 2):
        rounds.append(0.498 * (rounds[-1] + np.roll(rounds[-1], 1)))
    # The loop is half a sample longer than `period`; reading it at the true pitch tunes it.
    t, loop = clock(seconds + 1), np.concatenate(rounds)
    tone = np.interp(t * hz * (period + 0.5), np.arange(len(loop)), loop)
    return np.asarray(force * tone / np.abs(tone).max() * gate(t, seconds, 0.001, 1))


def fm(ratio: float, decay: float, hz: float, seconds: float, force: float, _: Generator) -> Audio:
    """Frequency modulation (Chowning, JAES 21(7), 1973): `ratio` 1 is a piano, 4 a glass bell."""
    t = clock(seconds + 0.4)
    phase = 2 * np.pi * hz * t
    tone = np.sin(phase + 1.7 / ratio**0.5 * force * np.exp(-3 * t) * np.sin(ratio * phase))
    tine = np.sin(phase + 0.8 * np.sin(min(14, 12_000 // hz) * phase))
    tremolo = 1 + 0.2 * SIDES * np.sin(2 * np.pi * 4.3 * t)
    tone = np.exp(-decay * t) * tone + 0.2 * force * np.exp(-14 * t) * tine
    return np.asarray(force * tremolo * tone * gate(t, seconds, 0.002, 0.4))


def strike(
    fall: float, decay: float, noise: float, low: float,
    hz: float, seconds: float, force: float, rng: Generator,
) -> Audio:  # fmt: skip
    """Any drum: a sine that falls by `fall` cycles to its pitch (0: none), and a noise burst."""
    t = clock(seconds)
    head = np.sin(2 * np.pi * (hz * t + fall * (1 - np.exp(-40 * t)))) * np.exp(-decay * t)
    hiss = band(band(rng.normal(size=(2, t.size)), low, 15_000), low, 15_000)
    sound = np.tanh(1.6 * head) * (fall > 0) + noise * hiss * np.exp(-2 * decay * t)
    return force * sound * gate(t, 0.7 * seconds, 0.001, 0.3 * seconds)


# --- The mix -------------------------------------------------------------------------------------


class Part(NamedTuple):
    tone: Tone
    notes: Callable[[Section], Iterable[Note]]
    gain: float
    pan: float = 0.0  # -1 left, 1 right
    reverb: float = 0.15
    echo: float = 0.0


cymbal = partial(strike, 0, 1.1, 1, 3000)
PARTS = {
    "pad": Part(partial(synth, 1700, 0.25), lambda s: accompany(s, "pad"), 0.09, 0, 0.3),
    "keys": Part(partial(fm, 1, 1.6), lambda s: accompany(s, "keys"), 0.09, 0, 0.25),
    "arp": Part(string, lambda s: accompany(s, "arp"), 0.24, -0.35, 0.15, 0.25),
    "pluck": Part(string, lambda s: melody(s.melody), 0.5, 0.1, 0.25, 0.3),
    "lead": Part(partial(synth, 3200, 0.012), lambda s: melody(s.melody), 0.18, 0, 0.25, 0.25),
    "bell": Part(partial(fm, 4, 1), lambda s: melody(s.melody), 0.14, 0, 0.4, 0.35),
    "answer": Part(partial(fm, 4, 2), lambda s: melody(s.answer), 0.12, 0.4, 0.3, 0.3),
    "long": Part(bass, lambda s: accompany(s, "long"), 0.19, 0, 0.02),
    "drive": Part(bass, lambda s: accompany(s, "drive"), 0.19, 0, 0.02),
    "held": Part(bass, lambda s: accompany(s, "held"), 0.14, 0, 0.02),
    "crash": Part(cymbal, lambda s: [(0, 6, 0, 0.8)], 0.3, 0.2, 0.2),
    "riser": Part(lambda *a: cymbal(*a)[:, ::-1], lambda s: [(num_beats(s) - 4, 4, 0, 0.8)], 0.2),
    "kick": Part(partial(strike, 2.8, 8, 0.2, 1200), lambda s: drum(s, "kick", 31), 0.42, 0, 0.02),
    "snare": Part(partial(strike, 1, 10, 0.65, 600), lambda s: drum(s, "snare", 54), 0.3, 0, 0.25),
    "tom": Part(partial(strike, 1, 7, 0.1, 400), lambda s: drum(s, "tom", 43), 0.3, -0.3, 0.25),
    "hat": Part(partial(strike, 0, 20, 1, 7000), lambda s: drum(s, "hat", 0), 0.3, 0.3, 0.05),
    "open": Part(partial(strike, 0, 6, 1, 6000), lambda s: drum(s, "open", 0), 0.21, 0.3, 0.08),
}


def perform(name: str, rng: Generator) -> Audio:
    """One part through the whole song, (2, samples), each note up to 12 ms early or late."""
    part, bus = PARTS[name], np.zeros((2, clock(sections()[-1][2]).size))
    for section, (_, start, _) in zip(FORM, sections(), strict=True):
        playing = name in (section.parts + " kick snare tom hat open").split()
        for beat, beats, pitch, force in part.notes(section) if playing else ():
            late = np.clip(rng.normal(0, 0.004), -0.012, 0.012)
            first = max(0, round((start + beat * SECONDS_PER_BEAT + late) * SAMPLE_RATE))
            hz, seconds = 440 * 2 ** ((pitch - 69) / 12), beats * SECONDS_PER_BEAT
            tone = part.tone(hz, seconds, force * rng.uniform(0.9, 1.1), rng)
            bus[:, first : first + tone.shape[-1]] += tone[..., : bus.shape[1] - first]
    return part.gain * np.sqrt(1 + part.pan * SIDES) * echo(bus, part.echo)


def echo(x: Audio, level: float) -> Audio:
    """Add three repeats, a dotted eighth apart, that swap sides each time."""
    delay, out = round(0.75 * SECONDS_PER_BEAT * SAMPLE_RATE), x.copy()
    for i in (1, 2, 3):
        out[:, i * delay :] += level**i * x[:: (-1) ** i, : -i * delay]
    return out


def reverb(x: Audio, rng: Generator) -> Audio:
    """Convolve with two seconds of decaying noise, different on each side."""
    t = clock(2)
    room = band(rng.normal(size=(2, t.size)), 250, 5000) * np.exp(-3.2 * t) * gate(t, 1, 0.02, 1)
    room /= np.sqrt((room**2).sum(1, keepdims=True))
    size = 1 << (x.shape[1] + t.size).bit_length()
    return np.fft.irfft(np.fft.rfft(x, size) * np.fft.rfft(room, size))[:, : x.shape[1]]


def render(seed: int = SEED) -> Audio:
    """The song, (2, samples): every part, the room, then gentle saturation to a peak of -3.5 dB."""
    t = clock(sections()[-1][2])
    dry, send = np.zeros((2, t.size)), np.zeros((2, t.size))
    room, *players = np.random.default_rng(seed).spawn(1 + len(PARTS))
    for name, rng in zip(PARTS, players, strict=True):
        stem = perform(name, rng)
        dry += stem
        send += PARTS[name].reverb * stem
    # Below full scale, because Vorbis comes back with peaks some 2 dB higher.
    mix = np.tanh(1.2 * band(dry + reverb(send, room), 25, 60_000)) * gate(t, t[-1] - 1, 0.001, 1)
    return np.asarray(mix * 10 ** (-3.5 / 20) / np.abs(mix).max())


def write(path: Path, audio: Audio) -> None:
    """Write the audio, and its sections as Audacity labels beside it."""
    # Second by second: libsndfile's Vorbis encoder can crash on minutes in a single call.
    with sf.SoundFile(path, "w", SAMPLE_RATE, channels=2, compression_level=0.85) as file:
        for start in range(0, audio.shape[1], SAMPLE_RATE):
            file.write(audio[:, start : start + SAMPLE_RATE].T)
    labels = [f"{start:.6f}\t{end:.6f}\t{name}\n" for name, start, end in sections()]
    path.with_suffix(".sections.txt").write_text("".join(labels), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Render the demo song.")
    default = Path(__file__).with_name("demo_song.ogg")
    parser.add_argument("out", type=Path, nargs="?", default=default, help="default: %(default)s")
    write(parser.parse_args().out, render())
