"""Heads at work on tones, by Python and by the command line."""

import errno
import json
import math
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import tones
from musicfm.datasets.annotations import read_jams
from musicfm.datasets.labelled import read_labelled
from musicfm.datasets.splits import Splitting
from musicfm.embedding.collection import Run
from musicfm.errors import AudioError, CheckpointError, OutputError
from musicfm.journal import Recording
from musicfm.model.musicfm import MusicFM
from musicfm.tasks import heads
from musicfm.tasks.corpus import Corpus
from musicfm.tasks.evaluation import evaluate_head, to_json, to_text
from musicfm.tasks.key import Key
from musicfm.tasks.overlap import overlap_of_head, overlaps
from musicfm.tasks.predict import (
    EncodedRecording,
    Output,
    Predictor,
    predict_collection,
    write_jams,
)
from musicfm.tasks.probe import Evaluation, ProbeSettings
from musicfm.tasks.rows import Row
from musicfm.tasks.study import Study, run_study


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write_tones(tmp_path_factory.mktemp("predict") / "music", 6)


@pytest.fixture(scope="module")
def corpus(music: Path) -> Corpus:
    tracks = read_labelled([music], Splitting(0.0, 0.0), num_workers=1).tracks
    return Corpus("tones", tracks[:4], tracks[4:], {"test": tracks[4:]})


@pytest.fixture(scope="module")
def head(music: Path, corpus: Corpus) -> Path:
    """A chord head on chroma."""
    folder = music.parent
    settings = ProbeSettings(max_epochs=12, learning_rate=1e-2, batch_size=4)
    study = Study(folder / "study", ("chord",), num_seeds=1, probe=settings, num_workers=1)
    run_study(study, corpus, [Row("chroma")], folder / "cache")
    return next((folder / "study").rglob("seed_0"))


def test_a_recording_is_annotated(head: Path, music: Path) -> None:
    predictor = Predictor.load([head])
    annotations, duration = predictor(music / "tone_5.wav")
    assert duration == tones.SECONDS
    assert annotations.chords is not None
    assert annotations.beats is None
    assert annotations.chords.labels == ("A:min", "C:maj")
    assert annotations.chords.intervals[0, 1] == pytest.approx(tones.SECONDS / 2, abs=0.3)
    with pytest.raises(AudioError, match="nothing"):
        predictor(music / "nothing.wav")


