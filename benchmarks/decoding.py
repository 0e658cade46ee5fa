"""Whether recordings are decoded as FFmpeg decodes them, over containers, codecs, rates, channels.

    pip install imageio-ffmpeg==0.6.0    # FFmpeg 7.0.2, as a program
    python benchmarks/decoding.py --output benchmarks/results/decoding.md

Some seconds of sound are encoded by that FFmpeg and decoded by it and by musicfm, which has another
FFmpeg (PyAV's) and libsndfile; FFmpeg's channels are averaged. Lossless formats must be equal in
length, and in all samples to what float32 resolves; all others in length to a frame and, once
aligned, in samples to the tolerance. The offset is by how many samples musicfm's copy begins later.
Three crops of each must equal the same part of the whole.
"""

import argparse
import functools
import importlib
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import correlate

from musicfm.audio.reading import load, probe
from musicfm.errors import AudioError

SECONDS = 5.3
EXACT = 2.0**-23
TOLERANCE = 2e-3
"""Largest difference of samples of lossy formats: libsndfile rounds IMA ADPCM in its own way."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Format:
    """How a file is encoded."""

    suffix: str
    codec: str
    frame: int
    """Samples in a frame; 0: lossless."""
    rates: tuple[tuple[int, int], ...]
    """Rates and numbers of channels."""
    options: tuple[str, ...] = ()


CD, STUDIO, SPEECH, CINEMA = (44_100, 2), (96_000, 2), (8_000, 1), (48_000, 6)
FORMATS = (
    Format("wav", "pcm_u8", 0, (CD, (11_025, 1))),
    Format("wav", "pcm_s16le", 0, (CD, SPEECH, CINEMA, (192_000, 2))),
    Format("wav", "pcm_s24le", 0, (STUDIO,)),
    Format("wav", "pcm_s32le", 0, (CD,)),
    Format("wav", "pcm_s64le", 0, (CD,)),
    Format("wav", "pcm_f32le", 0, (CD, CINEMA)),
    Format("wav", "pcm_f64le", 0, (CD,)),
    Format("wav", "pcm_mulaw", 0, (SPEECH,)),
    Format("wav", "pcm_alaw", 0, (SPEECH,)),
    Format("wav", "pcm_s16le", 0, (CD,), ("-rf64", "always")),
    Format("wav", "adpcm_ms", 0, (CD,)),
    Format("wav", "adpcm_ima_wav", 1017, ((22_050, 1), CD)),
    Format("wav", "libmp3lame", 1152, (CD,)),
    Format("w64", "pcm_s24le", 0, (CD,)),
    Format("aiff", "pcm_s16be", 0, (CD, CINEMA)),
    Format("aiff", "pcm_s24be", 0, (STUDIO,)),
    Format("aiff", "pcm_s16le", 0, (CD,)),
    Format("aiff", "pcm_f32be", 0, (CD,)),
    Format("aiff", "pcm_mulaw", 0, (SPEECH,)),
    Format("au", "pcm_s16be", 0, (CD,)),
    Format("au", "pcm_f32be", 0, (CD,)),
    Format("au", "pcm_mulaw", 0, (SPEECH,)),
    Format("caf", "pcm_s16le", 0, (CD, CINEMA)),
    Format("caf", "pcm_f32be", 0, (CD,)),
    Format("caf", "alac", 0, (CD,)),
    Format("voc", "pcm_s16le", 0, (CD,)),
    Format("voc", "pcm_u8", 0, ((22_050, 1),)),
    Format("flac", "flac", 0, (CD, SPEECH, CINEMA)),
    Format("flac", "flac", 0, (STUDIO,), ("-sample_fmt", "s32")),
    Format("oga", "flac", 0, (CD,)),
    Format("m4a", "alac", 0, (CD, STUDIO)),
    Format("wv", "wavpack", 0, (CD, (48_000, 1))),
    Format("tta", "tta", 0, (CD,)),
    Format("mkv", "pcm_s16le", 0, (CD,)),
    Format("mkv", "flac", 0, (CD,)),
    Format("mka", "truehd", 0, ((48_000, 2),), ("-strict", "-2")),
    Format("mov", "pcm_s24le", 0, ((48_000, 2),)),
    Format("avi", "pcm_s16le", 0, (CD,)),
    Format("nut", "pcm_s16le", 0, (CD,)),
    Format("dts", "dca", 512, ((48_000, 2), CINEMA), ("-strict", "-2")),
    Format("mp3", "libmp3lame", 1152, (CD, (48_000, 2), (32_000, 1))),
    Format("mp3", "libmp3lame", 576, ((22_050, 1), SPEECH)),
    Format("mp3", "libmp3lame", 1152, (CD,), ("-q:a", "2")),
    Format("mp3", "libmp3lame", 1152, (CD,), ("-write_xing", "0", "-id3v2_version", "0")),
    Format("mp2", "mp2", 1152, (CD,)),
    Format("aac", "aac", 1024, (CD, (24_000, 1), CINEMA)),
    Format("m4a", "aac", 1024, (CD, (48_000, 1), CINEMA)),
    Format("mp4", "aac", 1024, (CD,), ("-movflags", "+faststart")),
    Format("mp4", "aac", 1024, (CD,), ("-movflags", "frag_keyframe+empty_moov")),
    Format("mov", "aac", 1024, (CD,)),
    Format("mkv", "aac", 1024, (CD,)),
    Format("flv", "aac", 1024, (CD,)),
    Format("mpg", "mp2", 1152, (CD,)),
    Format("avi", "libmp3lame", 1152, (CD,)),
    Format("mkv", "libmp3lame", 1152, (CD,)),
    Format("ogg", "libvorbis", 2048, (CD, (22_050, 1), CINEMA)),
    Format("webm", "libvorbis", 2048, (CD,)),
    Format("opus", "libopus", 960, ((48_000, 2), (48_000, 1), CINEMA)),
    Format("webm", "libopus", 960, ((48_000, 2),)),
    Format("ac3", "ac3", 1536, ((48_000, 2), CINEMA)),
    Format("eac3", "eac3", 1536, ((48_000, 2),)),
    Format("wma", "wmav2", 2048, (CD,)),
    Format("wma", "wmav1", 2048, (CD,)),
    Format("amr", "libopencore_amrnb", 160, (SPEECH,)),
)


def sound(rate: int, num_channels: int) -> Samples:
    """A chirp, noise and clicks, which differ between channels: (samples, channels)."""
    times = np.arange(round(SECONDS * rate)) / rate
    random = np.random.default_rng(rate + num_channels)
    channels = []
    for channel in range(num_channels):
        sweep = np.sin(2 * np.pi * (150 * (channel + 1) * times + 60 * times**2))
        bursts = np.exp(-8 * (times % 0.31)) * random.standard_normal(len(times))
        channels.append(0.3 * sweep + 0.1 * np.convolve(bursts, np.hanning(7) / 3, "same"))
    return np.stack(channels, 1).astype(np.float32)


def mono_by_ffmpeg(ffmpeg: str, path: Path, num_channels: int) -> Samples:
    """What FFmpeg decodes, its channels averaged as musicfm does."""
    command = [ffmpeg, "-v", "error", "-i", str(path), "-map", "0:a:0", "-ac", str(num_channels)]
    command += ["-f", "f32le", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    channels = np.frombuffer(raw, np.float32).reshape(-1, num_channels).T
    total: Samples = functools.reduce(np.add, channels)
    return total / np.float32(num_channels)


@dataclass(frozen=True)
class Comparison:
    """Of two copies of one recording."""

    extra: int
    """Samples that musicfm's copy has more."""
    offset: int
    difference: float
    """The largest one, once they are aligned, but for a frame at both ends."""


