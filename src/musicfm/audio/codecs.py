"""Read the sound of one file, or of a part of one, with libsndfile or FFmpeg.

Which of them, and of what parts a file consists, is said in :mod:`musicfm.audio.sources`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from copy import copy
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import accumulate
from typing import Any, BinaryIO, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

from musicfm.audio.chunks import unaccounted
from musicfm.audio.framing import begins_with_frames, scan_mpeg, scan_ogg
from musicfm.audio.parts import JUNK_BYTES, Part
from musicfm.errors import AudioError, printable

Array = npt.NDArray[Any]

MAX_SAMPLE_RATE = 4_000_000  # Hz; headers that say more are garbage
# Of files; telephones had 8 kHz. A header that says 1 Hz makes hours of a second.
_MIN_SAMPLE_RATE = 1_000

_MOST_CHANNELS = 8  # that a stream may change to: in broadcasts some speech is mono

# Decoders reach the state they would have had from the start well within this many samples.
_PREROLL_SAMPLES = 1 << 17
_ORIGIN_SAMPLES = 1 << 16  # after these, timestamps are right: more than a page of Ogg
# Codecs that need no more. Not AAC: its noise substitution depends on everything before.
_FORGETFUL_CODECS = {"mp3", "mp3float", "vorbis", "opus", "flac", "alac"}

# Codecs whose frames carry checksums of the sound that FFmpeg compares only on demand.
_CHECKED_CODECS = {"tta", "wavpack"}

# Containers that end with their sound: decoders leave another file that was joined to it.
_SOUND_LAST = {"tta", "wv"}

# Containers that declare a length, and by how many seconds intact files may fall short of it.
# What the others call a duration is an estimate from bit rate or file size.
_SHORTFALL_SECONDS = {
    "aiff": 0.0,
    "flac": 0.0,
    "tta": 0.0,
    "wv": 0.0,
    "mov,mp4,m4a,3gp,3g2,mj2": 0.25,
    "matroska,webm": 0.25,
}
# The same of what libsndfile reads: some writers of wav count the header, too.
_SNDFILE_SHORTFALL_SECONDS = 0.05
_MAX_GAP_SECONDS = 0.05  # timestamps of intact webm and flv files waver by a millisecond
_ENDS_EARLY = "it ends earlier than its header says"

# libsndfile shortens a truncated file without a word, except in its log.
_SHORT_DATA = re.compile(
    r"^ *(?:data|SSND|BODY|riff|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_SHORT_RF64 = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
_UNKNOWN_BYTES = 0x7FFF0000  # from here on, sizes are what streaming writers put for "unknown"
VALUES_AT_ONCE = 1 << 23  # of all channels: headers may claim a thousand, at millions of hertz
_SEEKABLE_SUBTYPES = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")


# Of DTS in 16 and 14 bits and of IEC 61937, in either order of bytes.
_SYNCS = {b"\xfe\x7f\x01\x80", b"\xff\x1f\x00\xe8", b"\x72\xf8\x1f\x4e"}
_SYNCS |= {bytes([b, a, d, c]) for a, b, c, d in _SYNCS}

# What FFmpeg calls the formats of which the framing is followed.
SCANS = {"mp3": scan_mpeg, "aac": scan_mpeg, "ogg": scan_ogg}


@dataclass(frozen=True)
class AudioInfo:
    """What a recording's headers say.

    ``sample_rate`` is in Hz, as stored. ``num_samples`` is the declared number of samples per
    channel at that rate, or None when the file doesn't say; decoding may give slightly more.
    """

    path: str
    sample_rate: int
    channels: int
    num_samples: int | None

    @property
    def duration_seconds(self) -> float | None:
        """Declared length, or None when the file doesn't say."""
        return None if self.num_samples is None else self.num_samples / self.sample_rate


