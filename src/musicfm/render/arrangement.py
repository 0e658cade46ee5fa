"""Who plays, where, how loud, and on which instruments."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from musicfm.render.dice import Dice
from musicfm.render.form import Section
from musicfm.render.instruments import FAMILIES, KITS, programs_of
from musicfm.render.styles import Style

PITCHED_ROLES = ("bass", "chords", "pad", "arpeggio", "lead", "solo")
ROLES = ("drums", *PITCHED_ROLES)

# Probability that a role plays in a section, in songs whose arrangement changes with the section.
_PRESENCE: dict[str, dict[str, float]] = {
    "drums": {"intro": 0.5, "verse": 0.88, "chorus": 1, "bridge": 0.7, "inst": 0.95, "outro": 0.7},
    "bass": {"intro": 0.5, "verse": 0.92, "chorus": 1, "bridge": 0.8, "inst": 0.95, "outro": 0.8},
    "pad": {"intro": 0.4, "verse": 0.4, "chorus": 0.9, "bridge": 0.6, "inst": 0.5, "outro": 0.6},
    "arpeggio": {"intro": 0.6, "verse": 0.6, "chorus": 0.5, "bridge": 0.4, "inst": 0.4,
                 "outro": 0.5},
    "lead": {"intro": 0.15, "verse": 1, "chorus": 1, "bridge": 0.8, "inst": 0, "outro": 0.3},
    "solo": {"intro": 0.1, "verse": 0, "chorus": 0, "bridge": 0.1, "inst": 0.9, "outro": 0.1},
}  # fmt: skip
_ENERGY: dict[str, tuple[float, float]] = {
    "intro": (0.4, 0.7),
    "verse": (0.5, 0.75),
    "chorus": (0.7, 1.0),
    "bridge": (0.45, 0.85),
    "inst": (0.6, 0.95),
    "outro": (0.4, 0.7),
}
_GAINS: dict[str, float] = {
    "drums": 0, "bass": 1, "chords": -4, "pad": -7, "arpeggio": -4, "lead": 1, "solo": 1,
}  # fmt: skip
# Of the second version, whose parts are levelled: relative to the band, and by how much they vary.
_LEVELS: dict[str, tuple[float, float]] = {
    "drums": (1, 5), "bass": (-1, 4), "chords": (-4, 4), "pad": (-9, 4), "arpeggio": (-7, 4),
    "lead": (-2, 5), "solo": (-2, 5),
}  # fmt: skip
_LIKE = {"A": "verse", "B": "chorus"}  # how sections are arranged that have letters
_DISTORTED = "distorted guitar"
_CLEAN_GUITAR, _RESERVED_CLEAN_GUITAR = 27, 26  # which an amplifier distorts as well
_FALLBACK: dict[str, tuple[str, ...]] = {
    "bass": ("acoustic bass", "electric bass", "synth bass"),
    "arpeggio": ("acoustic guitar", "electric guitar", "piano", "mallets", "synth lead",
                 "plucked folk", "electric piano"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scene:
    """A section's players."""

    roles: frozenset[str]
    energy: float
    """From 0 to 1."""
    fill: bool
    """Whether drums announce the end of the section."""
    crash: bool
    """Whether a cymbal marks its beginning."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """What a role is played on."""

    family: str
    program: int
    gain_db: float
    pan: float
    reverb_db: float
    levelled: bool = False
    """As in a ``Part``, likewise ``drive_db``."""
    drive_db: float = 0.0


def choose_roles(dice: Dice, style: Style, drums: bool) -> frozenset[str]:
    """Who is in the band. The chords always are."""
    drumless_bass = 0.75 if not drums else 0.97
    wanted = {
        "drums": drums,
        "bass": dice.chance(drumless_bass),
        "chords": True,
        "pad": dice.chance(style.pad),
        "arpeggio": dice.chance(style.arpeggio),
        "lead": dice.chance(0.93),
        "solo": dice.chance(0.7),
    }
    return frozenset(role for role, present in wanted.items() if present)


def set_scenes(dice: Dice, roles: frozenset[str], sections: Sequence[Section]) -> tuple[Scene, ...]:
    """Who plays in each section.

    In three songs of ten nothing but melody and harmony tells one section from the next: the band,
    the loudness and the drums stay as they are.
    """
    plain = dice.chance(0.3)
    level = dice.uniform(0.55, 0.8)
    shifting = dice.chance(0.5)
    scenes = []
    for section in sections:
        own = dice.child(section.label, section.occurrence if shifting else 0)
        here = dice.child(section.first_bar)
        function = section.label
        if function not in _ENERGY:
            function = _LIKE.get(function, "bridge")
        if section.drums_only:
            scenes.append(Scene(frozenset({"drums"}), level, not plain and here.chance(0.5), False))
            continue
        if plain:
            silent = {"solo"} if section.label != "inst" else {"lead"} if "solo" in roles else set()
            silent |= {"lead", "solo"} if section.label in ("intro", "outro") else set()
            scenes.append(Scene(roles - silent, level, False, False))
            continue
        playing = {
            role
            for role in ROLES  # in that order, which a set of names has not
            if role in roles and (role == "chords" or own.chance(_PRESENCE[role][function]))
        }
        low, high = _ENERGY[function]
        fill, crash = here.chance(0.5), here.chance(0.5)
        scenes.append(Scene(frozenset(playing), own.uniform(low, high), fill, crash))
    return tuple(scenes)


def choose_instruments(
    dice: Dice, style: Style, roles: frozenset[str], take: int, reserved: bool
) -> dict[str, Instrument]:
    """The instruments of a take; those of later takes are not those of the first."""
    first = _cast(dice.child("take", 0), style, roles, reserved, {})
    return first if take == 0 else _cast(dice.child("take", take), style, roles, reserved, first)


def level_instruments(
    dice: Dice, style: Style, cast: dict[str, Instrument], reserved: bool, power: bool
) -> dict[str, Instrument]:
    """What the second version of the generator has besides: levels, and amplifiers.

    Args:
        dice: of the take.
        style: says how often instruments are overdriven, and whether one plays everything.
        cast: the instruments of the take.
        reserved: whether they are those of held-out songs.
        power: whether the chords are power chords, which a distorted guitar plays.
    """
    levelled: dict[str, Instrument] = {}
    for role, instrument in cast.items():
        own = dice.child(role)
        if power and role == "chords" and own.chance(0.9):
            program = programs_of(FAMILIES[_DISTORTED], reserved)[0]
            instrument = replace(instrument, family=_DISTORTED, program=program)
        elif style.alone and role != "drums":
            played = cast["chords"]
            instrument = replace(
                instrument, family=played.family, program=played.program, pan=played.pan
            )
        drive = 0.0
        if instrument.family == _DISTORTED:
            drive = own.uniform(6, 36)
            if own.chance(0.5):
                program = _RESERVED_CLEAN_GUITAR if reserved else _CLEAN_GUITAR
                instrument = replace(instrument, program=program)
                drive = own.uniform(20, 42)
        elif role != "drums" and own.chance(style.drive):
            drive = own.uniform(3, 18)
        middle, spread = _LEVELS[role]
        levelled[role] = replace(
            instrument,
            gain_db=round(middle + own.uniform(-spread, spread), 2),
            levelled=True,
            drive_db=round(drive, 2),
        )
    return levelled


def _cast(
    dice: Dice,
    style: Style,
    roles: frozenset[str],
    reserved: bool,
    unlike: dict[str, Instrument],
) -> dict[str, Instrument]:
    cast: dict[str, Instrument] = {}
    for role in (role for role in ROLES if role in roles):
        own = dice.child(role)
        without = unlike.get(role)
        if role == "drums":
            family, program = _kit(own, style, reserved, without)
        else:
            taken = {instrument.family for instrument in cast.values()}
            family, program = _instrument(own, style, role, reserved, without, taken)
        gain = _GAINS[role] + own.uniform(-3, 3)
        gain += KITS[family].gain_db if role == "drums" else FAMILIES[family].gain_db
        pan = own.triangular(0.2) if role in ("drums", "bass", "lead") else own.uniform(-0.7, 0.7)
        reverb = own.uniform(-30, -16) if role in ("drums", "bass") else own.uniform(-22, -6)
        cast[role] = Instrument(family, program, round(gain, 2), round(pan, 2), round(reverb, 2))
    return cast


def _kit(dice: Dice, style: Style, reserved: bool, unlike: Instrument | None) -> tuple[str, int]:
    weights = dict(style.kits)
    if unlike is not None:
        weights = {family: 1.0 for family in KITS if family != unlike.family}
    family = dice.weighted(weights)
    return family, dice.choice(programs_of(KITS[family], reserved))


def _instrument(
    dice: Dice,
    style: Style,
    role: str,
    reserved: bool,
    unlike: Instrument | None,
    taken: set[str],
) -> tuple[str, int]:
    weights = _weights(style, role)
    if unlike is not None:
        weights.pop(unlike.family, None)
        if not weights:
            weights = {family: 1.0 for family in _FALLBACK["bass"] if family != unlike.family}
    free = {family: weight for family, weight in weights.items() if family not in taken}
    family = dice.weighted(free or weights)
    return family, dice.choice(programs_of(FAMILIES[family], reserved))


def _weights(style: Style, role: str) -> dict[str, float]:
    by_role = {"bass": style.bass_on, "chords": style.chords_on, "pad": style.pad_on}
    if role == "arpeggio":
        return dict.fromkeys(_FALLBACK["arpeggio"], 1.0)
    return dict(by_role.get(role, style.lead_on))
