"""Open one audio file with the library that reads it best, and yield its samples as stored.

libsndfile reads the PCM containers (wav, aiff, au, w64 and their kin), FFmpeg everything else. A
source yields only what precedes the first damage, and then says what that damage is.
"""

import os
import re
import stat
from collections.abc import Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    closing,
    contextmanager,
    nullcontext,
    suppress,
)
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, BinaryIO, cast

import av
import numpy as np
import numpy.typing as npt
import soundfile

from musicfm._framing import Framing, scan_mpeg, scan_ogg
from musicfm.errors import AudioError
from musicfm.remote import fetched, is_url

Array = npt.NDArray[Any]
AudioFile = str | os.PathLike[str] | BinaryIO
"""A path or URL, or a binary file that is open and can be sought in; it stays open."""

MAX_SAMPLE_RATE = 4_000_000  # Hz; headers that say more are garbage
# Of files; telephones had 8 kHz. A header that says 1 Hz makes hours of a second.
_MIN_SAMPLE_RATE = 1_000

_MOST_CHANNELS = 8  # that a stream may change to: in broadcasts some speech is mono

# Decoders reach the state they would have had from the start well within this many samples.
_PREROLL_SAMPLES = 1 << 17
# Codecs that need no more. Not AAC: its noise substitution depends on everything before.
_FORGETFUL_CODECS = {"mp3", "mp3float", "vorbis", "opus", "flac", "alac"}

# Codecs whose frames carry checksums of the sound that FFmpeg compares only on demand.
_CHECKED_CODECS = {"tta", "wavpack"}

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
_MAX_GAP_SECONDS = 0.05  # timestamps of intact webm and flv files waver by a millisecond
_ENDS_EARLY = "it ends earlier than its header says"

# libsndfile shortens a truncated file without a word, except in its log.
_SHORT_DATA = re.compile(
    r"^ *(?:data|SSND|BODY|riff|Data Size) *: (\d+) \(should be (\d+)\)", re.MULTILINE
)
_SHORT_RF64 = re.compile(r"does not match value from 'ds64' chunk of (\d+)")
_UNKNOWN_BYTES = 0x7FFF0000  # from here on, sizes are what streaming writers put for "unknown"
_VALUES_AT_ONCE = 1 << 23  # of all channels: headers may claim a thousand, at millions of hertz
_SEEKABLE_SUBTYPES = ("PCM", "FLOAT", "DOUBLE", "ULAW", "ALAW")


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


class _Span:
    """Bytes ``start`` to ``stop`` of an open file, read as if they were all of it.

    It keeps a position of its own: several readers may share one file. Nameless, so that libraries
    judge it by its content.
    """

    def __init__(self, file: BinaryIO, start: int = 0, stop: int | None = None) -> None:
        self._file, self._start = file, start
        self._size = (file.seek(0, 2) if stop is None else stop) - start
        self._position = 0

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._position)
        self._file.seek(self._start + self._position)
        data = self._file.read(left if size < 0 else min(size, left))
        self._position += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        base = (0, self._position, self._size)[whence]
        # Damaged headers point anywhere.
        self._position = min(max(0, base + offset), self._size)
        return self._position

    def tell(self) -> int:
        return self._position


