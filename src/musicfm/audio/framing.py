"""Where the sound of a file begins, ends, and first breaks, read from its framing.

Decoders of MPEG and Ogg look for the next intact frame when one is damaged and go on, which moves
everything after it to an earlier time, often without a word. So the chain of MPEG frames (mp1, mp2,
mp3, and AAC in ADTS), or of Ogg pages, is followed here first, and decoding ends where it breaks.

Files that were joined end to end have parts, of which decoders know the first, or count the length
of the first for all: each part is found here, and decoded as if it were a file. So are the several
``data`` chunks of a wav file, and the blocks of a voc file.

Not detected: bytes changed inside an MPEG frame whose header stays intact (a click; nothing moves
in time), MPEG frames or Ogg pages missing at the very end when nothing in the file counts them, and
leading ones.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio headers), 13818-7 (ADTS), the Xing, Info and VBRI
headers as LAME and Fraunhofer write them, RFC 3533 (Ogg), Microsoft's and IBM's Multimedia
Programming Interface 1.0 (RIFF).
"""

import struct
import zlib
from dataclasses import dataclass, replace
from io import BytesIO
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

_CHUNKS = (b"data", b"fmt ", b"fact", b"LIST", b"bext", b"id3 ", b"cue ", b"JUNK", b"PEAK")
_FORMAT_BYTES = 4096
_MAX_PIECES = 4096  # of a part

_XING_OFFSETS = (13, 21, 36)  # after the side information of mono and stereo, MPEG-2 and MPEG-1
_HEADER_BYTES = 40

_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


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
    declared = _declared_frames(_read_at(file, start, first.num_bytes))
    # The frame that holds the header carries no sound.
    num_frames = 0 if declared is None else -1
    pieces: list[tuple[int, int]] = []
    begin, last, stop, offset, following = start, start, start, start, None
    while offset < size:
        head = _read_at(file, offset, _HEADER_BYTES)
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
    if is_complete and following is None and size - offset > _JUNK_BYTES:
        # Another one, with something between them, such as half a frame; not as near the end as
        # bytes look like frames by chance.
        following = _first_frame(file, offset, size - _JUNK_BYTES)
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
    after = _after_zeros(file, offset, size)
    head = _read_at(file, after, _HEADER_BYTES)
    if after > offset and not _is_header(head) and not _tag_bytes(head):
        return offset
    while tag := _tag_bytes(_read_at(file, after, 16)):
        after = _after_zeros(file, after + tag, size)
    return min(after, size)


def scan_ogg(file: BinaryIO, start: int) -> list[Part]:
    """Follow the pages of an Ogg file from about ``start`` on: checksums, and the pages' numbers.

    Recordings that follow each other (a chain) are parts, also with something else between them. A
    gap right after the headers of a stream is no damage: whoever records a broadcast from its
    middle on is sent the headers first. Its length is then unknown: times count from elsewhere.
    """
    size = file.seek(0, 2)
    start += max(0, _read_at(file, start, _JUNK_BYTES).find(b"OggS"))
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
    while len(window := _read_at(file, offset, _JUNK_BYTES + 3)) > 3:
        at = window.find(b"OggS")
        while at >= 0:
            page = _page_at(file, offset + at)
            if page is not None and page[5] & 2:
                return offset + at
            at = window.find(b"OggS", at + 1)
        offset += _JUNK_BYTES
    return None


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
        while tag := _tag_bytes(_read_at(file, start, 16)):
            start += tag
        start = _after_zeros(file, start, size)
        if not is_wav(_read_at(file, start, 12)):
            break
    if size - start > _JUNK_BYTES:
        parts[-1] = replace(parts[-1], damage=_unaccounted(size - start))
    return parts


def _unaccounted(num_bytes: int) -> str:
    return f"{num_bytes} bytes follow after the sound that its header declares"


def scan_container(file: BinaryIO, start: int) -> Part:
    """A file of another kind, without the tags at its end.

    It is damaged if its header accounts for a part of it alone. That is so of AIFF, AU, CAF, W64
    and MP4 files with another one joined to them, of which decoders read the first, and where the
    header was never updated.
    """
    size = file.seek(0, 2)
    head = _read_at(file, start, 24)
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
    rest = size - _after_zeros(file, end, size)
    is_tag = _tag_bytes(_read_at(file, end, 16))
    damage = _unaccounted(rest) if rest > _JUNK_BYTES and not is_tag else None
    stop = end if head[:16] == _W64 else _before_tags(file, start, size)
    return Part(((start, stop),), damage=damage)


