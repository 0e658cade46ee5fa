import numpy as np
import pytest
from scipy.ndimage import convolve1d

import labelled
from musicfm.analysis.tempo import tempi
from musicfm.datasets.annotations import Annotations, Beats
from musicfm.tasks.bar_pointer import SHORT_BAR, bar_pointer, best_path, log_transitions
from musicfm.tasks.base import Array, Scores
from musicfm.tasks.beat import Beat, BeatDecoding

TASK = Beat()

# Songs without pauses, and not below 55 beats per minute.
SONGS = {2: (14, 19, 30), 3: (6, 18, 34), 4: (1, 2, 9)}
songs = pytest.mark.parametrize(
    ("metre", "seed"), [(metre, seed) for metre, seeds in SONGS.items() for seed in seeds]
)


def song(seed: int) -> tuple[Beats, Array]:
    """The beats of a song, and the times of its outputs."""
    annotations, duration = labelled.song(seed)
    assert annotations.beats is not None
    return annotations.beats, labelled.output_times(duration, 50.0)


def logits_of(beats: Beats, times: Array) -> Array:
    """Of a model that is sure."""
    return 10.0 * TASK.targets(Annotations(beats=beats), times).values - 5.0


def score(beats: Beats, found: Beats) -> Scores:
    return TASK.score(Annotations(beats=beats), Annotations(beats=found))


def steady(metre: int, seconds: float = 60.0, interval: float = 0.5) -> tuple[Beats, Array]:
    """Beats from 1 s on, and the times of the outputs of some silence after them too."""
    count = int((seconds - 2.0) / interval)
    beats = Beats(
        np.linspace(1.0, 1.0 + interval * (count - 1), count), 1 + np.arange(count) % metre
    )
    return beats, np.arange(round(50 * seconds)) / 50


@songs
def test_perfect_activations_of_songs_give_their_beats(metre: int, seed: int) -> None:
    beats, times = song(seed)
    found = bar_pointer(logits_of(beats, times), times)
    assert found.positions.max() == metre
    assert min(score(beats, found).values()) >= 0.99


@songs
def test_missing_beats_are_filled_in_where_peaks_fail(metre: int, seed: int) -> None:
    beats, times = song(seed)
    rng = np.random.default_rng(seed)
    heard = rng.random(len(beats.times)) > 0.2
    found = Beats(beats.times[heard], beats.positions[heard])
    pulses = TASK.targets(Annotations(beats=found), times).values
    activations = convolve1d(pulses, [0.2, 0.5, 0.7, 0.5, 0.2], axis=0)
    activations = np.clip(activations + rng.uniform(0.0, 0.05, activations.shape), 0.01, 0.99)
    logits = np.log(activations / (1.0 - activations))
    path = bar_pointer(logits, times)
    peaks = TASK.decode(logits, times, times[-1], BeatDecoding()).beats
    assert peaks is not None
    assert min(score(beats, path).values()) >= 0.97
    assert score(beats, peaks)["beat"] <= 0.95


def test_a_drifting_tempo_is_followed() -> None:
    intervals = 0.5 * np.linspace(1.0, 1.1, 300)
    onsets = 1.0 + np.concatenate([[0.0], intervals.cumsum()])
    beats = Beats(onsets, 1 + np.arange(len(onsets)) % 4)
    times = np.arange(round(50 * (onsets[-1] + 1.0))) / 50
    found = bar_pointer(logits_of(beats, times), times)
    assert score(beats, found) == {"beat": 1.0, "downbeat": 1.0}


@pytest.mark.parametrize("metre", [2, 3, 4])
def test_a_beat_is_where_the_activation_is_highest(metre: int) -> None:
    beats, times = steady(metre, interval=0.9)
    rng = np.random.default_rng(metre)
    outputs = np.round(50 * beats.times).astype(int) + rng.integers(0, 2, len(beats.times))
    logits = np.full((len(times), 2), -5.0)
    for near, strength in ((-1, -1.0), (1, -1.0), (0, 2.0)):
        logits[outputs + near, 0] = strength
        logits[outputs[beats.positions == 1] + near, 1] = strength
    found = bar_pointer(logits, times)
    np.testing.assert_allclose(found.times, times[outputs])
    np.testing.assert_array_equal(found.positions, beats.positions)


