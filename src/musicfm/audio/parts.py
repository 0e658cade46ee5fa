"""A part of a file that is decoded by itself, and the tags and zeros that lie around it."""

from dataclasses import dataclass
from typing import BinaryIO

# Junk of up to this many bytes after the last frame is no damage.
JUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Part:
    """The bytes of a file that are decoded by themselves: ``head``, then ``pieces`` of the file.

    ``damage`` says what is wrong at their end, or is None where the sound simply ends.
    ``is_declared`` says that the part itself declares its length (Ogg by its last page, mp3 by a
    Xing, Info or VBRI header); ``num_samples`` per channel were counted instead where it doesn't
    and counting is possible.
    """

    pieces: tuple[tuple[int, int], ...]
    """Where each begins and ends."""
    head: bytes = b""
    damage: str | None = None
    num_samples: int | None = None
    is_declared: bool = False


def read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def after_tags(file: BinaryIO, size: int) -> int:
    """Where the content of a file begins, after ID3 and APE tags if there are any.

    Zeros after a tag are padding that it should have counted.
    """
    offset = 0
    while tag := tag_bytes(read_at(file, offset, 16)):
        offset = after_zeros(file, offset + tag, size)
    if offset and 0 < (at := read_at(file, offset, 8).find(b"ftyp")) < 4:
        offset -= 4 - at  # these zeros are the length of an MP4 file's first box
    return min(offset, size)


def after_zeros(file: BinaryIO, offset: int, size: int) -> int:
    while offset < size:
        window = read_at(file, offset, JUNK_BYTES)
        if rest := window.lstrip(b"\0"):
            return offset + len(window) - len(rest)
        offset += len(window)
    return size


def before_tags(file: BinaryIO, start: int, size: int) -> int:
    """Where the tags at the end of a file begin: ID3v1, Lyrics3, APE, ID3v2 with a footer."""
    while size - start > 128:
        tail = read_at(file, size - 128, 128)
        if tail[:3] == b"TAG":
            length = 128
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            length = 15 + int(tail[-15:-9])
        elif tail[-32:-24] == b"APETAGEX":
            length = int.from_bytes(tail[-20:-16], "little")
            if read_at(file, max(start, size - length - 32), 8) == b"APETAGEX":
                length += 32
        elif tail[-10:-7] == b"3DI":
            length = tag_bytes(b"ID3" + tail[-7:])
        else:
            break
        if not 0 < length < size - start:
            break
        size -= length
    return size


def tag_bytes(head: bytes) -> int:
    """Length of the ID3 or APE tag that starts with these 16 bytes; 0 if none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        a, b, c, d = head[6:10]
        return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 16:
        return 32 + int.from_bytes(head[12:16], "little")
    return 128 if head[:3] == b"TAG" else 0
