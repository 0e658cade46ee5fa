import mir_eval
import numpy as np
import pytest
import torch

import labelled
from musicfm.datasets.annotations import Annotations, Beats
from musicfm.errors import ConfigError
from musicfm.tasks.beat import TOLERANCE, Beat, BeatDecoding, read_tempo

TASK = Beat()


def beats(times: list[float], positions: list[int] | None = None) -> Annotations:
    return Annotations(beats=Beats(np.array(times), np.array(positions or [0] * len(times))))


def test_scores_are_those_of_mir_eval() -> None:
    reference, _ = labelled.song(0)
    assert reference.beats is not None
    shifts = np.random.default_rng(0).normal(0.0, 0.07, len(reference.beats.times))
    times = np.sort(reference.beats.times + shifts)
    estimate = Annotations(beats=Beats(times, reference.beats.positions))
    scores = TASK.score(reference, estimate)
    trim = mir_eval.beat.trim_beats
    assert scores["beat"] == mir_eval.beat.f_measure(trim(reference.beats.times), trim(times))
    assert scores["downbeat"] == mir_eval.beat.f_measure(
        trim(reference.beats.downbeats), trim(times[reference.beats.positions == 1])
    )
    assert 0.3 < scores["beat"] < 0.95


def test_a_recording_without_beats_after_the_trimmed_seconds_has_no_score() -> None:
    scores = TASK.score(beats([1.0, 2.0], [1, 2]), beats([1.0, 6.0], [1, 2]))
    assert np.isnan(scores["beat"])
    assert np.isnan(scores["downbeat"])
    pairs = ((beats([1.0]), beats([1.0])), (beats([6.0]), beats([6.0])))
    summary = TASK.summarise([TASK.score(*pair) for pair in pairs])
    assert summary["beat"] == 1.0
    assert TASK.score(beats([6.0]), beats([]))["beat"] == 0.0


def test_beats_without_positions_say_nothing_about_downbeats() -> None:
    times = np.arange(300) / 50
    values, known = TASK.targets(beats([1.0, 1.5]), times)
    assert known[:, 0].all()
    assert not known[:, 1].any()
    assert values[:, 0].sum() == 2
    assert values[[50, 75], 0].all()


def test_a_peak_that_is_a_little_off_costs_nothing_and_one_far_off_does() -> None:
    values = torch.zeros(1, 100, 2)
    values[0, 50] = 1.0
    known = torch.ones(1, 100, 2, dtype=torch.bool)

    def loss(place: int) -> float:
        logits = torch.full((1, 100, 2), -10.0)
        logits[0, place] = 10.0
        return float(TASK.loss(logits, values, known).mean)

    assert loss(50) < 0.01
    assert loss(50 - TOLERANCE) == loss(50 + TOLERANCE) == pytest.approx(loss(50))
    assert loss(50 + TOLERANCE + 1) > 1.0


def test_downbeats_are_snapped_to_beats_and_counted_between() -> None:
    times = np.arange(400) / 50
    logits = np.full((400, 2), -5.0)
    logits[[50, 75, 100, 125, 150, 175, 200, 225], 0] = 5.0
    logits[[77, 151], 1] = 5.0  # the second beat, 40 ms late, and the fifth
    found = TASK.decode(logits, times, 8.0, BeatDecoding()).beats
    assert found is not None
    np.testing.assert_allclose(found.times, np.arange(1.0, 4.51, 0.5))
    np.testing.assert_array_equal(found.positions, [3, 1, 2, 3, 1, 2, 3, 4])


def test_an_output_stands_for_half_a_step_around_it() -> None:
    times = np.arange(50) / 50 + 0.01
    for beat, is_inside in ((0.999, True), (1.001, False), (-0.001, False)):
        values = TASK.targets(beats([beat], [1]), times).values
        assert values[-1].tolist() == 2 * [float(is_inside)]
        assert values.sum() == 2 * is_inside


def test_a_plateau_is_one_beat_in_its_middle() -> None:
    times = np.arange(400) / 50
    logits = np.full((400, 2), -5.0)
    logits[[100, 101], 0] = 5.0
    logits[[104], 0] = 4.0  # within 70 ms of it, and lower
    found = TASK.decode(logits, times, 8.0, BeatDecoding()).beats
    assert found is not None
    np.testing.assert_allclose(found.times, [2.01])
    assert not found.positions.any()


def test_the_bar_pointer_can_be_chosen() -> None:
    annotations, duration = labelled.song(1)
    times = labelled.output_times(duration, 50.0)
    logits = 10.0 * TASK.targets(annotations, times).values - 5.0
    found = TASK.decode(logits, times, duration, BeatDecoding(decoder="bar_pointer"))
    assert TASK.score(annotations, found) == {"beat": 1.0, "downbeat": 1.0}


@pytest.mark.parametrize(
    ("tempo", "expected"),
    [("", 120), ("80-160", 120), ("half", 60), ("double", 240), ("150-400", 240)],
)
def test_a_tempo_can_be_asked_for(tempo: str, expected: float) -> None:
    times = np.arange(0.0, 30.0, 0.02)
    logits = np.full((len(times), 2), -4.0)
    logits[::25, 0] = 4.0
    logits[::100, 1] = 4.0
    decoding = BeatDecoding(decoder="peaks" if tempo else "bar_pointer", tempo=tempo)
    found = TASK.decode(logits, times, 30.0, decoding).beats
    assert found is not None
    assert 60.0 / np.median(np.diff(found.times)) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("tempo", ["fast", "120", "160-80", "0-100", "80-", "-80", "nan-100"])
def test_a_tempo_that_says_nothing_is_refused(tempo: str) -> None:
    with pytest.raises(ConfigError, match=f"the tempo is '{tempo}'; give two numbers"):
        read_tempo(tempo)


def test_no_beat_lies_before_the_recording() -> None:
    times = np.arange(500) / 50.0 - 0.01  # as of a model with 25 frames a second
    logits = np.full((500, 2), -5.0)
    logits[::25] = 5.0
    for decoder in ("peaks", "bar_pointer"):
        found = TASK.decode(logits, times, 10.0, BeatDecoding(decoder=decoder)).beats
        assert found is not None
        assert found.times[0] == 0.0
        np.testing.assert_allclose(np.diff(found.times[1:]), 0.5)


def test_thresholds_are_chosen_one_after_the_other() -> None:
    tried: list[BeatDecoding] = []

    def objective(decoding: BeatDecoding) -> float:
        tried.append(decoding)
        distance = abs(decoding.beat_threshold - 0.3) + abs(decoding.downbeat_threshold - 0.7)
        return 0.5 - distance if decoding.decoder == "peaks" else path

    path = 0.4
    assert TASK.choose(objective) == BeatDecoding(beat_threshold=0.3, downbeat_threshold=0.7)
    assert len(tried) < 16
    path = 0.6
    assert TASK.choose(objective) == BeatDecoding(decoder="bar_pointer")
