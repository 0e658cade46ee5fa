"""Fine-tuning a tiny model on a few seconds of tones."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from musicfm.datasets.annotations import Annotations, Spans
from musicfm.datasets.labelled import LabelledTrack
from musicfm.datasets.tracks import Track
from musicfm.errors import ConfigError, DataError
from musicfm.model import checkpoint
from musicfm.model.config import preset
from musicfm.model.musicfm import MusicFM
from musicfm.progress import Steps
from musicfm.tasks import heads
from musicfm.tasks.evaluation import encode_tracks, evaluate_head
from musicfm.tasks.finetune import (
    SCRATCH,
    Clips,
    FinetuneSettings,
    finetune,
)
from musicfm.tasks.heads import MODEL, build_task, check_model
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import run
from musicfm.tasks.trials import FIT

SETTINGS = SCRATCH.replace(
    max_epochs=3, epoch_clips=12, warmup_steps=2, batch_size=4, from_scratch=False
)
SECONDS = 26.0


def two_tones(folder: Path, count: int) -> list[LabelledTrack]:
    """Recordings that are a high tone or a low one, called keys."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    time = np.arange(round(SECONDS * 24_000)) / 24_000
    for number in range(count):
        is_high = number % 2
        path = folder / f"{number}.wav"
        samples = 0.3 * np.sin(2 * np.pi * (2_000 if is_high else 150) * time)
        soundfile.write(path, samples + 1e-3 * number, 24_000, subtype="PCM_16")
        keys = Spans(np.array([[0.0, SECONDS]]), ("A:minor" if is_high else "C:major",))
        track = Track(path.name, SECONDS, 24_000, 1, 1, 0, f"{number:064x}")
        found.append(LabelledTrack(track, path, Annotations(keys=keys)))
    return found


def small() -> MusicFM:
    torch.manual_seed(0)
    return MusicFM(preset("tiny").replace(context_seconds=4.0))


def tuned(out: Path, tracks: list[LabelledTrack], **changes: Any) -> None:
    settings = SETTINGS.replace(**changes)
    finetune(
        "key",
        (),
        small(),
        "tiny",
        settings,
        tracks[:4],
        tracks[4:6],
        out,
        device="cpu",
        num_workers=1,
    )


def test_clips_are_what_the_task_asks_for(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path, 2)
    clips = Clips(tracks, build_task("key"), small().config, None)
    assert len(clips) == 2 * 3  # 12, 12 and the last 12 of 26 seconds
    assert clips[0].samples.shape == (12 * 24_000,)
    assert clips[0].values.shape == (6,)
    assert clips[0].known.all()
    expected = soundfile.read(tracks[1].audio, dtype="float32")[0]
    np.testing.assert_array_equal(clips[5].samples, expected[-12 * 24_000 :])


def test_random_clips_are_functions_of_seed_and_number(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path, 3)
    one, same, other = (
        Clips(tracks, build_task("key"), small().config, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(one[100].samples, same[100].samples)
    assert not torch.equal(one[100].samples, other[100].samples)
    epoch = [int(one[n].values[0]) for n in range(9, 18)]
    assert sorted(epoch) == sorted([0] * 6 + [21] * 3)


def test_what_is_beyond_the_end_or_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path, 1)
    soundfile.write(tracks[0].audio, np.full(5 * 24_000, 0.1), 24_000)
    clips = Clips(tracks, build_task("key"), small().config, None)
    assert clips[0].known.tolist() == [True, True, False, False, False, False]
    assert not clips[0].samples[5 * 24_000 :].any()
    tracks[0].audio.write_bytes(b"no sound")
    with pytest.warns(UserWarning, match="left out"):
        assert not clips[0].known.any()


@pytest.mark.statistics
def test_it_learns_and_what_it_saves_is_what_it_has(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path / "music", 8)
    tuned(tmp_path / "run", tracks, max_epochs=6)
    fit = json.loads((tmp_path / "run" / FIT).read_bytes())
    losses = np.array(fit["losses"])
    assert losses[-1, 0] < 0.7 * losses[0, 0]
    predictor = Predictor.load([tmp_path / "run"])
    found = evaluate_head(predictor, {"test": tracks[6:]}, num_workers=1).tests["test"]
    assert found.summary["key"] == 1.0
    assert set(found.tracks) == {"6.wav", "7.wav"}
    head, model = heads.load(tmp_path / "run"), MusicFM.from_pretrained(tmp_path / "run" / MODEL)
    check_model(head, checkpoint.fingerprint(model), "the model beside it")
    assert checkpoint.fingerprint(model) != checkpoint.fingerprint(small())
    assert not (tmp_path / "run" / "checkpoints").exists()
    learnt = [item.track.sha256 for item in tracks[:6]]
    assert checkpoint.read_tracks(tmp_path / "run") == learnt
    assert checkpoint.read_tracks(tmp_path / "run" / MODEL) is None  # who knows what it had heard
    # It is there: nothing is done again.
    before = (tmp_path / "run" / FIT).stat().st_mtime_ns
    tuned(tmp_path / "run", tracks, max_epochs=6)
    assert (tmp_path / "run" / FIT).stat().st_mtime_ns == before
    ((recording,), _) = encode_tracks(predictor, tracks[7:], tmp_path / "cache", num_workers=1)
    assert run(head, recording.features).argmax(axis=1).tolist() == [21] * 13


def test_a_training_that_comes_to_no_number_says_why(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path / "music", 6)
    for _ in range(2):  # nor does it go on from there
        with pytest.raises(ConfigError, match=r"is NaN.*--learning-rates"):
            tuned(tmp_path / "run", tracks, model_learning_rate=1e30, head_learning_rate=1e30)


def test_the_folder_of_a_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "study.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a study of probes"):
        tuned(tmp_path / "run", two_tones(tmp_path / "music", 6))


@pytest.mark.statistics
def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = two_tones(tmp_path / "music", 6)
    tuned(tmp_path / "whole", tracks)
    from musicfm.tasks import finetune as module

    class Stop(Exception):
        pass

    epochs = itertools.count()

    def begin(*given: Any) -> Steps:
        if next(epochs) == 1:
            raise Stop
        return Steps(*given)

    monkeypatch.setattr(module, "Steps", begin)
    with pytest.raises(Stop):
        tuned(tmp_path / "stopped", tracks)
    monkeypatch.undo()
    assert not (tmp_path / "stopped" / FIT).exists()
    tuned(tmp_path / "stopped", tracks)
    losses = [
        json.loads((tmp_path / name / FIT).read_bytes())["losses"] for name in ("whole", "stopped")
    ]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 3


def test_a_folder_keeps_its_settings(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path / "music", 6)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="another head, settings, train, valid"):
        tuned(tmp_path / "run", tracks)


def test_nothing_to_learn_is_said(tmp_path: Path) -> None:
    tracks = two_tones(tmp_path / "music", 6)
    with pytest.raises(DataError, match="for training has labels for beat"):
        finetune("beat", (), small(), "tiny", FinetuneSettings(), tracks[:4], tracks[4:], tmp_path)
