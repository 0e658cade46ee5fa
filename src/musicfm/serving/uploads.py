"""Uploads to files, and what may be said of them.

A body goes to the disk as it arrives. Its content type has to be one that a web page of another
site cannot send without asking (a "non-simple" one, of which the answer to that question is no):
so no such page can have its visitors' servers work for it.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from starlette.datastructures import Headers

from musicfm.errors import AudioError
from musicfm.serving.limits import Limits, RequestError

MEDIA_TYPES = ("audio/", "video/", "application/octet-stream")

_LONGEST_NAME = 120
_ADVICE = re.compile(r"; replace it, or use what comes before \(.*\)\.$")


def check(headers: Headers, limits: Limits) -> None:
    """Raises RequestError if a request's headers tell already that its body is not wanted."""
    media_type = headers.get("content-type", "none").lower()
    if not media_type.startswith(MEDIA_TYPES):
        raise RequestError(
            415,
            "send the recording itself as the body, with a content type of audio/*, video/* or "
            f"application/octet-stream, not {media_type.split(';')[0][:_LONGEST_NAME]}",
        )
    length = headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise _too_large(limits)


async def receive(body: AsyncIterator[bytes], path: Path, limits: Limits) -> None:
    """Writes a body to a file.

    Raises:
        RequestError: it is empty, too large, or too slow; or the disk is full.
        ClientDisconnect: the client left in the middle.
    """
    count = 0
    try:
        async with (
            asyncio.timeout(limits.upload_seconds),
            await anyio.open_file(path, "xb") as file,
        ):
            async for chunk in body:
                count += len(chunk)
                if count > limits.max_bytes:
                    raise _too_large(limits)
                await file.write(chunk)
    except TimeoutError:
        raise RequestError(
            408, f"the upload did not arrive within {limits.upload_seconds:g} s; send less at once"
        ) from None
    except OSError as error:
        raise RequestError(507, "the server has no room for the upload; try later", 60) from error
    if not count:
        raise RequestError(422, "the body is empty; send the recording as the body")


def shown(name: str) -> str:
    """A client's name for something, as one short line that is not a path."""
    last = re.split(r"[/\\]", name)[-1]
    printable = "".join(char if char.isprintable() else " " for char in last)
    return " ".join(printable.split())[:_LONGEST_NAME]


def request_error(error: AudioError, upload: Path, name: str) -> RequestError:
    """Why a recording cannot be used, for its client: by its name, and without our paths."""
    return RequestError(422, _ADVICE.sub("; replace it.", told(str(error), upload, name)))


def told(message: str, upload: Path, name: str) -> str:
    """What is said of an upload, for its client: by its name, and without our paths."""
    message = message.replace(str(upload), name)
    if str(upload.parent) in message or upload.parent.name in message:
        return f"{name} cannot be decoded; replace the file."
    return message


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        413, f"the upload is larger than {limits.max_bytes / 1e6:g} MB; send a smaller file"
    )
