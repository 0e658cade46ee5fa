"""What every request and every answer goes through."""

import asyncio
import ipaddress
import logging
import re
import time
from collections.abc import Collection
from contextlib import ExitStack, suppress

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_log = logging.getLogger("musicfm.requests")
_JOB = re.compile(r"^(/v1/jobs/)[^/]+")
"""The id of a job is not logged: whoever knows it can fetch the result."""
_DRAIN_SECONDS, _DRAIN_BYTES = 5.0, 32 * 2**20


class Protection:
    """Adds headers, refuses hosts by names that are not ours, logs a line for each request, and
    cleans up after it.

    Before an error, it reads what is left of the body, within limits: many clients do not see an
    answer before they have sent all. Those that wait for leave to send do not get it.

    A page that another site's name leads to could be told that this name is now our address (DNS
    rebinding), and would then be let at our answers. So names have to be known. Addresses need not.

    Args:
        app: the application. ``request.state.exit`` is an ExitStack, closed after the answer.
        names: of the server, besides localhost.
    """

    def __init__(self, app: ASGIApp, names: Collection[str] = ()) -> None:
        self._app = app
        self._names = {"localhost", *(name.lower() for name in names)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        headers, is_read, status, begin = Headers(scope=scope), False, 0, time.monotonic()

        async def receive_noted() -> Message:
            nonlocal is_read
            message = await receive()
            is_read = not message.get("more_body", False)
            return message

        async def drain() -> None:
            left = 0 if "expect" in headers else _DRAIN_BYTES
            with suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    while left > 0 and not is_read:
                        left -= len((await receive_noted()).get("body", b""))

        async def send_protected(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if message["status"] >= 400:
                    await drain()
                added = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    added.setdefault(name, value)
            await send(message)

        try:
            if not self._is_ours(headers.get("host", "")):
                answer = {"error": "the server is not known by this name (see --allow-host)"}
                await JSONResponse(answer, 421)(scope, receive, send_protected)
                return
            with ExitStack() as stack:
                scope.setdefault("state", {})["exit"] = stack
                await self._app(scope, receive_noted, send_protected)
        finally:
            # Of the path only what routes have: anything else is the client's text.
            path = scope["path"] if re.fullmatch(r"[\w/.-]{1,100}", scope["path"]) else "(other)"
            path, seconds = re.sub(_JOB, r"\1ID", path), time.monotonic() - begin
            client = scope["client"][0] if scope.get("client") else "-"
            # Clients ask twice a second how far a job is.
            is_look = scope["method"] == "GET" and path == "/v1/jobs/ID" and status == 200
            level = logging.DEBUG if is_look else logging.INFO
            _log.log(level, "%s %s %s %d %.2f s", client, scope["method"], path, status, seconds)

    def _is_ours(self, host: str) -> bool:
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return name.lower() in self._names
        return True
