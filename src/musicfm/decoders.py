"""Decode many recordings ahead of the model, in processes that outlive the files but not us.

A damaged file can crash or hang the C libraries that decode it; here that costs one file, not the
run. (The library ``pebble`` replaces dead workers too, but returns one value per task: no stream,
no backpressure; hence plain ``multiprocessing``.)

Each process has its own pipe, so that dying mid-message it harms no other, and its own ring of
slots in shared memory. It fills a free slot and sends ``(slot, count)``; we copy the samples out
and send the slot back. While the consumer is busy, messages wait in the pipe and samples in the
ring, and when that is full so does the decoder; neither side counts anything. A pipe's end closes
with its process, however that dies: end of file is the sign of death that each side looks for.

Python imports the caller's main script once in every process: a script needs the usual
``if __name__ == "__main__":`` guard and nothing else, and what it imports outside the guard costs
each process time and memory. A daemonic process, such as a worker of PyTorch's ``DataLoader``, may
not start any.
"""

import ctypes
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from musicfm import audio
from musicfm.errors import AudioError, AudioWarning, MusicFMError

Key = TypeVar("Key")
_Path: TypeAlias = str | os.PathLike[str]
_Samples: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Start(Generic[Key]):
    """The recording says that it is so long; it may be wrong. Only given if it says so."""

    key: Key
    duration_seconds: float


@dataclass(frozen=True, eq=False)
class Block(Generic[Key]):
    """The next samples of a recording: (count,) float32, count > 0, the receiver's own copy."""

    key: Key
    samples: _Samples


@dataclass(frozen=True)
class End(Generic[Key]):
    """The recording is complete; ``warnings`` holds the decoder's messages about damage."""

    key: Key
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Failure(Generic[Key]):
    """The recording cannot be used, for ``reason`` (one line); its earlier blocks are void."""

    key: Key
    reason: str


Event: TypeAlias = Start[Key] | Block[Key] | End[Key] | Failure[Key]

_JOBS_PER_WORKER = 2  # one being decoded, one waiting in the pipe: no pause between short files
_START_SECONDS = 120.0  # for importing the caller's main script, perhaps from a slow disk
_MAX_FAILED_STARTS = 3  # of one worker in a row
_GRACE_SECONDS = 1.0


def decode_files(
    jobs: Iterable[tuple[Key, _Path]],
    sample_rate: int,
    *,
    num_workers: int,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    block_seconds: float = 10.0,
    num_slots: int = 6,
    _decode: Callable[..., Iterator[_Samples]] = audio.stream,
) -> Generator[Event[Key], None, None]:
    """Yield the samples of each recording, in order within it; those of several interleave.

    Every job ends in one `End` or one `Failure`; a bad file raises nothing. Close the generator
    when leaving early (``with contextlib.closing(...)``): it ends the processes, frees the memory.

    Args:
        jobs: pairs of a key, which comes back in the events, and a path. Taken lazily: each worker
            has at most one in hand and one waiting.
        sample_rate: of the samples returned, in Hz.
        num_workers: processes, each decoding one file at a time.
        timeout_seconds: a worker that delivers nothing for so long is killed and its file given up;
            time in which it waits for the consumer does not count.
        on_damage: as in `musicfm.audio.stream`.
        block_seconds: about how long the blocks are.
        num_slots: blocks that each worker may decode ahead; its ring takes ``num_slots *
            block_seconds * sample_rate * 4`` bytes.

    Raises:
        ValueError: num_workers or num_slots is below 1.
        MusicFMError: the worker processes do not start.
    """
    if num_workers < 1 or num_slots < 1:
        raise ValueError(f"num_workers ({num_workers}) and num_slots ({num_slots}) must be >= 1")
    decode = partial(
        _decode, sample_rate=sample_rate, on_damage=on_damage, block_seconds=block_seconds
    )
    # A decoder rounds its blocks up to whole frames, a few hundredths of a second.
    shape = num_slots, math.ceil(1.05 * block_seconds * sample_rate)
    return _events(
        iter(jobs), [_Worker(decode, shape, timeout_seconds) for _ in range(num_workers)]
    )


def _events(
    jobs: Iterator[tuple[Key, _Path]], workers: "list[_Worker[Key]]"
) -> Generator[Event[Key], None, None]:
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


