"""What is decided about a song before any note is written."""

from dataclasses import dataclass, replace

from musicfm.render import styles_v1
from musicfm.render.accompaniment import Grid
from musicfm.render.arrangement import Scene, choose_roles, set_scenes
from musicfm.render.clock import Feel
from musicfm.render.dice import Dice
from musicfm.render.form import MIN_SECONDS, Section, plan_form, sections_of
from musicfm.render.lead_sheets import LeadSheet
from musicfm.render.song import Version
from musicfm.render.splits import split_of
from musicfm.render.styles import (
    STEPS_PER_BAR,
    STEPS_PER_BEAT,
    STYLES,
    Comping,
    Groove,
    Metre,
    Style,
    choose_metre_style_and_tempo,
)
from musicfm.render.theory import Tonality


@dataclass(frozen=True, slots=True)
class Plan:
    """What is decided before any note is written."""

    version: Version
    seed: int
    reserved: bool
    """Whether it is made of the material kept for held-out songs."""
    metre: Metre
    style_name: str
    key: Tonality
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
    power: bool = False
    sheet: LeadSheet | None = None
    """The composition that is arranged, in its own key; None: the generator's own."""

    @property
    def style(self) -> Style:
        """The style."""
        return (styles_v1.STYLES if self.version == 1 else STYLES)[self.style_name]

    @property
    def dice(self) -> Dice:
        """The root of all that is drawn for the notes."""
        return _dice(self.seed, self.version)

    @property
    def num_bars(self) -> int:
        """Of all sections."""
        return self.sections[-1].first_bar + self.sections[-1].bars


def make_plan(seed: int, version: Version = 2, sheet: LeadSheet | None = None) -> Plan:
    """Everything about a song that is decided before its notes.

    Args:
        seed: of the song.
        version: of the generator.
        sheet: a composition to arrange.
    """
    dice = _dice(seed, version).child("plan")
    reserved = split_of(seed) == "heldout"
    tempo: float | None
    if version == 1:
        metre, style_name = styles_v1.choose_metre_and_style(dice.child("style"))
        style, tempo = styles_v1.STYLES[style_name], None
    else:
        metre, style_name, tempo = choose_metre_style_and_tempo(
            dice.child("style"), reserved, None if sheet is None else sheet.metre
        )
        style = STYLES[style_name]
    feel = _feel(dice.child("feel"), style, metre, tempo, reserved)
    per_beat = STEPS_PER_BEAT[metre]
    grid = Grid(STEPS_PER_BAR[metre], per_beat, 60 / feel.beats_per_minute / per_beat)
    drums = not dice.child("drums").chance(style.drumless)
    drums_alone = version > 1 and drums and dice.child("drums alone").chance(0.05)
    key = key_of(seed)
    bar_seconds = grid.step_seconds * grid.steps_per_bar
    if sheet is None:
        sections = plan_form(dice.child("form"), key, bar_seconds, reserved, drums)
    else:
        drums_alone = False
        key = replace(key, mode=sheet.mode)
        if not sheet.sections:  # a tune, which is played more than once
            sheet = sheet.repeated(max(1, round(MIN_SECONDS / (sheet.num_bars * bar_seconds))))
        sections = sections_of(sheet, key)
    if drums_alone:
        sections = tuple(replace(section, label="inst", drums_only=True) for section in sections)
    roles = frozenset({"drums"}) if drums_alone else choose_roles(dice.child("roles"), style, drums)
    if sheet is not None:
        roles = (roles | {"lead"}) - {"solo"}
    scenes = set_scenes(dice.child("scenes"), roles, sections)
    if sheet is not None:
        scenes = tuple(replace(scene, roles=scene.roles | {"lead"}) for scene in scenes)
    ends = dice.child("ends")
    lead_in = ends.uniform(0.05, 0.3) if ends.chance(0.4) else ends.uniform(0.3, 4.0)
    pickup = ends.integer(1, grid.steps_per_bar // grid.steps_per_beat - 1)
    has_melody = bool(scenes[0].roles & {"lead", "solo"})
    patterns = dice.child("patterns")
    bassline = patterns.weighted(style.bass)
    return Plan(
        version=version,
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
        final_chord=ends.chance(0.7) and not drums_alone and sheet is None,
        pickup_beats=(
            -(min(0, sheet.melody[0].start) // grid.steps_per_beat)
            if sheet is not None
            else pickup
            if has_melody and ends.chance(0.6)
            else 0
        ),
        lead_in=round(lead_in, 3),
        lead_out=round(ends.uniform(0.3, 3.5), 3),
        fade_out=ends.chance(0.15),
        power=dice.child("power").chance(style.power),
        sheet=sheet,
    )


def _dice(seed: int, version: Version) -> Dice:
    return Dice("song", seed) if version == 1 else Dice("song", version, seed)


def key_of(seed: int) -> Tonality:
    """The key of a song: of any 24 songs in a row, no two have the same tonic and third."""
    order = Dice("keys", seed // 24).shuffled(range(24))
    tonic, is_minor = divmod(order[seed % 24], 2)
    modes = {"minor": 7.0, "dorian": 1.0} if is_minor else {"major": 7.0, "mixolydian": 1.0}
    return Tonality(tonic, Dice("mode", seed).weighted(modes))


def _feel(dice: Dice, style: Style, metre: Metre, tempo: float | None, reserved: bool) -> Feel:
    """How a song is timed; without a tempo, at one that is drawn as the first version does."""
    machine = dice.chance(0.35)
    swings = metre != "6/8" and dice.chance(style.swing)
    if tempo is None:
        tempo = styles_v1.choose_tempo(dice, style, metre, reserved)
    return Feel(
        beats_per_minute=tempo,
        drift=0.0 if machine else dice.uniform(0.005, 0.04),
        tempo_jitter=0.0 if machine else dice.uniform(0.0, 0.012),
        swing=dice.uniform(0.56, 0.67) if swings else 0.5,
        swing_steps=0 if not swings else 4 if style.swings == "eighths" else 2,
        ritardando=dice.uniform(0.05, 0.25) if not machine and dice.chance(0.4) else 0.0,
    )