def clicks(bpm: float, frames_per_second: float) -> tuple[Array, Array, Array]:
    """Times of a minute of clicks, the outputs' times at 50 Hz, and what a model says of them: it
    is sure at a click, and less so the further from it, up to 60 ms.
    """
    times = np.arange(0.513, 59.8, 60.0 / bpm)
    frames = np.arange(60.0 * frames_per_second) / frames_per_second
    logits = [
        4.0 - 8.0 * np.minimum(distance(frames, part) / 0.06, 1.0) for part in (times, times[::4])
    ]
    repeated = round(50.0 / frames_per_second)
    outputs = frames[:, None] + (np.arange(repeated) - (repeated - 1) / 2) / 50.0
    return times, outputs.flatten(), np.repeat(np.stack(logits, axis=1), repeated, axis=0)


def distance(times: Array, events: Array) -> Array:
    return np.abs(times[:, None] - events).min(axis=1)


@pytest.mark.parametrize("frames_per_second", [25.0, 50.0])
@pytest.mark.parametrize(
    "bpm", [40.0, 47.0, 63.3, 80.0, 101.0, 120.0, 138.5, 163.0, 180.0, 190.0, 200.0, 210.0, 240.0]
)
def test_steady_clicks_are_found_at_their_times(bpm: float, frames_per_second: float) -> None:
    expected, times, logits = clicks(bpm, frames_per_second)
    found = bar_pointer(logits, times)
    assert len(found.times) == len(expected)
    errors = found.times - expected
    # Far below the distance of outputs, 20 ms, and that of the frames.
    assert np.abs(errors).max() < 0.3 / frames_per_second
    assert np.abs(errors).mean() < 0.006
    np.testing.assert_array_equal(found.positions, 1 + np.arange(len(expected)) % 4)
    (tempo,) = tempi(found, 60.0)
    assert tempo.bpm == pytest.approx(bpm, rel=1e-3)


def test_a_weak_pulse_is_found_too() -> None:
    expected, times, logits = clicks(180.0, 25.0)
    found = bar_pointer(logits / 4.0 - 5.0, times)  # from .003 to .02
    assert score(Beats(expected, np.zeros(len(expected), np.int64)), found)["beat"] > 0.99


def test_noise_far_below_any_pulse_has_no_beats() -> None:
    logits = np.random.default_rng(0).normal(-9.0, 1.0, (500, 2))
    assert not len(bar_pointer(logits, np.arange(500) / 50).times)


def test_what_is_even_has_no_beats() -> None:
    times = np.arange(500) / 50
    for level in (-20.0, -3.5, 0.0):
        assert not len(bar_pointer(np.full((500, 2), level), times).times)


def test_what_happens_at_silent_ends_changes_nothing() -> None:
    beats, times = steady(3)
    logits = logits_of(beats, times)
    expected = bar_pointer(logits, times)
    rng = np.random.default_rng(0)
    before, after = rng.uniform(-9.0, -3.1, (250, 2)), rng.uniform(-9.0, -4.0, (400, 2))
    longer = np.concatenate([before, logits, after])
    found = bar_pointer(longer, np.arange(len(longer)) / 50)
    np.testing.assert_allclose(found.times, expected.times + 5.0)
    np.testing.assert_array_equal(found.positions, expected.positions)


def test_a_recording_may_begin_and_end_within_a_bar() -> None:
    beats, times = steady(4)
    inside = (times >= 1.99) & (times <= 50.01)  # from the third beat of a bar to the third
    found = bar_pointer(logits_of(beats, times)[inside], times[inside])
    np.testing.assert_allclose(found.times, np.arange(2.0, 50.1, 0.5))
    np.testing.assert_array_equal(found.positions[[0, 1, 2, -1]], [3, 4, 1, 3])


def test_a_strong_third_beat_does_not_make_two_bars_of_one() -> None:
    """The third beat stands out against the second and the fourth, too."""
    beats, times = steady(4)
    logits = np.full((len(times), 2), -4.0)
    for beat, position in zip(beats.times, beats.positions, strict=True):
        place = int(np.abs(times - beat).argmin())
        logits[place] = (3.0, {1: 0.0, 3: -1.5}.get(int(position), -4.0))
    found = bar_pointer(logits, times)
    assert found.positions.max() == 4
    np.testing.assert_allclose(found.downbeats, beats.downbeats, atol=0.05)


