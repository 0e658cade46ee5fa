import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from musicfm.datasets.annotations import Beats, Read, fit, make_beats, make_spans, read_jams
from musicfm.errors import DataError


def observation(time: float, duration: float, value: object) -> dict[str, Any]:
    return {"time": time, "duration": duration, "value": value, "confidence": None}


def write(path: Path, annotations: dict[str, object], duration: object = 10.0) -> Path:
    content = {
        "annotations": [
            {"namespace": namespace, "data": data} for namespace, data in annotations.items()
        ],
        "file_metadata": {"duration": duration},
        "sandbox": {},
    }
    path.write_text(json.dumps(content))
    return path


CHORDS = [observation(0.0, 4.0, "C:maj"), observation(4.0, 6.0, "A:min7")]


def test_all_kinds_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path / "song.jams",
        {
            "beat": [observation(0.5, 0.0, 4), observation(1.0, 0.0, 1), observation(1.5, 0, 2)],
            "chord": CHORDS,
            "segment_open": [observation(0.0, 10.0, "verse")],
            "key_mode": [observation(0.0, 10.0, "Eb:minor")],
            "tag_open": [observation(0.0, 10.0, "piano"), observation(0.0, 10.0, "drums")],
        },
    )
    read = read_jams(path)
    assert read.problems == ()
    assert read.duration == 10.0
    found = read.annotations
    assert found.beats is not None
    np.testing.assert_array_equal(found.beats.times, [0.5, 1.0, 1.5])
    np.testing.assert_array_equal(found.beats.downbeats, [1.0])
    assert found.chords is not None
    assert found.chords.labels == ("C:maj", "A:min7")
    np.testing.assert_array_equal(found.chords.intervals, [[0.0, 4.0], [4.0, 10.0]])
    assert found.segments is not None
    assert found.keys is not None
    assert found.keys.total() == {"Eb:minor": 10.0}
    assert found.tags == {"piano": 1.0, "drums": 1.0}


def test_beat_positions_come_first_and_may_be_partly_unknown(tmp_path: Path) -> None:
    values = [{"position": p, "measure": 1, "num_beats": 3, "beat_units": 4} for p in (1, 2, 3)]
    path = write(
        tmp_path / "song.jams",
        {
            "beat": [observation(0.1 * i, 0.0, None) for i in range(3)],
            "beat_position": [observation(0.2 * i, 0.0, v) for i, v in enumerate(values)],
        },
    )
    beats = read_jams(path).annotations.beats
    assert beats is not None
    np.testing.assert_array_equal(beats.positions, [1, 2, 3])
    path = write(tmp_path / "half.jams", {"beat": [observation(0, 0, 1), observation(1, 0, None)]})
    beats = read_jams(path).annotations.beats
    assert beats is not None
    assert not beats.positions.any()


def test_columns_of_old_jams_are_read(tmp_path: Path) -> None:
    columns = {
        "time": [0.0, 4.0],
        "duration": [4.0, 6.0],
        "value": ["N", "G"],
        "confidence": [1, 1],
    }
    chords = read_jams(write(tmp_path / "old.jams", {"chord": columns})).annotations.chords
    assert chords is not None
    assert chords.labels == ("N", "G")


