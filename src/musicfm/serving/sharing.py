"""One model for many threads, whose windows share batches."""

import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from queue import Empty, Full, Queue, SimpleQueue
from typing import Any, Self, TypeAlias

from musicfm.audio.decoders import End, Event, Failure
from musicfm.embedding.embedder import Finished, TrackEvent, WindowEncoder
from musicfm.errors import MusicFMError

_WAITING_EVENTS = 8  # few: when the encoder does not keep up, decoders are to wait
_POLL_SECONDS = 0.25

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Client:
    """Who waits for the frames of a recording; in messages, it is the recording."""

    name: str
    answers: "SimpleQueue[TrackEvent[_Client] | None]" = field(default_factory=SimpleQueue)
    """The answers of the encoder; None if it has failed."""
    is_over: bool = False
    """Whether the last answer has been given."""

    def __str__(self) -> str:
        return self.name

    def next(self, check: Callable[[], None]) -> TrackEvent[Any]:
        """The next answer."""
        while True:
            with suppress(Empty):
                answer = self.answers.get(timeout=_POLL_SECONDS)
                if answer is None:
                    raise MusicFMError("the encoder has failed; the log says why")
                return answer
            check()


_Asked: TypeAlias = Event[_Client]


class SharedEncoder:
    """An encoder in a thread of its own, for as long as a ``with`` block lasts."""

    def __init__(self, encoder: WindowEncoder) -> None:
        self.encoder = encoder
        self._asked: Queue[_Asked | None] = Queue(_WAITING_EVENTS)
        self._under_way: set[_Client] = set()
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ask(None)
        self._thread.join()

    def tracks(
        self, events: Iterable[Event[Any]], name: str, check: Callable[[], None]
    ) -> Generator[TrackEvent[Any], None, None]:
        """As :meth:`musicfm.embedding.WindowEncoder.tracks`, for one recording, in any thread.

        Args:
            events: of the recording, to its End or Failure.
            name: of the recording, for messages.
            check: is called now and then, and may raise to leave early.

        Raises MusicFMError if the encoder failed for a reason that is not the recording's.
        """
        client, is_whole = _Client(name), False
        try:
            for event in events:
                check()
                self._ask(replace(event, key=client))
                is_whole = isinstance(event, End | Failure)
                while not client.answers.empty():
                    yield (answer := client.next(check))
                    if isinstance(answer, Failure):
                        return
            while not isinstance(answer := client.next(check), Finished | Failure):
                yield answer
            yield answer
        finally:
            if not is_whole:
                self._ask(Failure(client, "its client is gone"))

    def _ask(self, event: _Asked | None) -> None:
        while self._thread.is_alive():
            with suppress(Full):
                self._asked.put(event, timeout=_POLL_SECONDS)
                return

    def _work(self) -> None:
        """What the thread runs."""
        while True:
            try:
                for event in self.encoder.tracks(self._events()):
                    event.key.answers.put(event)
                    if isinstance(event, Finished | Failure):
                        event.key.is_over = True
                        self._under_way.discard(event.key)
                return
            except Exception:
                _log.exception("the encoder has failed; it starts again")
                for client in self._under_way:
                    client.answers.put(None)
                    client.is_over = True
                self._under_way.clear()

    def _events(self) -> Iterator[_Asked | None]:
        while True:
            try:
                event = self._asked.get_nowait()
            except Empty:
                yield None  # so that windows do not wait for other recordings to fill their batch
                event = self._asked.get()
            if event is None:
                return
            if isinstance(event, Failure):
                self._under_way.discard(event.key)
            elif event.key.is_over:  # what was asked before it was known
                continue
            else:
                self._under_way.add(event.key)
            yield event
