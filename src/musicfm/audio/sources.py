"""Open one audio file with the library that reads it best, and yield its samples as stored.

The way of a file:

1. Tags before and after its content are passed over, whatever the content is.
2. Its framing is followed where it has one that decoders get wrong: the chunks of wav, the blocks
   of voc (`musicfm.audio.chunks`), the pages of Ogg, the frames of MPEG (`musicfm.audio.framing`).
   That gives one part, or several that follow each other in time; each is opened by itself.
3. libsndfile reads the PCM containers (wav, aiff, au, caf, w64 and their kin), FFmpeg everything
   else, and what libsndfile refuses. What FFmpeg refuses is tried with libsndfile.

What a file is follows from its content alone. A source yields only what precedes the first damage,
and then says what that damage is.
"""

import functools
import hashlib
import os
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
from dataclasses import replace
from io import TextIOBase
from typing import BinaryIO, cast

import av
import numpy as np
import numpy.typing as npt
import soxr

from musicfm.audio.chunks import VOC, is_wav, scan_container, scan_voc, scan_wav
from musicfm.audio.codecs import (
    SCANS,
    UNKNOWN_FORMAT,
    Array,
    AvFile,
    SndFile,
    Span,
    open_av,
    open_part,
)
from musicfm.audio.codecs import AudioInfo as AudioInfo
from musicfm.audio.framing import scan_ogg
from musicfm.audio.parts import Part, after_tags
from musicfm.errors import AudioError, printable
from musicfm.remote import fetched, is_url

AudioFile = str | os.PathLike[str] | BinaryIO
"""A path or URL, or a binary file that is open and can be sought in; it stays open."""

_MOST_PARTS = 1000  # of a joined file that are opened to tell its length


class _Joined:
    """Parts of a file that follow each other in time, at the rate of the first.

    How long a part really is shows only when it is decoded, so all are, from the beginning.
    """

    def __init__(self, path: str, file: BinaryIO, parts: list[Part]) -> None:
        self._path, self._file, self._parts = path, file, parts
        self.num_decoded = 0
        self.damage: str | None = None
        infos = []
        with suppress(AudioError):  # of a later part: met when it is decoded
            for part in parts[:_MOST_PARTS]:
                with closing(open_part(path, file, part)) as source:
                    infos.append(source.info)
        if not infos:
            raise AudioError(f"{printable(path)} {UNKNOWN_FORMAT}")
        rate, num_samples = infos[0].sample_rate, 0
        for info in infos:
            num_samples += round((info.num_samples or 0) * rate / info.sample_rate)
        is_known = len(infos) == len(parts) and all(info.num_samples is not None for info in infos)
        self.info = replace(infos[0], num_samples=num_samples if is_known else None)

    def close(self) -> None:
        """Each part is closed when it has been decoded."""

    def chunks(self, start: int, size: int) -> Iterator[Array]:
        """Yield (channels, samples) from ``start`` on, as far as they are intact."""
        for part in self._parts:
            try:
                source = open_part(self._path, self._file, part)
            except AudioError:
                self.damage = f"what follows from byte {part.pieces[0][0]} on cannot be decoded"
                return
            with closing(source):
                for chunk in self._at_rate_of_first(source, size):
                    position = self.num_decoded
                    self.num_decoded += chunk.shape[1]
                    if self.num_decoded > start:
                        yield chunk[:, max(0, start - position) :]
                self.damage = source.damage
            if self.damage is not None:
                return

    def _at_rate_of_first(self, source: "Source", size: int) -> Iterator[Array]:
        """The chunks of a part; if it has another rate, of one channel."""
        rates = source.info.sample_rate, self.info.sample_rate
        if rates[0] == rates[1]:
            yield from source.chunks(0, size)
        else:
            for block in resampled(map(mono, source.chunks(0, size)), *rates):
                yield block[np.newaxis]


Source = SndFile | AvFile | _Joined


@contextmanager
def open_source(recording: AudioFile) -> Iterator[Source]:
    """Open a recording for as long as the context lasts.

    Raises:
        AudioError: the file cannot be read, or holds no sound that either library knows.
    """
    name, opened = _opened(recording)
    with opened as file:
        try:
            with closing(_source(name, file)) as source:
                yield source
        except OSError as error:
            raise _cannot_be_read(name, error) from error


def tags(recording: AudioFile) -> dict[str, str]:
    """Read what a recording says about itself, such as ``artist``, ``album``, ``title``, ``genre``.

    Names are in lower case, values stripped and never empty; several of one name are joined by
    ";". A file that FFmpeg cannot open has none.

    Raises:
        AudioError: the file cannot be read.
    """
    name, opened = _opened(recording)
    with opened as file:
        size = file.seek(0, 2)
        try:
            container = open_av(name, Span(file, [(0, size)]))
        except AudioError:
            return {}
        with closing(container):
            # Ogg has its tags in the stream.
            streams = [stream.metadata for stream in container.streams.audio]
            found = [*streams, container.metadata]
    pairs = (
        (key, value.replace("\0", "").strip()) for said in found for key, value in said.items()
    )
    return {key.lower(): value for key, value in pairs if value}


