from dataclasses import replace

import numpy as np
import pytest

from musicfm.render.clock import Clock, Feel
from musicfm.render.dice import Dice

EVEN = Feel(120.0, 0.0, 0.0, 0.5, 0, 0.0)


def clock(feel: Feel = EVEN, pauses: dict[int, float] | None = None, num_bars: int = 8) -> Clock:
    return Clock(Dice("clock"), feel, 16, 4, num_bars, start=3.0, pauses=pauses or {})


def test_even_time() -> None:
    times = [clock().start(step) for step in (-16, 0, 1, 4, 16, 8 * 16)]
    assert times == pytest.approx([1.0, 3.0, 3.125, 3.5, 5.0, 19.0])
    assert clock().end(16) == pytest.approx(clock().start(16))


@pytest.mark.parametrize(("steps", "late"), [(4, 2), (2, 1)])
def test_swing_delays_the_second_of_each_pair(steps: int, late: int) -> None:
    swung = clock(replace(EVEN, swing=2 / 3, swing_steps=steps))
    assert swung.start(4) == pytest.approx(3.5)
    pair = steps * 0.125
    assert swung.start(late) == pytest.approx(3.0 + pair * 2 / 3)
    assert swung.start(steps) == pytest.approx(3.0 + pair)


def test_a_pause_comes_before_its_bar() -> None:
    paused = clock(pauses={2: 1.5})
    assert paused.end(32) == pytest.approx(7.0)
    assert paused.start(32) == pytest.approx(8.5)
    assert paused.start(33) == pytest.approx(8.625)


def test_drift_is_bounded_and_wanders() -> None:
    feel = replace(EVEN, drift=0.04, tempo_jitter=0.01)
    drifting = clock(feel, num_bars=60)
    beats = np.diff([drifting.start(4 * beat) for beat in range(240)])
    assert 0.5 / 1.04 / 1.011 < beats.min() < 0.498
    assert 0.51 < beats.max() < 0.5 / 0.96 * 1.011
    means = beats[: 4 * 59].reshape(59, 4).mean(1)
    assert np.abs(np.diff(means)).max() < 0.02  # from bar to bar, the tempo hardly moves


def test_the_end_slows_down() -> None:
    slowing = clock(replace(EVEN, ritardando=0.2))
    assert slowing.start(6 * 16) == pytest.approx(15.0)
    assert slowing.start(8 * 16) - slowing.start(7 * 16) == pytest.approx(2.0 / 0.8)
