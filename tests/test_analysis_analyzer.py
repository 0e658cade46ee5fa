"""Songs, analysed."""

import json
from dataclasses import replace
from pathlib import Path

import jams
import numpy as np
import pytest

import tones
from heads_of import TAGS, write_heads
from musicfm.analysis.analyzer import (
    Analysis,
    analyse,
    is_silent,
    load_predictor,
    self_similarity,
    tags_of_beats,
)
from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.errors import CheckpointError, DataError
from musicfm.model.musicfm import MusicFM
from musicfm.tasks.names import TASKS
from musicfm.tasks.predict import Predictor, without_music


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return load_predictor("nano", write_heads(tmp_path_factory.mktemp("heads")))


@pytest.fixture(scope="module")
def analysis(predictor: Predictor, tmp_path_factory: pytest.TempPathFactory) -> Analysis:
    folder = tmp_path_factory.mktemp("tones")
    song = tones.write_tones(folder / "music", 1) / "tone_0.wav"
    features, duration = predictor.encode(song, folder)
    return analyse(predictor, features, duration, "a tone")


def test_all_heads_speak_and_say_how_sure_they_are(analysis: Analysis) -> None:
    found = analysis.annotations
    assert found.tags is not None
    assert set(found.tags) == set(TAGS)
    for part in (found.beats, found.chords, found.segments, found.keys):
        assert part is not None
        assert part.confidences is not None
        assert ((part.confidences > 0.0) & (part.confidences <= 1.0)).all()
        count = len(part.times if isinstance(part, Beats) else part.labels)
        assert part.confidences.shape == (count,)


@pytest.mark.filterwarnings("ignore:Passing a schema to Validator.iter_errors:DeprecationWarning")
def test_the_analysis_is_valid_jams(analysis: Analysis, tmp_path: Path) -> None:
    path = tmp_path / "song.jams"
    path.write_text(json.dumps(analysis.to_jams()))
    read = jams.load(str(path), strict=True)
    assert read.file_metadata.title == "a tone"
    found = {annotation.namespace for annotation in read.annotations}
    assert found >= {"beat", "chord", "segment_open", "key_mode", "tag_open"}
    assert ("tempo" in found) == (analysis.tempo is not None)
    assert analysis.provenance["model"] == "nano"


def test_parts_that_are_alike_are_similar() -> None:
    rng = np.random.default_rng(0)
    verse, chorus = rng.normal(size=(2, 8))
    form = np.repeat([verse, chorus, verse, chorus], 60, axis=0)
    similarity = self_similarity((form + 0.1 * rng.normal(size=form.shape)).astype(np.float16), 40)
    assert similarity.shape == (40, 40)
    assert np.diag(similarity) == pytest.approx(1.0, abs=1e-5)
    assert similarity[5, 25] > 0.9  # both verses
    assert similarity[5, 15] < -0.9
    assert self_similarity(np.ones((1, 8), np.float16)).shape == (1, 1)
    assert np.isfinite(self_similarity(np.ones((30, 8), np.float16))).all()


def test_a_model_without_heads_is_refused(tmp_path: Path, tiny: MusicFM) -> None:
    tiny.save_pretrained(tmp_path / "mine")
    with pytest.raises(CheckpointError, match=r"no heads come with '.*mine'; train some"):
        load_predictor(str(tmp_path / "mine"))
    with pytest.raises(CheckpointError, match=r"'nana' \(there is no folder of that name\); "):
        load_predictor("nana")


def test_heads_of_a_model_folder_are_found(tmp_path: Path, tiny: MusicFM) -> None:
    folder = tmp_path / "mine"
    tiny.save_pretrained(folder)
    write_heads(folder / "heads", str(folder))
    assert len(load_predictor(str(folder)).heads) == 5


def test_a_head_brings_its_model_along(tmp_path: Path, tiny: MusicFM) -> None:
    tiny.save_pretrained(tmp_path / "tuned" / "model")
    key = next(
        path
        for path in write_heads(tmp_path / "heads", str(tmp_path / "tuned" / "model"))
        if path.name == "key"
    )
    for path in key.iterdir():
        path.rename(tmp_path / "tuned" / path.name)
    predictor = load_predictor(heads=[tmp_path / "tuned"])
    assert predictor.model == str(tmp_path / "tuned" / "model")


def test_nano_comes_with_heads_for_all_tasks() -> None:
    predictor = load_predictor()
    assert tuple(head.config.task for head in predictor.heads) == TASKS
    assert predictor.model == "nano"
    assert Predictor.load([Path("nano/beat")]).heads[0].config == predictor.heads[0].config


def test_silence_has_no_key_sections_or_tags() -> None:
    def spans(label: str) -> Spans:
        return Spans(np.array([[0.0, 9.0]]), (label,), np.array([0.9]))

    nowhere = Spans(np.empty((0, 2)), (), np.empty(0))
    no_beats = Beats(np.empty(0), np.empty(0, np.int64))
    found = Annotations(no_beats, spans("N"), spans("verse"), nowhere, {"choir": 0.9})
    assert is_silent(found)
    silence = without_music(found)
    assert silence.tags == {}
    assert silence.segments is not None
    assert not silence.segments.labels
    assert silence.chords is found.chords
    for music in (
        replace(found, chords=spans("C:maj")),
        replace(found, beats=Beats(np.array([1.0]), np.array([1]))),
        replace(found, chords=None),
    ):
        assert not is_silent(music)


@pytest.mark.parametrize(
    ("bpm", "slow", "fast"), [(60.0, 1.0, 0.0), (100.0, 0.0, 0.0), (170.0, 0.0, 1.0)]
)
@pytest.mark.parametrize("metre", [3, 4])
def test_slow_fast_and_waltz_follow_from_beats(
    bpm: float, slow: float, fast: float, metre: int
) -> None:
    times = np.arange(1.0, 60.0, 60.0 / bpm)
    found = tags_of_beats(Beats(times, 1 + np.arange(len(times)) % metre), 60.0)
    assert found == {"slow": slow, "fast": fast, "waltz": float(metre == 3)}


def test_without_beats_nothing_follows_from_them() -> None:
    nothing = tags_of_beats(Beats(np.empty(0), np.empty(0, np.int64)), 9.0)
    assert nothing == {"slow": 0.0, "fast": 0.0, "waltz": 0.0}


def test_a_file_of_another_program_is_no_analysis(tmp_path: Path) -> None:
    tones.write_tones(tmp_path, 1)
    with pytest.raises(DataError, match=r"not an analysis of this version .* analyse .* again"):
        Analysis.load(tmp_path / "tone_0.jams")
