from pathlib import Path
from typing import Any

import pytest

import labelled
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.datasets.tracks import Track
from musicfm.errors import DataError
from musicfm.tasks.base import Task
from musicfm.tasks.heads import build_task
from musicfm.tasks.names import TASKS, TaskName
from musicfm.tasks.trivial import Annotator, oracle, trivial


def songs() -> list[LabelledTrack]:
    found = []
    for seed in labelled.SEEDS:
        annotations, duration = labelled.song(seed)
        track = Track(f"{seed}.wav", duration, 24_000, 1, 1, 0, f"{seed:064x}")
        found.append(LabelledTrack(track, Path(track.path), annotations))
    return found


def task_of(name: TaskName) -> Task[Any]:
    tags = {tag for item in songs() for tag in item.annotations.tags or ()}
    return build_task(name, tuple(sorted(tags)))


def summary(task: Task[Any], predictor: Annotator, items: list[LabelledTrack]) -> dict[str, float]:
    return task.summarise([task.score(item.annotations, predictor(item)) for item in items])


@pytest.mark.parametrize("name", TASKS)
def test_the_oracle_is_the_ceiling_and_what_does_not_listen_is_far_below(name: TaskName) -> None:
    task, items = task_of(name), songs()
    best = summary(task, oracle(task), items)
    constant = summary(task, trivial(task, items[:6], items[6:9]), items[6:])
    for metric in task.metrics:
        assert best[metric] >= 0.99
        assert constant[metric] < 0.75


def test_constant_tags_have_what_chance_gives() -> None:
    task, items = task_of("tagging"), songs()
    found = summary(task, trivial(task, items[:6], items[6:9]), items[6:])
    assert found["roc_auc"] == pytest.approx(0.5)
    assert found["map"] == pytest.approx(found["prevalence"])


def test_nothing_can_be_said_without_labels() -> None:
    bare = [LabelledTrack(item.track, item.audio, Annotations()) for item in songs()]
    with pytest.raises(DataError, match="no recordings are labelled for key"):
        trivial(task_of("key"), bare, bare)
