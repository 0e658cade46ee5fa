"""Real melodies, chords and forms to arrange: POP909's phrases, and OpenEWLD's lead sheets.

- POP909 (Wang et al., ISMIR 2020) as in "Automatic Analysis and Influence of Hierarchical Structure
  on Melody, Rhythm and Harmony in Popular Music" (Dai, Zhang and Dannenberg, 2020): a folder for
  each song, with ``melody.txt``, ``finalized_chord.txt``, ``human_label1.txt`` and
  ``analyzed_key.txt``.
- OpenEWLD (Simonetta et al., 2018): compressed MusicXML, a file for each song.

Songs that share a melody are one group, so that no melody is both learnt from and tested on. Music
of Bach is left out: recordings of it are what models are tested on.
"""

import hashlib
import itertools
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

from musicfm.errors import DataError
from musicfm.render.dice import Dice
from musicfm.render.score import ScoreNote
from musicfm.render.splits import is_reserved, split_of
from musicfm.render.styles import STEPS_PER_BAR, Metre
from musicfm.render.theory import QUALITIES

_LABELS = "human_label1.txt"
_FUNCTIONS = {"i": "intro", "o": "outro"}  # of POP909's letters; other small ones have no melody
_METRES: dict[tuple[str, str], Metre] = {
    ("4", "4"): "4/4", ("2", "2"): "4/4", ("3", "4"): "3/4", ("6", "8"): "6/8",
}  # fmt: skip
_KINDS: dict[str, str] = {
    "major": "maj", "minor": "min", "dominant": "7", "diminished": "dim", "augmented": "aug",
    "major-seventh": "maj7", "minor-seventh": "min7", "major-sixth": "maj6",
    "minor-sixth": "min6", "dominant-ninth": "7", "dominant-11th": "7", "dominant-13th": "7",
    "diminished-seventh": "dim7", "half-diminished": "hdim7", "suspended-fourth": "sus4",
    "suspended-second": "sus2", "minor-ninth": "min7", "minor-11th": "min7",
    "minor-13th": "min7", "major-ninth": "maj7", "minor-major": "minmaj7", "major-minor": "minmaj7",
    "power": "5", "maj69": "maj6", "augmented-seventh": "aug", "augmented-ninth": "aug",
}  # fmt: skip
_SHORTHANDS = {"maj9": "maj7", "min9": "min7", "min11": "min7", "9": "7", "maj13": "maj7"}
_INTERVALS = {"b3": 3, "3": 4, "b5": 6, "5": 7, "b7": 10, "7": 11}
_LETTERS = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_ACCIDENTALS = {"": 0, "#": 1, "b": -1}
_NOTES_IN_COMMON = 12  # a melody of as many intervals, twice, is no accident
_PASSAGES_IN_COMMON = 4


class SheetChord(NamedTuple):
    """A chord of a lead sheet."""

    start: int
    """Start in steps of a sixteenth, likewise the end."""
    end: int
    root: int
    """Pitch class."""
    quality: str
    bass: int
    """Semitones above the root; one of the quality's."""


@dataclass(frozen=True)
class LeadSheet:
    """A melody with its chords."""

    name: str
    metre: Metre
    tonic: int
    """Pitch class."""
    mode: str
    num_bars: int
    melody: tuple[ScoreNote, ...]
    """One note at a time; a pickup is before step 0."""
    chords: tuple[SheetChord, ...]
    sections: tuple[tuple[str, int], ...]
    """Labels, and lengths in bars; empty if they are not known."""
    group: str = ""
    """Name of the group of sheets that share a melody."""

    def repeated(self, times: int) -> "LeadSheet":
        """The same several times."""
        length = self.num_bars * STEPS_PER_BAR[self.metre]
        melody = [
            note._replace(start=note.start + shift, end=min(note.end, length) + shift)
            for shift in range(0, times * length, length)
            for note in self.melody
        ]
        chords = [
            chord._replace(start=chord.start + shift, end=chord.end + shift)
            for shift in range(0, times * length, length)
            for chord in self.chords
        ]
        return replace(
            self, num_bars=times * self.num_bars, melody=tuple(melody), chords=tuple(chords),
            sections=self.sections * times,
        )  # fmt: skip


def read_lead_sheets(folder: Path) -> list[LeadSheet]:
    """All usable lead sheets below a folder, by name.

    Left out are those in other metres than 4/4, 2/2, 3/4 and 6/8 throughout, and Bach's.

    Raises DataError if there are none, or a file is not what its name says.
    """
    songs = [path.parent for path in folder.rglob(_LABELS)]
    sheets = []
    for path in sorted([*songs, *folder.rglob("*.mxl")]):
        read = _read_musicxml if path.suffix == ".mxl" else _read_pop909
        if re.search(r"(?<![a-z])bach(?![a-z])", str(path.relative_to(folder)), re.IGNORECASE):
            continue
        try:
            sheet = read(path, str(path.relative_to(folder)))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, ElementTree.ParseError) as error:
            raise DataError(f"{path} cannot be read as a lead sheet: {error}") from error
        if sheet is not None:
            sheets.append(sheet)
    if not sheets:
        raise DataError(
            f"there are no lead sheets in {folder}; give a folder with OpenEWLD's .mxl files, or "
            f"with POP909's structure, which has a {_LABELS} for each song"
        )
    return grouped(sheets)


