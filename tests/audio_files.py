"""Small recordings in many formats, whole and damaged, for tests."""

import io
import struct
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile

Samples = npt.NDArray[np.float32]

# name → (codec, container) of what FFmpeg writes; the rest is libsndfile's.
FFMPEG_FORMATS: dict[str, tuple[str, str, dict[str, str]]] = {
    "tone.m4a": ("aac", "ipod", {}),
    "faststart.m4a": ("aac", "ipod", {"movflags": "faststart"}),
    "alac.m4a": ("alac", "ipod", {}),
    "tone.aac": ("aac", "adts", {}),
    "tone.webm": ("libopus", "webm", {}),
    "tone.wma": ("wmav2", "asf", {}),
    "tone.wv": ("wavpack", "wv", {}),
    "bare.mp3": ("libmp3lame", "mp3", {"write_xing": "0", "id3v2_version": "0"}),
    "tone.mp2": ("mp2", "mp2", {}),
    "tone.mkv": ("pcm_s16le", "matroska", {}),
}
SNDFILE_FORMATS: dict[str, dict[str, Any]] = {
    "u8.wav": {"subtype": "PCM_U8"},
    "tone.wav": {"subtype": "PCM_16"},
    "24.wav": {"subtype": "PCM_24"},
    "float.wav": {"subtype": "FLOAT"},
    "double.wav": {"subtype": "DOUBLE"},
    "tone.aiff": {},
    "tone.flac": {},
    "tone.ogg": {},
    "tone.opus": {"format": "OGG", "subtype": "OPUS"},
    "tone.mp3": {"bitrate_mode": "CONSTANT", "compression_level": 0.5},
    "vbr.mp3": {"bitrate_mode": "VARIABLE", "compression_level": 0.5},
}
ALL_FORMATS = [*SNDFILE_FORMATS, *FFMPEG_FORMATS]
LOSSLESS = ["tone.wav", "24.wav", "float.wav", "double.wav", "tone.aiff", "tone.flac"]
LOSSLESS += ["alac.m4a", "tone.mkv"]


def rate_of(name: str) -> int:
    """The sample rate at which :func:`write` stores a format by default."""
    return 48000 if "opus" in name or "webm" in name else 44100


def tone(rate: int, seconds: float, channels: int = 2) -> Samples:
    """A chirp and some noise that differ per channel; shape (samples, channels)."""
    return _tone(rate, seconds, channels).copy()


@lru_cache(maxsize=16)
def _tone(rate: int, seconds: float, channels: int) -> Samples:
    num_samples = round(rate * seconds)
    times = np.arange(num_samples) / rate
    noise = np.random.default_rng(0).standard_normal((num_samples, channels))
    pitches = 220 * (1 + np.arange(channels))
    chirp = np.sin(2 * np.pi * (times[:, None] * pitches + 40 * times[:, None] ** 2))
    return (0.3 * chirp + 0.03 * noise).astype(np.float32)


def write(folder: Path, name: str, seconds: float = 3.0, channels: int = 2) -> Path:
    """Write a tone in the format called ``name`` into ``folder``."""
    path, rate = folder / name, rate_of(name)
    samples = tone(rate, seconds, channels)
    if name in FFMPEG_FORMATS:
        encode(path, samples, rate, *FFMPEG_FORMATS[name])
    else:
        soundfile.write(path, samples, rate, **SNDFILE_FORMATS[name])
    return path


NOISE = np.random.default_rng(0).bytes(20_000)
VOC_BLOCKS = (b"\1\x22\x4e\0\xd3\0" + NOISE, b"\3\3\0\0\xff\x0f\xd3", b"\2\x20\x4e\0" + NOISE)
SIZES = struct.pack("<IQQQI", 28, 0, 0, 0, 0)  # of a recording that was never finished
FORM = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 44100, 176_400, 4, 16)

W64 = io.BytesIO()
soundfile.write(W64, np.zeros(2_000), 8_000, format="W64", subtype="PCM_16")

