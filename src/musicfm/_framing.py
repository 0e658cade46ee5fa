"""Where the sound of an MPEG or Ogg file begins, ends, and first breaks, read from its framing.

Decoders of these formats look for the next intact frame when one is damaged and go on, which moves
everything after it to an earlier time, often without a word. So the chain of MPEG frames (mp1, mp2,
mp3, and AAC in ADTS), or of Ogg pages, is followed here first, and decoding ends where it breaks.

Not detected: bytes changed inside an MPEG frame whose header stays intact (a click; nothing moves
in time), MPEG frames or Ogg pages missing at the very end when nothing in the file counts them, and
leading ones.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio headers), 13818-7 (ADTS), the Xing, Info and VBRI
headers as LAME and Fraunhofer write them, RFC 3533 (Ogg).
"""

import zlib
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

# Junk of up to this many bytes after the last frame is no damage.
_JUNK_BYTES = 1 << 16
_LEADING_BYTES = 1 << 24  # that are looked through for the first frame: covers without a tag

_MPEG_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}
# Kilobits per second for (is MPEG-1, layer); indices 0 ("free") and 15 do not occur.
_MPEG_KILOBITS = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(frozen=True)
class Framing:
    """The bytes that hold sound, ``start`` to ``stop``.

    ``damage`` says what is wrong at ``stop``, or is None where the sound simply ends.
    ``is_declared`` says that the file itself declares its length (Ogg by its last page, mp3 by a
    Xing, Info or VBRI header); ``num_samples`` per channel were counted instead where it doesn't
    and counting is possible.
    ``is_chained`` says that several Ogg recordings follow each other, each with its own time.
    """

    start: int
    stop: int
    damage: str | None = None
    num_samples: int | None = None
    is_declared: bool = False
    is_chained: bool = False


class _Frame(NamedTuple):
    kind: int  # the header bits that all frames of a recording share
    num_bytes: int
    num_samples: int | None


def scan_mpeg(file: BinaryIO) -> Framing | None:
    """Follow the MPEG or ADTS frames of a file; None when it has no chain of them."""
    size = file.seek(0, 2)
    start = _first_frame(file, size)
    first = None if start is None else _frame_at(file, start)
    if start is None or first is None:
        return None
    declared = _declared_frames(_read_at(file, start, first.num_bytes))
    num_frames, last, stop, end = _follow_frames(file, start, size, first.kind)
    if declared is not None:
        num_frames -= 1  # the frame that holds the header carries no sound
    # Encoders disagree on whether the count includes the header's own frame.
    is_complete = declared is not None and num_frames >= declared - 1
    if end < size and not is_complete and not _is_trailing_junk(file, end, size):
        # The last frame may have lost its own end, so it goes too.
        damage = f"its MPEG frames break off at byte {end}"
        return Framing(start, last, damage, is_declared=declared is not None)
    if declared is not None and not is_complete:
        damage = f"it has {num_frames} of the {declared} frames it declares"
        return Framing(start, stop, damage, is_declared=True)
    if declared is not None or first.num_samples is None:
        return Framing(start, stop, is_declared=declared is not None)
    return Framing(start, stop, num_samples=num_frames * first.num_samples)


def scan_ogg(file: BinaryIO) -> Framing:
    """Follow the pages of an Ogg file: checksums, and one number after another per stream."""
    size = file.seek(0, 2)
    start = max(0, _read_at(file, 0, _JUNK_BYTES).find(b"OggS"))
    offset = start
    numbers: dict[bytes, int] = {}
    unfinished: set[bytes] = set()
    has_data = is_chained = False
    damage = None
    while offset < size:
        page = _page_at(file, offset)
        if page is None:
            # Once all streams have said that they end, what follows is not theirs.
            damage = f"its Ogg pages break off at byte {offset}" if unfinished else None
            break
        flags, serial, number = page[5], page[14:18], int.from_bytes(page[18:22], "little")
        is_first, is_last = bool(flags & 2), bool(flags & 4)
        if not is_first and number != numbers.get(serial, number - 1) + 1:
            damage = f"an Ogg page is missing at byte {offset}"
            break
        is_chained |= is_first and has_data
        has_data |= not is_first
        numbers[serial] = number
        (unfinished.discard if is_last else unfinished.add)(serial)
        offset += len(page)
    return Framing(
        start, offset, damage, is_declared=damage is None and not is_chained, is_chained=is_chained
    )


def _read_at(file: BinaryIO, offset: int, num_bytes: int) -> bytes:
    file.seek(offset)
    return file.read(num_bytes)


def _frame_at(file: BinaryIO, offset: int) -> _Frame | None:
    """The MPEG or ADTS frame whose header stands at ``offset``, or None."""
    return _parse_header(_read_at(file, offset, 6))


