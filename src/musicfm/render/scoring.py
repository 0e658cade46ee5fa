"""Writing all notes of a planned song: its harmony first, then every role over it."""

from collections.abc import Iterable
from dataclasses import replace

from musicfm.render.accompaniment import (
    bass_pattern,
    comping_pattern,
    write_arpeggio,
    write_bass,
    write_chords,
    write_pad,
)
from musicfm.render.arrangement import ROLES, Scene
from musicfm.render.drums import KICK, crash, drum_pattern, with_fill, write_drums
from musicfm.render.form import Section
from musicfm.render.harmony import PhraseChord, write_phrase
from musicfm.render.lead_sheets import LeadSheet
from musicfm.render.melody import Melodist, MelodyStyle, vary
from musicfm.render.plan import Plan
from musicfm.render.score import ChordSpan, ScoreNote, nearest
from musicfm.render.theory import QUALITIES, Chord

Score = dict[str, list[ScoreNote]]
"""The notes of each role, in steps of the song."""

_SHORTEST_CHORD = 3  # steps that are left of a phrase when it is cut short


def write_harmony(plan: Plan, phrases: "Phrases") -> list[list[ChordSpan]]:
    """The chords of each section, in steps of the song; the last list is the final chord's."""
    if plan.sheet is not None:
        return _sheet_harmony(plan, plan.sheet)
    starts: list[tuple[int, Chord | None, int]] = []
    for i, section in enumerate(plan.sections):
        step = section.first_bar * plan.grid.steps_per_bar
        if section.drums_only:
            starts.append((step, None, i))
            continue
        fresh = i == 0 or section.silence_before > 0
        for phrase in section.phrases:
            end = step + phrase.bars * plan.grid.steps_per_bar
            for slot in phrases.slots(section, phrase.letter):
                # Nothing comes before the beat where there is nothing before.
                start = step + (max(slot.start, 0) if fresh else slot.start)
                if start <= end - _SHORTEST_CHORD:
                    starts.append((start, slot.chord(section.key), i))
                fresh = False
            step = end
    last = plan.num_bars * plan.grid.steps_per_bar
    if plan.final_chord:
        starts.append((last, _final_chord(plan), len(plan.sections)))
        last += plan.grid.steps_per_bar
    chords: list[list[ChordSpan]] = [[] for _ in range(len(plan.sections) + 1)]
    ends = [*(start for start, _, _ in starts[1:]), last]
    longest = 2 * plan.grid.steps_per_bar
    previous, since = None, 0
    for (start, chord, i), end in zip(starts, ends, strict=True):
        if chord != previous:
            previous, since = chord, start
        elif chord is not None and end - since > longest:
            # The same chord upon another of its notes.
            bass = 0 if chord.bass else QUALITIES[chord.quality][1]
            previous, since = replace(chord, bass=bass), start
        if previous is not None and end > start:
            chords[i].append(ChordSpan(start, end, previous))
    return chords


def _sheet_harmony(plan: Plan, sheet: LeadSheet) -> list[list[ChordSpan]]:
    chords: list[list[ChordSpan]] = []
    for section in plan.sections:
        first = section.first_bar * plan.grid.steps_per_bar
        last = first + section.bars * plan.grid.steps_per_bar
        chords.append(
            [
                ChordSpan(
                    max(start, first),
                    min(end, last),
                    Chord(plan.key, (root - sheet.tonic) % 12, quality, bass),
                )
                for start, end, root, quality, bass in sheet.chords
                if start < last and end > first
            ]
        )
    return [*chords, []]


def _final_chord(plan: Plan) -> Chord:
    """Mostly the tonic, sometimes another: the end alone does not tell the key."""
    key = plan.sections[-1].key
    dice = plan.dice.child("final chord")
    third = "min" if key.is_minor else "maj"
    return Chord(key, dice.weighted({0: 7.0, 5: 2.0, 7: 1.0}), third)


