import json
import os
from pathlib import Path

import pytest
import soundfile

import songs
from musicfm.datasets.labelled import read_labelled
from musicfm.datasets.scanning import update_manifest
from musicfm.datasets.splits import Splitting
from musicfm.datasets.tracks import SPLITS
from musicfm.errors import DataError

WHOLE = Splitting(valid=0.2, test=0.3)


def annotate(audio: Path, duration: float = 3.0, chord: str = "C:maj") -> Path:
    observation = {"time": 0.0, "duration": duration, "value": chord, "confidence": None}
    content = {
        "annotations": [{"namespace": "chord", "data": [observation]}],
        "file_metadata": {"duration": duration},
    }
    path = audio.with_suffix(".jams")
    path.write_text(json.dumps(content))
    return path


def test_annotations_lie_beside_their_recordings(tmp_path: Path) -> None:
    songs.write_songs(tmp_path, 12)
    for audio in tmp_path.glob("*.wav"):
        annotate(audio)
    found = read_labelled([tmp_path], WHOLE, num_workers=1)
    assert found.problems == ()
    assert len(found.tracks) == 12
    assert all(item.annotations.chords is not None for item in found.tracks)
    assert all(item.audio.is_file() for item in found.tracks)
    splits = [found.of_split(name) for name in SPLITS]
    assert sorted(item.audio for items in splits for item in items) == sorted(
        item.audio for item in found.tracks
    )


def test_what_cannot_be_used_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    songs.write_songs(tmp_path, 5)
    paths = sorted(tmp_path.glob("*.wav"))
    annotate(paths[0])
    annotate(paths[1]).write_text("{")
    annotate(paths[2], duration=60.0)
    annotate(paths[3])
    paths[3].write_bytes(b"no sound")
    found = read_labelled([tmp_path], WHOLE, num_workers=1)
    assert [item.audio for item in found.tracks] == [paths[0], paths[2]]
    assert found.tracks[1].annotations.chords is None
    problems = "\n".join(found.problems)
    assert f"{paths[1].with_suffix('.jams')} is not JSON" in problems
    assert "is about 60.0 s of audio, and the audio has 3.0 s" in problems
    assert "the chords are not used" in problems
    assert f"{paths[4]} has no annotations" in problems
    assert str(paths[3]) in problems
    assert len(found.problems) == 5


def test_recordings_without_labels_leave_no_part_empty(tmp_path: Path) -> None:
    songs.write_songs(tmp_path, 12)
    for audio in sorted(tmp_path.glob("*.wav"))[:3]:
        annotate(audio)
    for seed in range(5):
        found = read_labelled([tmp_path], Splitting(0.1, 0.1, seed=seed), num_workers=1)
        assert [len(found.of_split(name)) for name in SPLITS] == [1, 1, 1]
        assert not found.of_split(None)


def test_splits_of_a_manifest_are_kept(tmp_path: Path) -> None:
    songs.write_songs(tmp_path / "music", 6)
    for audio in (tmp_path / "music").glob("*.wav"):
        annotate(audio)
    path = tmp_path / "manifest.jsonl"
    update_manifest(path, [tmp_path / "music"], splitting=Splitting(valid=0.5), num_workers=1)
    by_manifest = read_labelled([path], Splitting(valid=0.0, test=0.9), num_workers=1)
    assert not by_manifest.of_split("test")
    assert len(by_manifest.tracks) == 6


def test_recordings_without_any_annotations_are_no_labelled_data(tmp_path: Path) -> None:
    songs.write_songs(tmp_path, 2)
    with pytest.raises(DataError, match=r"no recording in .* has annotations .*beside each"):
        read_labelled([tmp_path], WHOLE, num_workers=1)


def test_recordings_that_share_their_labels_count_once(tmp_path: Path) -> None:
    songs.write_songs(tmp_path, 2)
    first, second = sorted(tmp_path.glob("*.wav"))
    for audio in (first, second):
        annotate(audio)
    samples, rate = soundfile.read(first)
    soundfile.write(first.with_suffix(".flac"), samples, rate)
    found = read_labelled([tmp_path], WHOLE, num_workers=1)
    assert len(found.tracks) == 2
    (problem,) = found.problems
    assert f"{first.stem}.jams has the labels of" in problem


def test_what_is_no_longer_what_was_scanned_is_left_out(tmp_path: Path) -> None:
    songs.write_songs(tmp_path / "music", 3)
    paths = sorted((tmp_path / "music").glob("*.wav"))
    for audio in paths:
        annotate(audio)
    update_manifest(tmp_path / "manifest.jsonl", [tmp_path / "music"], num_workers=1)
    os.utime(paths[0], ns=(1, 1))  # as a copy has
    paths[1].write_bytes(paths[2].read_bytes())
    found = read_labelled([tmp_path / "manifest.jsonl"], WHOLE, num_workers=1)
    assert {item.audio for item in found.tracks} == {paths[0], paths[2]}
    assert found.problems == (
        f"{paths[1]} is not the file that was scanned, and is left out; scan it again",
    )