def _parse_header(head: bytes) -> _Frame | None:
    if len(head) < 6 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    bits = int.from_bytes(head[:4])
    layer = 4 - (bits >> 17 & 3)
    if layer == 4:  # ADTS: a further sync bit, and the length is written out
        num_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        is_adts = head[1] >= 0xF0 and bits >> 10 & 15 < 13 and num_bytes > 7
        return _Frame(bits & 0xFFFEFC00, num_bytes, None) if is_adts else None
    version, bitrate, rate = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    is_mpeg1, padding = version == 3, bits >> 9 & 1
    bits_per_second = _MPEG_KILOBITS[is_mpeg1, layer][bitrate - 1] * 1000
    num_samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    slot_bytes = 4 if layer == 1 else 1
    slots = num_samples // 8 // slot_bytes * bits_per_second // _MPEG_RATES[version][rate]
    return _Frame(bits & 0xFFFE0C00, (slots + padding) * slot_bytes, num_samples)


def after_tags(file: BinaryIO, size: int) -> int:
    """Where the content of a file begins, after ID3 and APE tags if there are any.

    Zeros after a tag are padding that it should have counted.
    """
    offset = 0
    while tag := _tag_bytes(_read_at(file, offset, 16)):
        offset = _after_zeros(file, offset + tag, size)
    return min(offset, size)


def _after_zeros(file: BinaryIO, offset: int, size: int) -> int:
    while offset < size:
        window = _read_at(file, offset, _JUNK_BYTES)
        if rest := window.lstrip(b"\0"):
            return offset + len(window) - len(rest)
        offset += len(window)
    return size


def _first_frame(file: BinaryIO, size: int) -> int | None:
    """Offset of the first frame that others follow, after tags and whatever else is no frame."""
    start = after_tags(file, size)
    for offset in range(start, min(size, start + _LEADING_BYTES), _JUNK_BYTES):
        window = _read_at(file, offset, _JUNK_BYTES + 6)
        at = window.find(b"\xff", 0, _JUNK_BYTES)
        while at >= 0:
            if _parse_header(window[at : at + 6]) and _is_chain(file, offset + at, size):
                return offset + at
            at = window.find(b"\xff", at + 1, _JUNK_BYTES)
    return None


def _is_chain(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether three frames of one kind, or as many as the file has room for, start here."""
    kind = None
    for _ in range(3):
        frame = _frame_at(file, offset)
        if frame is None or (kind is not None and frame.kind != kind):
            return False
        kind, offset = frame.kind, offset + frame.num_bytes
        if offset >= size:
            break
    return True


def _follow_frames(file: BinaryIO, start: int, size: int, kind: int) -> tuple[int, int, int, int]:
    """Number of whole frames, where the last starts and stops, and the first byte not understood.

    Tags between frames are passed over. A frame cut off by the end of the file is understood, yet
    not counted: recorded streams end like that.
    """
    num_frames, last, stop, offset = 0, start, start, start
    while offset < size:
        head = _read_at(file, offset, 16)
        frame = _parse_header(head)
        if frame is None or frame.kind != kind:
            tag = _tag_bytes(head)
            if not tag:
                return num_frames, last, stop, offset
            offset += tag
        elif offset + frame.num_bytes > size:
            break
        else:
            last, offset = offset, offset + frame.num_bytes
            num_frames, stop = num_frames + 1, offset
    return num_frames, last, stop, size


def _tag_bytes(head: bytes) -> int:
    """Length of the ID3 or APE tag that starts with these 16 bytes; 0 if none does."""
    if head[:3] == b"ID3" and len(head) >= 10:
        a, b, c, d = head[6:10]
        return 10 + (a << 21 | b << 14 | c << 7 | d) + (10 if head[5] & 0x10 else 0)
    if head[:8] == b"APETAGEX" and len(head) == 16:
        return 32 + int.from_bytes(head[12:16], "little")
    return 128 if head[:3] == b"TAG" else 0


def _declared_frames(frame: bytes) -> int | None:
    """The number of frames that a Xing, Info or VBRI header in the first frame declares."""
    for name in (b"Xing", b"Info"):
        at = frame.find(name, 0, 64)
        if 0 <= at <= len(frame) - 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12]) or None  # 0 from streaming encoders
    return int.from_bytes(frame[50:54]) or None if frame[36:40] == b"VBRI" else None


def _is_trailing_junk(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether what follows is short and holds no frames, such as an unknown tag or padding."""
    if size - offset > _JUNK_BYTES:
        return False
    rest = _read_at(file, offset, _JUNK_BYTES)
    candidates = (at for at in range(len(rest)) if rest[at] == 0xFF)
    return not any(
        (frame := _parse_header(rest[at : at + 6]))
        and offset + at + frame.num_bytes < size
        and _is_chain(file, offset + at, size)
        for at in candidates
    )


def _page_at(file: BinaryIO, offset: int) -> bytes | None:
    """The Ogg page at ``offset``, or None if there is no intact one."""
    head = _read_at(file, offset, 27)
    if len(head) < 27 or head[:4] != b"OggS":
        return None
    segments = file.read(head[26])
    page = head + segments + file.read(sum(segments))
    if len(page) < 27 + head[26] + sum(segments) or len(segments) < head[26]:
        return None
    # Ogg's CRC-32 is zlib's with the bits in the other order, from zero and not inverted.
    blanked = page[:22] + bytes(4) + page[26:]
    crc = zlib.crc32(blanked.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return page if crc == int(f"{int.from_bytes(page[22:26], 'little'):032b}"[::-1], 2) else None
