"""Where the sound of an MPEG or Ogg file begins, ends, and first breaks, read from its framing.

Decoders of MPEG and Ogg look for the next intact frame when one is damaged and go on, which moves
everything after it to an earlier time, often without a word. So the chain of MPEG frames (mp1, mp2,
mp3, and AAC in ADTS), or of Ogg pages, is followed here first, and decoding ends where it breaks.

Files that were joined end to end have parts, of which decoders know the first, or count the length
of the first for all: each part is found here, and decoded as if it were a file.

Not detected: bytes changed inside an MPEG frame whose header stays intact (a click; nothing moves
in time), MPEG frames or Ogg pages missing at the very end when nothing in the file counts them, and
leading ones.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio headers), 13818-7 (ADTS), the Xing, Info and VBRI
headers as LAME and Fraunhofer write them, RFC 3533 (Ogg).
"""

import zlib
from io import BytesIO
from typing import BinaryIO, NamedTuple

from musicfm.audio.parts import JUNK_BYTES, Part, after_zeros, read_at, tag_bytes

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

_XING_OFFSETS = (13, 21, 36)  # after the side information of mono and stereo, MPEG-2 and MPEG-1
_HEADER_BYTES = 40

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class _Frame(NamedTuple):
    kind: int  # the header bits that all frames of a recording share
    num_bytes: int
    num_samples: int | None
    is_mono: bool


def scan_mpeg(file: BinaryIO, start: int) -> list[Part]:
    """Follow the MPEG or ADTS frames of a file from ``start`` on; no part without a chain of them.

    What lies before the first frame is passed over.
    """
    size = file.seek(0, 2)
    following = _first_frame(file, start, size)
    parts: list[Part] = []
    while following is not None:
        part, following = _mpeg_part(file, following, size)
        parts.append(part)
    return parts


def _mpeg_part(file: BinaryIO, start: int, size: int) -> tuple[Part, int | None]:
    """The part that begins with the frame at ``start``, and where the next one begins, if any.

    Tags between frames are left out. A frame cut off by the end of the file is understood, yet not
    counted: recorded streams end like that.
    """
    first = _frame_at(file, start)
    assert first is not None
    declared = _declared_frames(read_at(file, start, first.num_bytes))
    # The frame that holds the header carries no sound.
    num_frames = 0 if declared is None else -1
    pieces: list[tuple[int, int]] = []
    begin, last, stop, offset, following = start, start, start, start, None
    while offset < size:
        head = read_at(file, offset, _HEADER_BYTES)
        frame = _parse_header(head)
        if frame and offset > begin:
            is_other = frame.kind != first.kind and _is_chain(file, offset, size)
            is_over = declared is not None and num_frames >= declared - 1
            is_other |= is_over and frame.is_mono != first.is_mono
            if is_other or (num_frames > 0 and _is_header(head)):
                following = offset
                break
        if frame is None or frame.kind != first.kind:
            behind = _after_gap(file, offset, size)
            if behind == offset:
                break
            pieces.append((start, stop))
            start = last = stop = offset = behind
        elif offset + frame.num_bytes > size:
            offset = size
        else:
            last, offset = offset, offset + frame.num_bytes
            num_frames, stop = num_frames + 1, offset
    # Encoders disagree on whether the count includes the header's own frame.
    is_complete = declared is not None and num_frames >= declared - 1
    damage = None
    is_end = following is not None or offset >= size or is_complete
    if not is_end and not _is_trailing_junk(file, offset, size):
        # The last frame may have lost its own end, so it goes too.
        damage, stop = f"its MPEG frames break off at byte {offset}", last
    if damage is None and declared is not None and not is_complete:
        damage = f"it has {num_frames} of the {declared} frames it declares"
    if is_complete and following is None and size - offset > JUNK_BYTES:
        # Another one, with something between them, such as half a frame; not as near the end as
        # bytes look like frames by chance.
        following = _first_frame(file, offset, size - JUNK_BYTES)
    # With more frames than were declared, something was joined to it.
    is_declared = declared is not None and (damage is not None or num_frames <= declared + 1)
    count = None
    if damage is None and declared is None and first.num_samples is not None:
        count = num_frames * first.num_samples
    pieces = [(start, stop) for start, stop in (*pieces, (start, stop)) if stop > start]
    part = Part(tuple(pieces) or ((begin, begin),), b"", damage, count, is_declared)
    return part, None if damage else following


def _after_gap(file: BinaryIO, offset: int, size: int) -> int:
    """Where frames may go on after tags; after zeros only where a tag or a header follows."""
    after = after_zeros(file, offset, size)
    head = read_at(file, after, _HEADER_BYTES)
    if after > offset and not _is_header(head) and not tag_bytes(head):
        return offset
    while tag := tag_bytes(read_at(file, after, 16)):
        after = after_zeros(file, after + tag, size)
    return min(after, size)


