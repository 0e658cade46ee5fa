"""Tempi of beats whose times are known."""

import itertools

import numpy as np
import pytest

from musicfm.analysis.tempo import main_tempo, tempi
from musicfm.datasets.annotations import Beats
from musicfm.tasks.base import Array

DURATION = 120.0
steady_tempi = pytest.mark.parametrize("bpm", [40.0, 61.3, 90.0, 124.0, 127.0, 130.0, 174.0, 240.0])


def beats(times: Array) -> Beats:
    return Beats(times, np.zeros(len(times), np.int64))


def steady(bpm: float) -> Array:
    """Beats of two minutes, rounded to 20 ms, as activations at 50 Hz give them."""
    return np.round(50 * np.arange(1.0, DURATION, 60.0 / bpm)) / 50


def only_tempo(times: Array) -> tuple[float, float]:
    (found,) = tempi(beats(times), DURATION)
    assert (found.start, found.end) == (0.0, DURATION)
    return found.bpm, found.steadiness


@steady_tempi
def test_a_steady_tempo_is_exact_although_beats_lie_on_a_grid(bpm: float) -> None:
    found, steadiness = only_tempo(steady(bpm))
    assert found == pytest.approx(bpm, rel=2e-4)
    assert steadiness == 1.0


@steady_tempi
@pytest.mark.parametrize("part", [0.05, 0.12])
def test_missing_and_doubled_beats_do_not_move_it(bpm: float, part: float) -> None:
    rng = np.random.default_rng(0)
    times = steady(bpm)
    found, steadiness = only_tempo(times[rng.random(len(times)) > part])
    assert found == pytest.approx(bpm, rel=1e-3)
    assert steadiness < 0.99
    between = (times[1:] + times[:-1])[rng.random(len(times) - 1) < part] / 2
    found, steadiness = only_tempo(np.sort(np.concatenate([times, between])))
    assert found == pytest.approx(bpm, rel=1e-3)
    assert steadiness < 0.99


@steady_tempi
def test_beats_found_late_and_a_pause_do_not_move_it(bpm: float) -> None:
    rng = np.random.default_rng(1)
    times = steady(bpm)
    late = times + np.where(rng.random(len(times)) < 0.1, 0.2 * 60.0 / bpm, 0.0)
    assert only_tempo(late)[0] == pytest.approx(bpm, rel=2e-3)
    # After the pause the beats do not go on where they would have been.
    paused = np.where(times > 60.0, times + 5.4 * 60.0 / bpm, times)
    found, _ = only_tempo(paused[paused < DURATION])
    assert found == pytest.approx(bpm, rel=2e-3)


def test_drift_is_averaged() -> None:
    lengths = 0.5 * np.linspace(1.0, 1.03, 230)
    found, steadiness = only_tempo(np.cumsum(lengths))
    assert found == pytest.approx(60.0 / lengths.mean(), rel=2e-3)
    assert steadiness == 1.0


def test_every_tempo_of_a_recording_is_told() -> None:
    lengths = np.repeat([0.5, 0.4, 0.6], [60, 80, 40])
    times = np.round(50 * np.concatenate([[0.0], lengths.cumsum()])) / 50
    found = tempi(beats(times), 87.0)
    assert [tempo.bpm for tempo in found] == pytest.approx([120.0, 150.0, 100.0], rel=2e-3)
    assert [tempo.start for tempo in found] == pytest.approx([0.0, 30.0, 62.0], abs=1.0)
    assert found[0].start == 0.0
    assert found[-1].end == 87.0
    assert all(a.end == b.start for a, b in itertools.pairwise(found))
    assert min(tempo.steadiness for tempo in found) > 0.9
    assert main_tempo(found) == pytest.approx((150.0, 1.0), rel=0.03)


def test_few_and_arbitrary_beats() -> None:
    assert main_tempo(tempi(beats(np.array([1.0])), 2.0)) is None
    assert main_tempo(tempi(beats(np.array([1.0, 1.5])), 2.0)) == pytest.approx((120.0, 1.0))
    gap = np.array([0.0, 0.5, 1.0, 1.5, 3.0, 3.5])
    assert main_tempo(tempi(beats(gap), 4.0)) == pytest.approx((120.0, 0.8))
    for seed in range(5):
        times = np.sort(np.random.default_rng(seed).uniform(0.0, 60.0, 100))
        found = tempi(beats(times), 60.0)
        assert all(np.isfinite([t.bpm, t.steadiness]).all() and t.bpm > 0 for t in found)
