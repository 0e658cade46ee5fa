"""The form of a song: which sections follow one another, of which phrases, and in which keys.

Sections of the same material have the same harmony and, but for variations, the same melody.
"""

from dataclasses import dataclass, replace

from musicfm.render.dice import Dice
from musicfm.render.lead_sheets import LeadSheet
from musicfm.render.splits import is_reserved
from musicfm.render.theory import Tonality

MIN_SECONDS, MAX_SECONDS = 60.0, 150.0
"""Length of the music, at its nominal tempo and without silences."""

# What may follow what, and how likely.
_NEXT: dict[str, dict[str, float]] = {
    "start": {"verse": 6, "chorus": 2, "inst": 0.5},
    "verse": {"chorus": 6, "verse": 1.5, "inst": 1, "bridge": 0.8},
    "chorus": {"verse": 4, "bridge": 2, "inst": 1.6, "chorus": 1},
    "bridge": {"chorus": 4, "verse": 2, "inst": 0.6},
    "inst": {"verse": 3, "chorus": 3, "bridge": 0.6},
}
_PHRASE_BARS: dict[int, float] = {2: 0.6, 3: 1.2, 4: 5, 5: 1.2, 6: 1.3, 7: 0.5, 8: 1.6}
_PHRASE_ORDERS: dict[int, tuple[str, ...]] = {
    1: ("a",),
    2: ("ab", "ab", "aa"),
    3: ("aab", "aba", "abc"),
    4: ("abab", "aaba", "abac", "aabb"),
}
_SECONDS: dict[str, tuple[float, float]] = {
    "intro": (4, 13),
    "verse": (10, 26),
    "chorus": (9, 24),
    "bridge": (7, 17),
    "inst": (7, 18),
    "outro": (5, 13),
}


@dataclass(frozen=True, slots=True)
class Phrase:
    """A phrase as it occurs, whole or cut short."""

    letter: str
    """Name of the phrase within its material."""
    bars: int


@dataclass(frozen=True, slots=True)
class Section:
    """A section as it occurs."""

    label: str
    material: str
    """Name of the harmony, which the first section of that material defines."""
    phrases: tuple[Phrase, ...]
    key: Tonality
    first_bar: int = 0
    occurrence: int = 0
    """Number of sections of this label before it."""
    drums_only: bool = False
    silence_before: float = 0.0

    @property
    def bars(self) -> int:
        """How many."""
        return sum(phrase.bars for phrase in self.phrases)


def plan_form(
    dice: Dice, key: Tonality, bar_seconds: float, reserved: bool, drums: bool
) -> tuple[Section, ...]:
    """Draws a form that lasts as long as a song should.

    Args:
        dice: of the form.
        key: of the song.
        bar_seconds: a bar at the nominal tempo.
        reserved: whether the order of sections is one of those reserved for held-out songs.
        drums: whether there may be passages of drums only.
    """
    while True:
        labels = _labels(dice, dice.integer(4, 8))
        if is_reserved("form", labels) != reserved:
            continue
        sections = _sections(dice, labels, key, bar_seconds, drums)
        if MIN_SECONDS <= _total(sections) * bar_seconds <= MAX_SECONDS:
            return _with_silences(dice, _with_modulation(dice, sections))


def sections_of(sheet: LeadSheet, key: Tonality) -> tuple[Section, ...]:
    """The sections of a lead sheet; eight bars each where they are not known."""
    lengths = sheet.sections
    if not lengths:
        whole, rest = divmod(sheet.num_bars, 8)
        lengths = tuple(("A", 8) for _ in range(whole)) + ((("A", rest),) if rest else ())
    sections: list[Section] = []
    for label, bars in lengths:
        occurrence = sum(section.label == label for section in sections)
        phrases = (Phrase("a", bars),)
        sections.append(Section(label, label, phrases, key, _total(sections), occurrence))
    return tuple(sections)


def _labels(dice: Dice, length: int) -> list[str]:
    """An order of sections in which something comes back."""
    while True:
        labels = ["start"]
        while len(labels) <= length:
            labels.append(dice.weighted(_NEXT[labels[-1]]))
        body = labels[1:]
        if body[-1] in ("verse", "chorus") and max(body.count("verse"), body.count("chorus")) > 1:
            intro = ["intro"] if dice.chance(0.8) else []
            outro = ["outro"] if dice.chance(0.7) else []
            return [*intro, *body, *outro]


