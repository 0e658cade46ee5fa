"""A server on a free port of this machine, and clients of it."""

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from musicfm.serving.server import Server, listen
from musicfm.serving.service import Service

SOUND = {"Content-Type": "audio/wav"}


def eventually(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether a condition comes true."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@dataclass(frozen=True)
class Answer:
    """What a server says."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        found = self.json()
        assert set(found) == {"error"}
        return str(found["error"])


@dataclass(frozen=True)
class Client:
    """Makes requests, each on a connection of its own."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: Mapping[str, str] = SOUND,
        timeout: float = 120.0,
    ) -> Answer:
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        ) as connection:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())

    def post(self, path: str, body: bytes | Iterator[bytes] = b"") -> Answer:
        return self.ask("POST", path, body)


@contextlib.contextmanager
def serving(service: Service, **options: Any) -> Iterator[tuple[Client, Callable[[], None]]]:
    """A client of a server that runs in a thread, and what makes the server stop."""
    with service, listen("127.0.0.1", 0) as address:
        is_up = threading.Event()
        server = Server(service, started=lambda _: is_up.set(), **options)
        thread = threading.Thread(target=server.run, args=([address],))
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(60.0)
            assert not thread.is_alive()

        try:
            assert is_up.wait(60.0)
            yield Client(address.getsockname()[1]), stop
        finally:
            stop()