def test_a_collection_goes_on_and_bad_files_are_passed_over(
    head: Path, music: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    (mine / "album").mkdir(parents=True)
    shutil.copy(music / "tone_0.wav", mine / "a.wav")
    shutil.copy(music / "tone_1.wav", mine / "album" / "b.wav")
    (mine / "bad.mp3").write_bytes(b"no sound" * 100)
    predictor, out = Predictor.load([head]), tmp_path / "out"
    summary = predict_collection(predictor, [mine], out, num_workers=1)
    assert (summary.done, len(summary.failures)) == (2, 1)
    assert "bad.mp3" in summary.failures[0][0]
    read = read_jams(out / "album" / "b.jams")
    assert read.duration == tones.SECONDS
    assert read.annotations.chords is not None
    content = json.loads((out / "a.jams").read_bytes())
    assert content["sandbox"]["heads"][0]["task"] == "chord"
    before = (out / "a.jams").stat().st_mtime_ns
    again = predict_collection(predictor, [mine], out, num_workers=1)
    assert (again.done, again.skipped) == (0, 2)
    assert (out / "a.jams").stat().st_mtime_ns == before
    config = predictor.heads[0].config
    other = Predictor((heads.Head(config).eval(),), predictor.encoder, "chroma")
    with pytest.raises(OutputError, match="results of other settings"):
        predict_collection(other, [mine], out, num_workers=1)
    report = json.loads((out / "report.json").read_bytes())
    assert (report["done"], report["skipped"], len(report["failures"])) == (0, 2, 1)
    left = {path.name for path in out.iterdir()}
    left -= {"a.jams", "album", "journal.jsonl", "report.json"}
    assert all(name.endswith(".lock") for name in left)


@pytest.mark.parametrize("peak", [0.0, 2**-15])
def test_silence_has_no_key(tmp_path: Path, peak: float) -> None:
    """Which the head, left alone, names all the same."""
    dither = np.random.default_rng(0).integers(-1, 2, 3 * 24_000) * peak
    soundfile.write(tmp_path / "x.wav", dither, 24_000)
    predictor = Predictor.load([Path("nano/key")])
    summary = predict_collection(predictor, [tmp_path / "x.wav"], tmp_path / "out", num_workers=1)
    ((_, warning),) = summary.damaged
    assert warning.endswith("x.wav is silent: no sample is above -80 dB")
    keys = read_jams(tmp_path / "out" / "x.jams").annotations.keys
    assert keys is None or not keys.labels


def test_a_result_is_not_replaced_by_that_of_another_recording(
    head: Path, music: Path, tmp_path: Path
) -> None:
    predictor, out = Predictor.load([head]), tmp_path / "out"
    for name in ("tone_0", "tone_1"):
        (tmp_path / name).mkdir()
        shutil.copy(music / f"{name}.wav", tmp_path / name / "song.wav")
    predict_collection(predictor, [tmp_path / "tone_0"], out, num_workers=1)
    before = (out / "song.jams").read_bytes()
    summary = predict_collection(predictor, [tmp_path / "tone_1"], out, num_workers=1)
    ((_, reason),) = summary.failures
    assert "would have the name of that of" in reason
    assert (out / "song.jams").read_bytes() == before


def test_annotations_made_by_hand_are_not_replaced(head: Path, music: Path, tmp_path: Path) -> None:
    predictor = Predictor.load([head])
    for name in ("tone_0.wav", "tone_0.jams", "tone_1.wav"):
        shutil.copy(music / name, tmp_path)
    mine = (tmp_path / "tone_0.jams").read_bytes()
    for _ in range(2):
        summary = predict_collection(predictor, [tmp_path], tmp_path, num_workers=1)
        ((_, reason),) = summary.failures
        assert f"{tmp_path / 'tone_0.jams'} is there already, and no run" in reason
        assert (tmp_path / "tone_0.jams").read_bytes() == mine
    assert summary.skipped == 1
    summary = predict_collection(predictor, [tmp_path], tmp_path, overwrite=True, num_workers=1)
    assert (summary.done, summary.failures) == (2, [])
    assert (tmp_path / "tone_0.jams").read_bytes() != mine


def test_what_a_run_did_not_come_to_write_is_not_its_own(
    head: Path, music: Path, tmp_path: Path
) -> None:
    predictor = Predictor.load([head])
    song, mine = tmp_path / "song.wav", tmp_path / "song.jams"
    song.write_bytes((music / "tone_0.wav").read_bytes()[:-50_000])
    assert len(predict_collection(predictor, [song], tmp_path, num_workers=1).failures) == 1
    mine.write_bytes((music / "tone_0.jams").read_bytes())
    shutil.copy(music / "tone_0.wav", song)
    ((_, reason),) = predict_collection(predictor, [song], tmp_path, num_workers=1).failures
    assert "is there already, and no run" in reason
    assert mine.read_bytes() == (music / "tone_0.jams").read_bytes()


@pytest.mark.parametrize("code", [errno.ENAMETOOLONG, errno.ENOSPC], ids=errno.errorcode.get)
def test_a_result_that_cannot_be_written_ends_a_run_if_no_other_can(
    head: Path, music: Path, tmp_path: Path, code: int
) -> None:
    predictor, out = Predictor.load([head]), tmp_path / "out"

    def write(encoded: EncodedRecording, out: Path) -> str:
        if encoded.recording.name == "tone_0":
            raise OutputError("it cannot be written") from OSError(code, os.strerror(code))
        return write_jams(predictor, encoded, out)

    output = Output(write, [".jams"])
    paths = [music / "tone_0.wav", music / "tone_1.wav"]
    if code == errno.ENOSPC:
        with pytest.raises(OutputError, match="cannot be written"):
            predict_collection(predictor, paths, out, output=output, num_workers=1)
    else:
        summary = predict_collection(predictor, paths, out, output=output, num_workers=1)
        assert [reason for _, reason in summary.failures] == ["it cannot be written"]
        assert (out / "tone_1.jams").is_file()
    assert not list(out.rglob("*.npy"))


def test_the_encoder_goes_on_while_a_result_is_written(
    head: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, is_computed = Predictor.load([head]), threading.Event()
    on_audio = Run.on_audio

    def noted(self: Run, recording: Recording, seconds: float) -> None:
        on_audio(self, recording, seconds)
        if recording.name == "tone_1":
            is_computed.set()

    def write(encoded: EncodedRecording, out: Path) -> str:
        assert encoded.recording.name == "tone_1" or is_computed.wait(30.0)
        return write_jams(predictor, encoded, out)

    monkeypatch.setattr(Run, "on_audio", noted)
    paths = [music / "tone_0.wav", music / "tone_1.wav"]
    output = Output(write, [".jams"])
    assert predict_collection(predictor, paths, tmp_path, output=output, num_workers=1).done == 2


def test_what_is_exported_scores_what_was_scored(head: Path, music: Path, corpus: Corpus) -> None:
    predictor = Predictor.load([head])
    found = evaluate_head(predictor, corpus.tests, num_workers=1)
    task = predictor.heads[0].task
    for item in corpus.tests["test"]:
        annotations, _ = predictor(item.audio)
        direct = task.score(item.annotations, annotations)
        assert direct == found.tests["test"].tracks[item.track.path]
    text = to_text(task, found.tests)
    assert "| test | 2 |" in text
    assert "test: 0.0 s of a recording" in text
    content = json.loads(to_json(task, found))
    assert content["tests"]["test"]["summary"]["chord"] > 0.9
    assert set(content["tests"]["test"]["tracks"]) == {i.track.path for i in corpus.tests["test"]}


def test_one_recording_is_scored_without_an_interval() -> None:
    nothing = Evaluation({"key": math.nan, "key_weighted": math.nan}, {})
    alone = {"one": Evaluation({"key": 1.0}, {"a": {"key": 1.0, "key_weighted": 1.0}})}
    text = to_text(Key(), {**alone, "none": nothing})
    assert "| one | 1 | 1.000 |" in text
    assert "| none | 0 | n/a |" in text
    scores = {
        name: dict.fromkeys(Key.metrics, value) for name, value in (("a", 1.0), ("b", math.nan))
    }
    partly = Evaluation(dict.fromkeys(Key.metrics, 1.0), scores)
    assert "few: with nothing to measure, and not counted: key: 1" in to_text(
        Key(), {"few": partly}
    )
    assert "nan" not in text


def test_the_head_of_another_model_is_refused(head: Path, tmp_path: Path, tiny: MusicFM) -> None:
    with pytest.raises(CheckpointError, match="hidden states of 'chroma', and 'mel' is another"):
        Predictor.load([head], "mel")
    tuned = tmp_path / "tuned"
    heads.save(heads.load(head), tuned)
    tiny.save_pretrained(tuned / "model")
    with pytest.raises(CheckpointError, match="is another model"):
        Predictor.load([tuned])  # it is the model beside it that counts


def test_a_rendered_song_is_the_same_in_any_format(
    corpus: Corpus, tmp_path: Path, tiny: MusicFM
) -> None:
    tiny.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "training_tracks.txt").write_text(f"{'0' * 64}\nmusicfm render, seed 7\n")
    one, *_ = corpus.tests["test"]
    songs = tuple(
        replace(one, track=replace(one.track, artist=f"musicfm render, seed {seed}"))
        for seed in (7, 70)
    )
    row = Row(str(tmp_path / "model"))
    found = overlaps([row], replace(corpus, tests={"test": songs}))
    assert found == {row.name: "1 test recordings were in its pretraining"}


def test_a_head_says_what_it_learnt_from(corpus: Corpus, head: Path, tmp_path: Path) -> None:
    (*known, last) = (*corpus.train, *corpus.valid)
    new = replace(last, track=replace(last.track, sha256="0" * 64))
    heads.copy(head, tmp_path / "head")
    found = overlap_of_head(tmp_path / "head", replace(corpus, tests={"test": (*known, new)}))
    assert found == f"{len(known)} test recordings are among those that it learnt from"
    assert overlap_of_head(tmp_path / "head", replace(corpus, tests={"test": (new,)})) == ""
    (tmp_path / "unknown").mkdir()
    assert "unknown" in overlap_of_head(tmp_path / "unknown", corpus)


def test_what_a_model_has_heard_is_marked(corpus: Corpus, tmp_path: Path, tiny: MusicFM) -> None:
    for name in ("encoded", "fresh", "unknown"):
        tiny.save_pretrained(tmp_path / name)
    test = corpus.tests["test"][0].track.sha256
    (tmp_path / "encoded" / "training_tracks.txt").write_text(f"{'0' * 64}\n{test}\n")
    (tmp_path / "fresh" / "training_tracks.txt").write_text(f"{'0' * 64}\n")
    rows = [Row(str(tmp_path / name)) for name in ("encoded", "fresh", "unknown")]
    found = overlaps([*rows, Row("nano"), Row("mel"), Row(f"scratch:{rows[0].name}")], corpus)
    remarks: list[Any] = list(found.values())
    assert remarks[0] == "1 test recordings were in its pretraining"
    assert "unknown" in remarks[2]
    assert [remarks[i] for i in (1, 3, 4, 5)] == ["", "", "", ""]