def test_what_lies_between_spans_has_no_label(tmp_path: Path) -> None:
    data = [observation(1.0, 1.0, "C"), observation(3.0, 1.0, "G")]
    chords = read_jams(write(tmp_path / "gaps.jams", {"chord": data})).annotations.chords
    assert chords is not None
    times = np.array([0.5, 1.0, 1.99, 2.0, 3.5, 4.0])
    assert chords.at(times) == [None, "C", "C", None, "G", None]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ([], "it is empty"),
        (None, "it is empty"),
        ([observation(0.0, 0.0, "C")], "none of its spans has a duration"),
        (
            [observation(0.0, 5.0, "C"), observation(4.0, 1.0, "G")],
            "its spans overlap: 'C' goes on",
        ),
        ([observation(-1.0, 5.0, "C")], "time -1, which is below zero"),
        ([observation(0.0, 5.0, 7)], "a span has the label 7"),
        ([observation(0.0, 5.0, " ")], "a span has the label ' '"),
        ([{"time": "soon", "duration": 1.0, "value": "C"}], "time 'soon', which is not a number"),
        ([{"value": "C"}], "time None, which is not a number"),
        ([3], "it is malformed"),
        ({"time": [1.0], "duration": []}, "it is malformed"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_left_out_and_reported(
    tmp_path: Path, data: object, reason: str
) -> None:
    path = write(tmp_path / "song.jams", {"chord": data, "tag_open": [observation(0, 1, "piano")]})
    read = read_jams(path)
    assert read.annotations.chords is None
    assert read.annotations.tags == {"piano": 1.0}  # the others can be used
    (problem,) = read.problems
    assert problem.startswith(f"{path}: the annotation 'chord' is not used: ")
    assert reason in problem


BAD_OBSERVATIONS: list[tuple[Any, str]] = [
    (observation(2.0, -1.0, "C"), "duration -1, which is below zero"),
    (observation(-2.0, 1.0, "C"), "time -2, which is below zero"),
    (observation(float("nan"), 1.0, "C"), "time nan, which is not a number"),
    (observation(2.0, float("inf"), "C"), "duration inf, which is not a number"),
    ({"time": "2,5", "duration": 1.0, "value": "C"}, "time '2,5', which is not a number"),
    (observation(2.0, 1.0, None), "a span has the label None"),
    (observation(2.0, 1.0, {"label": "C"}), "a span has the label {'label': 'C'}"),
    (["C"], 'it is malformed (["C"])'),
]


@pytest.mark.parametrize(("bad", "reason"), BAD_OBSERVATIONS)
def test_the_rest_is_used_where_an_observation_is_bad(
    tmp_path: Path, bad: object, reason: str
) -> None:
    path = write(tmp_path / "song.jams", {"chord": [CHORDS[0], bad, CHORDS[1]]})
    read = read_jams(path)
    assert read.annotations.chords is not None
    assert read.annotations.chords.labels == ("C:maj", "A:min7")
    (problem,) = read.problems
    assert problem.startswith(f"{path}: 'chord' is used without 1 of its 3 observations: ")
    assert reason in problem


def test_a_beat_that_is_bad_is_left_out(tmp_path: Path) -> None:
    data = [observation(t, 0.0, place) for t, place in [(1.0, 1), (float("nan"), 2), (3.0, 3)]]
    read = read_jams(write(tmp_path / "song.jams", {"beat": data}))
    assert read.annotations.beats is not None
    assert read.annotations.beats.positions.tolist() == [1, 3]
    assert "'beat' is used without 1 of its 3 observations" in read.problems[0]


def test_an_annotation_that_is_mostly_bad_is_not_used(tmp_path: Path) -> None:
    bad = {"time": 0.0, "duration": 1.0, "label": "C"}
    read = read_jams(write(tmp_path / "song.jams", {"chord": [*CHORDS, bad, bad, bad]}))
    assert read.annotations.chords is None
    assert "the annotation 'chord' is not used: 3 of 5 observations are bad" in read.problems[0]


@pytest.mark.parametrize("spell", [str, float, lambda place: f" {place}.0 "])
def test_numbers_may_be_texts(tmp_path: Path, spell: Any) -> None:
    beats = [
        {"time": str(0.5 * place), "duration": "0", "value": spell(place), "confidence": "0.5"}
        for place in (1, 2, 3)
    ]
    places = [{**beat, "value": {"position": beat["value"]}} for beat in beats]
    for name, data in (("beat", beats), ("beat_position", places)):
        read = read_jams(write(tmp_path / "song.jams", {name: data}, duration="10.5"))
        assert read.problems == ()
        assert read.duration == 10.5
        assert read.annotations.beats is not None
        assert read.annotations.beats.times.tolist() == [0.5, 1.0, 1.5]
        assert read.annotations.beats.positions.tolist() == [1, 2, 3]
    tag = {"time": "0", "duration": "1e1", "value": "piano", "confidence": "0.5"}
    assert read_jams(write(tmp_path / "x.jams", {"tag_x": [tag]})).annotations.tags == {
        "piano": 0.5
    }


@pytest.mark.parametrize("value", ["1.2", 0.25, "one", "1_0", {"place": 1}, {"position": "x"}, []])
def test_beats_whose_values_are_no_places_are_reported(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "song.jams", {"beat": [observation(t, 0, value) for t in (1.0, 2.0)]})
    read = read_jams(path)
    assert read.annotations.beats is not None
    assert not read.annotations.beats.positions.any()
    assert "not all beats have a place in the bar; one has" in read.problems[0]


@pytest.mark.parametrize("name", ["beats", "Chord", " beat", "keys", "harmony", "segment"])
def test_namespaces_that_jams_does_not_have_are_reported(tmp_path: Path, name: str) -> None:
    read = read_jams(write(tmp_path / "song.jams", {name: CHORDS, "chord": CHORDS}))
    assert read.annotations.chords is not None
    (problem,) = read.problems
    assert f'nothing is read from the namespace "{name}"; those that are read are' in problem
    assert "chord_harte, segment_open" in problem


@pytest.mark.parametrize(
    ("form", "read_form"),
    [
        ("chord_roman", "chord"),
        ("multi_segment", "segment_open"),
        ("segment_salami_lower", "segment_salami_function"),
        ("segment_salami_upper", "segment_tut"),
    ],
)
def test_forms_that_are_not_read_are_reported_unless_another_is_there(
    tmp_path: Path, form: str, read_form: str
) -> None:
    other = [observation(0.0, 10.0, {"label": "A", "level": 0})]
    alone = read_jams(write(tmp_path / "song.jams", {form: other, "tempo": [], "onset": []}))
    assert f'nothing is read from the namespace "{form}"' in alone.problems[0]
    both = read_jams(write(tmp_path / "song.jams", {form: other, read_form: CHORDS}))
    assert both.problems == ()


def test_annotations_without_a_namespace_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "song.jams"
    for wrong in (3, {"data": CHORDS}, {"namespace": ["chord"], "data": CHORDS}):
        path.write_text(
            json.dumps({"annotations": [wrong, {"namespace": "chord", "data": CHORDS}]})
        )
        read = read_jams(path)
        assert read.annotations.chords is not None
        assert read.problems == (f"{path}: an annotation without a namespace is not used",)


def test_tags_in_either_form_of_unicode_are_one(tmp_path: Path) -> None:
    tags = [observation(0.0, 10.0, unicodedata.normalize(form, "Café")) for form in ("NFC", "NFD")]
    assert read_jams(write(tmp_path / "song.jams", {"tag_open": tags})).annotations.tags == {
        unicodedata.normalize("NFC", "Café"): 1.0
    }


def test_beats_out_of_order_are_not_used(tmp_path: Path) -> None:
    data = [observation(t, 0.0, 1) for t in (1.0, 3.0, 2.0)]
    read = read_jams(write(tmp_path / "song.jams", {"beat": data}))
    assert read.annotations.beats is None
    assert "2.000 s follows 3.000 s" in read.problems[0]


def test_a_second_annotator_stands_in_for_a_first_that_cannot_be_used(tmp_path: Path) -> None:
    path = tmp_path / "song.jams"
    annotations = [{"namespace": "chord", "data": []}, {"namespace": "chord", "data": CHORDS}]
    path.write_text(json.dumps({"annotations": annotations}))
    read = read_jams(path)
    assert read.annotations.chords is not None
    assert len(read.problems) == 1
    assert read.duration is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"annotations": {}}', "\xff"])
