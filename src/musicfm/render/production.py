"""How a song is recorded: tuning, room, equalizer, noise, level and codec."""

from dataclasses import replace
from typing import Literal

from musicfm.render.dice import Dice
from musicfm.render.song import Production, Version

_BANDS = (90, 250, 700, 2000, 5000, 9000)  # Hz


def choose_production(dice: Dice, *, degraded: bool, version: Version) -> Production:
    """Draws a production; a degraded one is out of tune, noisy, boomy and badly compressed."""
    drawn = _degraded(dice) if degraded else _ordinary(dice)
    return drawn if version == 1 else _mastered(dice.child("mastering"), drawn, degraded)


def _mastered(dice: Dice, drawn: Production, degraded: bool) -> Production:
    """Most songs are compressed and limited, as records are; some were badly transmitted."""
    codec: Literal["none", "mp3", "ogg"] = dice.weighted({"none": 7.0, "mp3": 1.0, "ogg": 2.0})
    if not degraded:
        kbps = 0 if codec == "none" else dice.choice([64, 96, 128, 192])
        drawn = replace(drawn, codec=codec, codec_kbps=kbps)
    production = replace(
        drawn,
        brickwall=True,
        noise_db=drawn.noise_db if degraded else round(dice.uniform(-90, -50), 2),
    )
    if not degraded:
        cents = dice.weighted({8.0: 6.0, 30.0: 3.0, 50.0: 1.0})
        production = replace(production, cents=round(dice.triangular(cents), 2))
    if dice.chance(0.7):
        production = replace(
            production,
            compression_db=round(dice.uniform(2, 14), 2),
            level_db=round(dice.uniform(-17, -8), 2),
        )
    if dice.chance(0.45):
        production = replace(production, saturation_db=round(dice.uniform(0, 15), 2))
    if dice.chance(0.5 if degraded else 0.06):
        low, high = dice.uniform(60, 350), dice.uniform(2_500, 7_000)
        production = replace(production, band=(round(low, 1), round(high, 1)))
    if dice.chance(0.3 if degraded else 0.03):
        production = replace(production, hum_db=round(dice.uniform(-60, -38), 2))
    return production


def _ordinary(dice: Dice) -> Production:
    codec: Literal["none", "mp3", "ogg"] = dice.weighted({"none": 5.0, "mp3": 3.5, "ogg": 1.5})
    return Production(
        cents=round(dice.uniform(-30, 30), 2),
        equalizer=_equalizer(dice, dice.integer(1, 4), 5.0),
        reverb_seconds=round(dice.uniform(0.3, 2.2), 2),
        noise_db=round(dice.uniform(-75, -45), 2),
        noise_slope_db=round(dice.uniform(-6, 0), 2),
        width=round(dice.uniform(0.2, 1.0), 2),
        level_db=round(dice.uniform(-26, -12), 2),
        codec=codec,
        codec_kbps=0 if codec == "none" else dice.choice([64, 96, 128, 192]),
        seed=dice.integer(0, 2**31 - 1),
    )


def _degraded(dice: Dice) -> Production:
    sharp = dice.choice([-1, 1])
    return Production(
        cents=round(sharp * dice.uniform(20, 50), 2),
        equalizer=_equalizer(dice, dice.integer(3, 6), 12.0),
        reverb_seconds=round(dice.uniform(1.5, 3.5), 2),
        noise_db=round(dice.uniform(-45, -32), 2),
        noise_slope_db=round(dice.uniform(-6, 0), 2),
        width=round(dice.uniform(0.0, 0.5), 2),
        level_db=round(dice.uniform(-30, -8), 2),
        codec="mp3",
        codec_kbps=dice.choice([32, 40, 48]),
        seed=dice.integer(0, 2**31 - 1),
    )


def _equalizer(dice: Dice, count: int, most_db: float) -> tuple[tuple[float, float], ...]:
    bands = sorted(dice.shuffled(_BANDS)[:count])
    return tuple(
        (round(band * dice.uniform(0.75, 1.3), 1), round(dice.uniform(-most_db, most_db), 2))
        for band in bands
    )
