"""Work on many files, in processes that outlive the files but not us.

A damaged file can crash or hang the C libraries that decode it; here that costs one file, not the
run. (The library ``pebble`` replaces dead workers too, but returns one value per task: no stream,
no backpressure; hence plain ``multiprocessing``.)

Each process has its own pipe, so that dying mid-message it harms no other. A pipe's end closes with
its process, however that dies: end of file is the sign of death that each side looks for.

Python imports the caller's main script once in every process: a script needs the usual
``if __name__ == "__main__":`` guard and nothing else, and what it imports outside the guard costs
each process time and memory. A daemonic process, such as a worker of PyTorch's ``DataLoader``, may
not start any.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import TYPE_CHECKING, Any, Final, Generic, TypeAlias, TypedDict, TypeVar

from musicfm._lazy import renamed
from musicfm.errors import AudioWarning, ConfigError, MusicFMError, OutputError

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Task": "TaskFunction"}, globals().__getitem__)

KeyT = TypeVar("KeyT")
Event = TypeVar("Event")


@dataclass(frozen=True)
class Message(Generic[KeyT]):
    """What a task has to say on its way."""

    key: KeyT
    value: Any


@dataclass(frozen=True)
class End(Generic[KeyT]):
    """The job is complete; ``warnings`` holds the decoder's messages about damage."""

    key: KeyT
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure(Generic[KeyT]):
    """The job cannot be done, for ``reason`` (one line); its earlier messages are void."""

    key: KeyT
    reason: str


@dataclass(frozen=True)
class Now:
    """A task's message that it turns to the file so called, for when that one is its last."""

    name: str
    item: Any = None
    """Key of the file for the receiver."""


class Work(TypedDict, total=False):
    """Keywords of what works on many files, for functions that pass them on."""

    num_workers: int | None
    """Processes; None takes all cores, and 16 at most."""
    progress: bool
    """Whether to show bars on standard error."""


class PatientWork(Work, total=False):
    """The same, of what reads files that may be damaged."""

    timeout_seconds: float
    """Seconds after which a file that makes no progress is given up."""


TaskEvent: TypeAlias = Message[KeyT] | End[KeyT] | Failure[KeyT]
TaskFunction: TypeAlias = Callable[[Any], Iterator[Any]]

_START_METHOD: Final = "spawn"  # a fork would inherit locks that other threads hold
_JOBS_PER_WORKER = 2  # one being done, one waiting in the pipe: no pause between short files
_START_SECONDS = 120.0  # for importing the caller's main script, perhaps from a slow disk
_MAX_FAILED_STARTS = 3  # of one worker in a row
_GRACE_SECONDS = 1.0


def num_cores(num_workers: int | None, spare: int = 0) -> int:
    """The number of processes: as given, or all cores but ``spare``, and 16 at most.

    Raises ConfigError if fewer than one were asked for.
    """
    if num_workers is None:
        return max(1, min(16, (os.cpu_count() or 1) - spare))
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}; give 1 or more")
    return num_workers


def run_tasks(
    task: TaskFunction,
    jobs: Iterable[tuple[KeyT, Any] | None],
    *,
    num_workers: int,
    timeout_seconds: float = 60.0,
) -> Generator[TaskEvent[KeyT], None, None]:
    """Run a task on each job, and yield what it yields; that of several jobs interleaves.

    Every job ends in one `End` or one `Failure`, whatever its file does. Close the generator when
    leaving early (``with contextlib.closing(...)``): it ends the processes.

    Args:
        task: takes a job and yields messages; a function of a module, or a `functools.partial` of
            one. A message should come now and then, were it None.
        jobs: pairs of a key, which comes back in the events, and what the task takes, whose
            ``str`` is the name of its file. Taken lazily. None: see `run_workers`.
        num_workers: processes, each doing one job at a time.
        timeout_seconds: a worker that says nothing for so long is killed and its job given up.

    Raises:
        OutputError: a task raised it.
        MusicFMError: the worker processes do not start.
    """
    workers = [_TaskWorker[KeyT](task, timeout_seconds) for _ in range(num_workers)]
    return run_workers(iter(jobs), workers)