def test_a_file_that_is_not_jams_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "song.jams"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"song\.jams is not (JSON|JAMS)"):
        read_jams(path)
    with pytest.raises(DataError, match="cannot read the annotations"):
        read_jams(tmp_path / "missing.jams")


def test_what_salami_does_not_know_is_a_section_too(tmp_path: Path) -> None:
    data = [observation(0.0, 2.0, "no_function"), observation(2.0, 3.0, "verse")]
    read = read_jams(write(tmp_path / "song.jams", {"segment_salami_function": data}))
    assert read.annotations.segments is not None
    assert read.annotations.segments.labels == ("no_function", "verse")


def test_downbeats_need_all_places_after_the_first(tmp_path: Path) -> None:
    def read(*places: int | None) -> Read:
        beats = [observation(float(t), 0.0, place) for t, place in enumerate(places)]
        return read_jams(write(tmp_path / "song.jams", {"beat": beats}))

    pickup, torn = read(None, None, 1, 2, 1), read(1, 2, None, 2, 1)
    assert pickup.annotations.beats is not None
    assert pickup.annotations.beats.downbeats.tolist() == [2.0, 4.0]
    assert pickup.problems == ()
    assert torn.annotations.beats is not None
    assert len(torn.annotations.beats.downbeats) == 0
    assert "downbeats are not used: not all beats have a place" in torn.problems[0]


