"""Training all tasks together: what it learns from, and that a run goes on as if never stopped."""

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import tones
from musicfm.datasets.labelled import LabelledTrack, read_labelled
from musicfm.datasets.splits import Splitting
from musicfm.datasets.tracks import Track
from musicfm.errors import ConfigError
from musicfm.model.checkpoint import fingerprint, read_tracks
from musicfm.model.config import ModelConfig, PitchConfig, preset
from musicfm.model.musicfm import MusicFM
from musicfm.tasks import heads
from musicfm.tasks.augmentation import change_sound, draw_speed, play_at, transposed
from musicfm.tasks.corpus import vocabulary_of
from musicfm.tasks.heads import Head, build_task, check_model
from musicfm.tasks.joint import (
    CHECKPOINT,
    LOG,
    MODEL,
    JointClips,
    JointSettings,
    join,
    losses_of,
    train,
)
from musicfm.tasks.joint_model import Joint, build
from musicfm.tasks.names import TASKS
from musicfm.tasks.tagging import Tagging
from musicfm.training import Outcome

SETTINGS = JointSettings(
    steps=3, batch_size=4, unlabelled=0.5, learning_rate=1e-3, warmup_steps=2, max_semitones=2
)
CONFIG = preset("tiny").replace(context_seconds=4.0)


def gradient_of(layer: nn.Linear) -> Tensor:
    assert layer.weight.grad is not None
    return layer.weight.grad


def small() -> MusicFM:
    torch.manual_seed(0)
    return MusicFM(CONFIG).eval()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> tuple[LabelledTrack, ...]:
    folder = tones.write_tones(tmp_path_factory.mktemp("tones"), 4)
    return read_labelled([folder], Splitting(), num_workers=1).tracks


@pytest.fixture(scope="module")
def unlabelled(labelled: tuple[LabelledTrack, ...]) -> list[tuple[Track, Path]]:
    return [(item.track, item.audio) for item in labelled[:2]]


def run(
    out: Path,
    labelled: tuple[LabelledTrack, ...],
    unlabelled: list[tuple[Track, Path]],
    **changes: Any,
) -> Outcome:
    settings = SETTINGS.replace(**changes)
    return train(small(), "tiny", settings, labelled, unlabelled, out, num_workers=0)


# --------------------------------------------------------------------------------- augmentation


def test_playing_faster_shifts_pitch_and_time_together() -> None:
    time = np.arange(48_000) / 24_000
    tone = np.sin(2 * np.pi * 440.0 * time).astype(np.float32)
    played = play_at(tone, 2 ** (3 / 12), 48_000)
    end = round(48_000 / 2 ** (3 / 12))
    assert np.abs(played[end + 10 :]).max() == 0.0
    peak = np.abs(np.fft.rfft(played[:24_000])).argmax()  # bins of 1 Hz
    assert abs(peak - 440.0 * 2 ** (3 / 12)) < 1.0


def test_the_sound_changes_and_the_length_does_not() -> None:
    tone = 0.3 * np.sin(np.arange(24_000) / 9).astype(np.float32)
    for seed in range(20):
        found = change_sound(tone, 24_000, np.random.default_rng(seed))
        again = change_sound(tone, 24_000, np.random.default_rng(seed))
        assert np.array_equal(found, again)
        assert found.shape == tone.shape
        assert found.dtype == np.float32
        assert 0.0 < np.abs(found).max() <= 1.0
        assert not np.array_equal(found, tone)
    silence = change_sound(np.zeros(24_000, np.float32), 24_000, np.random.default_rng(0))
    assert np.isfinite(silence).all()


def test_speeds_are_whole_semitones_but_for_some_detuning() -> None:
    rng = np.random.default_rng(0)
    for speed, semitones in (draw_speed(rng, 2) for _ in range(100)):
        assert abs(12 * np.log2(speed) - semitones) <= 0.3
        assert abs(semitones) <= 2


def test_classes_move_up_within_their_mode() -> None:
    classes = torch.zeros(2, 1, 25)
    classes[0, 0, 11] = 1.0  # B major, two semitones up: C# major
    classes[1, 0, [12, 24]] = 0.5  # C minor or none, one down: B minor or none
    moved = transposed(classes, torch.tensor([2, -1]))
    assert moved[0, 0].argmax() == 1
    assert moved[1, 0].nonzero()[:, 0].tolist() == [23, 24]


# ---------------------------------------------------------------------------------------- clips


def test_labels_go_with_the_sound(labelled: tuple[LabelledTrack, ...]) -> None:
    """Of tones of 262 Hz that are C major, and of 440 Hz that are A minor, with clicks."""
    tasks = [build_task("chord"), build_task("beat")]
    clips = JointClips(labelled, (), tasks, CONFIG, SETTINGS)
    seen = set()
    for n in range(12):
        clip = clips[n]
        spectrum = np.abs(np.fft.rfft(clip.samples.numpy()[:48_000]))
        spectrum[: 2 * 180] = spectrum[2 * 900 :] = 0.0
        chord = int(clip.values[0][16])  # at one second
        sound = 12 * np.log2(spectrum.argmax() / 2 / 261.63)
        if len(set(clip.values[0][:32].tolist())) == 1:  # one chord throughout
            wanted = chord if chord < 12 else chord - 12 - 12 * (chord - 12 > 13)
            assert abs((sound - wanted + 6) % 12 - 6) < 0.5
            seen.add(clip.semitones)
        beats = clip.values[1][:, 0].nonzero()[:, 0].diff().float()
        period = 0.5 / 2 ** (clip.semitones / 12) * 50  # outputs
        assert abs(beats.mean() - period) < 0.05 * period
    assert len(seen) > 2


