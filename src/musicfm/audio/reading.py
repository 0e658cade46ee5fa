"""Decode any recording to mono float32 at a given rate, wholly, in blocks, or a crop of it.

PCM containers (wav, aiff, au, w64 and their kin) are read by libsndfile, everything else by FFmpeg
through PyAV; what a file is follows from its content, never from its name or the tags before it.
Files joined end to end (mp3, AAC, Ogg, wav) are read one after the other, at the rate of the first.
Of several audio tracks, the default one is read. The channels with sound are averaged
(`musicfm.audio.downmix`) and the rate is converted by soxr (HQ). Samples beyond ±1 are kept; beyond
±32 they are of another unit, and refused.

A recording of n samples at ``from_rate`` gives ``floor(n * to_rate / from_rate + 1/2)`` samples at
``to_rate``, the first at the time of the recording's first. Encoder delay and padding are cut as
FFmpeg does: both ends of mp3 with a LAME header, of Ogg Vorbis and Opus; the start of m4a, whose
last frame keeps its padding; none of raw AAC.

A crop equals the same part of the whole, to 1e-5 or better: it is decoded from a little earlier,
on a sample that both rates share. Where timestamps or decoder state don't allow that (AAC, joined
files, and whatever lies in webm, wma, flv, ...), decoding starts at the beginning and the cost
grows with ``start_seconds``.

A damaged recording is an :class:`AudioError`, or with ``on_damage="warn"`` an
:class:`AudioWarning` and what comes before the first damage, so that nothing ever moves in time.
Damage is found from checksums and framing (flac, ogg, mp3, raw AAC), errors and time gaps that
FFmpeg reports, and lengths shorter than declared. Not found: changed samples in PCM
(nothing guards them), changes that leave an mp3 or AAC frame decodable, the cut end of a file that
declares no length (caf, voc, wma, mpegts, mp3 without a Xing header), and damage outside a crop.
"""

import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import soxr

from musicfm._lazy import renamed
from musicfm.audio.codecs import MAX_SAMPLE_RATE, VALUES_AT_ONCE, Array, AudioInfo
from musicfm.audio.downmix import Downmix, sounding
from musicfm.audio.sources import (
    AudioFile,
    Source,
    local_copy,
    open_source,
    resampled,
    sound_hash,
    tags,
)
from musicfm.errors import AudioError, AudioWarning, as_text, printable

__all__ = [
    "AudioFile",
    "AudioInfo",
    "load",
    "local_copy",
    "probe",
    "resample",
    "sound_hash",
    "stream",
    "tags",
]

if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"at_hand": "local_copy"}, globals().__getitem__)

_Samples = npt.NDArray[np.float32]

# A crop is decoded from, and on to, this much beyond its ends: soxr's filter spans far less.
_MARGIN_SECONDS = 1.0

LOUDEST = 32.0
"""Largest sample: more is of another unit, such as that of integers."""
_MAX_SAMPLE = 1e15  # as good as infinite: somewhat beyond it, the power of a spectrum overflows


def probe(recording: AudioFile) -> AudioInfo:
    """Read the headers of a recording (of mp3, all frame headers) without decoding it.

    Raises:
        AudioError: the file cannot be read or holds no sound.
    """
    with open_source(recording) as source:
        return source.info


def labels(recording: AudioFile) -> dict[str, str]:
    """The title, artist and album of a recording by its tags, as text. Without a title it is the
    file's name; what else is not known is empty.

    Raises AudioError if it cannot be read.
    """
    found = tags(recording)
    name = str(recording) if isinstance(recording, str | os.PathLike) else ""
    values = {
        "title": found.get("title") or PurePath(name).stem,
        "artist": found.get("artist") or found.get("album_artist", ""),
        "album": found.get("album", ""),
    }
    return {name: as_text(value) for name, value in values.items()}


def load(
    recording: AudioFile,
    sample_rate: int,
    *,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    on_damage: Literal["error", "warn"] = "error",
    block_seconds: float = 10.0,
) -> _Samples:
    """Decode a recording or a crop of it, as :func:`stream` does; returns shape (samples,)."""
    blocks = stream(
        recording,
        sample_rate,
        start_seconds=start_seconds,
        duration_seconds=duration_seconds,
        on_damage=on_damage,
        block_seconds=block_seconds,
    )
    return np.concatenate(list(blocks))


