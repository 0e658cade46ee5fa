"""What holds for all tasks."""

import numpy as np
import pytest
import torch

import labelled
from musicfm.datasets.annotations import Annotations
from musicfm.tasks import names
from musicfm.tasks.base import Array, Decoding, Task, sigmoid, softmax
from musicfm.tasks.beat import Beat
from musicfm.tasks.chord import Chord
from musicfm.tasks.heads import task_class
from musicfm.tasks.key import Key
from musicfm.tasks.structure import Structure
from musicfm.tasks.tagging import Tagging

VOCABULARY = tuple(
    sorted({tag for seed in labelled.SEEDS for tag in labelled.song(seed)[0].tags or ()})
)
TASKS: list[Task[Decoding]] = [Beat(), Chord(), Structure(), Key(), Tagging(VOCABULARY)]  # type: ignore[list-item]
tasks = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)


def times_of(task: Task[Decoding], duration: float) -> Array:
    if task.rate is None:
        return np.array([duration / 2])
    return labelled.output_times(duration, task.rate)


@tasks
def test_targets_to_events_to_metrics_loses_nothing(task: Task[Decoding]) -> None:
    scores = []
    for seed in labelled.SEEDS:
        annotations, duration = labelled.song(seed)
        assert task.is_labelled(annotations)
        times = times_of(task, duration)
        logits = task.oracle_logits(task.targets(annotations, times))
        assert logits.shape == (len(times), task.num_logits)
        estimate = task.decode(logits, times, duration, task.decodings[0])
        scores.append(task.score(annotations, estimate))
    summary = task.summarise(scores)
    for metric in task.metrics:
        assert summary[metric] >= 0.99, metric


@tasks
def test_annotations_score_one_against_themselves(task: Task[Decoding]) -> None:
    pairs = [(labelled.song(seed)[0],) * 2 for seed in labelled.SEEDS]
    summary = task.summarise([task.score(a, b) for a, b in pairs])
    for metric in task.metrics:
        assert summary[metric] == pytest.approx(1.0), metric


@tasks
def test_nothing_known_gives_no_loss(task: Task[Decoding]) -> None:
    assert not task.is_labelled(Annotations())
    times = times_of(task, 30.0)
    values, known = task.targets(Annotations(), times)
    assert not known.any()
    logits = torch.randn(1, len(times), task.num_logits, requires_grad=True)
    loss = task.loss(logits, torch.tensor(values)[None].float(), torch.tensor(known)[None])
    assert loss.mean == 0.0
    loss.total.backward()
    assert logits.grad is not None
    assert not logits.grad.any()


@tasks
def test_the_loss_prefers_what_is_right(task: Task[Decoding]) -> None:
    annotations, duration = labelled.song(0)
    times = times_of(task, duration)
    targets = task.targets(annotations, times)
    values, known = torch.tensor(targets.values)[None].float(), torch.tensor(targets.known)[None]
    right = torch.tensor(task.oracle_logits(targets))[None].float()
    wrong = task.loss(-right, values, known).mean
    flat = task.loss(torch.zeros_like(right), values, known).mean
    assert task.loss(right, values, known).mean < 0.01 * flat < flat < wrong


@tasks
def test_losses_of_halves_add_up(task: Task[Decoding]) -> None:
    generator = torch.Generator().manual_seed(0)
    parts = []
    for seed in (0, 1):
        annotations, duration = labelled.song(seed)
        times = times_of(task, duration)[:200]
        values, known = task.targets(annotations, times)
        logits = torch.randn(1, len(times), task.num_logits, generator=generator)
        parts.append((logits, torch.tensor(values)[None].float(), torch.tensor(known)[None]))
    least = min(part[0].shape[1] for part in parts)
    parts = [tuple(x[:, :least] for x in part) for part in parts]  # type: ignore[misc]
    together = task.loss(*(torch.cat(xs) for xs in zip(*parts, strict=True)))
    apart = [task.loss(*part) for part in parts]
    assert together.total == pytest.approx(sum(float(loss.total) for loss in apart), rel=1e-5)
    assert together.weight == pytest.approx(sum(float(loss.weight) for loss in apart), rel=1e-5)


@tasks
@pytest.mark.parametrize("num_outputs", [1, 2, 3])
def test_the_shortest_recordings_are_decoded(task: Task[Decoding], num_outputs: int) -> None:
    times = np.arange(num_outputs) / (task.rate or 1.0)
    duration = float(times[-1]) + 0.01
    for decoding in task.decodings:
        logits = np.random.default_rng(0).normal(size=(num_outputs, task.num_logits))
        found = task.decode(logits, times, duration, decoding)
        for spans in (found.chords, found.segments, found.keys):
            if spans is not None:
                assert spans.intervals[0, 0] == 0.0
                assert spans.intervals[-1, 1] == duration
                assert (spans.intervals[1:, 0] == spans.intervals[:-1, 1]).all()


def test_probabilities_do_not_overflow() -> None:
    huge = np.array([[-1e4, 0.0, 1e4]])
    np.testing.assert_array_equal(sigmoid(huge), [[0.0, 0.5, 1.0]])
    np.testing.assert_array_equal(softmax(huge), [[0.0, 0.0, 1.0]])


def test_a_task_is_found_by_its_name() -> None:
    assert [task_class(name).name for name in names.TASKS] == [task.name for task in TASKS]
