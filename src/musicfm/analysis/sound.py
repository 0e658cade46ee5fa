"""A recording's sound for a page: as MP3, and as the outline of its waveform.

Browsers jump within an MP3 file by counting bytes, and then are off by what the encoder adds at
the beginning, or by a frame: Chromium by 25 ms. So the file is made such that counting is right:
all frames have one size, stand alone, and the first begins with the recording's first sample.
"""

import io
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
import numpy.typing as npt

from musicfm.audio import reading
from musicfm.audio.sources import AudioFile

SAMPLE_RATE = 48_000
"""The sample rate in Hz, at which frames of BIT_RATE have a whole number of bytes."""
BIT_RATE = 64_000
FRAME_SAMPLES = 1_152
FRAME_BYTES = FRAME_SAMPLES * BIT_RATE // (8 * SAMPLE_RATE)
PEAK_RATE = 100
"""Peaks per second."""

_PEAK_SAMPLES = SAMPLE_RATE // PEAK_RATE
_DELAY = 1_105
"""The samples that LAME and a decoder add; silence makes them a frame, which is left out."""
_TAG_OFFSET = 21
"""The number of bytes before Xing's tag in a mono frame: the header and the side information."""

_Samples = npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sound:
    """A recording, to be played and drawn."""

    mp3: bytes
    """Mono MP3, in which every sample of the recording is at its own time."""
    peaks: _Samples
    """(peaks,) largest absolute samples of each hundredth of a second, from 0 to 1."""

    @classmethod
    def of(cls, recording: AudioFile, note: Callable[[float], object] | None = None) -> "Sound":
        """The sound of a recording, in memory that grows with the result alone.

        ``note`` is told now and then how many seconds are done.

        Of a damaged one it is what comes before the damage, with an AudioWarning. Raises AudioError
        if nothing can be read.
        """
        file, outline = io.BytesIO(), _Outline(note)
        blocks = reading.stream(recording, SAMPLE_RATE, on_damage="warn")
        file.write(bytes(FRAME_BYTES))  # becomes the tag
        for packet in _packets(outline.through(blocks)):
            file.write(packet)
        with file.getbuffer() as content:
            content[:FRAME_BYTES] = tag(bytes(content[FRAME_BYTES : FRAME_BYTES + 4]), len(content))
        return cls(file.getvalue(), outline.peaks())


class _Outline:
    """Collects peaks from blocks of any length."""

    def __init__(self, note: Callable[[float], object] | None) -> None:
        self._note = note
        self._parts: list[_Samples] = []
        self._rest: _Samples = np.zeros(0, np.float32)

    def through(self, blocks: Iterator[_Samples]) -> Iterator[_Samples]:
        """The blocks, cut to full scale."""
        for block in blocks:
            cut = block.clip(-1.0, 1.0)
            samples = np.concatenate([self._rest, np.abs(cut)])
            whole = len(samples) // _PEAK_SAMPLES * _PEAK_SAMPLES
            self._parts.append(samples[:whole].reshape(-1, _PEAK_SAMPLES).max(axis=1))
            self._rest = samples[whole:]
            yield cut
            if self._note is not None:
                self._note(sum(map(len, self._parts)) / PEAK_RATE)

    def peaks(self) -> _Samples:
        last = [self._rest.max(keepdims=True)] if len(self._rest) else []
        return np.concatenate([*self._parts, *last])


def _packets(blocks: Iterator[_Samples]) -> Iterator[bytes]:
    """Frames of MP3, but for the first."""
    encoder = av.CodecContext.create("libmp3lame", "w")
    encoder.sample_rate, encoder.layout, encoder.format = SAMPLE_RATE, "mono", "fltp"
    encoder.bit_rate, encoder.time_base = BIT_RATE, Fraction(1, SAMPLE_RATE)
    # Frames that stand alone; and three times as fast as by default.
    encoder.options = {"reservoir": "0", "compression_level": "7"}
    silence = np.zeros(FRAME_SAMPLES - _DELAY, np.float32)
    frames = _frames(itertools.chain([silence], blocks))
    packets = (part for frame in itertools.chain(frames, [None]) for part in encoder.encode(frame))
    return map(bytes, itertools.islice(packets, 1, None))


def _frames(blocks: Iterable[_Samples]) -> Iterator[av.AudioFrame]:
    first = 0
    for block in blocks:
        frame = av.AudioFrame.from_ndarray(block[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, first
        yield frame
        first += len(block)


def tag(header: bytes, num_bytes: int) -> bytes:
    """A silent frame that says how many frames and bytes there are, as Xing's encoder did.

    Without it, lengths are guessed from the bit rate. It names no encoder, so that nothing is cut
    off at the beginning.
    """
    sound_bytes = num_bytes - FRAME_BYTES
    tag = struct.pack(">4sIII", b"Info", 3, sound_bytes // FRAME_BYTES, sound_bytes)
    return (header.ljust(_TAG_OFFSET, b"\0") + tag).ljust(FRAME_BYTES, b"\0")