def stream(
    recording: AudioFile,
    sample_rate: int,
    *,
    start_seconds: float = 0.0,
    duration_seconds: float | None = None,
    on_damage: Literal["error", "warn"] = "error",
    block_seconds: float = 10.0,
    on_info: Callable[[AudioInfo], object] | None = None,
) -> Iterator[_Samples]:
    """Decode a recording or a crop of it in blocks, holding about one block in memory.

    Args:
        recording: the path or URL of any audio file, or of a video file with sound; or such a file
            that is open for reading bytes and can be sought in. It stays open.
        sample_rate: of the result, in Hz.
        start_seconds: where to start; the first sample is ``round(start_seconds * sample_rate)``.
        duration_seconds: how much to decode; less where the recording ends earlier.
        on_damage: "error" raises as soon as damage is met, "warn" ends the stream there instead.
        block_seconds: about how much to decode at once; the samples do not depend on it.
        on_info: is told what :func:`probe` would say, before the first block.

    Yields:
        Mono float32 blocks, shape (samples,), at least one.

    Raises:
        AudioError: the file cannot be read, holds no sound, is damaged, has samples that are NaN,
            infinite or beyond ±32, or ends before ``start_seconds``.
    """
    if not 0 < sample_rate <= MAX_SAMPLE_RATE:
        raise AudioError(
            f"A sample rate must lie between 1 and {MAX_SAMPLE_RATE} Hz, not {sample_rate}."
        )
    if not (math.isfinite(start_seconds) and start_seconds >= 0):
        raise AudioError(f"start_seconds must be 0 or more, not {start_seconds}.")
    if duration_seconds is not None and not 0.5 < duration_seconds * sample_rate < math.inf:
        raise AudioError(f"duration_seconds must be at least a sample, not {duration_seconds}.")
    if not block_seconds > 0:
        raise AudioError(f"block_seconds must be more than 0, not {block_seconds}.")
    if on_damage not in ("error", "warn"):
        raise AudioError(f'on_damage must be "error" or "warn", not {on_damage!r}.')
    begin = round(start_seconds * sample_rate)
    end = None if duration_seconds is None else begin + round(duration_seconds * sample_rate)
    return _decode(recording, sample_rate, begin, end, on_damage, block_seconds, on_info)


def resample(samples: npt.ArrayLike, from_rate: int, to_rate: int) -> _Samples:
    """Make a waveform in memory mono and convert its rate, just as files are.

    Args:
        samples: floats, shape (samples,) or (channels, samples).
        from_rate: Hz, of ``samples``.
        to_rate: Hz, of the result.

    Returns:
        Float32, shape (floor(samples * to_rate / from_rate + 1/2),).

    Raises:
        AudioError: wrong shape or type, no samples, NaN or infinite ones, or an impossible rate.
    """
    waveform = np.asarray(samples)
    if not (0 < from_rate <= MAX_SAMPLE_RATE and 0 < to_rate <= MAX_SAMPLE_RATE):
        raise AudioError(
            f"Sample rates must lie between 1 and {MAX_SAMPLE_RATE} Hz, "
            f"not {from_rate} and {to_rate}."
        )
    if waveform.dtype.kind != "f":
        raise AudioError(
            f"The waveform has {waveform.dtype} samples; convert them to floats, full scale at ±1."
        )
    if waveform.ndim not in (1, 2) or waveform.size == 0 or waveform.shape[0] > waveform.shape[-1]:
        raise AudioError(
            f"The waveform has shape {waveform.shape}; pass (samples,) or (channels, samples)."
        )
    channels = np.atleast_2d(waveform)
    info = AudioInfo("The waveform", from_rate, *channels.shape)
    downmix = Downmix(info, sounding(iter([channels]), len(channels)))
    samples = _checked(np.concatenate(list(downmix(iter([channels]), 0))), 0, info)
    _warn_of_cancelled(downmix, "The waveform")
    if from_rate == to_rate:
        return samples
    return soxr.resample(samples, from_rate, to_rate, quality="HQ")


def _decode(
    recording: AudioFile,
    sample_rate: int,
    begin: int,
    end: int | None,
    on_damage: str,
    block_seconds: float,
    on_info: Callable[[AudioInfo], object] | None,
) -> Iterator[_Samples]:
    """Yield samples ``begin`` to ``end`` at ``sample_rate``; see :func:`stream`."""
    with local_copy(recording) as recording, open_source(recording) as source:
        info = source.info
        if on_info is not None:
            on_info(info)
        name, rate = printable(info.path), info.sample_rate
        # Decoding starts at a whole second, where samples of both rates fall together.
        second = max(0, math.floor(begin / sample_rate - _MARGIN_SECONDS))
        position = second * sample_rate
        seconds = block_seconds
        if end is not None:
            seconds = min(seconds, (end - position) / sample_rate + _MARGIN_SECONDS)
        start, size = second * rate, math.ceil(seconds * rate)
        mono, downmix = _mono(recording, source.chunks(start, size), start, size, info)
        blocks = _blocks(mono, start, size, info)
        is_empty = True
        for block in resampled(blocks, rate, sample_rate):
            stop = None if end is None else max(0, end - position)
            wanted = block[max(0, begin - position) : stop]
            position += len(block)
            if len(wanted):
                is_empty = False
                yield wanted
            if end is not None and position >= end:
                break
        else:
            _check_end(source, begin / sample_rate, on_damage, is_empty)
        _warn_of_cancelled(downmix, name)


