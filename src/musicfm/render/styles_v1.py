"""The styles of the first version of the generator, as rendered-v1 has them."""

from dataclasses import replace
from typing import Any

from musicfm.render.dice import Dice
from musicfm.render.splits import is_reserved_tempo
from musicfm.render.styles import STYLES as STYLES_V2
from musicfm.render.styles import Metre, Style

METRE_WEIGHTS: dict[Metre, float] = {"4/4": 0.64, "3/4": 0.18, "6/8": 0.18}

_CHANGES: dict[str, dict[str, Any]] = {
    "pop": {
        "tempi": {"4/4": (84, 130), "3/4": (84, 130), "6/8": (48, 76)},
    },
    "rock": {
        "tempi": {"4/4": (92, 164), "3/4": (96, 160), "6/8": (48, 82)},
        "grooves": {"backbeat": 4, "half-time": 1},
        "power": 0.0,
        "drive": 0.0,
    },
    "ballad": {
        "tempi": {"4/4": (58, 84), "3/4": (64, 96), "6/8": (44, 60)},
    },
    "folk": {
        "tempi": {"4/4": (80, 130), "3/4": (92, 150), "6/8": (48, 84)},
    },
    "jazz": {
        "metres": {"4/4": 7, "3/4": 5, "6/8": 0},
        "tempi": {"4/4": (92, 200), "3/4": (100, 190), "6/8": (48, 84)},
    },
    "funk": {
        "metres": {"4/4": 8, "3/4": 0, "6/8": 0},
        "tempi": {"4/4": (86, 120), "3/4": (90, 120), "6/8": (48, 84)},
    },
    "electronic": {
        "tempi": {"4/4": (108, 146), "3/4": (108, 146), "6/8": (60, 84)},
    },
    "latin": {
        "metres": {"4/4": 8, "3/4": 0, "6/8": 4},
        "tempi": {"4/4": (88, 136), "3/4": (90, 120), "6/8": (56, 84)},
    },
    "classical": {
        "tempi": {"4/4": (60, 132), "3/4": (66, 150), "6/8": (44, 80)},
    },
    "ambient": {
        "tempi": {"4/4": (56, 96), "3/4": (60, 96), "6/8": (44, 62)},
    },
    "soul": {
        "tempi": {"4/4": (66, 112), "3/4": (72, 110), "6/8": (44, 68)},
    },
    "country": {
        "tempi": {"4/4": (90, 150), "3/4": (84, 144), "6/8": (48, 76)},
    },
    "reggae": {
        "metres": {"4/4": 8, "3/4": 0, "6/8": 0},
        "tempi": {"4/4": (66, 98), "3/4": (66, 98), "6/8": (48, 84)},
    },
}
"""Fields that differ from those of the later version."""

STYLES: dict[str, Style] = {
    name: replace(STYLES_V2[name], **changes) for name, changes in _CHANGES.items()
}


def choose_metre_and_style(dice: Dice) -> tuple[Metre, str]:
    """The metre first, so that its share does not depend on the styles'."""
    metre = dice.weighted(METRE_WEIGHTS)
    return metre, dice.weighted({name: style.metres[metre] for name, style in STYLES.items()})


def choose_tempo(dice: Dice, style: Style, metre: Metre, reserved: bool) -> float:
    """Beats per minute, within or outside the reserved bands."""
    while True:
        tempo = dice.uniform(*style.tempi[metre])
        if is_reserved_tempo(tempo) == reserved:
            return tempo