def digest(sheets: Sequence[LeadSheet]) -> str:
    """SHA-256 of what lead sheets say."""
    return hashlib.sha256(repr(sheets).encode()).hexdigest()


def choose(sheets: Sequence[LeadSheet], seed: int) -> LeadSheet:
    """The lead sheet of a song; those of held-out songs are never others'.

    Raises DataError if there is none for its split.
    """
    reserved = split_of(seed) == "heldout"
    usable = [sheet for sheet in sheets if is_reserved("composition", [sheet.group]) == reserved]
    if not usable:
        raise DataError(
            f"of {len(sheets)} lead sheets none is for {split_of(seed)} songs; give more of them"
        )
    return Dice("lead sheet", seed).choice(usable)


def grouped(sheets: Sequence[LeadSheet]) -> list[LeadSheet]:
    """With the groups of those that share several passages of their melodies, in whatever key."""
    owners: defaultdict[tuple[int, ...], set[int]] = defaultdict(set)
    for index, sheet in enumerate(sheets):
        pitches = [note.pitch for note in sheet.melody]
        steps = [after - before for before, after in itertools.pairwise(pitches)]
        for start in range(len(steps) - _NOTES_IN_COMMON + 1):
            passage = tuple(steps[start : start + _NOTES_IN_COMMON])
            if len(set(passage)) > 3:  # not one note repeated, or a trill
                owners[passage].add(index)
    shared: defaultdict[tuple[int, int], int] = defaultdict(int)
    for indices in owners.values():
        first, *others = sorted(indices)
        for other in others:
            shared[first, other] += 1
    leader = list(range(len(sheets)))

    def find(index: int) -> int:
        while leader[index] != index:
            index = leader[index]
        return index

    for (first, other), count in shared.items():
        if count >= _PASSAGES_IN_COMMON:
            one, two = sorted((find(first), find(other)))
            leader[two] = one
    return [replace(sheet, group=sheets[find(i)].name) for i, sheet in enumerate(sheets)]


def _read_pop909(folder: Path, name: str) -> LeadSheet | None:
    tonic_name, mode = (folder / "analyzed_key.txt").read_text().split()[0].split(":")
    phrases = re.findall(r"([A-Za-z])(\d+)", (folder / _LABELS).read_text())
    num_bars = sum(int(bars) for _, bars in phrases)
    melody, step = [], 0
    for line in (folder / "melody.txt").read_text().splitlines():
        if line.strip():
            pitch, length = map(int, line.split())
            if pitch:
                melody.append(ScoreNote(step, step + length, pitch))
            step += length
    chords, start = [], 0
    for line in (folder / "finalized_chord.txt").read_text().splitlines():
        if not line.strip():
            continue
        chord, root, beats = line.split()[0], line.split()[-2], line.split()[-1]
        end = start + round(4 * float(beats))
        if chord != "N":
            chords.append(SheetChord(start, end, int(root), *_quality(chord.split(":")[1])))
        start = end
    length = num_bars * STEPS_PER_BAR["4/4"]
    if not melody or abs(start - length) > STEPS_PER_BAR["4/4"]:  # in another metre
        return None
    sections: list[tuple[str, int]] = []
    for letter, bars in phrases:
        label = _FUNCTIONS.get(letter, "inst" if letter.islower() else letter)
        if sections and sections[-1][0] == label:
            sections[-1] = label, sections[-1][1] + int(bars)
        else:
            sections.append((label, int(bars)))
    return LeadSheet(
        name, "4/4", (_LETTERS[tonic_name[0]] + _ACCIDENTALS[tonic_name[1:]]) % 12,
        {"maj": "major", "min": "minor"}[mode], num_bars,
        tuple(note for note in melody if note.end <= length),
        tuple(chord._replace(end=min(chord.end, length)) for chord in chords
              if chord.start < length),
        tuple(sections),
    )  # fmt: skip


def _quality(harte: str) -> tuple[str, int]:
    """A quality that there is, and the bass, from such as "sus4(b7)" or "maj9/3"."""
    shorthand, _, bass = harte.partition("/")
    quality = shorthand.partition("(")[0]
    quality = _SHORTHANDS.get(quality, quality)
    if quality not in QUALITIES:
        raise ValueError(f"'{harte}' is not a chord")
    above = _INTERVALS.get(bass, 0)
    return quality, above if above in QUALITIES[quality] else 0