class Phrases:
    """The progressions of a song, each written once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._bars: dict[tuple[str, str], int] = {}
        self._order: dict[str, list[str]] = {}
        for section in plan.sections:
            for phrase in section.phrases:
                name = section.material, phrase.letter
                self._bars[name] = max(self._bars.get(name, 0), phrase.bars)
                letters = self._order.setdefault(section.material, [])
                if phrase.letter not in letters:
                    letters.append(phrase.letter)
        self._slots: dict[tuple[str, str, str], tuple[PhraseChord, ...]] = {}
        self._pushing = plan.dice.child("pushing").chance(plan.style.pushes)

    def bars(self, section: Section, letter: str) -> int:
        """How long a phrase is where it is not cut short."""
        return self._bars[section.material, letter]

    def slots(self, section: Section, letter: str) -> tuple[PhraseChord, ...]:
        """The chords of a phrase."""
        name = section.material, letter, section.key.mode
        if name not in self._slots:
            plan = self._plan
            dice = plan.dice.child("harmony", *name)
            # One phrase surely ends with a cadence: mostly the last of the material.
            letters = self._order[section.material]
            early = plan.dice.child("closing", section.material).chance(0.3)
            closing = letter == letters[0 if early else -1]
            self._slots[name] = write_phrase(
                dice.child("chords"),
                section.key.mode,
                plan.metre,
                plan.style,
                self.bars(section, letter),
                plan.grid.step_seconds * plan.grid.steps_per_bar,
                closed=closing or dice.chance(0.25),
                pushing=self._pushing,
                reserved=plan.reserved,
            )
        return self._slots[name]


def write_score(plan: Plan, phrases: "Phrases", chords: list[list[ChordSpan]]) -> Score:
    """All notes of all roles."""
    score: Score = {role: [] for role in ROLES if role in plan.roles}
    melodies = _Melodies(plan, phrases)
    for section, scene, spans in zip(plan.sections, plan.scenes, chords[:-1], strict=True):
        _write_accompaniment(plan, section, scene, spans, score)
        if "drums" in scene.roles:
            score["drums"] += _write_drums(plan, section, scene)
        for role in sorted(scene.roles & {"lead", "solo"}):
            if plan.sheet is None:
                score[role] += melodies.write(role, section, spans)
    if plan.sheet is not None:
        # To the nearest octave; the instrument's range may ask for another.
        shift = (plan.key.tonic - plan.sheet.tonic + 5) % 12 - 5
        score["lead"] = [note._replace(pitch=note.pitch + shift) for note in plan.sheet.melody]
    if plan.final_chord:
        _write_final_chord(plan, chords[-1][0], score)
    return score


def _write_accompaniment(
    plan: Plan, section: Section, scene: Scene, spans: list[ChordSpan], score: Score
) -> None:
    if not spans:
        return
    grid, style = plan.grid, plan.style
    dice = plan.dice.child("accompaniment", section.material)
    song = plan.dice.child("accompaniment")
    bass = "bass" in scene.roles
    kind = plan.comping if dice.chance(0.8) else dice.weighted(style.comping)
    if not scene.roles & {"drums", "arpeggio"} and kind in ("held", "stabs", "offbeat"):
        kind = "broken"  # or nothing would tell the beat
    elif kind == "boom-chick" and not bass:
        kind = "strummed"  # it would lack its boom
    if plan.power:
        kind = "power"
    pattern = comping_pattern(dice, kind, grid)
    centre = song.integer(58, 64)
    if "chords" in scene.roles:
        score["chords"] += write_chords(kind, pattern, spans, grid, centre=centre, bass=bass)
    if "pad" in scene.roles:
        score["pad"] += write_pad(spans, song.integer(60, 68))
    if "arpeggio" in scene.roles:
        score["arpeggio"] += write_arpeggio(
            dice.child("arpeggio"), spans, grid, centre=song.integer(66, 74)
        )
    if bass:
        line = "walking" if plan.walking else dice.child("bassline").weighted(style.bass)
        if kind == "boom-chick" and line == "held":
            line = "root-fifth"  # the chords are silent where the bass should play
        hits = bass_pattern(dice.child("bass"), line, grid)
        notes = dice.child("bass notes", section.occurrence)
        floor = song.integer(28, 31)
        score["bass"] += write_bass(notes, line, hits, spans, grid, floor)


def _write_drums(plan: Plan, section: Section, scene: Scene) -> list[ScoreNote]:
    grid = plan.grid
    song = plan.dice.child("drums")
    syncopated, percussion, same = song.chance(0.35), song.chance(0.3), song.chance(0.4)
    dice = song.child("pattern" if same or not scene.fill else section.material)
    pattern = drum_pattern(dice, plan.groove, grid, syncopated=syncopated, percussion=percussion)
    first, length = section.first_bar * grid.steps_per_bar, section.bars * grid.steps_per_bar
    notes = write_drums(pattern, section.bars, grid)
    if scene.fill:
        notes = with_fill(song.child("fill", section.first_bar), notes, length, grid)
    if scene.crash:
        notes = [crash(0), *notes]
    return _moved(notes, first)


class _Melodies:
    """The melodies of a song, each phrase written once."""

    def __init__(self, plan: Plan, phrases: Phrases) -> None:
        self._plan = plan
        self._phrases = phrases
        self._melodists: dict[tuple[str, str], Melodist] = {}
        self._written: dict[tuple[str, str, str, str], tuple[int, list[ScoreNote]]] = {}

    def write(self, role: str, section: Section, spans: list[ChordSpan]) -> list[ScoreNote]:
        """The melody of a section, in steps of the song."""
        plan = self._plan
        steps = plan.grid.steps_per_bar
        start = section.first_bar * steps
        notes: list[ScoreNote] = []
        for phrase in section.phrases:
            length = phrase.bars * steps
            melody = [
                note._replace(end=min(note.end, length))
                for note in self._phrase(role, section, phrase.letter)
                if note.start < length
            ]
            pickup_beats = 2
            if start == 0:
                pickup_beats = plan.pickup_beats
            elif section.silence_before and start == section.first_bar * steps:
                pickup_beats = 0
            earliest = -pickup_beats * plan.grid.steps_per_beat
            notes += _moved([note for note in melody if note.start >= earliest], start)
            start += length
        dice = plan.dice.child("variation", role, section.first_bar)
        if section.occurrence and dice.chance(0.6):
            notes = vary(dice, notes, spans)
        return _one_at_a_time(notes)

    def _phrase(self, role: str, section: Section, letter: str) -> list[ScoreNote]:
        key = section.key
        name = role, section.material, letter, key.mode
        if name not in self._written:
            plan, bars = self._plan, self._phrases.bars(section, letter)
            slots = self._phrases.slots(section, letter)
            ends = [*(slot.start for slot in slots[1:]), bars * plan.grid.steps_per_bar]
            spans = [
                ChordSpan(slot.start, end, slot.chord(key))
                for slot, end in zip(slots, ends, strict=True)
            ]
            melodist = self._melodist(role, section.material)
            self._written[name] = key.tonic, melodist.phrase(letter, spans, bars)
        tonic, notes = self._written[name]
        shift = (key.tonic - tonic + 5) % 12 - 5
        return [note._replace(pitch=note.pitch + shift) for note in notes] if shift else notes

    def _melodist(self, role: str, material: str) -> Melodist:
        if (role, material) not in self._melodists:
            plan = self._plan
            dice = plan.dice.child("melody", role, material)
            density = dice.uniform(*plan.style.density) + (0.12 if role == "solo" else 0.0)
            higher = dice.integer(0, 5) if material == "chorus" else 0
            centre = plan.dice.child("melody", role).integer(68, 74) + higher
            grid = plan.grid
            style = MelodyStyle(
                density, centre, grid.steps_per_bar, grid.steps_per_beat, grid.step_seconds
            )
            self._melodists[role, material] = Melodist(dice, style)
        return self._melodists[role, material]


def _one_at_a_time(notes: list[ScoreNote]) -> list[ScoreNote]:
    """Ends each note of a melody where the next begins, as at a pickup."""
    notes = sorted(notes)
    following = [*(note.start for note in notes[1:]), 1 << 30]
    return [
        note._replace(end=min(note.end, start))
        for note, start in zip(notes, following, strict=True)
        if start > note.start
    ]


def _write_final_chord(plan: Plan, span: ChordSpan, score: Score) -> None:
    """Everybody who played last holds the chord."""
    scene = plan.scenes[-1]
    bass = "bass" in scene.roles
    for role in sorted(scene.roles & score.keys()):
        match role:
            case "drums":
                score[role] += [crash(span.start), ScoreNote(span.start, span.start + 1, KICK)]
            case "bass":
                score[role] += write_bass(plan.dice, "held", [], [span], plan.grid, 28)
            case "chords":
                score[role] += write_chords("held", [], [span], plan.grid, centre=62, bass=bass)
            case "pad" | "arpeggio":
                score[role] += write_pad([span], 66)
            case _:
                pitch = nearest(span.chord.pitch_classes, 70)
                score[role].append(ScoreNote(span.start, span.end, pitch))


def _moved(notes: Iterable[ScoreNote], steps: int) -> list[ScoreNote]:
    return [
        ScoreNote(start + steps, end + steps, pitch, accent) for start, end, pitch, accent in notes
    ]
