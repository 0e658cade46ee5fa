"""Processes in which uploads are decoded, one recording after the other."""

import contextlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from musicfm.analysis.sound import Sound
from musicfm.audio.decoders import Event, decode_files
from musicfm.audio.processes import (
    End,
    Failure,
    Message,
    TaskEvent,
    run_tasks,
)
from musicfm.errors import AudioError

_Event = TypeVar("_Event")
_Job = tuple[Path, Path]


class _Process(Generic[_Event]):
    """A process that takes one file after the other; leaving one early ends it.

    Args:
        start: gives the events of jobs, as `musicfm.audio.decoders.decode_files` does.
    """

    def __init__(
        self, start: Callable[[Iterator[_Job | None]], Generator[_Event, None, None]]
    ) -> None:
        self._start = start
        self._waiting: deque[_Job] = deque()
        self._running: Generator[_Event, None, None] | None = None

    def events(self, file: Path) -> Generator[_Event, None, None]:
        """Those of a file, to its End or Failure."""
        self._waiting.append((file, file))
        if self._running is None:
            self._running = self._start(self._jobs())
        is_over = False
        try:
            for event in self._running:
                is_over = isinstance(event, End | Failure)
                yield event
                if is_over:
                    return
        finally:
            if not is_over:
                self.close()

    def close(self) -> None:
        """Ends the process."""
        if self._running is not None:
            self._running.close()
        self._waiting.clear()
        self._running = None

    def _jobs(self) -> Iterator[_Job | None]:
        while True:
            yield self._waiting.popleft() if self._waiting else None


class DecoderPool:
    """What a thread decodes uploads with: nothing of theirs is decoded in our own process.

    Args:
        sample_rate: of the model's input, in Hz.
        timeout_seconds: after which a process without progress is given up.
    """

    def __init__(self, sample_rate: int, timeout_seconds: float) -> None:
        self._decoder: _Process[Event[Path]] = _Process(
            partial(
                decode_files,
                sample_rate=sample_rate,
                num_workers=1,
                timeout_seconds=timeout_seconds,
            )
        )
        self._encoder: _Process[TaskEvent[Path]] = _Process(
            partial(run_tasks, _sound_of, num_workers=1, timeout_seconds=timeout_seconds)
        )

    def decode(self, file: Path) -> Generator[Event[Path], None, None]:
        """The samples of a file."""
        return self._decoder.events(file)

    def sound_of(self, file: Path, note: Callable[[float], None]) -> Sound:
        """The sound of a file, for its page.

        Args:
            file: a recording.
            note: is told now and then how many seconds are done, and may raise to leave early.

        Raises AudioError if it cannot be read.
        """
        with contextlib.closing(self._encoder.events(file)) as events:
            found: Sound | None = None
            for event in events:
                match event:
                    case Message(value=Sound() as sound):
                        found = sound
                    case Message(value=float(seconds)):
                        note(seconds)
                    case Failure(reason=reason):
                        raise AudioError(reason)
        assert found is not None
        return found

    def close(self) -> None:
        """Ends the processes."""
        self._decoder.close()
        self._encoder.close()


def _sound_of(file: Path) -> Iterator[Sound | float]:
    """The task: gives the seconds that are done every now and then, and at last the sound."""
    done = [0.0]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(Sound.of, file, done.append)
        while not future.done():
            wait([future], timeout=0.25)
            yield done[-1]
    yield future.result()