def _read_musicxml(path: Path, name: str) -> LeadSheet | None:
    with zipfile.ZipFile(path) as archive:
        scores = [entry for entry in archive.namelist() if not entry.startswith("META-INF")]
        score = ElementTree.fromstring(archive.read(scores[0]))
    times = {(time.findtext("beats", ""), time.findtext("beat-type", ""))
             for time in score.iter("time")}  # fmt: skip
    metre = _METRES.get(times.pop()) if len(times) == 1 else None
    if metre is None:
        return None
    notes: list[_Pitched] = []
    chords: list[_Harmony] = []
    bars: list[Fraction] = []
    for length, some_notes, some_chords in _measures(score):
        start = sum(bars, Fraction(0))
        bars.append(length)
        notes += [n._replace(start=n.start + start, end=n.end + start) for n in some_notes]
        chords += [chord._replace(start=chord.start + start) for chord in some_chords]
    whole = Fraction(STEPS_PER_BAR[metre])
    pickup = bars[0] if bars and bars[0] < whole else Fraction(0)
    inner = bars[1:-1] if pickup else bars[:-1]
    if not inner or any(bar != whole for bar in inner) or not notes or not chords:
        return None
    num_bars = len(bars) - bool(pickup)
    melody = _melody(notes, pickup)
    end = num_bars * STEPS_PER_BAR[metre]
    harmony = [
        SheetChord(round(h.start - pickup), round(after - pickup), h.root, h.quality, h.bass)
        for h, after in zip(chords, [*(h.start for h in chords[1:]), pickup + end], strict=True)
    ]
    harmony = [chord for chord in harmony if chord.end > max(0, chord.start)]
    fifths = int(score.findtext(".//key/fifths", "0"))
    tonic, mode = 7 * fifths % 12, "major"
    # Where the signature is a minor key's, files say major all the same.
    last = harmony[-1]
    if last.root == (tonic + 9) % 12 and last.quality.startswith("min"):
        tonic, mode = last.root, "minor"
    return LeadSheet(
        name, metre, tonic, mode, num_bars,
        tuple(note for note in melody if note.start < end),
        tuple(chord._replace(start=max(0, chord.start)) for chord in harmony if chord.start < end),
        (),
    )  # fmt: skip


class _Pitched(NamedTuple):
    start: Fraction
    end: Fraction
    pitch: int
    is_tied: bool
    """Whether it is tied to the note before."""


class _Harmony(NamedTuple):
    start: Fraction
    root: int
    quality: str
    bass: int


def _measures(
    score: ElementTree.Element,
) -> Iterator[tuple[Fraction, list[_Pitched], list[_Harmony]]]:
    """The length of each measure in steps, and its notes and chords, from its start."""
    part = score.find("part")
    divisions = Fraction(1)
    for measure in [] if part is None else part.iter("measure"):
        notes: list[_Pitched] = []
        chords: list[_Harmony] = []
        time = Fraction(0)
        for element in measure:
            divisions = Fraction(element.findtext("divisions", str(divisions)))
            if element.tag == "harmony":
                harmony = _harmony(element, time)
                if harmony is not None:
                    chords.append(harmony)
            elif element.tag == "note" and element.find("grace") is None:
                length = 4 * Fraction(element.findtext("duration", "0")) / divisions
                pitch = element.find("pitch")
                if pitch is not None:
                    octave = int(pitch.findtext("octave", "4"))
                    alter = int(pitch.findtext("alter", "0"))
                    number = 12 * (octave + 1) + _LETTERS[pitch.findtext("step", "C")] + alter
                    tied = any(tie.get("type") == "stop" for tie in element.findall("tie"))
                    notes.append(_Pitched(time, time + length, number, tied))
                time += length
        yield time, notes, chords


def _harmony(element: ElementTree.Element, time: Fraction) -> _Harmony | None:
    def pitch_class(which: str) -> int | None:
        step = element.findtext(f"{which}/{which}-step")
        alter = round(float(element.findtext(f"{which}/{which}-alter", "0")))
        return None if step is None else (_LETTERS[step] + alter) % 12

    root, quality = pitch_class("root"), _KINDS.get(element.findtext("kind") or "major")
    if root is None or quality is None:
        return None
    bass = pitch_class("bass")
    above = 0 if bass is None else (bass - root) % 12
    return _Harmony(time, root, quality, above if above in QUALITIES[quality] else 0)


def _melody(notes: Sequence[_Pitched], pickup: Fraction) -> list[ScoreNote]:
    """Notes on the grid, tied ones joined, one at a time."""
    melody: list[ScoreNote] = []
    for start, end, pitch, is_tied in notes:
        first, last = round(start - pickup), round(end - pickup)
        if is_tied and melody and melody[-1].pitch == pitch and melody[-1].end >= first:
            melody[-1] = melody[-1]._replace(end=last)
        elif last > first and (not melody or first >= melody[-1].end):
            melody.append(ScoreNote(first, last, pitch))
    return melody