class Span:
    """Pieces of an open file, after bytes to be put before them, read as if they were a file.

    It keeps a position of its own: several readers may share one file. Nameless, so that libraries
    judge it by its content.
    """

    def __init__(
        self, file: BinaryIO, pieces: Sequence[tuple[int, int]], head: bytes = b""
    ) -> None:
        self._pieces = [(cast(BinaryIO, BytesIO(head)), 0, len(head))] if head else []
        self._pieces += [(file, start, stop) for start, stop in pieces]
        # Where each piece ends, counted from the beginning of the first.
        self._ends = list(accumulate(stop - start for _, start, stop in self._pieces))
        self._position = 0
        self._failure: OSError | None = None

    @property
    def left(self) -> int:
        """How many bytes have not been read."""
        return self._ends[-1] - self._position

    def read(self, size: int = -1) -> bytes:
        left = self.left
        left = left if size < 0 else min(size, left)
        read = []
        while left > 0:
            piece = bisect_right(self._ends, self._position)
            file, _, stop = self._pieces[piece]
            offset = stop - (self._ends[piece] - self._position)
            try:
                file.seek(offset)
                data = file.read(min(left, stop - offset))
            except OSError as error:  # through the libraries it would come out as something else
                data, self._failure = b"", error
            if not data:  # or the file has become shorter
                break
            read.append(data)
            left -= len(data)
            self._position += len(data)
        return b"".join(read)

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._ends[-1])[whence]
        # Damaged headers point anywhere.
        self._position = min(max(0, base + offset), self._ends[-1])
        return self._position

    def tell(self) -> int:
        return self._position

    def check(self) -> None:
        """Raise the OSError of a read that failed, if any did."""
        if self._failure is not None:
            raise self._failure


