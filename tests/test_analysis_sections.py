"""Sections, by what a recording itself repeats."""

import numpy as np
import pytest

from musicfm.analysis import sections as module
from musicfm.analysis.sections import means, nodes, sections
from musicfm.datasets.annotations import Array
from musicfm.tasks.structure import FUNCTIONS

RATE, BEAT = 25.0, 0.5
NOT_KNOWN = np.zeros((1, 0))


def song(form: str, seconds: float = 25.0, seed: int = 0) -> tuple[Array, Array, float]:
    """Frames, beats and duration of a song whose parts sound as their letters do.

    A part is a phrase of eight beats, again and again, not quite the same.
    """
    rng = np.random.default_rng(seed)
    frames_of_beat = round(RATE * BEAT)
    phrases = {letter: 3.0 * rng.normal(size=16) + rng.normal(size=(8, 16)) for letter in form}
    beats = round(seconds / BEAT)
    parts = [phrases[letter][np.arange(beats) % 8] for letter in form]
    frames = np.repeat(np.concatenate(parts), frames_of_beat, axis=0)
    frames += 0.5 * rng.normal(size=frames.shape)
    duration = len(frames) / RATE
    return frames, np.arange(BEAT, duration, BEAT), duration


@pytest.mark.parametrize("form", ["ABA", "AB", "ABAB"])
def test_what_comes_back_has_its_letter_again(form: str) -> None:
    frames, beats, duration = song(form)
    found = sections(frames, NOT_KNOWN, NOT_KNOWN, beats, duration)
    assert found.labels == tuple(form)
    inner = np.arange(1, len(form)) * duration / len(form)
    assert found.intervals[:-1, 1] == pytest.approx(inner, abs=4 * BEAT)
    assert found.intervals[0, 0] == 0.0
    assert found.intervals[-1, 1] == duration
    assert found.confidences is not None
    assert ((found.confidences > 0.5) & (found.confidences <= 1.0)).all()


def test_beats_are_not_needed() -> None:
    frames, _, duration = song("ABA")
    found = sections(frames, NOT_KNOWN, NOT_KNOWN, np.empty(0), duration)
    assert found.labels == ("A", "B", "A")


def test_what_is_the_same_throughout_is_one_section() -> None:
    frames, beats, duration = song("A", 75.0)
    found = sections(frames, NOT_KNOWN, NOT_KNOWN, beats, duration)
    assert found.labels == ("A",)
    assert found.intervals.tolist() == [[0.0, duration]]


@pytest.mark.parametrize("count", [1, 2, 7, 30])
def test_a_short_recording_has_a_section(count: int) -> None:
    frames = np.random.default_rng(0).normal(size=(count, 4))
    found = sections(frames, NOT_KNOWN, NOT_KNOWN, np.empty(0), count / RATE)
    assert found.intervals[[0, -1], [0, 1]].tolist() == [0.0, count / RATE]
    assert found.confidences is not None
    assert np.isfinite(found.confidences).all()


def test_constant_frames_are_one_section() -> None:
    found = sections(np.ones((1000, 4)), NOT_KNOWN, NOT_KNOWN, np.empty(0), 40.0)
    assert found.labels == ("A",)


def test_a_letter_has_a_name_where_the_head_is_sure() -> None:
    frames, beats, duration = song("ABA")
    third = round(duration / 3 * 8)
    functions = np.zeros((3 * third, len(FUNCTIONS)))
    functions[third : 2 * third, FUNCTIONS.index("chorus")] = 1.0
    found = sections(frames, NOT_KNOWN, functions, beats, duration)
    assert found.labels == ("A", "B chorus", "A")


def test_nodes_are_beats_and_fewer_in_long_recordings() -> None:
    beats = np.arange(0.5, 9.9, 0.5)
    assert nodes(beats, 10.0).tolist() == [0.0, *beats, 10.0]
    hour = nodes(np.arange(0.5, 3600.0, 0.4), 3600.0)
    assert 300 < len(hour) <= module.MOST_UNITS + 2
    assert (np.diff(hour) > 0.0).all()


def test_means_lie_between_bounds() -> None:
    values = np.arange(10.0)[:, None]
    assert means(values, np.array([0.0, 1.0, 2.0])).ravel().tolist() == [2.0, 7.0]
    assert means(values[:1], np.array([0.0, 1.0, 2.0])).ravel().tolist() == [0.0, 0.0]