def run_workers(
    jobs: Iterator[tuple[KeyT, Any] | None], workers: "Sequence[Worker[KeyT, Event]]"
) -> Generator[Event | Failure[KeyT], None, None]:
    """Yield the events of all jobs, in order within each.

    ``jobs`` may give None: none for now. They are asked again after the next event, but not waited
    for: when no job is left, this ends.
    """
    try:
        while True:
            for depth in range(_JOBS_PER_WORKER):  # one for each before a second for any
                for worker in workers:
                    if len(worker.jobs) <= depth and (job := next(jobs, None)):
                        worker.give(*job)
            running = {worker.pipe: worker for worker in workers if worker.process}
            if not any(worker.jobs for worker in workers):
                return
            patience = min(worker.deadline for worker in running.values()) - time.monotonic()
            ready = wait(list(running), min(max(patience, 0.0), _START_SECONDS))
            for pipe, worker in running.items():  # one message of each: no file waits for another
                event = worker.receive() if pipe in ready else worker.replace_if_stuck()
                if event:
                    yield event
    finally:
        for worker in workers:
            worker.stop()


class Worker(ABC, Generic[KeyT, Event]):
    """Our side of one worker: its pipe, and its process, which is replaced on death.

    A subclass says what the process runs and what its messages mean.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.jobs: deque[tuple[KeyT, Any]] = deque()  # the first is the one being done
        self.process: SpawnProcess | None = None
        self.pipe: Connection
        self.up = False  # the process has said so
        self.failed_starts = 0
        self.last_message = 0.0  # when its last message came, or the work that it was idle for
        self.name: str | None = None  # of the file in hand, if the job is one of several

    @abstractmethod
    def _program(self, context: SpawnContext) -> tuple[Callable[..., None], tuple[Any, ...]]:
        """What the process runs: a function that takes its pipe and these arguments."""

    @abstractmethod
    def _event(self, key: KeyT, message: Any) -> Event:
        """What a message about a job means."""

    @property
    def deadline(self) -> float:
        """When patience ends, on the clock of `time.monotonic`."""
        return (
            self.last_message + (self.timeout if self.up else _START_SECONDS)
            if self.jobs
            else math.inf
        )

    def give(self, key: KeyT, job: Any) -> None:
        if not self.jobs:
            self.last_message = time.monotonic()
        self.jobs.append((key, job))
        if self.process:
            self._send(self.jobs[-1][1])
        else:
            self._start()

    def receive(self) -> Event | Failure[KeyT] | None:
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self._replace()
        self.last_message = time.monotonic()
        match message:
            case "up":
                self.up, self.failed_starts = True, 0
                return None
            case "failure", str(reason):
                self.name = None
                return Failure(self.jobs.popleft()[0], reason)
            case "output", str(reason):
                raise OutputError(reason)
            case "end", _:
                self.name = None
                return self._event(self.jobs.popleft()[0], message)
            case "message", Now(name):
                self.name = name
        return self._event(self.jobs[0][0], message)

    def replace_if_stuck(self) -> Failure[KeyT] | None:
        # Slots go back before we yield, so only one whose messages we have not read waits for us.
        # The grace is for the moment after a pause: Ctrl-Z and fg, or minutes in the consumer.
        if time.monotonic() < self.deadline or self.pipe.poll(_GRACE_SECONDS):
            return None
        return self._replace(stuck=True)

    def stop(self, patience: float = 0.0) -> int | None:
        """Kill the process unless it ends within ``patience`` seconds; its exit code."""
        process, self.process = self.process, None
        if process is None:
            return None
        self.pipe.close()
        if process.pid is None:  # Ctrl-C came first; without its pipe a process ends by itself
            return None
        process.join(patience)
        process.kill()  # harmless: it holds no lock and writes no file
        process.join(_GRACE_SECONDS)  # not for ever: a read from a dead network drive outlasts kill
        return process.exitcode

    def _replace(self, stuck: bool = False) -> Failure[KeyT] | None:
        """Give up the job begun, and start a new process for what is left."""
        code = self.stop(patience=0.0 if stuck else _GRACE_SECONDS) or 0
        failure = None
        if not self.up:
            self.failed_starts += 1
            if self.failed_starts == _MAX_FAILED_STARTS:
                raise MusicFMError(
                    f"the decoder processes do not start (exit code {code}); Python imports your "
                    "script in each: keep what it runs under `if __name__ == '__main__':`"
                )
        elif self.jobs:
            key, job = self.jobs.popleft()
            name, self.name = self.name or job, None
            cause = "the file is probably damaged"
            if stuck:
                what = f"made no progress in the decoder for {self.timeout:g} s"
            elif code == -9:
                what, cause = "was in a decoder that was killed", "memory is probably short"
            elif code < 0:
                what = f"crashed the decoder (signal {-code}, {signal.strsignal(-code)})"
            else:
                what = f"ended the decoder (exit code {code})"
            failure = Failure(key, one_line(f"{name} {what}; {cause}."))
        if self.jobs:
            self._start()
        return failure

    def _start(self) -> None:
        context = multiprocessing.get_context(_START_METHOD)
        program, arguments = self._program(context)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=program, args=(theirs, *arguments), name="decoder", daemon=True
        )
        self.up, self.last_message = False, time.monotonic()
        with _sigint_blocked():
            self.process.start()
        theirs.close()  # or there would be no end of file
        for _, job in self.jobs:
            self._send(job)

    def _send(self, message: Any) -> None:
        with suppress(OSError):  # it has died: the next receive sees to that
            self.pipe.send(message)


class _TaskWorker(Worker[KeyT, Message[KeyT] | End[KeyT]]):
    """A worker that runs a task."""

    def __init__(self, task: TaskFunction, timeout: float) -> None:
        super().__init__(timeout)
        self._task = task

    def _program(self, context: SpawnContext) -> tuple[Callable[..., None], tuple[Any, ...]]:
        return _run_task, (self._task,)

    def _event(self, key: KeyT, message: Any) -> Message[KeyT] | End[KeyT]:
        kind, value = message
        return End(key, value) if kind == "end" else Message(key, value)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    """A process started in here inherits the block: no Ctrl-C interrupts it while it imports."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # it would start with the first process and lift the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_task(pipe: Connection, task: TaskFunction) -> None:
    """What the process of a task worker runs."""

    def deliver(job: Any) -> None:
        for value in task(job):
            pipe.send(("message", value))

    serve(pipe, deliver, pipe.recv)


def serve(pipe: Connection, deliver: Callable[[Any], None], next_job: Callable[[], Any]) -> None:
    """The worker's side: take jobs and deliver, until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    end_with_parent()
    with suppress(EOFError, OSError):
        pipe.send("up")
        while True:
            pipe.send(_outcome(deliver, next_job()))


def _outcome(deliver: Callable[[Any], None], job: Any) -> tuple[str, str | tuple[str, ...]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AudioWarning)
        try:
            deliver(job)
        except OutputError as error:
            return "output", str(error)
        except MusicFMError as error:
            return "failure", str(error)
        except Exception as error:
            return "failure", one_line(
                f"{job} cannot be decoded ({type(error).__name__}: {error})."
            )
    return "end", tuple(str(warning.message) for warning in caught)


def one_line(text: str) -> str:
    """Without what cannot be printed: file names hold line breaks, and bytes that are no UTF-8."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())


def end_with_parent() -> None:
    """Has this process end with the one that started it, however that dies, and even in a hang."""
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