def compare(ours: Samples, theirs: Samples, frame: int) -> Comparison:
    """Align two copies of one recording by their correlation in the middle."""
    offset = 0
    if frame:
        middle, width, reach = len(theirs) // 2, 1 << 14, 1 << 13
        part = theirs[middle - width : middle + width]
        around = ours[max(0, middle - width - reach) : middle + width + reach]
        found = int(np.argmax(correlate(around, part, "valid", "fft")))
        offset = found + max(0, middle - width - reach) - (middle - width)
    begin = max(frame, frame - offset)
    end = min(len(theirs), len(ours) - offset) - frame
    difference = np.abs(ours[begin + offset : end + offset] - theirs[begin:end]).max()
    return Comparison(len(ours) - len(theirs), offset, float(difference))


def crops_differ(path: Path, whole: Samples, rate: int) -> bool:
    """Whether any of three crops is not the same part of the whole, to 1e-5."""
    for part in (0.11, 0.5, 0.83):
        first = round(part * len(whole))
        crop = load(path, rate, start_seconds=first / rate, duration_seconds=0.4)
        expected = whole[first : first + round(0.4 * rate)]
        if len(crop) != len(expected) or np.abs(crop - expected).max() > 1e-5:
            return True
    return False


def rows(
    ffmpeg: str, folder: Path, formats: Sequence[Format] = FORMATS
) -> Iterator[tuple[str, bool]]:
    """A line of the table for each file, and whether all is well with it."""
    for number, form in enumerate(formats):
        for rate, num_channels in form.rates:
            path = folder / f"{number}-{rate}-{num_channels}.{form.suffix}"
            source = folder / "source.wav"
            soundfile.write(source, sound(rate, num_channels), rate, subtype="FLOAT")
            options = [*form.options, "-ar", str(rate), "-c:a", form.codec, str(path)]
            command = [ffmpeg, "-v", "error", "-y", "-i", str(source), *options]
            subprocess.run(command, check=True, capture_output=True)
            name = f"| {form.suffix} | {' '.join((form.codec, *form.options))} | {rate} "
            name += f"| {num_channels} |"
            try:
                theirs = mono_by_ffmpeg(ffmpeg, path, num_channels)
            except subprocess.CalledProcessError as error:
                yield f"{name} FFmpeg fails ({error.returncode}) |", True
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    stored_rate = probe(path).sample_rate
                    ours = load(path, stored_rate)
            except AudioError as error:
                yield f"{name} {error} |", False
                continue
            found = compare(ours, theirs, form.frame)
            has_bad_crops = crops_differ(path, ours, stored_rate)
            limit = TOLERANCE if form.frame else EXACT
            is_well = abs(found.extra) <= form.frame and found.difference <= limit
            is_well = is_well and not has_bad_crops
            figures = f" {found.extra:+d} | {found.offset:+d} | {found.difference:.1e} |"
            crops = " differ |" if has_bad_crops else " equal |"
            yield name + figures + crops + ("" if is_well else " **no** |"), is_well


def main() -> None:
    """Compares, prints the table, and fails if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ffmpeg", help="a program; else that of imageio-ffmpeg")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    ffmpeg = arguments.ffmpeg
    if ffmpeg is None:
        ffmpeg = importlib.import_module("imageio_ffmpeg").get_ffmpeg_exe()
    version = subprocess.run([ffmpeg, "-version"], check=True, capture_output=True, text=True)
    lines = [
        f"FFmpeg {version.stdout.split()[2]} against musicfm with PyAV {av.__version__} and "
        f"libsndfile {soundfile.__libsndfile_version__}.",
        "",
        "| container | codec | Hz | channels | more samples | offset | difference | crops |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        found = list(rows(ffmpeg, Path(folder)))
    lines += [line for line, _ in found]
    num_well = sum(is_well for _, is_well in found)
    lines += ["", f"{num_well} of {len(found)} as they should be."]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    raise SystemExit(num_well < len(found))


if __name__ == "__main__":
    main()