def _sections(
    dice: Dice, labels: list[str], key: Tonality, bar_seconds: float, drums: bool
) -> list[Section]:
    phrases = {
        label: _phrases(dice, dice.uniform(*seconds) / bar_seconds)
        for label, seconds in _SECONDS.items()
    }
    borrowed = {
        label: dice.choice(["verse", "chorus", label]) for label in ("intro", "inst", "outro")
    }
    drum_intro = drums and dice.chance(0.15)
    drum_break = drums and dice.chance(0.5)
    sections: list[Section] = []
    for label in labels:
        material = borrowed.get(label, label)
        if material not in labels:
            material = label
        own = phrases[material]
        if material != label:
            own = own[: 1 + (label == "inst" and len(own) > 2)]
        occurrence = sum(section.label == label for section in sections)
        if occurrence:
            own = _varied(dice, own)
        only = (label == "intro" and drum_intro) or (
            label == "inst" and drum_break and dice.chance(0.5)
        )
        if only:
            own = (Phrase("a", max(2, min(4, round(5 / bar_seconds)))),)
        sections.append(
            Section(label, material, own, key, _total(sections), occurrence, drums_only=only)
        )
    return sections


def _phrases(dice: Dice, bars: float) -> tuple[Phrase, ...]:
    """Phrases of about as many bars altogether."""
    length = dice.weighted({n: w for n, w in _PHRASE_BARS.items() if n <= max(2.0, bars * 1.2)})
    order = dice.choice(_PHRASE_ORDERS[max(1, min(4, round(bars / length)))])
    odd = dice.choice([1, 2, -1]) if length > 2 and dice.chance(0.15) else 0
    return tuple(Phrase(letter, length + odd * (letter == "b")) for letter in order)


def _varied(dice: Dice, phrases: tuple[Phrase, ...]) -> tuple[Phrase, ...]:
    """Mostly the same again; sometimes cut short, or prolonged."""
    match dice.weighted({"same": 7, "short": 1, "tag": 1.2, "again": 0.8}):
        case "short" if len(phrases) > 1:
            return phrases[:-1]
        case "tag":
            return (*phrases, Phrase(phrases[-1].letter, dice.integer(1, 2)))
        case "again" if len(phrases) < 4:
            return (*phrases, phrases[-1])
    return phrases


def _with_modulation(dice: Dice, sections: list[Section]) -> list[Section]:
    """Some songs have a section in another key, of less than a fifth of the song."""
    if not dice.chance(0.3):
        return sections
    longest = 0.14 * _total(sections)
    last = max(i for i, section in enumerate(sections) if section.label in ("verse", "chorus"))
    candidates = [
        i
        for i, section in enumerate(sections)
        if i > 0
        and section.bars <= longest
        and not section.drums_only
        and (i == last or section.material in ("bridge", "inst"))
        and sum(other.material == section.material for other in sections) * (i != last) < 2
    ]
    if not candidates:
        return sections
    chosen = dice.choice(candidates)
    section = sections[chosen]
    return [
        *sections[:chosen],
        replace(section, key=_other_key(dice, section, lift=chosen == last)),
        *sections[chosen + 1 :],
    ]


def _other_key(dice: Dice, section: Section, lift: bool) -> Tonality:
    """Upwards for a last refrain, else a related key; its material is then its own."""
    key = section.key
    if lift:
        return Tonality((key.tonic + dice.choice([1, 2, 2, 3])) % 12, key.mode)
    related = [Tonality((key.tonic + shift) % 12, key.mode) for shift in (5, 7, 2, 10)]
    if key.mode == "major":
        related += [Tonality((key.tonic + 9) % 12, "minor")] * 3
    elif key.mode == "minor":
        related += [Tonality((key.tonic + 3) % 12, "major")] * 3
    return dice.choice(related)


def _with_silences(dice: Dice, sections: list[Section]) -> tuple[Section, ...]:
    """Some songs stop in the middle and go on."""
    if dice.chance(0.15) and len(sections) > 3:
        i = dice.integer(2, len(sections) - 1)
        sections[i] = replace(sections[i], silence_before=dice.uniform(1.2, 3.0))
    return tuple(sections)


def _total(sections: list[Section]) -> int:
    return sum(section.bars for section in sections)