def _warn_of_cancelled(downmix: Downmix, name: str) -> None:
    if seconds := downmix.cancelled_seconds:
        warnings.warn(
            f"{name} has channels that cancel each other for {seconds:.1f} s: there, its first "
            "channel was taken instead of their mean.",
            AudioWarning,
            stacklevel=4,
        )


def _check_end(source: Source, begin_seconds: float, on_damage: str, is_empty: bool) -> None:
    """Raise or warn if a recording does not end as it should."""
    name = printable(source.info.path)
    length = f"{source.num_decoded / source.info.sample_rate:.2f} s"
    if source.damage is not None:
        declared = source.info.duration_seconds
        part = length if declared is None else f"{length} of {declared:.2f} s"
        what = f"{name} is damaged ({source.damage})"
        if is_empty:
            raise AudioError(f"{what}, so that nothing asked for is left; replace it.")
        if on_damage == "error":
            raise AudioError(
                f"{what}, so that only {part} can be decoded; "
                'replace it, or use what comes before (on_damage="warn"; in the shell, '
                "embed, analyze and predict take --on-damage warn)."
            )
        warnings.warn(f"{what}: only {part} was decoded.", AudioWarning, stacklevel=4)
    elif source.num_decoded == 0:
        raise AudioError(f"{name} has no samples in it; replace the file.")
    elif is_empty:
        raise AudioError(
            f"{name} is {length} long, so that nothing is left from {begin_seconds:.2f} s on; "
            "start earlier."
        )


def _mono(
    recording: AudioFile, chunks: Iterator[Array], start: int, size: int, info: AudioInfo
) -> tuple[Iterator[_Samples], Downmix]:
    """The chunks of a recording from sample ``start`` on as mono ones, and what makes them so.

    A channel without sound in the first ``size`` samples may have some elsewhere: only then is the
    recording decoded from its beginning, until all channels have had sound.
    """
    held: deque[Array] = deque()
    most = min(size, VALUES_AT_ONCE // 8 // info.channels or 1)

    def begin() -> Iterator[Array]:
        left = most
        while left > 0 and (chunk := next(chunks, None)) is not None:
            held.append(chunk)
            left -= chunk.shape[1]
            yield chunk

    def all_chunks() -> Iterator[Array]:
        while held:
            yield held.popleft()
        yield from chunks

    channels = list(range(info.channels))
    if info.channels > 1 and sounding(begin(), info.channels) != channels:
        with open_source(recording) as whole:
            channels = sounding(whole.chunks(0, most), info.channels)
    downmix = Downmix(info, channels)
    return downmix(all_chunks(), start), downmix


def _blocks(mono: Iterator[_Samples], start: int, size: int, info: AudioInfo) -> Iterator[_Samples]:
    """Yield mono samples from sample ``start`` on in blocks of at least ``size``, checked."""
    parts: list[_Samples] = []
    num_samples = 0
    for part in mono:
        parts.append(part)
        num_samples += len(part)
        if num_samples >= size:
            yield _checked(np.concatenate(parts), start, info)
            parts, start, num_samples = [], start + num_samples, 0
    if parts:
        yield _checked(np.concatenate(parts), start, info)


def _checked(samples: _Samples, start: int, info: AudioInfo) -> _Samples:
    peaks = np.abs(samples)
    is_sane = peaks <= LOUDEST
    if is_sane.all():
        return samples
    where = int(np.argmin(is_sane))
    name, seconds = printable(info.path), (start + where) / info.sample_rate
    if not peaks[where] < _MAX_SAMPLE:
        raise AudioError(
            f"{name} has a sample that is NaN or infinite at {seconds:.3f} s; "
            "replace the recording or cut that part out."
        )
    raise AudioError(
        f"{name} reaches {peaks[where]:.4g} at {seconds:.3f} s, and full scale is ±1; scale it "
        "(floats that count as 16-bit integers do: divide by 32768)."
    )