def scan_ogg(file: BinaryIO, start: int) -> list[Part]:
    """Follow the pages of an Ogg file from about ``start`` on: checksums, and the pages' numbers.

    Recordings that follow each other (a chain) are parts, also with something else between them. A
    gap right after the headers of a stream is no damage: whoever records a broadcast from its
    middle on is sent the headers first. Its length is then unknown: times count from elsewhere.
    """
    size = file.seek(0, 2)
    start += max(0, read_at(file, start, JUNK_BYTES).find(b"OggS"))
    offset = start
    parts: list[Part] = []
    numbers: dict[bytes, int] = {}
    unfinished: set[bytes] = set()
    has_sound: set[bytes] = set()
    is_declared, damage = True, None
    while offset < size:
        page = _page_at(file, offset)
        if page is None and has_sound and not unfinished:
            # All streams have said that they end: what follows is not theirs.
            following = _next_ogg(file, offset)
            if following is None:
                break
            parts.append(Part(((start, offset),), is_declared=is_declared))
            start = offset = following
            numbers, has_sound, is_declared = {}, set(), True
            continue
        if page is None:
            damage = f"its Ogg pages break off at byte {offset}" if unfinished else None
            break
        flags, granule, serial = page[5], page[6:14], page[14:18]
        number = int.from_bytes(page[18:22], "little")
        is_first, is_last = bool(flags & 2), bool(flags & 4)
        if is_first and has_sound:
            parts.append(Part(((start, offset),), is_declared=is_declared))
            start = offset
            numbers, unfinished, has_sound, is_declared = {}, set(), set(), True
        if not is_first and serial not in numbers:
            damage = f"an Ogg page of another stream stands at byte {offset}"
            break
        if not is_first and number != numbers[serial] + 1:
            if serial in has_sound:
                damage = f"an Ogg page is missing at byte {offset}"
                break
            is_declared = False
        numbers[serial] = number
        if granule not in (bytes(8), b"\xff" * 8):
            has_sound.add(serial)
        (unfinished.discard if is_last else unfinished.add)(serial)
        offset += len(page)
    last = Part(((start, offset),), damage=damage, is_declared=damage is None and is_declared)
    return [*parts, last]


def _next_ogg(file: BinaryIO, offset: int) -> int | None:
    """Where the next Ogg stream begins with an intact page, if one does."""
    while len(window := read_at(file, offset, JUNK_BYTES + 3)) > 3:
        at = window.find(b"OggS")
        while at >= 0:
            page = _page_at(file, offset + at)
            if page is not None and page[5] & 2:
                return offset + at
            at = window.find(b"OggS", at + 1)
        offset += JUNK_BYTES
    return None


def begins_with_frames(data: bytes) -> bool:
    """Whether bytes are MPEG or ADTS frames from the first one on."""
    return _is_chain(BytesIO(data), 0, 1 << 62)


def _frame_at(file: BinaryIO, offset: int) -> _Frame | None:
    """The MPEG or ADTS frame whose header stands at ``offset``, or None."""
    return _parse_header(read_at(file, offset, 6))


def _parse_header(head: bytes) -> _Frame | None:
    if len(head) < 6 or head[0] != 0xFF or head[1] < 0xE0:
        return None
    bits = int.from_bytes(head[:4])
    layer = 4 - (bits >> 17 & 3)
    if layer == 4:  # ADTS: a further sync bit, and the length is written out
        num_bytes = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
        is_adts = head[1] >= 0xF0 and bits >> 10 & 15 < 13 and num_bytes > 7
        return _Frame(bits & 0xFFFEFC00, num_bytes, None, False) if is_adts else None
    version, bitrate, rate = bits >> 19 & 3, bits >> 12 & 15, bits >> 10 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return None
    is_mpeg1, padding = version == 3, bits >> 9 & 1
    bits_per_second = _MPEG_KILOBITS[is_mpeg1, layer][bitrate - 1] * 1000
    num_samples = 384 if layer == 1 else 1152 if layer == 2 or is_mpeg1 else 576
    slot_bytes = 4 if layer == 1 else 1
    slots = num_samples // 8 // slot_bytes * bits_per_second // _MPEG_RATES[version][rate]
    num_bytes = (slots + padding) * slot_bytes
    return _Frame(bits & 0xFFFE0C00, num_bytes, num_samples, bits >> 6 & 3 == 3)


def _first_frame(file: BinaryIO, start: int, size: int) -> int | None:
    """Offset of the first frame that others follow."""
    for offset in range(start, min(size, start + _LEADING_BYTES), JUNK_BYTES):
        window = read_at(file, offset, JUNK_BYTES + 6)
        at = window.find(b"\xff", 0, JUNK_BYTES)
        while at >= 0:
            if _parse_header(window[at : at + 6]) and _is_chain(file, offset + at, size):
                return offset + at
            at = window.find(b"\xff", at + 1, JUNK_BYTES)
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


def _declared_frames(frame: bytes) -> int | None:
    """The number of frames that a Xing, Info or VBRI header in the first frame declares."""
    for name in (b"Xing", b"Info"):
        at = frame.find(name, 0, 64)
        if 0 <= at <= len(frame) - 12 and frame[at + 7] & 1:
            return int.from_bytes(frame[at + 8 : at + 12]) or None  # 0 from streaming encoders
    return int.from_bytes(frame[50:54]) or None if frame[36:40] == b"VBRI" else None


def _is_header(head: bytes) -> bool:
    """Whether a frame that begins with these bytes holds a Xing, Info or VBRI header, no sound."""
    if _parse_header(head) is None:
        return False
    at = next((at for at in _XING_OFFSETS if head[at : at + 4] in (b"Xing", b"Info")), None)
    at = 36 if at is None and head[36:40] == b"VBRI" else at
    return at is not None and not any(head[6:at])


def _is_trailing_junk(file: BinaryIO, offset: int, size: int) -> bool:
    """Whether what follows is short and holds no frames, such as an unknown tag or padding."""
    if size - offset > JUNK_BYTES:
        return False
    rest = read_at(file, offset, JUNK_BYTES)
    candidates = (at for at in range(len(rest)) if rest[at] == 0xFF)
    return not any(
        (frame := _parse_header(rest[at : at + 6]))
        and offset + at + frame.num_bytes < size
        and _is_chain(file, offset + at, size)
        for at in candidates
    )


def _page_at(file: BinaryIO, offset: int) -> bytes | None:
    """The Ogg page at ``offset``, or None if there is no intact one."""
    head = read_at(file, offset, 27)
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