class SndFile:
    """A recording read by libsndfile."""

    format = codec = ""

    def __init__(self, path: str, sound: soundfile.SoundFile, span: Span, part: Part) -> None:
        self._sound, self._span = sound, span
        declared = _declared_in_log(sound)
        if declared - sound.frames <= _SNDFILE_SHORTFALL_SECONDS * sound.samplerate:
            declared = sound.frames
        self.info = AudioInfo(path, sound.samplerate, sound.channels, declared)
        self.num_decoded = 0
        self.damage: str | None = None
        self._damage_at_end = part.damage

    def close(self) -> None:
        self._sound.close()

    def is_coded(self) -> bool:
        """Whether the samples are DTS, a stream for S/PDIF (IEC 61937), or mp3, by their syncs."""
        if self._sound.subtype != "PCM_16":
            return False
        words = np.zeros(0, np.int16)
        for _ in range(64):  # often after some silence
            words = self._sound.read(4096, "int16", always_2d=True).ravel()
            if words.any() or not len(words):
                break
        self._sound.seek(0)
        words = np.trim_zeros(words, "f")
        return words[:2].tobytes() in _SYNCS or begins_with_frames(words.tobytes())

    def chunks(self, start: int, size: int) -> Iterator[Array]:
        """Yield (channels, up to ``size``) from sample ``start`` on, as far as they are intact."""
        size = min(size, max(1, VALUES_AT_ONCE // self.info.channels))
        try:
            if self._sound.subtype.startswith(_SEEKABLE_SUBTYPES):
                self.num_decoded = self._sound.seek(min(start, self._sound.frames))
            while len(block := self._sound.read(size, dtype="float32", always_2d=True)):
                position = self.num_decoded
                self.num_decoded += len(block)
                yield block.T[:, max(0, start - position) :]
        except soundfile.SoundFileError as error:
            self.damage = f"libsndfile reports: {str(error).strip(' .:') or 'an unknown error'}"
        self._span.check()
        self.damage = self.damage or self._damage_at_end
        missing = (self.info.num_samples or 0) - self.num_decoded
        if self.damage is None and missing > _SNDFILE_SHORTFALL_SECONDS * self.info.sample_rate:
            self.damage = _ENDS_EARLY


class AvFile:
    """A recording read by FFmpeg."""

    def __init__(self, path: str, span: Span, part: Part) -> None:
        self._container, self._span = open_av(path, span), span
        self.format: str = self._container.format.name
        self._stream = self._container.streams.best("audio")
        if self._stream is None or self._stream.codec_context is None:
            self._container.close()
            what = "audio" if self._stream is None else "audio in a known codec"
            raise AudioError(
                f"{printable(path)} has no {what}; pass a recording or video with sound."
            )
        self._codec = self._stream.codec_context
        self.codec: str = self._codec.name
        if self.codec in _CHECKED_CODECS:
            self._codec.options = {"err_detect": "crccheck+explode"}
        rate = self._codec.sample_rate
        num_samples = self._declared_samples(path, part)
        self.info = AudioInfo(path, rate, self._codec.layout.nb_channels, num_samples)
        self.num_decoded = 0
        self.damage: str | None = None
        self._damage_at_end = part.damage
        # Where timestamps tell samples apart, those before a crop need not all be decoded.
        ticks = Fraction(1, rate or 1) / self._stream.time_base
        can_skip = ticks.denominator == 1 and self.codec in _FORGETFUL_CODECS
        self._ticks_per_sample = ticks.numerator if can_skip else None

    def _declared_samples(self, path: str, part: Part) -> int | None:
        seconds: Fraction | None = None
        if self._stream.duration is not None:
            seconds = self._stream.duration * self._stream.time_base
        if self.format in SCANS:
            if not part.is_declared:
                return part.num_samples
            if self.format == "ogg" and seconds is not None:
                seconds = self._ogg_seconds(path, seconds)
        elif self.format == "matroska,webm":
            # One length for all tracks, of which the sound may be the shorter one.
            is_alone = self._container.duration is not None and len(self._container.streams) == 1
            if is_alone:
                seconds = Fraction(self._container.duration, av.time_base)
                seconds -= (self._stream.start_time or 0) * self._stream.time_base
        elif self.format not in _SHORTFALL_SECONDS:
            return None
        return round(seconds * self._codec.sample_rate) if seconds else None

    def _ogg_seconds(self, path: str, last: Fraction) -> Fraction | None:
        """How long a stream is that ends at ``last``; None if it does not begin at 0.

        Streams that were cut out of others begin before 0, or later.
        """
        with closing(open_av(path, copy(self._span))) as container, suppress(av.FFmpegError):
            packets = container.demux(container.streams.best("audio"))
            if self.codec == "flac":  # whose first timestamps FFmpeg makes up
                return sum(packet.duration or 0 for packet in packets) * self._stream.time_base
            first = next(packets, None)
            skipped = first.duration or 0 if first else 0
            if self.codec == "opus":
                skipped = int.from_bytes(self._codec.extradata[10:12], "little")
                last -= Fraction(skipped, 48_000)  # FFmpeg counts it
            if self.codec not in ("opus", "vorbis") or (first and first.pts == -skipped):
                return last
        return None

    def close(self) -> None:
        self._container.close()

    def chunks(self, start: int, size: int) -> Iterator[Array]:
        """Yield (channels, a frame's samples) from ``start`` on, as far as they are intact."""
        try:
            for samples in self._intact(start):
                position = self.num_decoded
                self.num_decoded += samples.shape[1]
                if self.num_decoded > start:
                    yield samples[:, max(0, start - position) :]
        except av.FFmpegError as error:
            reason = str(error.strerror)
            reason = "bytes that it does not know" if reason.startswith("Error number") else reason
            self.damage = f"FFmpeg reports: {reason}"
        except IndexError:  # PyAV's, where a damaged flv seems to grow a track on the way
            self.damage = "FFmpeg reports a track that its header lacks"
        except ValueError as error:  # PyAV's, of samples that it does not know
            self.damage = f"PyAV reports: {error}"
        self._span.check()
        self.damage = self.damage or self._damage_at_end
        if self.damage is None and self.format in _SOUND_LAST and self._span.left > JUNK_BYTES:
            self.damage = unaccounted(self._span.left)
        shortfall = _SHORTFALL_SECONDS.get(self.format)
        if self.damage is None and shortfall is not None and self.info.num_samples is not None:
            missing = self.info.num_samples - self.num_decoded
            if missing > shortfall * self.info.sample_rate:
                self.damage = _ENDS_EARLY

    def _intact(self, start: int) -> Iterator[Array]:
        """Yield samples of frames, but for the last before damage, which may have begun there."""
        expected = held = None
        try:
            for frame in self._frames_near(start):
                channels = frame.layout.nb_channels
                if frame.sample_rate != self.info.sample_rate:
                    self.damage = f"its sample rate changes to {frame.sample_rate} Hz"
                elif channels > max(self.info.channels, _MOST_CHANNELS):
                    self.damage = f"it changes to {channels} channels"
                elif self.format == "flac" and frame.pts is None:
                    self.damage = "a FLAC frame is broken"
                elif frame.pts is not None and self.format != "ogg":  # whose pages were followed
                    now = float(frame.pts * frame.time_base)
                    if expected is not None and abs(now - expected) > _MAX_GAP_SECONDS:
                        self.damage = f"its timestamps jump by {now - expected:.2f} s"
                    expected = now + frame.samples / frame.sample_rate
                if self.damage is not None:
                    return
                if held is not None:
                    yield held
                # Not later: of over eight channels, PyAV's frames do not outlive the next packet.
                held = _to_float(frame)
        except av.FFmpegError:
            if held is None or self.num_decoded + held.shape[1] != self.info.num_samples:
                raise  # behind all that was declared there may be anything
        if held is not None:
            yield held

    def _frames_near(self, start: int) -> Iterator[Any]:
        """Yield frames from before ``start``, the place of the first being in ``num_decoded``."""
        ticks, keep_from = self._ticks_per_sample, start - _PREROLL_SAMPLES
        packets = self._container.demux(self._stream)
        origin = None  # the timestamp of the first sample
        if ticks is not None and keep_from > _ORIGIN_SAMPLES:
            # Files that were cut out of others begin before 0, and with wrong timestamps: what is
            # decoded first tells where they count from.
            for packet in packets:
                for frame in self._codec.decode(packet):
                    if frame.pts is not None:
                        origin = frame.pts - self.num_decoded * ticks
                    self.num_decoded += frame.samples
                if self.num_decoded >= _ORIGIN_SAMPLES:
                    break
        if ticks is None or origin is None:
            for packet in packets:
                yield from self._codec.decode(packet)
            return
        keep_from_tick = origin + keep_from * ticks
        if self.format == "flac" and keep_from < (self.info.num_samples or 0):
            self._container.seek(keep_from_tick, stream=self._stream)  # finding frames is slow here
            packets = self._container.demux(self._stream)
        self._codec.flush_buffers()
        is_first, is_placed = True, False
        for packet in packets:
            if packet.pts is not None and packet.pts < keep_from_tick:
                self.num_decoded = (packet.pts + (packet.duration or 0) - origin) // ticks
                continue
            for frame in self._codec.decode(packet):
                if is_first:  # made of two packets, of which one was skipped
                    is_first = False
                    continue
                if not is_placed:
                    place = start + 1 if frame.pts is None else (frame.pts - origin) // ticks
                    if place > start:
                        self.damage = "its timestamps jump"
                        return
                    self.num_decoded, is_placed = place, True
                yield frame


def open_part(name: str, file: BinaryIO, part: Part) -> SndFile | AvFile:
    span = Span(file, part.pieces, part.head)
    head = span.read(4)
    # On mp3, libsndfile estimates lengths, gives up on trailing tags, and prints to stderr; on
    # damaged flac and ogg, it loses what it has read or closes the gap; of voc, it knows one block.
    is_mpeg = head[:2] >= b"\xff\xe0"
    sound: SndFile | None = None
    if not is_mpeg and head not in (b"fLaC", b"OggS", b"Crea"):
        sound = _open_sndfile(name, span, part)
    is_coded = sound is not None and sound.is_coded()
    source: SndFile | AvFile | None = sound
    if source is None or is_coded:
        try:
            source = AvFile(name, span, part)
        except AudioError:
            source = None if is_mpeg or is_coded else _open_sndfile(name, span, part)
            if source is None:
                span.check()
                raise
    if is_coded and source.codec.startswith("pcm"):
        source.close()
        raise AudioError(
            f"{printable(name)} holds DTS or Dolby Digital as if it were PCM; decode it."
        )
    rate, channels = source.info.sample_rate, source.info.channels
    if not (_MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE and channels > 0):
        source.close()
        raise AudioError(
            f"{printable(name)} claims {rate} Hz and {channels} channels; replace the file."
        )
    return source


def _open_sndfile(name: str, span: Span, part: Part) -> SndFile | None:
    span.seek(0)
    with suppress(soundfile.SoundFileError):
        sound = soundfile.SoundFile(span)
        # An unfinished wav declares no samples, but FFmpeg reads on to the end of the file.
        if sound.frames > 0 and "MPEG" not in sound.subtype:
            return SndFile(name, sound, span, part)
        sound.close()
    return None


UNKNOWN_FORMAT = (
    "is not audio in a known format, or damaged from its start on; pass a recording or replace the "
    "file."
)


def open_av(name: str, span: Span) -> Any:
    span.seek(0)
    try:
        # No protocols: playlists and the like must not open other files or the network.
        return av.open(span, metadata_errors="replace", options={"protocol_whitelist": ""})
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(f"{printable(name)} {UNKNOWN_FORMAT}") from error


def _declared_in_log(sound: soundfile.SoundFile) -> int:
    """The number of samples that the header declared, even if libsndfile found fewer."""
    if short := _SHORT_RF64.search(sound.extra_info):
        return int(short[1])
    if short := _SHORT_DATA.search(sound.extra_info):
        declared, found = int(short[1]), int(short[2])
        if found < declared < _UNKNOWN_BYTES:
            return round(sound.frames * declared / found)
    return int(sound.frames)


def _to_float(frame: Any) -> npt.NDArray[np.float32]:
    """The samples of an FFmpeg frame, whatever their type, as (channels, samples) at ±1."""
    channels = frame.layout.nb_channels
    if frame.format.name in ("s64", "s64p"):  # which PyAV does not convert
        count = frame.samples if frame.format.is_planar else frame.samples * channels
        array = np.stack([np.frombuffer(plane, np.int64, count) for plane in frame.planes])
    else:
        array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(frame.samples, -1).T
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # reported as infinite
            return array.astype(np.float32, copy=False)
    half = np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    samples = array.astype(np.float32)
    return (samples - half if array.dtype.kind == "u" else samples) / half
