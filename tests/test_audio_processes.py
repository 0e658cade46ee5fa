import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

from musicfm.audio import processes
from musicfm.audio.processes import (
    End,
    Failure,
    Message,
    Now,
    num_cores,
    run_tasks,
)
from musicfm.errors import AudioError, ConfigError, OutputError


@pytest.fixture(autouse=True)
def _spawned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_START_METHOD", "spawn")


def act(job: str) -> Iterator[Any]:
    """A task that does what the job's name says: runs in the worker."""
    for step in job.split():
        if step == "exit":
            os._exit(3)
        elif step == "hang":
            time.sleep(1e6)
        elif step == "refuse":
            raise AudioError(f"{job}: not audio")
        elif step == "raise":
            raise RuntimeError("two\nlines")
        elif step == "full":
            raise OutputError("the disk is full")
        elif step.startswith("now:"):
            yield Now(step[4:])
        else:
            yield step, None


def run(jobs: list[str], num_workers: int = 2) -> list[Any]:
    with contextlib.closing(
        run_tasks(act, ((job, job) for job in jobs), num_workers=num_workers, timeout_seconds=2.0)
    ) as events:
        return list(events)


def test_messages_come_in_order_and_jobs_end() -> None:
    events = run(["a b c", "d", ""])
    for job in ("a b c", "d", ""):
        expected = [Message(job, (step, None)) for step in job.split()]
        assert [event for event in events if event.key == job] == [*expected, End(job, ())]


def test_what_a_task_does_costs_one_job() -> None:
    damaged = "the file is probably damaged."
    bad = {
        "a exit": f"a exit ended the decoder (exit code 3); {damaged}",
        "a hang": f"a hang made no progress in the decoder for 2 s; {damaged}",
        "now:x now:y exit": f"y ended the decoder (exit code 3); {damaged}",
        "a refuse": "a refuse: not audio",
        "raise": "raise cannot be decoded (RuntimeError: two lines).",
    }
    good = [f"g{index}" for index in range(len(bad))]
    jobs = [job for pair in zip(bad, good, strict=True) for job in pair]
    events = run(jobs)
    assert {event.key: event.reason for event in events if isinstance(event, Failure)} == bad
    assert sorted(event.key for event in events if isinstance(event, End)) == good


def test_a_name_does_not_outlast_its_job() -> None:
    events = run(["now:x", "exit", "now:x refuse", "exit"], num_workers=1)
    reasons = [event.reason for event in events if isinstance(event, Failure)]
    assert [reason.split()[0] for reason in reasons] == ["exit", "now:x", "exit"]


def test_what_cannot_be_written_ends_the_run() -> None:
    with pytest.raises(OutputError, match="the disk is full"):
        run(["a", "full", "b"])


def test_numbers_of_processes() -> None:
    assert num_cores(3) == 3
    assert 1 <= num_cores(None, spare=1) <= 16
    with pytest.raises(ConfigError, match="num_workers is 0; give 1 or more"):
        num_cores(0)