def _end_of_caf(file: BinaryIO, start: int, size: int) -> int:
    """Where its last chunk ends: the next file begins with "caff", as no chunk does."""
    offset = start + 8
    while offset + 12 <= size:
        head = _read_at(file, offset, 12)
        length = int.from_bytes(head[4:], signed=True)
        if head[:4] == b"caff":
            return offset
        if length < 0 or not _is_chunk(head):
            break
        offset += 12 + length
    return size


def _before_tags(file: BinaryIO, start: int, size: int) -> int:
    """Where the tags at the end of a file begin: ID3v1, Lyrics3, APE, ID3v2 with a footer."""
    while size - start > 128:
        tail = _read_at(file, size - 128, 128)
        if tail[:3] == b"TAG":
            length = 128
        elif tail[-9:] == b"LYRICS200" and tail[-15:-9].isdigit():
            length = 15 + int(tail[-15:-9])
        elif tail[-32:-24] == b"APETAGEX":
            length = int.from_bytes(tail[-20:-16], "little")
            if _read_at(file, max(start, size - length - 32), 8) == b"APETAGEX":
                length += 32
        elif tail[-10:-7] == b"3DI":
            length = _tag_bytes(b"ID3" + tail[-7:])
        else:
            break
        if not 0 < length < size - start:
            break
        size -= length
    return size


def _end_of_mp4(file: BinaryIO, start: int, size: int) -> int:
    """Where another MP4 file begins, unless they are fragments of one; else the end."""
    offset = start
    while offset + 8 <= size:
        head = _read_at(file, offset, 16)
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
    offset = start + int.from_bytes(_read_at(file, start + 20, 2), "little")
    form: tuple[int, int, int] | None = None  # rate, channels, codec
    is_extended, seconds = False, 0.0  # of silence since the last sound
    runs: list[tuple[tuple[int, int, int], float, list[tuple[int, int]]]] = []
    while offset + 4 <= size and (head := _read_at(file, offset, 16).ljust(16, b"\0"))[0]:
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
    order, form = WAV[_read_at(file, start, 4)], b""
    data: list[tuple[int, int]] = []
    long = None  # the length of the data where four bytes do not hold it
    is_simple, offset = True, start + 12
    while offset + 8 <= size and len(data) < _MAX_PIECES:
        head = _read_at(file, offset, 16)
        if not _is_chunk(head) or is_wav(head) or _tag_bytes(head):
            break
        body, length = offset + 8, struct.unpack(f"{order}I", head[4:8])[0]
        if head[:4] == b"data" and length == 0xFFFFFFFF and long is not None:
            is_simple &= long > 0  # 0 in a file that was never finished
            length = long or size - body
        offset = min(size, body + length)
        if head[:4] == b"ds64":
            long = int.from_bytes(_read_at(file, body + 8, 8), "little")
        elif head[:4] == b"fmt ":
            form = _read_at(file, body, min(length, _FORMAT_BYTES))
        elif head[:4] == b"data":
            if length == 0 and not _is_chunk(_read_at(file, body, 4)):
                offset = size  # of a file that was never finished
            data.append((body, offset))
        if length % 2:
            is_padded = _read_at(file, offset, 4) not in _CHUNKS
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


def begins_with_frames(data: bytes) -> bool:
    """Whether bytes are MPEG or ADTS frames from the first one on."""
    return _is_chain(BytesIO(data), 0, 1 << 62)


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


def after_tags(file: BinaryIO, size: int) -> int:
    """Where the content of a file begins, after ID3 and APE tags if there are any.

    Zeros after a tag are padding that it should have counted.
    """
    offset = 0
    while tag := _tag_bytes(_read_at(file, offset, 16)):
        offset = _after_zeros(file, offset + tag, size)
    if offset and 0 < (at := _read_at(file, offset, 8).find(b"ftyp")) < 4:
        offset -= 4 - at  # these zeros are the length of an MP4 file's first box
    return min(offset, size)


def _after_zeros(file: BinaryIO, offset: int, size: int) -> int:
    while offset < size:
        window = _read_at(file, offset, _JUNK_BYTES)
        if rest := window.lstrip(b"\0"):
            return offset + len(window) - len(rest)
        offset += len(window)
    return size


def _first_frame(file: BinaryIO, start: int, size: int) -> int | None:
    """Offset of the first frame that others follow."""
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


def _is_header(head: bytes) -> bool:
    """Whether a frame that begins with these bytes holds a Xing, Info or VBRI header, no sound."""
    if _parse_header(head) is None:
        return False
    at = next((at for at in _XING_OFFSETS if head[at : at + 4] in (b"Xing", b"Info")), None)
    at = 36 if at is None and head[36:40] == b"VBRI" else at
    return at is not None and not any(head[6:at])


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
