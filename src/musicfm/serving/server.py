"""The application on a port, until it is told to stop."""

import asyncio
import math
import socket
from collections.abc import Callable, Collection

import uvicorn

from musicfm.errors import ConfigError
from musicfm.serving.app import create_app
from musicfm.serving.service import Service

_CONNECTIONS = 512
_ANSWER_SECONDS = 3.0  # to tell those whose jobs were ended


def listen(host: str, port: int) -> socket.socket:
    """A socket at an address; port 0 is one that is free. Raises ConfigError if it is taken."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen at {host}, port {port}: {error.strerror}; give others (--host, --port)"
        ) from error


class Server(uvicorn.Server):
    """Serves until SIGTERM or Ctrl-C: then it takes no more connections, finishes what is under
    way, and after a while ends that with an answer. A second Ctrl-C ends it at once.

    Args:
        service: does the work, and is opened already.
        names: see :func:`musicfm.serving.app.create_app`.
        grace_seconds: for what is under way, when the server is to stop.
        started: is called with the server's URL once it listens.
    """

    def __init__(
        self,
        service: Service,
        names: Collection[str] = (),
        *,
        grace_seconds: float = 30.0,
        started: Callable[[str], None] = lambda url: None,
    ) -> None:
        config = uvicorn.Config(
            create_app(service, names),
            http="h11",
            ws="none",
            lifespan="off",
            log_level="error",  # not what any client can have it say,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=math.ceil(grace_seconds + _ANSWER_SECONDS),
        )
        super().__init__(config)
        self._service, self._grace_seconds, self._started = service, grace_seconds, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        await super().startup(sockets)
        for host, port, *_ in (listening.getsockname() for listening in sockets or ()):
            self._started(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    async def on_tick(self, counter: int) -> bool:
        """Tidies up every ten seconds."""
        if counter % 100 == 0:
            self._service.tidy()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends what is under way."""
        ending = asyncio.get_running_loop().call_later(self._grace_seconds, self._service.stop)
        await super().shutdown(sockets)
        ending.cancel()
