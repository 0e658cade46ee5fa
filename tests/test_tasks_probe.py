"""Probes on features in which the answer is hidden in plain sight."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import labelled
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.datasets.tracks import Track
from musicfm.errors import DataError
from musicfm.tasks.features import Features, Inputs
from musicfm.tasks.heads import HeadConfig, build_task
from musicfm.tasks.names import TASKS, TaskName
from musicfm.tasks.probe import (
    EncodedTrack,
    Fitted,
    ProbeExamples,
    ProbeSettings,
    evaluate,
    fit,
    run,
)

SETTINGS = ProbeSettings(max_epochs=40, batch_size=16, patience=10, learning_rate=1e-2)
VOCABULARY = tuple(
    sorted({t for seed in labelled.SEEDS for t in labelled.song(seed)[0].tags or ()})
)


def recordings(folder: Path, name: TaskName, noise: float = 0.1) -> list[EncodedTrack]:
    """Composed songs, with features that are their targets at 25 Hz, mixed, and noise."""
    task = build_task(name, VOCABULARY)
    rng = np.random.default_rng(0)
    found = []
    for seed in labelled.SEEDS:
        annotations, duration = labelled.song(seed)
        count = int(np.ceil(duration * 25))
        values, known = task.targets(annotations, np.arange(count) / 25)
        frames = np.zeros((count, 48))
        if name in ("chord", "key"):
            frames[np.arange(count), values.astype(int)] = known
        elif name == "structure":
            frames[:, 0] = values[:, 0]
            frames[np.arange(count), 1 + values[:, 1].astype(int)] = known[:, 1]
        else:
            frames[:, : values.shape[1]] = values * known
        layers = np.stack([rng.normal(size=frames.shape), 10.0 * frames])
        layers += noise * rng.normal(size=layers.shape)
        paths = {number: folder / f"{seed}_{number}.npy" for number in (0, 1)}
        for number, path in paths.items():
            np.save(path, layers[number].astype(np.float16))
        track = Track(f"{seed}.wav", duration, 24_000, 1, 1, 0, f"{seed:064x}")
        item = LabelledTrack(track, folder / track.path, annotations)
        found.append(EncodedTrack(item, Features(paths, 25.0)))
    return found


def config(name: TaskName, **changes: Any) -> HeadConfig:
    fields = {
        "task": name,
        "model": "plain",
        "fingerprint": "0",
        "layers": (1,),
        "dim": 48,
        "hidden": 64,
        **changes,
    }
    if name == "tagging":
        fields["vocabulary"] = VOCABULARY
    return HeadConfig(**fields)


def fitted_on(
    config: HeadConfig,
    settings: ProbeSettings,
    train: list[EncodedTrack],
    valid: list[EncodedTrack],
) -> Fitted:
    examples = [
        ProbeExamples(config, some, purpose)
        for some, purpose in ((train, "training"), (valid, "validation"))
    ]
    return fit(config, settings, *examples)


@pytest.mark.parametrize(
    "name",
    [name if name == "key" else pytest.param(name, marks=pytest.mark.statistics) for name in TASKS],
)
def test_a_head_finds_what_the_features_say(tmp_path: Path, name: TaskName) -> None:
    found = recordings(tmp_path, name)
    # Few songs do not have all keys, chords and tags: only those that were heard are asked for.
    fitted = fitted_on(config(name), SETTINGS, found[:8], found[:4])
    assert fitted.losses[-1][0] < 0.5 * fitted.losses[0][0]
    evaluation = evaluate(fitted.head, found[4:8])
    assert fitted.head.task.objective(evaluation.summary) > 0.9
    assert set(evaluation.tracks) == {recording.item.track.path for recording in found[4:8]}


def test_a_seed_gives_the_same_head_again_and_another_one_another(tmp_path: Path) -> None:
    found = recordings(tmp_path, "chord")
    settings = SETTINGS.replace(max_epochs=2)
    heads = [
        fitted_on(
            config("chord"), settings.replace(seed=seed), found[:4], found[4:6]
        ).head.state_dict()
        for seed in (1, 1, 2)
    ]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in heads[0])
    assert not torch.equal(heads[0]["hidden.weight"], heads[2]["hidden.weight"])


def test_an_epoch_is_no_longer_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = recordings(tmp_path, "chord")
    heard: list[int] = []
    clip = ProbeExamples.clip

    def noted(self: ProbeExamples, index: int, outputs: range) -> tuple[torch.Tensor, ...]:
        if torch.is_grad_enabled():  # in training
            heard.append(index)
        return clip(self, index, outputs)

    monkeypatch.setattr(ProbeExamples, "clip", noted)
    settings = SETTINGS.replace(max_epochs=3, batch_size=4)
    fitted_on(config("chord"), settings.replace(epoch_clips=6), found[:4], found[4:5])
    assert len(heard) == 3 * 6
    assert set(heard) == set(range(4))  # another choice each epoch
    heard.clear()
    fitted_on(config("chord"), settings, found[:1], found[4:5])
    seconds = found[0].track.duration
    assert len(heard) == 3 * -(-seconds * 16 // (12 * 16))


@pytest.mark.statistics
def test_several_layers_are_weighted(tmp_path: Path) -> None:
    found = recordings(tmp_path, "chord")
    fitted = fitted_on(config("chord", layers=(0, 1)), SETTINGS, found[:6], found[:2])
    weights = fitted.head.mixing.softmax(dim=0)
    assert weights[1] > 0.6  # the other one is noise


def test_recordings_without_labels_do_not_count(tmp_path: Path) -> None:
    found = recordings(tmp_path, "chord")
    bare = [replace(r, item=replace(r.item, annotations=Annotations())) for r in found]
    settings = SETTINGS.replace(max_epochs=1)
    one = fitted_on(config("chord"), settings, found[:3], found[4:6])
    same = fitted_on(config("chord"), settings, [*found[:3], *bare[6:]], [*found[4:6], bare[3]])
    assert one.losses == same.losses
    with pytest.raises(DataError, match=r"for validation has labels for chord; label"):
        fitted_on(config("chord"), settings, found[:3], bare[:2])
    with pytest.raises(DataError, match="for testing"):
        evaluate(one.head, bare)


def test_long_recordings_are_run_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = recordings(tmp_path, "beat")
    head = fitted_on(config("beat"), SETTINGS.replace(max_epochs=1), found[:2], found[2:3]).head
    whole = run(head, found[0].features)
    monkeypatch.setattr("musicfm.tasks.probe.OUTPUTS_AT_ONCE", 101)
    np.testing.assert_allclose(run(head, found[0].features), whole, atol=1e-5)


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    found = recordings(tmp_path, "key")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fitted_on(config("key"), SETTINGS.replace(max_epochs=1), found[:2], found[2:3])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("inputs", ["frames", "stacked", "statistics"])
def test_what_heads_see_is_the_same_in_training_and_in_running(
    tmp_path: Path, inputs: Inputs
) -> None:
    found = recordings(tmp_path, "structure")
    chosen = config("structure", inputs=inputs, layers=(0, 1), relative=True)
    head = fitted_on(chosen, SETTINGS.replace(max_epochs=1), found[:2], found[2:3]).head
    examples = ProbeExamples(chosen, found[:1], "testing")
    frames, _, _ = examples.clip(0, range(examples.counts[0]))
    with torch.inference_mode():
        whole = head(frames[None])[0].numpy()
    # Half precision of what is pooled, between the two.
    np.testing.assert_allclose(run(head, found[0].features), whole, atol=5e-3)
    part, _, _ = examples.clip(0, range(20, 30))
    torch.testing.assert_close(part, frames[:, 20:30])


@pytest.mark.statistics
def test_neighbours_help_where_one_frame_does_not_say_it(tmp_path: Path) -> None:
    """Features that lie half a second off."""
    found = recordings(tmp_path, "structure")
    for recording in found:
        path = recording.features.paths[1]
        np.save(path, np.roll(np.load(path), 12, axis=0))
    few = SETTINGS.replace(max_epochs=8)
    losses = {
        inputs: fitted_on(config("structure", inputs=inputs), few, found[:6], found[:3]).losses[-1][
            0
        ]
        for inputs in ("frames", "stacked")
    }
    assert losses["stacked"] < 0.8 * losses["frames"]


@pytest.mark.statistics
def test_the_whole_recording_helps_where_levels_differ_from_one_to_the_next(tmp_path: Path) -> None:
    found = recordings(tmp_path, "structure")
    rng = np.random.default_rng(0)
    for recording in found:
        path = recording.features.paths[1]
        frames = np.load(path)
        np.save(path, (frames + rng.normal(0.0, 5.0, frames.shape[1])).astype(np.float16))
    few = SETTINGS.replace(max_epochs=8)
    losses = [
        fitted_on(config("structure", relative=relative), few, found[:6], found[6:9]).losses[-1][1]
        for relative in (False, True)
    ]
    assert losses[1] < 0.8 * losses[0]