def test_annotations_end_with_their_audio(tmp_path: Path) -> None:
    beats = [observation(float(t), 0.0, 1) for t in range(10)]
    read = read_jams(write(tmp_path / "song.jams", {"beat": beats, "chord": CHORDS}))
    fitted = fit(read, 9.5, "song.jams")
    assert fitted.problems == ()
    assert fitted.annotations.chords is not None
    assert fitted.annotations.chords.intervals[-1, 1] == 9.5
    fitted = fit(read, 8.2, "song.jams")
    assert isinstance(fitted.annotations.beats, Beats)
    assert fitted.annotations.beats.times[-1] == 8.0
    assert fitted.annotations.chords is None
    assert len(fitted.problems) == 2
    assert "song.jams is about 10.0 s of audio, and the audio has 8.2 s" in fitted.problems[0]
    assert "the chords are not used: they go on until 10.0 s" in fitted.problems[1]


def test_beats_and_spans_are_checked() -> None:
    assert make_beats([0.0, 1.0]).positions.tolist() == [0, 0]
    assert make_beats([0.0, 1.0], [0, 1]).positions.tolist() == [0, 1]  # a pickup
    assert make_beats([0.0, 1.0, 2.0], [1, 0, 1]).positions.tolist() == [0, 0, 0]  # partly known
    for times, message in [([], "empty"), ([-1.0], "below zero"), ([float("nan")], "no number")]:
        with pytest.raises(DataError, match=message):
            make_beats(times)
    with pytest.raises(DataError, match="a place in its bar beyond 10000"):
        make_beats([0.0, 1.0], [1, 10**30])
    spans = make_spans([(1.0, 2.0, "b"), (0.0, 1.005, "a"), (2.0, 2.0, "c")])
    assert spans.labels == ("a", "b")
    assert spans.intervals.tolist() == [[0.0, 1.0], [1.0, 2.0]]
    spans = make_spans([(0.0, 0.999999, "a"), (1.0, 2.0, "b"), (2.1, 3.0, "c")])
    assert spans.intervals.tolist() == [[0.0, 1.0], [1.0, 2.0], [2.1, 3.0]]
    with pytest.raises(DataError, match=r"'a' ends at 1\.000 s, before it begins at 2\.000 s"):
        make_spans([(2.0, 1.0, "a")])
    with pytest.raises(DataError, match="a span's time is not a number"):
        make_spans([(0.0, float("inf"), "a")])
    with pytest.raises(DataError, match="begins at -1 s, which is below zero"):
        make_spans([(-1.0, 1.0, "a")])


def test_numbers_that_no_array_takes_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "song.jams"
    for value in ("Infinity", "1e999", "NaN", "1e300", "-Infinity"):
        beats = f'{{"namespace": "beat", "data": [{{"time": 0.5, "value": {value}}}]}}'
        path.write_text(f'{{"annotations": [{beats}], "file_metadata": {{"duration": {value}}}}}')
        read = read_jams(path)
        if read.annotations.beats is None:
            assert "place in its bar" in read.problems[0]
        else:
            assert read.annotations.beats.positions.tolist() == [0]
    for text in ("[" * 100_000, '{"annotations": [' + "9" * 400 + "]}"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"song\.jams is not JSON"):
            read_jams(path)


def test_tags_of_all_annotations_are_taken_together(tmp_path: Path) -> None:
    sure = {**observation(0.0, 10.0, "piano"), "confidence": 0.4}
    path = write(
        tmp_path / "song.jams",
        {
            "tag_open": [sure, observation(0.0, 10.0, "jazz")],
            "tag_gtzan": [sure | {"confidence": 0.6}],
        },
    )
    assert read_jams(path).annotations.tags == {"piano": 0.6, "jazz": 1.0}
    write(path, {"tag_open": [sure, sure | {"confidence": 87}], "tag_gtzan": [sure]})
    read = read_jams(path)
    assert read.annotations.tags == {"piano": 0.4}
    assert "a tag has the confidence 87; give 0 to 1, or none" in read.problems[0]