@pytest.mark.parametrize(
    ("bpm", "between", "found_bpm"),
    [
        (180.0, 0.5, 180.0),
        (180.0, -0.6, 90.0),
        # What is more usual needs less.
        (220.0, -0.2, 110.0),
        (120.0, -0.6, 120.0),
        (120.0, -1.5, 60.0),
        # Half of these would be below 40.
        (78.0, -1.5, 78.0),
    ],
)
def test_every_other_beat_is_one_where_nothing_is_between(
    bpm: float, between: float, found_bpm: float
) -> None:
    expected = np.arange(1.0, 59.0, 60.0 / bpm)
    times = np.arange(3000) / 50
    logits = np.full((len(times), 2), -5.0)
    outputs = np.round(50 * expected).astype(int)
    logits[outputs[::2], 0], logits[outputs[1::2], 0] = 2.0, between
    logits[outputs[::8], 1] = 2.0
    found = bar_pointer(logits, times)
    beats = expected[:: round(bpm / found_bpm)]
    np.testing.assert_allclose(found.times[: len(beats)], beats, atol=0.021)


@pytest.mark.parametrize("num_outputs", [1, 2, 3, 20])
@pytest.mark.parametrize("seed", range(3))
def test_short_recordings_are_decoded(num_outputs: int, seed: int) -> None:
    times = np.arange(num_outputs) / 50
    found = bar_pointer(np.random.default_rng(seed).normal(0.0, 3.0, (num_outputs, 2)), times)
    assert len(found.times) == len(found.positions) <= 3
    assert (np.diff(found.times) > 0).all()


@pytest.mark.parametrize("num_outputs", [25, 40, 60])
@pytest.mark.parametrize("seed", range(3))
def test_the_path_is_that_of_a_search_through_all_states(num_outputs: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    evidence = rng.normal(0.0, 3.0, (num_outputs, 2))
    lengths, metres = np.arange(12, 17), (2, 3)
    path = best_path(evidence, lengths, metres)
    assert (path.starts[1:] == path.starts[:-1] + path.lengths[:-1]).all()
    assert path.starts[0] <= 0
    assert path.starts[-1] < num_outputs <= path.starts[-1] + path.lengths[-1]
    found = [
        (position, length, place)
        for start, length, position in zip(*path, strict=True)
        for place in range(max(0, -start), min(length, num_outputs - start))
    ]
    assert found == search(evidence, lengths, metres)


def search(
    evidence: Array, lengths: np.ndarray[tuple[int], np.dtype[np.int64]], metres: tuple[int, ...]
) -> list[tuple[int, np.int64, int]]:
    """Viterbi's search over every output of every beat: its position, its length, and the place."""
    states = [
        (metre, position, length, place)
        for metre in metres
        for position in range(1, metre + 1)
        for length in lengths
        for place in range(length)
    ]
    tempo = dict(zip(lengths, log_transitions(lengths), strict=True))
    arcs = np.full((len(states), len(states)), -np.inf)
    for i, (metre, position, length, place) in enumerate(states):
        for j, (next_metre, next_position, next_length, next_place) in enumerate(states):
            if next_metre != metre:
                continue
            if place < length - 1:
                if (next_position, next_length, next_place) == (position, length, place + 1):
                    arcs[i, j] = 0.0
            elif next_place == 0 and next_position == position % metre + 1:
                arcs[i, j] = tempo[length][next_length - lengths[0]]
    begins = np.array([place == 0 for *_, place in states])
    kinds = np.array([int(position > 1) for _, position, _, _ in states])
    costs = np.array([SHORT_BAR * (state[:2] == (2, 1)) for state in states])

    def seen(output: int) -> Array:
        return np.where(begins, evidence[output, kinds] - costs, 0.0)

    total = np.array([-np.log(metre * lengths.sum()) for metre, *_ in states]) + seen(0)
    chosen = []
    for output in range(1, len(evidence)):
        options = total[:, None] + arcs
        chosen.append(options.argmax(axis=0))
        total = options.max(axis=0) + seen(output)
    found = [int(total.argmax())]
    for choice in reversed(chosen):
        found.append(int(choice[found[-1]]))
    return [states[state][1:] for state in reversed(found)]