def test_clips_follow_from_their_number(
    labelled: tuple[LabelledTrack, ...], unlabelled: list[tuple[Track, Path]]
) -> None:
    tasks = [build_task("key"), Tagging(["high", "low", "slow"])]
    clips = JointClips(labelled, unlabelled, tasks, CONFIG, SETTINGS)
    batch, again = (join([clips[n] for n in range(8, 12)]) for _ in range(2))
    assert torch.equal(batch.samples, again.samples)
    assert batch.samples.shape == (4, 96_000)
    assert len(batch.originals) == len(batch.lengths) == 2  # the first half has no labels
    assert not batch.known[0][:2].any()
    assert batch.known[0][2:].all()
    faster = batch.semitones[2:] != 0
    assert torch.equal(batch.known[1][2:, 0, 2], ~faster)  # whether it is slow still
    assert batch.known[1][2:, 0, :2].all()


# -------------------------------------------------------------------------------------- training


def test_a_run_begins_with_what_the_model_and_its_heads_know() -> None:
    vocabulary = ("piano", "theremin")
    nano = MusicFM.from_pretrained("nano")
    joint = build(nano, "nano", vocabulary, pitch=True).eval()
    assert joint.model.config.pitch == PitchConfig()
    waveform = 0.1 * torch.randn(1, 96_000)
    with torch.no_grad():
        expected = nano(waveform).hidden_states
        for state, wanted in zip(joint.model(waveform).hidden_states, expected, strict=True):
            assert torch.equal(state, wanted)
        shipped = heads.load(heads.shipped("nano")["chord"])
        states = torch.stack(expected, dim=1)
        assert torch.equal(joint.heads[TASKS.index("chord")](states), shipped(states))
    tags = joint.heads[TASKS.index("tagging")]
    assert isinstance(tags, Head)
    old = heads.load(heads.shipped("nano")["tagging"])
    row = old.config.vocabulary.index("piano")
    assert torch.equal(tags.output.weight[0], old.output.weight[row])


def test_each_part_learns_from_what_is_its_own(
    labelled: tuple[LabelledTrack, ...], unlabelled: list[tuple[Track, Path]]
) -> None:
    joint = build(small(), "tiny", vocabulary_of(labelled), pitch=True).train()
    tasks = [head.task for head in joint.heads if isinstance(head, Head)]
    clips = JointClips(labelled, unlabelled, tasks, CONFIG, SETTINGS)
    batch = join([clips[n] for n in range(4)])
    losses = losses_of(joint, joint, batch, SETTINGS, torch.Generator().manual_seed(0))
    assert set(losses) == {*TASKS, "tokens", "consistency"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    for name in TASKS:
        joint.zero_grad()
        losses[name].backward(retain_graph=True)
        for head in joint.heads:
            assert isinstance(head, Head)
            learns = head.output.weight.grad is not None and head.output.weight.grad.any()
            assert learns == (head.config.task == name)
        assert gradient_of(joint.model.front_end.linear).any()
    joint.zero_grad()
    losses["tokens"].backward()
    assert gradient_of(joint.model.head).any()


def test_the_rate_goes_up_stays_and_falls_to_nothing() -> None:
    settings = JointSettings(steps=100, warmup_steps=10, decay=0.5, learning_rate=1.0)
    rates = [settings.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:50] == [1.0] * 41
    assert rates[-1] == pytest.approx(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_was_stopped_is_the_run_that_was_not(
    number: signal.Signals,
    labelled: tuple[LabelledTrack, ...],
    unlabelled: list[tuple[Track, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(tmp_path / "whole", labelled, unlabelled)
    calls: list[int] = []
    forward = Joint.forward

    def stop(self: Joint, *given: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:  # of two calls a step, in the second step
            signal.raise_signal(number)
        return forward(self, *given)

    handlers = [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    with monkeypatch.context() as patched:
        patched.setattr(Joint, "forward", stop)
        assert run(tmp_path / "stopped", labelled, unlabelled) == Outcome(2, None, number)
    assert handlers == [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)]
    state = torch.load(tmp_path / "stopped" / CHECKPOINT, weights_only=True)
    assert state["step"] == 2
    assert run(tmp_path / "stopped", labelled, unlabelled) == Outcome(
        3, tmp_path / "stopped" / MODEL, None
    )
    one, other = (
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "stopped")
    )
    assert one["step"] == other["step"] == 3
    for part in ("joint", "average"):
        for name, tensor in one[part].items():
            assert torch.equal(tensor, other[part][name]), name
    for key, moments in one["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, other["optimizer"]["state"][key][name]), name


def test_the_result_is_a_model_with_heads(
    labelled: tuple[LabelledTrack, ...],
    unlabelled: list[tuple[Track, Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("musicfm.tasks.joint.LOG_EVERY", 3)
    run(tmp_path, labelled, unlabelled, steps=3)
    model = MusicFM.from_pretrained(tmp_path / MODEL)
    found = heads.shipped(tmp_path / MODEL)
    assert set(found) == set(TASKS)
    for folder in found.values():
        check_model(heads.load(folder), fingerprint(model), "it")
        assert read_tracks(folder) == read_tracks(tmp_path / MODEL)
    facts = json.loads((tmp_path / MODEL / "training.json").read_text())
    assert facts["step"] == facts["recipe"]["steps"] == 3
    assert ModelConfig.from_dict(facts["recipe"]["model"]) == model.config
    (line,) = (tmp_path / LOG).read_text().splitlines()
    assert json.loads(line)["step"] == 3
    with pytest.raises(ConfigError, match="another batch_size; continue with the same"):
        run(tmp_path, labelled, unlabelled, batch_size=2)
