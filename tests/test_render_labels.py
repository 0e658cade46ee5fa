import dataclasses
import json
from pathlib import Path
from typing import Any

import jams
import pytest

from musicfm.render.composition import GENERATOR_VERSION, compose
from musicfm.render.labels import jams_text, to_jams
from musicfm.render.song import Song
from musicfm.render.soundfont import SoundFont
from musicfm.render.splits import SEEDS

FONT = SoundFont("Test Font", "ab" * 32, "CC0", {})

# jams 0.3.5 calls jsonschema in a way that is going out.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Passing a schema to Validator.iter_errors:DeprecationWarning"
)


@pytest.fixture(scope="module")
def song() -> Song:
    return compose(12)


def data(song: Song, namespace: str) -> list[dict[str, Any]]:
    annotations = to_jams(song, FONT)["annotations"]
    return next(a["data"] for a in annotations if a["namespace"] == namespace)


@pytest.mark.parametrize("seed", [0, 3, 12, *(seeds.start for seeds in SEEDS.values())])
def test_jams_reads_it(seed: int, tmp_path: Path) -> None:
    song = compose(seed)
    path = tmp_path / "song.jams"
    path.write_text(jams_text(song, FONT))
    read = jams.load(str(path))  # validates
    assert read.validate()
    assert read.file_metadata.duration == song.duration
    assert [annotation.namespace for annotation in read.annotations] == [
        "beat", "beat_position", "chord", "segment_open", "key_mode", "tag_open",
    ]  # fmt: skip
    for annotation in read.annotations:
        assert annotation.data
        assert annotation.annotation_metadata.data_source == "program"
    intervals, values = read.search(namespace="chord")[0].to_interval_values()
    assert values == [span.value for span in song.labels.chords]
    assert intervals[-1, 1] == pytest.approx(song.duration, abs=2e-6)


def test_it_says_where_it_comes_from(song: Song) -> None:
    heldout = dataclasses.replace(song, seed=SEEDS["heldout"].start, take=2)
    assert to_jams(heldout, FONT)["sandbox"] == {
        "generator": "musicfm render",
        "generator_version": GENERATOR_VERSION,
        "seed": SEEDS["heldout"].start,
        "take": 2,
        "split": "heldout",
        "sound_fonts": [{"name": "Test Font", "sha256": "ab" * 32, "licence": "CC0"}],
    }


def test_all_labels_are_there(song: Song) -> None:
    labels = song.labels
    for namespace, spans in (
        ("chord", labels.chords), ("segment_open", labels.segments), ("key_mode", labels.keys)
    ):  # fmt: skip
        found = data(song, namespace)
        assert [entry["value"] for entry in found] == [span.value for span in spans]
        for entry, span in zip(found, spans, strict=True):
            assert entry["time"] == pytest.approx(span.start, abs=1e-6)
            assert entry["time"] + entry["duration"] == pytest.approx(span.end, abs=2e-6)
    assert [entry["value"] for entry in data(song, "tag_open")] == list(labels.tags)
    assert [(e["time"], e["value"]) for e in data(song, "beat")] == [
        (pytest.approx(beat.time, abs=1e-6), beat.position) for beat in labels.beats
    ]


@pytest.mark.parametrize("metre", [(4, 4), (3, 4), (2, 8)])
def test_beat_positions(metre: tuple[int, int]) -> None:
    num_beats, unit = metre
    song = next(
        song for song in map(compose, range(100))
        if max(beat.position for beat in song.labels.beats) == num_beats
    )  # fmt: skip
    measure = 0
    for entry, beat in zip(data(song, "beat_position"), song.labels.beats, strict=True):
        measure += beat.position == 1
        assert entry["value"] == {
            "position": beat.position,
            "measure": measure,
            "num_beats": num_beats,
            "beat_units": unit,
        }


def test_the_text_is_json_and_always_the_same(song: Song) -> None:
    text = jams_text(song, FONT)
    assert json.loads(text) == to_jams(song, FONT)
    assert text == jams_text(compose(12), FONT)
