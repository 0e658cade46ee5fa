"""Analyses for other programs."""

import csv
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pretty_midi
import pytest
import soundfile

import tones
from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.exports import CLICK_RATE, EXPORTS
from musicfm.datasets.annotations import Annotations, Beats, Spans

TIMES = np.array([0.31, 0.8, 1.33, 1.8, 2.35, 2.9, 3.3])
POSITIONS = np.array([4, 1, 2, 3, 4, 1, 2])
SURE = np.linspace(0.3, 0.9, 7)
SECTIONS = Spans(np.array([[0.0, 0.8], [0.8, 4.0]]), ("intro", "verse"), np.array([0.5, 0.25]))

Written = Callable[[str, Annotations], Path]


@pytest.fixture
def written(tmp_path: Path) -> Written:
    recording = tones.write_tones(tmp_path / "music", 1) / "tone_0.wav"

    def write(kind: str, annotations: Annotations) -> Path:
        analysis = Analysis("Señor ☕", 4.0, annotations, np.eye(2, dtype=np.float32), {})
        stem = tmp_path / "so.ng"
        EXPORTS[kind].write(analysis, recording, stem)
        return stem.with_name(stem.name + EXPORTS[kind].suffixes[0])

    return write


def known() -> Annotations:
    return Annotations(
        beats=Beats(TIMES, POSITIONS, SURE),
        chords=Spans(np.array([[0.0, 4.0]]), ("A:min",)),
        segments=SECTIONS,
        tags={"slow": 0.1, 'so-called "jazz"': 0.9},
    )


def test_the_table_has_everything(written: Written) -> None:
    with written("csv", known()).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    beats = [row for row in rows if row["kind"] == "beats"]
    assert [float(row["start"]) for row in beats] == pytest.approx(TIMES)
    assert [row["label"] for row in beats] == [str(position) for position in POSITIONS]
    assert float(beats[0]["confidence"]) == pytest.approx(0.3)
    others = [tuple(row.values()) for row in rows if row["kind"] != "beats"]
    assert others == [
        ("chords", "0.000000", "4.000000", "A:min", ""),
        ("sections", "0.000000", "0.800000", "intro", "0.5000"),
        ("sections", "0.800000", "4.000000", "verse", "0.2500"),
        ("tags", "0.000000", "4.000000", 'so-called "jazz"', "0.9000"),
        ("tags", "0.000000", "4.000000", "slow", "0.1000"),
    ]


def test_each_kind_has_a_label_track_of_its_own(written: Written) -> None:
    beats = written("labels", known())
    assert beats.name == "so.ng.beats.labels.txt"
    lines = [line.split("\t") for line in beats.read_text().splitlines()]
    assert [(float(start), float(end)) for start, end, _ in lines] == [(t, t) for t in TIMES]
    assert [label for _, _, label in lines] == [str(position) for position in POSITIONS]
    sections = beats.with_name("so.ng.sections.labels.txt").read_text()
    assert sections == "0.000000\t0.800000\tintro\n0.800000\t4.000000\tverse\n"
    assert not beats.with_name("so.ng.key.labels.txt").exists()


def test_the_grid_of_the_midi_file_lies_on_the_beats(written: Written) -> None:
    midi = pretty_midi.PrettyMIDI(str(written("midi", known())))
    (clicks,) = midi.instruments
    assert clicks.is_drum
    assert [note.start for note in clicks.notes] == pytest.approx(TIMES, abs=2e-3)
    loud = np.array([note.velocity for note in clicks.notes]) > 100
    assert loud.tolist() == (POSITIONS == 1).tolist()
    quarters = [midi.tick_to_time(index * midi.resolution) for index in range(8)]
    assert quarters == pytest.approx([0.0, *TIMES], abs=2e-3)


def test_the_bars_of_the_midi_file_are_those_of_the_song(written: Written) -> None:
    times = np.arange(0.3, 7.5, 0.5)
    positions = np.array([4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 1, 2, 3])
    midi = pretty_midi.PrettyMIDI(str(written("midi", Annotations(beats=Beats(times, positions)))))
    assert [(change.numerator, change.denominator) for change in midi.time_signature_changes] == [
        (2, 4),  # what comes before the first beat, and the upbeat
        (4, 4),
        (3, 4),
    ]
    downbeats = midi.get_downbeats()
    assert downbeats[1:] == pytest.approx(times[positions == 1], abs=2e-3)


@pytest.mark.parametrize("times", [np.empty(0), np.array([1.0])], ids=["none", "one"])
def test_hardly_any_beats_are_no_error(times: np.ndarray, written: Written) -> None:
    beats = Beats(times, np.ones(len(times), np.int64))
    midi = pretty_midi.PrettyMIDI(str(written("midi", Annotations(beats=beats))))
    notes = [note.start for part in midi.instruments for note in part.notes]
    assert notes == pytest.approx(times, abs=2e-3)
    assert pretty_midi.PrettyMIDI(str(written("midi", Annotations()))).get_end_time() == 0.0


def test_clicks_are_added_to_the_recording(written: Written) -> None:
    sound, rate = soundfile.read(written("click", known()))
    assert rate == CLICK_RATE
    assert len(sound) == pytest.approx(tones.SECONDS * CLICK_RATE, abs=2)
    plain, _ = soundfile.read(written("click", Annotations()))
    added = np.abs(sound - plain) > 1e-3
    heard = np.flatnonzero(added & ~np.roll(added, 1)) / CLICK_RATE
    onsets = heard[np.diff(heard, prepend=-1.0) > 0.1]
    assert onsets == pytest.approx(TIMES, abs=1e-3)
    spectra = [
        np.abs(np.fft.rfft((sound - plain)[(at := round(t * CLICK_RATE)) : at + 1_323]))
        for t in TIMES
    ]
    pitches = np.array([spectrum.argmax() for spectrum in spectra]) * CLICK_RATE / 1_323
    assert (pitches > 1_500.0).tolist() == (POSITIONS == 1).tolist()


def test_clicks_do_not_depend_on_where_blocks_end(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicfm.audio import reading

    whole, _ = soundfile.read(written("click", known()))
    stream = reading.stream
    monkeypatch.setattr(reading, "stream", partial(stream, block_seconds=0.013))
    pieces, _ = soundfile.read(written("click", known()))
    assert np.abs(whole - pieces).max() < 1e-3