# name → what is joined, of FFMPEG_FORMATS, SNDFILE_FORMATS and bytes.
UNUSUAL: dict[str, tuple[str | bytes, ...]] = {
    "joined.mp3": (b"ID3\3\0\0\0\0\0\0" + bytes(99), "tone.mp3", b"TAG" + bytes(125), "bare.mp3"),
    "chain.ogg": ("tone.ogg", "tone.opus"),
    "joined.wav": (b"ID3\3\0\0\0\0\0\0", "tone.wav", "24.wav"),
    "between.ogg": ("tone.ogg", b"TAG" + bytes(125), "tone.ogg"),
    "blocks.voc": (b"Creative Voice File\x1a\x1a\0\x0a\1\x29\x11", *VOC_BLOCKS, b"\0"),
    "tagged.w64": (W64.getvalue(), b"TAG" + bytes(125)),
    "long.wav": (b"RF64\xff\xff\xff\xffWAVEds64", SIZES, FORM, b"data\xff\xff\xff\xff", NOISE),
    "joined.aac": ("tone.aac", b"ID3\3\0\0\0\0\0\0", "tone.aac"),
}


def write_unusual(folder: Path, name: str, seconds: float = 3.0) -> Path:
    """Write one of UNUSUAL into ``folder``; what follows the first part is mono."""
    data, channels = b"", 2
    for part in UNUSUAL[name]:
        if isinstance(part, str):
            written = write(folder, part, seconds, channels)
            data, channels = data + written.read_bytes(), 1
            written.unlink()
        else:
            data += part
    (folder / name).write_bytes(data)
    return folder / name


def encode(
    path: Path, samples: Samples, rate: int, codec: str, container: str, options: dict[str, str]
) -> None:
    """Encode (samples, channels) with FFmpeg."""
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with av.open(path, "w", format=container, options=options) as output:
        stream: Any = output.add_stream(codec, rate=rate, layout=layout)
        stream.bit_rate = 128000
        planar = np.ascontiguousarray(samples.T)
        frame = av.AudioFrame.from_ndarray(planar, format="fltp", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate, 0, Fraction(1, rate)
        resampler = av.AudioResampler(format=stream.format, layout=layout, rate=rate)
        for part in [*resampler.resample(frame), *resampler.resample(None), None]:
            output.mux(stream.encode(part))


def ogg_pages(data: bytes) -> Iterator[bytes]:
    """The pages of an Ogg file."""
    at = 0
    while at < len(data):
        segments = data[at + 27 : at + 27 + data[at + 26]]
        end = at + 27 + len(segments) + sum(segments)
        yield data[at:end]
        at = end


def ogg_page(
    page: bytes, granule: int | None = None, serial: int | None = None, number: int | None = None
) -> bytes:
    """An Ogg page with other numbers in its header, and the checksum that goes with them."""
    changed = bytearray(page)
    for value, form, at in ((granule, "<q", 6), (serial, "<I", 14), (number, "<I", 18)):
        if value is not None:
            struct.pack_into(form, changed, at, value)
    changed[22:26] = bytes(4)
    checksum = 0
    for byte in changed:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ (0x04C11DB7 if checksum >> 31 else 0)) & 0xFFFFFFFF
    struct.pack_into("<I", changed, 22, checksum)
    return bytes(changed)


def write_video(path: Path) -> Path:
    """Write a video without sound."""
    with av.open(path, "w", format="mp4") as output:
        stream = output.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            picture = np.zeros((32, 32, 3), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def truncate(path: Path, part: float = 0.6) -> Path:
    """Keep the first ``part`` of a file's bytes."""
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    return path


def overwrite(path: Path, num_bytes: int = 10000, part: float = 0.5) -> Path:
    """Put random bytes in the middle of a file."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * part)
    data[start : start + num_bytes] = np.random.default_rng(1).bytes(num_bytes)
    path.write_bytes(data)
    return path


def remove(path: Path, num_bytes: int = 10000, part: float = 0.5) -> Path:
    """Cut bytes out of the middle of a file."""
    data = bytearray(path.read_bytes())
    start = int(len(data) * part)
    del data[start : start + num_bytes]
    path.write_bytes(data)
    return path
