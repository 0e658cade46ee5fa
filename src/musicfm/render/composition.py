"""Composing: from a seed to a song, the same on any machine."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from musicfm.render.accompaniment import (
    Grid,
    bass_pattern,
    comping_pattern,
    write_arpeggio,
    write_bass,
    write_chords,
    write_pad,
)
from musicfm.render.arrangement import (
    ROLES,
    Instrument,
    Scene,
    choose_instruments,
    choose_roles,
    set_scenes,
)
from musicfm.render.clock import Clock, Feel
from musicfm.render.dice import Dice
from musicfm.render.drums import CRASH, KICK, crash, drum_pattern, with_fill, write_drums
from musicfm.render.form import Section, plan_form
from musicfm.render.harmony import Slot, write_phrase
from musicfm.render.instruments import FAMILIES
from musicfm.render.melody import Melodist, MelodyStyle, vary
from musicfm.render.production import choose_production
from musicfm.render.score import BASS_TOP, ChordSpan, ScoreNote, nearest
from musicfm.render.song import Beat, Labels, Note, Part, Song, Span
from musicfm.render.splits import split_of
from musicfm.render.styles import (
    STEPS_PER_BAR,
    STEPS_PER_BEAT,
    STYLES,
    Comping,
    Groove,
    Metre,
    Style,
    choose_metre_and_style,
    choose_tempo,
)
from musicfm.render.theory import MODES, Chord, Key

GENERATOR_VERSION = 1
"""Rises whenever any seed gives other notes, labels or productions than before."""

_SILENCE = 1.0  # seconds from which on a silence at either end is a segment of its own
_VELOCITIES: dict[str, float] = {
    "drums": 100, "bass": 98, "chords": 82, "pad": 70, "arpeggio": 76, "lead": 104, "solo": 104,
}  # fmt: skip
_GATES: dict[str, float] = {
    "drums": 1.0, "bass": 0.93, "chords": 0.95, "pad": 0.99, "arpeggio": 1.0, "lead": 0.93,
    "solo": 0.93,
}  # fmt: skip

Score = dict[str, list[ScoreNote]]
"""The notes of each role, in steps of the song."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided before any note is written."""

    seed: int
    reserved: bool
    """Whether it is made of the material kept for held-out songs."""
    metre: Metre
    style_name: str
    key: Key
    feel: Feel
    grid: Grid
    sections: tuple[Section, ...]
    roles: frozenset[str]
    scenes: tuple[Scene, ...]
    groove: Groove
    comping: Comping
    walking: bool
    final_chord: bool
    pickup_beats: int
    lead_in: float
    """Seconds before the music; likewise after it."""
    lead_out: float
    fade_out: bool

    @property
    def style(self) -> Style:
        """The style."""
        return STYLES[self.style_name]

    @property
    def dice(self) -> Dice:
        """The root of all that is drawn for the notes."""
        return Dice("song", self.seed)

    @property
    def num_bars(self) -> int:
        """Of all sections."""
        return self.sections[-1].first_bar + self.sections[-1].bars


def compose(seed: int, take: int = 0, max_seconds: float | None = None) -> Song:
    """Composes a song.

    Args:
        seed: from 0 to 1,399,999,999; see ``splits`` for which are for testing.
        take: the same composition for all: same bars, chords, melodies and labels but the tags,
            with other instruments, mix and production.
        max_seconds: return only the beginning of the song.

    Raises ConfigError if the seed is out of range.
    """
    plan = make_plan(seed)
    chords = write_harmony(plan)
    score = write_score(plan, chords)
    clock = _clock(plan)
    cast = choose_instruments(
        plan.dice.child("instruments"), plan.style, plan.roles, take, plan.reserved
    )
    dice = plan.dice.child("performance", take)
    parts = tuple(
        _perform(dice.child(role), plan, role, cast[role], score[role], clock)
        for role in ROLES
        if score.get(role)
    )
    labels, duration = _label(plan, chords, score, parts, cast, clock)
    degraded = split_of(seed) == "degraded"
    production = choose_production(dice.child("production"), degraded=degraded)
    song = Song(seed, take, duration, parts, production, labels)
    return song if max_seconds is None else beginning(song, max_seconds)