class _Worker(Generic[Key]):
    """Our side of one worker: its ring, its pipe, and its process, which is replaced on death."""

    def __init__(
        self, decode: Callable[[str], Iterator[_Samples]], shape: tuple[int, int], timeout: float
    ) -> None:
        self.decode, self.shape, self.timeout = decode, shape, timeout
        self.jobs: deque[tuple[Key, str]] = deque()  # the first is the one being decoded
        self.process: SpawnProcess | None = None
        self.pipe: Connection
        self.ring: Any = None
        self.up = False  # the process has said so
        self.failed_starts = 0
        self.heard = 0.0  # when its last message came, or the work that it was idle for

    @property
    def deadline(self) -> float:
        """When patience ends, on the clock of `time.monotonic`."""
        return self.heard + (self.timeout if self.up else _START_SECONDS) if self.jobs else math.inf

    def give(self, key: Key, path: _Path) -> None:
        if not self.jobs:
            self.heard = time.monotonic()
        self.jobs.append((key, os.fspath(path)))
        if self.process:
            self._send(self.jobs[-1][1])
        else:
            self._start()

    def receive(self) -> Event[Key] | None:
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            return self._replace()
        self.heard = time.monotonic()
        match message:
            case int(slot), int(count):
                samples = _slots(self.ring, self.shape)[slot, :count].copy()
                self._send(slot)
                return Block(self.jobs[0][0], samples)
            case "start", duration:
                return Start(self.jobs[0][0], duration)
            case "end", messages:
                return End(self.jobs.popleft()[0], messages)
            case "failure", reason:
                return Failure(self.jobs.popleft()[0], reason)
        self.up, self.failed_starts = True, 0
        return None

    def replace_if_stuck(self) -> Failure[Key] | None:
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

    def _replace(self, stuck: bool = False) -> Failure[Key] | None:
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
            key, path = self.jobs.popleft()
            cause = "the file is probably damaged"
            if stuck:
                what = f"made no progress in the decoder for {self.timeout:g} s"
            elif code == -9:
                what, cause = "was in a decoder that was killed", "memory is probably short"
            elif code < 0:
                what = f"crashed the decoder (signal {-code}, {signal.strsignal(-code)})"
            else:
                what = f"ended the decoder (exit code {code})"
            failure = Failure(key, _one_line(f"{path} {what}; {cause}."))
        if self.jobs:
            self._start()
        return failure

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        if self.ring is None:  # unlike SharedMemory it has no name that a kill could leave behind
            self.ring = context.RawArray(ctypes.c_float, math.prod(self.shape))
        self.pipe, theirs = context.Pipe()
        args = (theirs, self.ring, self.shape, self.decode)
        self.process = context.Process(target=_work, args=args, name="decoder", daemon=True)
        self.up, self.heard = False, time.monotonic()
        with _sigint_blocked():
            self.process.start()
        theirs.close()  # or there would be no end of file
        for _, path in self.jobs:
            self._send(path)

    def _send(self, message: str | int) -> None:
        with suppress(OSError):  # it has died: the next receive sees to that
            self.pipe.send(message)


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


def _slots(ring: Any, shape: tuple[int, int]) -> _Samples:
    return np.frombuffer(ring, np.float32).reshape(shape)


def _work(
    pipe: Connection, ring: Any, shape: tuple[int, int], decode: Callable[[str], Iterator[_Samples]]
) -> None:
    """The worker: paths and free slots come in, samples go out, until nobody listens."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=_follow_parent, daemon=True).start()
    slots, free, paths = _slots(ring, shape), deque(range(shape[0])), deque[str]()

    def receive() -> None:
        message = pipe.recv()
        (free if isinstance(message, int) else paths).append(message)

    def deliver(path: str) -> None:
        with suppress(AudioError):  # decoding will say the same
            if duration := audio.probe(path).duration_seconds:
                pipe.send(("start", duration))
        for block in decode(path):
            for start in range(0, len(block), shape[1]):
                part = block[start : start + shape[1]]
                while not free:
                    receive()
                slot = free.popleft()
                slots[slot, : len(part)] = part
                pipe.send((slot, len(part)))

    with suppress(EOFError, OSError):
        pipe.send("up")
        while True:
            while not paths:
                receive()
            pipe.send(_outcome(deliver, paths.popleft()))


def _outcome(deliver: Callable[[str], None], path: str) -> tuple[str, str | tuple[str, ...]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", AudioWarning)
        try:
            deliver(path)
        except AudioError as error:
            return "failure", str(error)
        except Exception as error:
            return "failure", _one_line(
                f"{path} cannot be decoded ({type(error).__name__}: {error})."
            )
    return "end", tuple(str(warning.message) for warning in caught)


def _one_line(text: str) -> str:
    """Without what cannot be printed: file names hold line breaks, and bytes that are no UTF-8."""
    return " ".join(text.encode("utf-8", "backslashreplace").decode().splitlines())


def _follow_parent() -> None:
    """End with the parent, however it dies, even while the decoder hangs."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