def sound_hash(recording: AudioFile) -> str:
    """SHA-256 of the sound as it is stored, without decoding it: other tags and pictures leave it
    as it is. Of a file that FFmpeg cannot take apart, it is that of all bytes.

    Raises:
        AudioError: the file cannot be read.
    """
    name, opened = _opened(recording)
    with opened as file:
        size = file.seek(0, 2)
        try:
            with closing(open_av(name, Span(file, [(0, size)]))) as container:
                stream = container.streams.best("audio")
                context = stream.codec_context
                kind = f"{context.name} {context.sample_rate} {context.channels}"
                digest = hashlib.sha256(kind.encode())
                for packet in container.demux(stream):
                    digest.update(packet)
                return digest.hexdigest()
        except (AudioError, AttributeError, av.FFmpegError, ValueError):
            file.seek(0)
            digest = hashlib.sha256()
            while block := file.read(1 << 20):
                digest.update(block)
            return digest.hexdigest()


def _opened(recording: AudioFile) -> tuple[str, AbstractContextManager[BinaryIO]]:
    """A recording's name and its file, which stays open if it was."""
    if isinstance(recording, str) and is_url(recording):
        return recording, cast(AbstractContextManager[BinaryIO], local_copy(recording))
    if isinstance(recording, str | os.PathLike):
        return os.fsdecode(recording), _open_file(recording)
    name = str(getattr(recording, "name", "The recording"))
    if isinstance(recording, TextIOBase):
        raise AudioError(f'{printable(name)} is open as text; open it with mode "rb".')
    try:
        is_usable = isinstance(recording.seek(0), int)  # that of mmap tells nothing
    except (AttributeError, OSError, ValueError):
        is_usable = False
    if not is_usable:
        raise AudioError(
            f"{type(recording).__name__} cannot be read as a recording; pass a path, or a file "
            "that is open for reading bytes and can be sought in (io.BytesIO for bytes)."
        )
    return name, nullcontext(recording)


def _open_file(path: str | os.PathLike[str]) -> BinaryIO:
    name = os.fsdecode(path)
    try:
        if stat.S_ISREG(os.stat(name).st_mode):
            return open(name, "rb")
    except FileNotFoundError as error:
        raise AudioError(f"{printable(name)} does not exist; check the path.") from error
    except OSError as error:
        raise _cannot_be_read(name, error) from error
    except ValueError as error:
        raise AudioError(f"{printable(name)} is not a valid file name ({error}).") from error
    raise AudioError(f"{printable(name)} is not a file; pass the path of a recording.")


def _cannot_be_read(name: str, error: OSError) -> AudioError:
    why = error.strerror or error
    return AudioError(
        f"{printable(name)} cannot be read ({why}); check its permissions and the disk."
    )


@contextmanager
def local_copy(recording: AudioFile) -> Iterator[AudioFile]:
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
                    f"{printable(recording)} cannot be read ({error.strerror}); check the URL and "
                    "the network."
                ) from error
        yield source


def _source(name: str, file: BinaryIO) -> Source:
    size = file.seek(0, 2)
    if size == 0:
        raise AudioError(f"{printable(name)} is empty (0 bytes); replace the file.")
    start = after_tags(file, size)
    file.seek(start)
    head = file.read(20)
    if is_wav(head):
        parts = scan_wav(file, start)
    elif head[:4] == b"OggS":
        parts = scan_ogg(file, start)
    elif not (parts := scan_voc(file, start) if head == VOC else []):
        source = open_part(name, file, scan_container(file, start))
        if source.format not in SCANS:
            return source
        with closing(source):
            # To FFmpeg the file ends where the damage begins.
            parts = SCANS[source.format](file, start) or [Part(((start, size),))]
    return _Joined(name, file, parts) if len(parts) > 1 else open_part(name, file, parts[0])


def mono(planar: Array) -> npt.NDArray[np.float32]:
    """Mean over the channels of (channels, samples)."""
    with np.errstate(over="ignore", invalid="ignore"):  # reported as infinite or NaN
        channels = planar.astype(np.float32, copy=False)
        # Adding whole channels is 30 times as fast as np.mean over interleaved ones.
        total: npt.NDArray[np.float32] = functools.reduce(np.add, channels)
        return total / np.float32(len(channels))


def resampled(
    blocks: Iterator[npt.NDArray[np.float32]], from_rate: int, to_rate: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Blocks of mono samples at another rate."""
    if from_rate == to_rate:
        yield from blocks
        return
    resampler = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality="HQ")
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)
