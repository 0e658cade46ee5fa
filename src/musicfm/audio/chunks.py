"""Where the sound of a file of chunks or blocks begins and ends: wav, voc, and their kin.

The several ``data`` chunks of a wav file, and the blocks of a voc file, are parts of their own.

Sources: Microsoft's and IBM's Multimedia Programming Interface 1.0 (RIFF).
"""

import struct
from dataclasses import replace
from typing import BinaryIO

from musicfm.audio.parts import JUNK_BYTES, Part, after_zeros, before_tags, read_at, tag_bytes

_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"bext", b"id3 ", b"cue ", b"JUNK", b"PEAK")
_FORMAT_BYTES = 4096
_MAX_PIECES = 4096  # of a part

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"

WAV = {b"RIFF": "<", b"RIFX": ">", b"RF64": "<", b"BW64": "<"}
"""First bytes of wav files, and the byte order that goes with them."""


def scan_wav(file: BinaryIO, start: int) -> list[Part]:
    """Follow the chunks of a wav file that begins at ``start``, and of those joined to it."""
    size = file.seek(0, 2)
    parts: list[Part] = []
    while True:
        part, end = _wav_part(file, start, size)
        parts.append(part)
        start = end
        while tag := tag_bytes(read_at(file, start, 16)):
            start += tag
        start = after_zeros(file, start, size)
        if not is_wav(read_at(file, start, 12)):
            break
    if size - start > JUNK_BYTES:
        parts[-1] = replace(parts[-1], damage=unaccounted(size - start))
    return parts


def unaccounted(num_bytes: int) -> str:
    """What is wrong where so many bytes are left."""
    return f"{num_bytes} bytes follow after the sound that its header declares"


def scan_container(file: BinaryIO, start: int) -> Part:
    """A file of another kind, without the tags at its end.

    It is damaged if its header accounts for a part of it alone. That is so of AIFF, AU, CAF, W64
    and MP4 files with another one joined to them, of which decoders read the first, and where the
    header was never updated.
    """
    size = file.seek(0, 2)
    head = read_at(file, start, 24)
    end = size
    # Writers that cannot go back leave 0 or the largest number.
    if head[:4] == b"FORM" and head[4:8] > bytes(4):
        end = start + 8 + int.from_bytes(head[4:8])
    elif head[:4] == b".snd" and head[8:12] > bytes(4):
        end = start + int.from_bytes(head[4:8]) + int.from_bytes(head[8:12])
    elif head[:4] == b"caff":
        end = _end_of_caf(file, start, size)
    elif head[:16] == _W64 and head[16:24] > bytes(8):
        end = min(size, start + int.from_bytes(head[16:24], "little"))
    elif head[4:8] == b"ftyp":
        end = _end_of_mp4(file, start, size)
    rest = size - after_zeros(file, end, size)
    is_tag = tag_bytes(read_at(file, end, 16))
    damage = unaccounted(rest) if rest > JUNK_BYTES and not is_tag else None
    stop = end if head[:16] == _W64 else before_tags(file, start, size)
    return Part(((start, stop),), damage=damage)


def _end_of_caf(file: BinaryIO, start: int, size: int) -> int:
    """Where its last chunk ends: the next file begins with "caff", as no chunk does."""
    offset = start + 8
    while offset + 12 <= size:
        head = read_at(file, offset, 12)
        length = int.from_bytes(head[4:], signed=True)
        if head[:4] == b"caff":
            return offset
        if length < 0 or not _is_chunk(head):
            break
        offset += 12 + length
    return size


def _end_of_mp4(file: BinaryIO, start: int, size: int) -> int:
    """Where another MP4 file begins, unless they are fragments of one; else the end."""
    offset = start
    while offset + 8 <= size:
        head = read_at(file, offset, 16)
        name, length = head[4:8], int.from_bytes(head[:4])
        if length == 1:
            length = int.from_bytes(head[8:16])
        if name == b"ftyp" and offset > start:
            return offset
        if length < 8 or name == b"moof":
            break
        offset += length
    return size


VOC = b"Creative Voice File\x1a"
"""First bytes of voc files."""
_VOC_FORMATS = {0: (1, 8, b"\x80"), 4: (1, 16, b"\0"), 6: (6, 8, b"\xd5"), 7: (7, 8, b"\xff")}
"""Format and bits of wav files that have the same samples, and what silence is, by codec."""
_MOST_SILENCE = 1 << 26  # bytes


