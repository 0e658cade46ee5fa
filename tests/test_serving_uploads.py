"""Uploads to files, and what is said of them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.datastructures import Headers

from musicfm.errors import AudioError
from musicfm.serving.limits import Limits, RequestError
from musicfm.serving.uploads import check, receive, request_error, shown

LIMITS = Limits(max_bytes=1_000)
SLOW = replace(LIMITS, upload_seconds=0.1)


async def body(*chunks: bytes, pause: float = 0.0) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(pause)


def test_a_body_becomes_a_file(tmp_path: Path) -> None:
    asyncio.run(receive(body(b"a" * 600, b"", b"b" * 400), tmp_path / "upload", LIMITS))
    assert (tmp_path / "upload").read_bytes() == b"a" * 600 + b"b" * 400


@pytest.mark.parametrize(
    ("chunks", "pause", "limits", "status"),
    [([b"a" * 600] * 2, 0.0, LIMITS, 413), ([b"a"], 60.0, SLOW, 408), ([b""], 0.0, LIMITS, 422)],
)
def test_a_body_beyond_limits_is_refused(
    chunks: list[bytes], pause: float, limits: Limits, status: int, tmp_path: Path
) -> None:
    with pytest.raises(RequestError) as error:
        asyncio.run(receive(body(*chunks, pause=pause), tmp_path / "upload", limits))
    assert error.value.status == status


def test_a_full_disk_is_not_the_clients_fault(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no room") as error:
        asyncio.run(receive(body(b"a"), tmp_path / "nothing" / "upload", LIMITS))
    assert error.value.status == 507


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "audio/mpeg"}, None),
        ({"content-type": "Video/MP4; codecs=x", "content-length": "1000"}, None),
        ({"content-type": "application/octet-stream", "content-length": "1001"}, 413),
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
    ],
)
def test_headers_tell_what_is_not_wanted(headers: dict[str, str], status: int | None) -> None:
    if status is None:
        check(Headers(headers), LIMITS)
    else:
        with pytest.raises(RequestError) as error:
            check(Headers(headers), LIMITS)
        assert error.value.status == status


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("song.mp3", "song.mp3"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Music\\a  b\n\x1b[31m.mp3", "a b [31m.mp3"),
        ("Ünïcode – 音楽.flac", "Ünïcode – 音楽.flac"),
        ("a" * 300, "a" * 120),
        ("/", ""),
    ],
)
def test_names_are_one_short_line_and_no_path(name: str, expected: str) -> None:
    assert shown(name) == expected


def test_reasons_have_the_clients_name_and_no_path_of_ours(tmp_path: Path) -> None:
    upload = tmp_path / "ab12" / "upload"
    damaged = AudioError(
        f"{upload} is damaged (cut), so that only 1 of 2 s can be decoded; replace it, or use "
        'what comes before (on_damage="warn"; in the shell, embed, analyze and predict take '
        "--on-damage warn)."
    )
    assert str(request_error(damaged, upload, "x.mp3")) == (
        "x.mp3 is damaged (cut), so that only 1 of 2 s can be decoded; replace it."
    )
    spelled = AudioError(f"somewhere in '{str(upload.parent).upper()}'/ab12: it broke")
    assert str(request_error(spelled, upload, "x.mp3")) == (
        "x.mp3 cannot be decoded; replace the file."
    )