class _SndFile:
    """A recording read by libsndfile."""

    def __init__(self, path: str, sound: soundfile.SoundFile) -> None:
        self._sound = sound
        self.info = AudioInfo(path, sound.samplerate, sound.channels, _declared_in_log(sound))
        self.num_decoded = 0
        self.damage: str | None = None

    def close(self) -> None:
        self._sound.close()

    def chunks(self, start: int, size: int) -> Iterator[Array]:
        """Yield (channels, up to ``size``) from sample ``start`` on, as far as they are intact."""
        size = min(size, max(1, _VALUES_AT_ONCE // self.info.channels))
        try:
            if self._sound.subtype.startswith(_SEEKABLE_SUBTYPES):
                self.num_decoded = self._sound.seek(min(start, self._sound.frames))
            while len(block := self._sound.read(size, dtype="float32", always_2d=True)):
                position = self.num_decoded
                self.num_decoded += len(block)
                yield block.T[:, max(0, start - position) :]
        except soundfile.SoundFileError as error:
            self.damage = f"libsndfile reports: {str(error).strip(' .:') or 'an unknown error'}"
        if self.damage is None and self.num_decoded < (self.info.num_samples or 0):
            self.damage = _ENDS_EARLY


class _AvFile:
    """A recording read by FFmpeg."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self._container = _open_av(path, _Span(file))
        self._format: str = self._container.format.name
        scan = {"mp3": scan_mpeg, "aac": scan_mpeg, "ogg": scan_ogg}.get(self._format)
        framing = None if scan is None else scan(file)
        if framing is not None:
            # To FFmpeg the file ends where the damage begins.
            self._container.close()
            self._container = _open_av(path, _Span(file, framing.start, framing.stop))
        self._stream = self._container.streams.best("audio")
        if self._stream is None or self._stream.codec_context is None:
            self._container.close()
            what = "audio" if self._stream is None else "audio in a known codec"
            raise AudioError(f"{shown(path)} has no {what}; pass a recording or video with sound.")
        self._codec = self._stream.codec_context
        if self._codec.name in _CHECKED_CODECS:
            self._codec.options = {"err_detect": "crccheck+explode"}
        rate = self._codec.sample_rate
        num_samples = self._declared_samples(framing)
        self.info = AudioInfo(path, rate, self._codec.layout.nb_channels, num_samples)
        self.num_decoded = 0
        self.damage: str | None = None
        self._damage_at_end = None if framing is None else framing.damage
        # Where timestamps tell samples apart, those before a crop need not all be decoded.
        ticks = Fraction(1, rate or 1) / self._stream.time_base
        can_skip = ticks.denominator == 1 and self._codec.name in _FORGETFUL_CODECS
        is_chained = framing is not None and framing.is_chained
        self._ticks_per_sample = ticks.numerator if can_skip and not is_chained else None

    def _declared_samples(self, framing: Framing | None) -> int | None:
        seconds: Fraction | None = None
        if self._stream.duration is not None:
            seconds = self._stream.duration * self._stream.time_base
        if framing is not None:
            if not framing.is_declared:
                return framing.num_samples
            if self._codec.name == "opus" and seconds is not None:  # FFmpeg counts its pre-skip
                seconds -= Fraction(int.from_bytes(self._codec.extradata[10:12], "little"), 48000)
        elif self._format == "matroska,webm":
            # One length for all tracks, of which the sound may be the shorter one.
            is_alone = self._container.duration is not None and len(self._container.streams) == 1
            seconds = Fraction(self._container.duration, av.time_base) if is_alone else None
        elif self._format not in _SHORTFALL_SECONDS:
            return None
        return round(seconds * self._codec.sample_rate) if seconds else None

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
            self.damage = f"FFmpeg reports: {error.strerror}"
        except IndexError:  # PyAV's, where a damaged flv seems to grow a track on the way
            self.damage = "FFmpeg reports a track that its header lacks"
        self.damage = self.damage or self._damage_at_end
        shortfall = _SHORTFALL_SECONDS.get(self._format)
        if self.damage is None and shortfall is not None and self.info.num_samples is not None:
            missing = self.info.num_samples - self.num_decoded
            if missing > shortfall * self.info.sample_rate:
                self.damage = _ENDS_EARLY

    def _intact(self, start: int) -> Iterator[Array]:
        """Yield samples of frames, but for the last before damage, which may have begun there."""
        expected = held = None
        for frame in self._frames_near(start):
            channels = frame.layout.nb_channels
            if frame.sample_rate != self.info.sample_rate:
                self.damage = f"its sample rate changes to {frame.sample_rate} Hz"
            elif channels > max(self.info.channels, _MOST_CHANNELS):
                self.damage = f"it changes to {channels} channels"
            elif self._format == "flac" and frame.pts is None:
                self.damage = "a FLAC frame is broken"
            elif frame.pts is not None and self._format != "ogg":  # whose pages were followed
                now = float(frame.pts * frame.time_base)
                if expected is not None and abs(now - expected) > _MAX_GAP_SECONDS:
                    self.damage = f"its timestamps jump by {now - expected:.2f} s"
                expected = now + frame.samples / frame.sample_rate
            if self.damage is not None:
                return
            if held is not None:
                yield held
            # Not later: of more than eight channels, PyAV's frames do not outlive the next packet.
            held = _to_float(frame)
        if held is not None:
            yield held

    def _frames_near(self, start: int) -> Iterator[Any]:
        """Yield frames from before ``start``, the place of the first being in ``num_decoded``."""
        ticks, origin = self._ticks_per_sample, self._stream.start_time
        keep_from = start - _PREROLL_SAMPLES
        if ticks is None or origin is None or keep_from <= 0:
            for packet in self._container.demux(self._stream):
                yield from self._codec.decode(packet)
            return
        keep_from_tick = origin + keep_from * ticks
        if self._format == "flac" and keep_from < (self.info.num_samples or 0):
            self._container.seek(keep_from_tick, stream=self._stream)  # finding frames is slow here
        is_first, is_placed = True, False
        for packet in self._container.demux(self._stream):
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


Source = _SndFile | _AvFile


@contextmanager
def open_source(recording: AudioFile) -> Iterator[Source]:
    """Open a recording for as long as the context lasts.

    Raises:
        AudioError: the file cannot be read, or holds no sound that either library knows.
    """
    name, opened = _opened(recording)
    with opened as file, closing(_source(name, file)) as source:
        rate, channels = source.info.sample_rate, source.info.channels
        if not (_MIN_SAMPLE_RATE <= rate <= MAX_SAMPLE_RATE and channels > 0):
            raise AudioError(
                f"{shown(name)} claims {rate} Hz and {channels} channels; replace the file."
            )
        yield source


def read_tags(recording: AudioFile) -> dict[str, str]:
    """What `musicfm.audio.tags` returns."""
    name, opened = _opened(recording)
    with opened as file:
        try:
            container = _open_av(name, _Span(file))
        except AudioError:
            return {}
        with closing(container):
            # Ogg has its tags in the stream.
            streams = [stream.metadata for stream in container.streams.audio]
            found = [*streams, container.metadata]
    pairs = (
        (key, value.replace("\0", "").strip()) for tags in found for key, value in tags.items()
    )
    return {key.lower(): value for key, value in pairs if value}


def _opened(recording: AudioFile) -> tuple[str, AbstractContextManager[BinaryIO]]:
    """A recording's name and its file, which stays open if it was."""
    if isinstance(recording, str) and is_url(recording):
        return recording, cast(AbstractContextManager[BinaryIO], at_hand(recording))
    if isinstance(recording, str | os.PathLike):
        return os.fsdecode(recording), _open_file(recording)
    recording.seek(0)
    return str(getattr(recording, "name", "The recording")), nullcontext(recording)


def _open_file(path: str | os.PathLike[str]) -> BinaryIO:
    name = os.fsdecode(path)
    try:
        if stat.S_ISREG(os.stat(name).st_mode):
            return open(name, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{shown(name)} does not exist; check the path.") from error
    except OSError as error:
        raise AudioError(
            f"{shown(name)} cannot be read ({error.strerror}); check its permissions and the disk."
        ) from error
    except ValueError as error:
        raise AudioError(f"{shown(name)} is no name of a file ({error}).") from error
    raise AudioError(f"{shown(name)} is not a file; pass the path of a recording.")


@contextmanager
def at_hand(recording: AudioFile) -> Iterator[AudioFile]:
    """Give a recording to be read more than once: one at a URL is fetched, once.

    Raises:
        AudioError: the URL cannot be read.
    """
    with ExitStack() as stack:
        source = recording
        if isinstance(recording, str) and is_url(recording):
            try:
                source = stack.enter_context(fetched(recording))
            except OSError as error:
                raise AudioError(
                    f"{shown(recording)} cannot be read ({error.strerror}); check the URL and the "
                    "network."
                ) from error
        yield source


def _source(name: str, file: BinaryIO) -> Source:
    head = file.read(4)
    if not head:
        raise AudioError(f"{shown(name)} is empty (0 bytes); replace the file.")
    # On mp3, libsndfile estimates lengths, gives up on trailing tags, and prints to stderr; on
    # damaged flac and ogg, it loses what it has read or closes the gap.
    is_mpeg = head[:3] == b"ID3" or head[:2] >= b"\xff\xe0"
    if not is_mpeg and head not in (b"fLaC", b"OggS"):
        with suppress(soundfile.SoundFileError):
            sound = soundfile.SoundFile(_Span(file))
            # An unfinished wav declares no samples, but FFmpeg reads on to the end of the file.
            if sound.frames > 0 and "MPEG" not in sound.subtype:
                return _SndFile(name, sound)
            sound.close()
    return _AvFile(name, file)


def _open_av(name: str, span: _Span) -> Any:
    try:
        # No protocols: playlists and the like must not open other files or the network.
        return av.open(span, metadata_errors="replace", options={"protocol_whitelist": ""})
    except (av.FFmpegError, ValueError) as error:
        raise AudioError(
            f"{shown(name)} is not audio in a known format, or damaged from its start on; "
            "pass a recording or replace the file."
        ) from error


def _declared_in_log(sound: soundfile.SoundFile) -> int | None:
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
    array = frame.to_ndarray()
    if not frame.format.is_planar:
        array = array.reshape(frame.samples, -1).T
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # reported as infinite
            return array.astype(np.float32, copy=False)
    half = np.float32(2.0 ** (8 * array.dtype.itemsize - 1))
    samples = array.astype(np.float32)
    return (samples - half if array.dtype.kind == "u" else samples) / half


def shown(name: str) -> str:
    """A file name that can be printed and stays on one line, even when it is not valid Unicode."""
    return name.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
