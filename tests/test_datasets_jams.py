import json
from pathlib import Path

import jams
import numpy as np
import pytest

import labelled
import tones
from musicfm.datasets.annotations import Annotations, Beats, read_jams
from musicfm.datasets.jams import document, observations


def write(path: Path, known: Annotations, duration: float) -> Path:
    content = document(
        observations(known, duration), duration, title="A", tool="b", version="1", sandbox={"c": 1}
    )
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("seed", [0, 5])
def test_what_is_written_is_read_again(tmp_path: Path, seed: int) -> None:
    known, duration = labelled.song(seed)
    read = read_jams(write(tmp_path / "song.jams", known, duration))
    assert read.problems == ()
    assert read.duration == pytest.approx(duration, abs=1e-6)
    found = read.annotations
    assert known.beats is not None
    assert found.beats is not None
    np.testing.assert_allclose(found.beats.times, known.beats.times, atol=1e-6)
    np.testing.assert_array_equal(found.beats.positions, known.beats.positions)
    for kind in ("chords", "segments", "keys"):
        truth, again = getattr(known, kind), getattr(found, kind)
        np.testing.assert_allclose(again.intervals, truth.intervals, atol=2e-6)
        assert again.labels == truth.labels
    assert found.tags == known.tags


def test_confidences_of_tags_are_kept(tmp_path: Path) -> None:
    known = Annotations(tags={"rock": 0.9, "jazz": 0.01})
    assert read_jams(write(tmp_path / "song.jams", known, 9.0)).annotations.tags == known.tags


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    times = np.array([1.0, 2.0])
    bare = Annotations(beats=Beats(times, np.zeros(2, dtype=np.int64)))
    read = read_jams(write(tmp_path / "song.jams", bare, 3.0))
    assert read.annotations.chords is None
    assert read.annotations.tags is None
    assert read.annotations.beats is not None
    assert not read.annotations.beats.positions.any()


@pytest.mark.filterwarnings("ignore:Passing a schema to Validator.iter_errors:DeprecationWarning")
def test_the_package_jams_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "song.jams", tones.annotations(1), tones.SECONDS)
    content = jams.load(str(path))
    assert content.validate()
    assert {entry.namespace for entry in content.annotations} == {
        "beat",
        "chord",
        "segment_open",
        "key_mode",
        "tag_open",
    }
    (tags,) = content.search(namespace="tag_open")
    assert {row.value for row in tags.data} == {"high", "odd"}
