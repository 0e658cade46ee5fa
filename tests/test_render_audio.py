"""Labels of rendered songs against their sound. ``rendered_audio.py`` prints more figures."""

import numpy as np
import pytest

import rendered_audio
from musicfm.render.song import Song
from rendered_audio import chords_heard, onset_offsets

SEEDS = (2, 5, 9, 10, 13)
Rendered = list[tuple[Song, "np.ndarray[tuple[int], np.dtype[np.float32]]"]]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return [rendered_audio.render(seed, max_seconds=35.0) for seed in SEEDS]


def test_onsets_lie_at_the_beats(rendered: Rendered) -> None:
    offsets = np.concatenate([onset_offsets(samples, song) for song, samples in rendered])
    clear = offsets[np.isfinite(offsets)]
    assert len(clear) > 0.85 * len(offsets)
    assert np.mean(np.abs(clear) < 0.02) > 0.98
    assert abs(np.median(clear)) < 0.01
    # Labels that are wrong by a little more than the tolerance are found out.
    wrong = [
        onset_offsets(np.roll(samples, rendered_audio.SAMPLE_RATE // 25), song)
        for song, samples in rendered
    ]
    assert np.nanmean(np.abs(np.concatenate(wrong)) < 0.02) < 0.3


def test_chords_sound_while_they_are_labelled(rendered: Rendered) -> None:
    shares = [chords_heard(samples, song) for song, samples in rendered]
    assert np.mean(shares) > 0.8
    assert min(shares) > 0.5


def test_it_is_never_digitally_silent(rendered: Rendered) -> None:
    for song, samples in rendered:
        whole = np.round(samples * 2**15)
        blocks = whole[: len(whole) // 2400 * 2400].reshape(-1, 2400)
        assert (np.abs(blocks).max(axis=1) > 0).all(), song.seed