def scan_voc(file: BinaryIO, start: int) -> list[Part]:
    """The blocks of a voc file that has silence, which decoders leave out, or several rates.

    Each part is a wav file. There is none where decoders get it right, or where a block is coded.
    """
    size = file.seek(0, 2)
    offset = start + int.from_bytes(read_at(file, start + 20, 2), "little")
    form: tuple[int, int, int] | None = None  # rate, channels, codec
    is_extended, seconds = False, 0.0  # of silence since the last sound
    runs: list[tuple[tuple[int, int, int], float, list[tuple[int, int]]]] = []
    while offset + 4 <= size and (head := read_at(file, offset, 16).ljust(16, b"\0"))[0]:
        kind, body = head[0], offset + 4
        offset = min(size, body + int.from_bytes(head[1:4], "little"))
        if kind == 3:
            seconds += (int.from_bytes(head[4:6], "little") + 1) * (256 - head[6]) / 1_000_000
        elif kind == 8:  # instead of what the next block says
            divisor, channels = 65536 - int.from_bytes(head[4:6], "little"), head[7] + 1
            form, is_extended = (256_000_000 // divisor // channels, channels, head[6]), True
        elif kind in (1, 2, 9):
            if kind == 9:
                rate, channels, codec = struct.unpack("<IxBH", head[4:12])
                form = rate, channels, codec
            elif kind == 1 and not is_extended:
                form = 1_000_000 // (256 - head[4]), 1, head[5]
            is_extended = False
            if form is None or form[2] not in _VOC_FORMATS or not all(form[:2]):
                return []
            if not runs or seconds or runs[-1][0] != form:
                runs.append((form, seconds, []))
                seconds = 0.0
            runs[-1][2].append((min(offset, body + {1: 2, 2: 0, 9: 12}[kind]), offset))
    if seconds and form is not None:
        runs.append((form, seconds, [(offset, offset)]))
    if len(runs) > _MAX_PIECES or (len(runs) < 2 and not (runs and runs[0][1])):
        return []
    parts, num_silent = [], 0
    for (rate, channels, codec), seconds, pieces in runs:
        tag, bits, zero = _VOC_FORMATS[codec]
        frame = channels * bits // 8
        num_bytes = round(seconds * rate) * frame
        num_silent += num_bytes
        if num_silent > _MOST_SILENCE:
            return []
        length = num_bytes + sum(stop - begin for begin, stop in pieces)
        fields = struct.pack("<IHHIIHH", 16, tag, channels, rate, rate * frame % 2**32, frame, bits)
        chunks = b"WAVEfmt " + fields + b"data" + struct.pack("<I", length)
        riff = b"RIFF" + struct.pack("<I", len(chunks) + length) + chunks
        parts.append(Part(tuple(pieces), riff + zero * num_bytes))
    return parts


def is_wav(head: bytes) -> bool:
    return head[:4] in WAV and head[8:12] == b"WAVE"


def _wav_part(file: BinaryIO, start: int, size: int) -> tuple[Part, int]:
    """The wav file that begins at ``start``, and where its last chunk ends.

    Libraries read one data chunk and lose all others, and lose their way after chunks of odd length
    without the byte that should follow: such files get a new header.
    """
    order, form = WAV[read_at(file, start, 4)], b""
    data: list[tuple[int, int]] = []
    long = None  # the length of the data where four bytes do not hold it
    is_simple, offset = True, start + 12
    while offset + 8 <= size and len(data) < _MAX_PIECES:
        head = read_at(file, offset, 16)
        if not _is_chunk(head) or is_wav(head) or tag_bytes(head):
            break
        body, length = offset + 8, struct.unpack(f"{order}I", head[4:8])[0]
        if head[:4] == b"data" and length == 0xFFFFFFFF and long is not None:
            is_simple &= long > 0  # 0 in a file that was never finished
            length = long or size - body
        offset = min(size, body + length)
        if head[:4] == b"ds64":
            long = int.from_bytes(read_at(file, body + 8, 8), "little")
        elif head[:4] == b"fmt ":
            form = read_at(file, body, min(length, _FORMAT_BYTES))
        elif head[:4] == b"data":
            if length == 0 and not _is_chunk(read_at(file, body, 4)):
                offset = size  # of a file that was never finished
            data.append((body, offset))
        if length % 2:
            is_padded = read_at(file, offset, 4) not in _CHUNKS
            is_simple &= is_padded
            offset = min(size, offset + is_padded)
    if not data or not form:
        return Part(((start, size),)), size
    if len(data) == 1 and is_simple:
        return Part(((start, offset),)), offset
    chunks = b"fmt " + struct.pack(f"{order}I", len(form)) + form + bytes(len(form) % 2)
    length = sum(stop - begin for begin, stop in data)
    chunks = b"WAVE" + chunks + b"data" + struct.pack(f"{order}I", min(length, 0xFFFFFFFF))
    name = b"RIFX" if order == ">" else b"RIFF"
    head = name + struct.pack(f"{order}I", min(length, 0xFFFF0000)) + chunks
    return Part(tuple(data), head), offset


def _is_chunk(head: bytes) -> bool:
    """Whether this begins with what may be the name of a chunk."""
    return len(head) >= 4 and all(32 <= byte < 127 for byte in head[:4])