def key_of(seed: int) -> Key:
    """The key of a song: of any 24 songs in a row, no two have the same tonic and third."""
    order = Dice("keys", seed // 24).shuffled(range(24))
    tonic, is_minor = divmod(order[seed % 24], 2)
    modes = {"minor": 7.0, "dorian": 1.0} if is_minor else {"major": 7.0, "mixolydian": 1.0}
    return Key(tonic, Dice("mode", seed).weighted(modes))


def make_plan(seed: int) -> Plan:
    """Everything about a song that is decided before its notes."""
    dice = Dice("song", seed).child("plan")
    reserved = split_of(seed) == "heldout"
    metre, style_name = choose_metre_and_style(dice.child("style"))
    style = STYLES[style_name]
    feel = _feel(dice.child("feel"), style, metre, reserved)
    grid = Grid(
        STEPS_PER_BAR[metre],
        STEPS_PER_BEAT[metre],
        60 / feel.beats_per_minute / STEPS_PER_BEAT[metre],
    )
    drums = not dice.child("drums").chance(style.drumless)
    key = key_of(seed)
    bar_seconds = grid.step_seconds * grid.steps_per_bar
    sections = plan_form(dice.child("form"), key, bar_seconds, reserved, drums)
    roles = choose_roles(dice.child("roles"), style, drums)
    scenes = set_scenes(dice.child("scenes"), roles, sections)
    ends = dice.child("ends")
    lead_in = ends.uniform(0.05, 0.3) if ends.chance(0.4) else ends.uniform(0.3, 4.0)
    pickup = ends.integer(1, grid.steps_per_bar // grid.steps_per_beat - 1)
    has_melody = bool(scenes[0].roles & {"lead", "solo"})
    patterns = dice.child("patterns")
    bassline = patterns.weighted(style.bass)
    return Plan(
        seed=seed,
        reserved=reserved,
        metre=metre,
        style_name=style_name,
        key=key,
        feel=feel,
        grid=grid,
        sections=sections,
        roles=roles,
        scenes=scenes,
        groove=patterns.weighted(style.grooves),
        comping=patterns.weighted(style.comping),
        walking=bassline == "walking",
        final_chord=ends.chance(0.7),
        pickup_beats=pickup if has_melody and ends.chance(0.6) else 0,
        lead_in=round(lead_in, 3),
        lead_out=round(ends.uniform(0.3, 3.5), 3),
        fade_out=ends.chance(0.15),
    )


def _feel(dice: Dice, style: Style, metre: Metre, reserved: bool) -> Feel:
    machine = dice.chance(0.35)
    swings = metre != "6/8" and dice.chance(style.swing)
    return Feel(
        beats_per_minute=choose_tempo(dice, style, metre, reserved),
        drift=0.0 if machine else dice.uniform(0.005, 0.04),
        unevenness=0.0 if machine else dice.uniform(0.0, 0.012),
        swing=dice.uniform(0.56, 0.67) if swings else 0.5,
        swing_steps=0 if not swings else 4 if style.swings == "eighths" else 2,
        ritardando=dice.uniform(0.05, 0.25) if not machine and dice.chance(0.4) else 0.0,
    )


def write_harmony(plan: Plan) -> list[list[ChordSpan]]:
    """The chords of each section, in steps of the song; the last list is the final chord's."""
    phrases = _Phrases(plan)
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
                start = max(step + slot.start, 0) if not fresh else step + max(slot.start, 0)
                if start < end - 1:
                    starts.append((start, slot.chord(section.key), i))
                fresh = False
            step = end
    last = plan.num_bars * plan.grid.steps_per_bar
    if plan.final_chord:
        starts.append((last, _final_chord(plan), len(plan.sections)))
        last += plan.grid.steps_per_bar
    chords: list[list[ChordSpan]] = [[] for _ in range(len(plan.sections) + 1)]
    ends = [*(start for start, _, _ in starts[1:]), last]
    for (start, chord, i), end in zip(starts, ends, strict=True):
        if chord is not None and end > start:
            chords[i].append(ChordSpan(start, end, chord))
    return chords


def _final_chord(plan: Plan) -> Chord:
    """Mostly the tonic, sometimes another: the end alone does not tell the key."""
    key = plan.sections[-1].key
    dice = plan.dice.child("final chord")
    third = "min" if key.is_minor else "maj"
    if dice.chance(0.75):
        return Chord(key, 0, third)
    return Chord(key, *dice.choice([(5, third), (7, "min" if key.is_minor else "maj"), (5, third)]))


class _Phrases:
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
        self._slots: dict[tuple[str, str, str], tuple[Slot, ...]] = {}
        self._pushing = plan.dice.child("pushing").chance(plan.style.pushes)

    def bars(self, section: Section, letter: str) -> int:
        """How long a phrase is where it is not cut short."""
        return self._bars[section.material, letter]

    def slots(self, section: Section, letter: str) -> tuple[Slot, ...]:
        """The chords of a phrase."""
        name = section.material, letter, section.key.mode
        if name not in self._slots:
            plan = self._plan
            dice = plan.dice.child("harmony", *name)
            closing = letter == self._closing(section.material)
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

    def _closing(self, material: str) -> str:
        """The phrase of a material that surely ends with a cadence: mostly the last."""
        letters = self._order[material]
        early = self._plan.dice.child("closing", material).chance(0.3)
        return letters[0] if early else letters[-1]


def write_score(plan: Plan, chords: list[list[ChordSpan]]) -> Score:
    """All notes of all roles."""
    score: Score = {role: [] for role in ROLES if role in plan.roles}
    melodies = _Melodies(plan)
    for section, scene, spans in zip(plan.sections, plan.scenes, chords[:-1], strict=True):
        _write_accompaniment(plan, section, scene, spans, score)
        if "drums" in scene.roles:
            score["drums"] += _write_drums(plan, section, scene)
        for role in scene.roles & {"lead", "solo"}:
            score[role] += melodies.write(role, section, spans)
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
    pattern = comping_pattern(dice, kind, grid)
    centre = song.integer(58, 64)
    if "chords" in scene.roles:
        score["chords"] += write_chords(kind, pattern, spans, grid, centre=centre, bass=bass)
    if "pad" in scene.roles:
        score["pad"] += write_pad(spans, song.integer(60, 68), bass=True)
    if "arpeggio" in scene.roles:
        score["arpeggio"] += write_arpeggio(
            dice.child("arpeggio"), spans, grid, centre=song.integer(66, 74)
        )
    if bass:
        line = "walking" if plan.walking else dice.child("bassline").weighted(style.bass)
        hits = bass_pattern(dice.child("bass"), line, grid)
        notes = dice.child("bass notes", section.occurrence)
        floor = song.integer(28, 31)
        score["bass"] += write_bass(notes, line, hits, spans, grid, floor)


def _write_drums(plan: Plan, section: Section, scene: Scene) -> list[ScoreNote]:
    grid = plan.grid
    song = plan.dice.child("drums")
    syncopated, percussion, same = song.chance(0.35), song.chance(0.3), song.chance(0.4)
    dice = song.child("pattern" if same or not scene.fill else section.material)
    kit = drum_pattern(dice, plan.groove, grid, syncopated=syncopated, percussion=percussion)
    first, length = section.first_bar * grid.steps_per_bar, section.bars * grid.steps_per_bar
    notes = write_drums(kit, section.bars, grid)
    if scene.fill:
        notes = with_fill(song.child("fill", section.first_bar), notes, length, grid)
    if scene.crash:
        notes = [crash(0), *notes]
    return _moved(notes, first)


class _Melodies:
    """The melodies of a song, each phrase written once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._phrases = _Phrases(plan)
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
            pickup = -plan.pickup_beats * plan.grid.steps_per_beat if start == 0 else -steps
            if start == section.first_bar * steps and start and not section.silence_before:
                pickup = -plan.grid.steps_per_beat * 2
            elif section.silence_before and start == section.first_bar * steps:
                pickup = 0
            notes += _moved([note for note in melody if note.start >= pickup], start)
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
    for role in scene.roles & score.keys():
        match role:
            case "drums":
                score[role] += [crash(span.start), ScoreNote(span.start, span.start + 1, KICK)]
            case "bass":
                score[role] += write_bass(plan.dice, "held", [], [span], plan.grid, 28)
            case "chords":
                score[role] += write_chords("held", [], [span], plan.grid, centre=62, bass=bass)
            case "pad" | "arpeggio":
                score[role] += write_pad([span], 66, bass=True)
            case _:
                pitch = nearest(span.chord.pitch_classes, 70)
                score[role].append(ScoreNote(span.start, span.end, pitch))


def _moved(notes: Iterable[ScoreNote], steps: int) -> list[ScoreNote]:
    return [
        ScoreNote(start + steps, end + steps, pitch, accent)
        for start, end, pitch, accent in notes
    ]


def _clock(plan: Plan) -> Clock:
    grid = plan.grid
    pickup = plan.pickup_beats * grid.steps_per_beat * grid.step_seconds
    pauses = {
        section.first_bar: section.silence_before
        for section in plan.sections
        if section.silence_before
    }
    return Clock(
        plan.dice.child("clock"),
        plan.feel,
        grid.steps_per_bar,
        grid.steps_per_beat,
        plan.num_bars,
        plan.lead_in + 1.05 * pickup,
        pauses,
    )


def _perform(
    dice: Dice,
    plan: Plan,
    role: str,
    instrument: Instrument,
    notes: list[ScoreNote],
    clock: Clock,
) -> Part:
    """Plays a role: adds what no player can help, and fits it to the instrument."""
    loose = dice.uniform(0.001, 0.010)
    late = dice.bell(0.005)
    loudness = _loudness(plan, role)
    gate, drums = _GATES[role], role == "drums"
    shift = 0 if role in ("drums", "bass") else _octave(instrument.family, role, notes)
    steps_per_bar = plan.grid.steps_per_bar
    played = []
    for start, end, pitch, accent in notes:
        begin, finish = clock.start(start), clock.end(end)
        onset = max(0.02, begin + late + dice.bell(loose))
        release = onset + 0.12 if drums else max(onset + 0.05, onset + (finish - begin) * gate)
        level = loudness[max(0, start // steps_per_bar)] * accent + dice.bell(8.0)
        velocity = max(8, min(127, int(level)))
        played.append(Note(round(onset, 6), round(release, 6), pitch + shift, velocity))
    played.sort(key=lambda note: (note.start, note.pitch))
    return Part(
        role,
        instrument.program,
        drums,
        tuple(played),
        instrument.gain_db,
        instrument.pan,
        instrument.reverb_db,
    )


def _loudness(plan: Plan, role: str) -> list[float]:
    """Velocity of an unaccented note in each bar."""
    base = _VELOCITIES[role]
    levels = []
    for section, scene in zip(plan.sections, plan.scenes, strict=True):
        levels += [base * (0.62 + 0.45 * scene.energy)] * section.bars
    if plan.fade_out and not plan.final_chord:
        fading = min(8, len(levels))
        for i in range(fading):
            levels[-1 - i] *= 0.3 + 0.7 * i / fading
    return [*levels, levels[-1], levels[-1]]


def _octave(family: str, role: str, notes: list[ScoreNote]) -> int:
    """How far to move a part so that it lies within its instrument, in semitones."""
    lowest, highest = min(note.pitch for note in notes), max(note.pitch for note in notes)
    instrument = FAMILIES[family]
    if role not in ("lead", "solo", "arpeggio"):
        return 0
    shift = 0
    while highest + shift > instrument.high and lowest + shift - 12 > BASS_TOP + 2:
        shift -= 12
    while lowest + shift < instrument.low and highest + shift + 12 <= instrument.high:
        shift += 12
    return shift


def _label(
    plan: Plan,
    chords: list[list[ChordSpan]],
    score: Score,
    parts: Sequence[Part],
    cast: dict[str, Instrument],
    clock: Clock,
) -> tuple[Labels, float]:
    """The labels, and how long the song is."""
    steps_per_bar, steps_per_beat = plan.grid.steps_per_bar, plan.grid.steps_per_beat
    last_step = plan.num_bars * steps_per_bar
    music_end = clock.end(last_step + (steps_per_bar if plan.final_chord else 0))
    duration = round(music_end + plan.lead_out, 6)
    first_step = min(0, min(note.start for notes in score.values() for note in notes))
    first_step = first_step // steps_per_beat * steps_per_beat
    beat_steps = [*range(first_step, last_step, steps_per_beat)]
    if plan.final_chord:
        beat_steps.append(last_step)
    beats = tuple(
        Beat(round(clock.start(step), 6), step % steps_per_bar // steps_per_beat + 1)
        for step in beat_steps
    )
    chord_spans = [
        (clock.start(span.start), clock.end(span.end), span.chord.name)
        for spans in chords
        for span in spans
    ]
    segment_spans = _segment_spans(plan, clock, clock.start(first_step), music_end, duration)
    labels = Labels(
        beats=beats,
        chords=_filled(chord_spans, "N", duration),
        segments=_filled(segment_spans, "silence", duration, keep_boundaries=True),
        keys=_key_spans(plan, clock, duration),
        tags=_tags(plan, parts, cast, duration),
    )
    return labels, duration


def _segment_spans(
    plan: Plan, clock: Clock, music_start: float, music_end: float, duration: float
) -> list[tuple[float, float, str]]:
    """Sections in seconds; short silences at the ends belong to what is beside them."""
    steps = plan.grid.steps_per_bar
    spans = [
        (
            clock.start(section.first_bar * steps),
            clock.end((section.first_bar + section.bars) * steps),
            section.label,
        )
        for section in plan.sections
    ]
    first = music_start if music_start >= _SILENCE else 0.0
    last = music_end if duration - music_end >= _SILENCE else duration
    spans[0] = (first, *spans[0][1:])
    spans[-1] = (spans[-1][0], last, spans[-1][2])
    return spans


def _key_spans(plan: Plan, clock: Clock, duration: float) -> tuple[Span, ...]:
    steps = plan.grid.steps_per_bar
    starts = [
        (clock.start(section.first_bar * steps), section.key.name) for section in plan.sections
    ]
    starts[0] = (0.0, starts[0][1])
    ends = [*(start for start, _ in starts[1:]), duration]
    spans = [(start, end, name) for (start, name), end in zip(starts, ends, strict=True)]
    return _filled(spans, "N", duration)


def _filled(
    spans: list[tuple[float, float, str]],
    gap: str,
    duration: float,
    *,
    keep_boundaries: bool = False,
) -> tuple[Span, ...]:
    """Spans from 0 to the end, with gaps labelled, and neighbours of one value joined."""
    filled: list[Span] = []
    time = 0.0
    for start, end, value in [*spans, (duration, duration, gap)]:
        start, end = round(start, 6), round(end, 6)
        if start > time:
            filled.append(Span(time, start, gap))
        if end > start:
            if filled and filled[-1].value == value and not keep_boundaries:
                filled[-1] = Span(filled[-1].start, end, value)
            else:
                filled.append(Span(start, end, value))
        time = end
    return tuple(filled)


def _tags(
    plan: Plan, parts: Sequence[Part], cast: dict[str, Instrument], duration: float
) -> tuple[str, ...]:
    """What can be heard: a part counts if it sounds in at least an eighth of the song."""
    tags = {plan.style_name}
    for part in parts:
        if _covered(part.notes) < duration / 8:
            continue
        family = cast[part.role].family
        if part.is_drums:
            tags.add(f"{family} drums")
            if any(note.pitch in (54, 62, 64, 70, 75) for note in part.notes):
                tags.add("percussion")
        else:
            tags.add(FAMILIES[family].tag)
    if "drums" not in plan.roles:
        tags.add("no drums")
    elif plan.groove == "four-on-the-floor":
        tags.add("four on the floor")
    beats_per_minute = plan.feel.beats_per_minute * (1.5 if plan.metre == "6/8" else 1)
    if beats_per_minute < 80:
        tags.add("slow")
    elif beats_per_minute > 130:
        tags.add("fast")
    if plan.feel.swing_steps:
        tags.add("swing")
    if plan.metre == "3/4":
        tags.add("waltz")
    elif plan.metre == "6/8":
        tags.add("compound metre")
    return tuple(sorted(tags))


def _covered(notes: Sequence[Note]) -> float:
    """Seconds from each onset to the next, where there is one within two seconds."""
    total = 0.0
    for note, following in zip(notes, notes[1:], strict=False):
        gap = following.start - note.start
        total += min(gap, 2.0)
    return total


def beginning(song: Song, seconds: float) -> Song:
    """The first seconds of a song; notes and labels that go on are cut."""
    if seconds >= song.duration:
        return song
    parts = tuple(
        replace(
            part,
            notes=tuple(
                replace(note, end=min(note.end, seconds))
                for note in part.notes
                if note.start < seconds
            ),
        )
        for part in song.parts
    )
    labels = song.labels

    def cut(spans: tuple[Span, ...]) -> tuple[Span, ...]:
        return tuple(
            Span(span.start, min(span.end, seconds), span.value)
            for span in spans
            if span.start < seconds
        )

    return replace(
        song,
        duration=seconds,
        parts=tuple(part for part in parts if part.notes),
        labels=Labels(
            beats=tuple(beat for beat in labels.beats if beat.time < seconds),
            chords=cut(labels.chords),
            segments=cut(labels.segments),
            keys=cut(labels.keys),
            tags=labels.tags,
        ),
    )
