"""Decoding: every format, the same samples by every path, and no silent damage."""

import contextlib
import mmap
import os
import shutil
import struct
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr

from audio_files import (
    ALL_FORMATS,
    LOSSLESS,
    encode,
    overwrite,
    rate_of,
    remove,
    tone,
    truncate,
    write,
    write_video,
)
from musicfm.audio import reading, sources
from musicfm.errors import AudioError, AudioWarning

RATE = 24000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six seconds in every format."""
    path = tmp_path_factory.mktemp("recordings")
    for name in ALL_FORMATS:
        write(path, name, seconds=6.0)
    return path


@pytest.fixture
def copied(folder: Path, tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copy(folder / name, tmp_path / name))


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str]) -> object:
    """The libraries print nothing of their own."""
    yield
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


# --- formats, rates, channels -------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_every_format_sounds_like_its_source(folder: Path, name: str) -> None:
    rate = rate_of(name)
    expected = tone(rate, 6.0).mean(axis=1)
    decoded = reading.load(folder / name, rate)
    assert decoded.dtype == np.float32
    # Formats that don't say how long the encoder's delay is start with it.
    delays = np.arange(-3000, 3000)
    errors = [
        np.abs(decoded[50000 + d :][:9000:97] - expected[50000:59000:97]).max() for d in delays
    ]
    assert min(errors) < 0.1
    if name not in ("tone.aac", "tone.wma", "tone.mp2", "bare.mp3"):
        assert abs(delays[np.argmin(errors)]) <= 1  # the best match of a lossy copy
        assert 0 <= len(decoded) - len(expected) < 1024


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_are_exact(folder: Path, name: str) -> None:
    decoded = reading.load(folder / name, 44100)
    np.testing.assert_allclose(decoded, tone(44100, 6.0).mean(axis=1), atol=2**-15)


@pytest.mark.parametrize("name", ALL_FORMATS)
def test_probe_agrees_with_decoding(folder: Path, name: str) -> None:
    info = reading.probe(folder / name)
    assert (info.path, info.sample_rate, info.channels) == (str(folder / name), rate_of(name), 2)
    if name in ("tone.aac", "tone.wma"):
        assert info.num_samples is None
        assert info.duration_seconds is None
    else:
        num_decoded = len(reading.load(folder / name, info.sample_rate))
        assert info.num_samples is not None
        # m4a keeps the padding of its last frame; webm counts milliseconds and its delay.
        slack = {"m4a": 1024, "ebm": 400, "mkv": 48}.get(name[-3:], 0)
        assert abs(num_decoded - info.num_samples) <= slack


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 32000, 44100, 48000, 96000, 192000])
def test_rates_follow_the_documented_length(tmp_path: Path, rate: int) -> None:
    for num_samples in (rate, rate + 1, rate + 2):
        samples = tone(rate, 1.1, 1)[:num_samples]
        soundfile.write(tmp_path / "x.wav", samples, rate, subtype="FLOAT")
        decoded = reading.load(tmp_path / "x.wav", RATE)
        assert len(decoded) == int(num_samples * RATE / rate + 0.5)
        expected = samples[:, 0]
        if rate != RATE:
            expected = soxr.resample(expected, rate, RATE, quality="HQ")
        np.testing.assert_array_equal(decoded, expected)
        np.testing.assert_array_equal(reading.resample(samples.T, rate, RATE), decoded)


@pytest.mark.parametrize("channels", [1, 2, 3, 6])
def test_mono_is_the_mean_of_the_channels(tmp_path: Path, channels: int) -> None:
    samples = tone(RATE, 0.5, channels) * 4  # beyond full scale, and kept
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="FLOAT")
    decoded = reading.load(tmp_path / "x.wav", RATE)
    np.testing.assert_allclose(decoded, samples.mean(axis=1), atol=1e-6)


def test_memory_does_not_grow_with_channels_and_rates_that_a_header_claims(tmp_path: Path) -> None:
    path, seconds = tmp_path / "many.wav", 0.125
    samples = np.zeros((round(seconds * 4_000_000), 64), np.int16)
    samples[:, 0] = 64 * 256
    soundfile.write(path, samples, 4_000_000, subtype="PCM_U8")
    del samples
    tracemalloc.start()
    heard = reading.load(path, 24_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(heard) == round(seconds * 24_000)
    assert np.median(heard) == pytest.approx(0.5, rel=0.01)  # of the one channel with sound
    assert peak < 80e6  # the whole is 128 MB of float32


def test_video_with_sound_and_six_channels(tmp_path: Path) -> None:
    samples = tone(48000, 1.0, 6)
    encode(tmp_path / "x.mka", samples, 48000, "pcm_s16le", "matroska", {})
    decoded = reading.load(tmp_path / "x.mka", 48000)
    np.testing.assert_allclose(decoded, samples.mean(axis=1), atol=1e-4)


def test_silence_is_fine(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", np.zeros(1000), RATE)
    np.testing.assert_array_equal(reading.load(tmp_path / "x.wav", RATE), np.zeros(1000))


def test_names_say_nothing(copied: Callable[[str], Path]) -> None:
    for name, false_name in [("vbr.mp3", "a b.wav"), ("tone.wav", "ü.mp3"), ("tone.m4a", "x.raw")]:
        path = copied(name)
        expected = reading.load(path, RATE)
        disguised = path.rename(path.with_name(false_name))
        np.testing.assert_array_equal(reading.load(disguised, RATE), expected)
        np.testing.assert_array_equal(reading.load(str(disguised), RATE), expected)
        undecodable = os.fsencode(path.with_name("x")) + b"\xff\n"
        os.rename(disguised, undecodable)
        np.testing.assert_array_equal(reading.load(os.fsdecode(undecodable), RATE), expected)
        truncate(Path(os.fsdecode(undecodable)), 0.001)
        with pytest.raises(AudioError) as caught:
            reading.load(os.fsdecode(undecodable), RATE)
        str(caught.value).encode()  # can be printed


# --- blocks and crops ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tone.wav", "tone.flac", "vbr.mp3", "tone.m4a", "tone.opus"])
def test_samples_do_not_depend_on_the_block_size(folder: Path, name: str) -> None:
    whole = reading.load(folder / name, RATE)
    for block_seconds in (0.01, 0.37, 100.0):
        blocks = list(reading.stream(folder / name, RATE, block_seconds=block_seconds))
        np.testing.assert_array_equal(np.concatenate(blocks), whole)


@pytest.mark.parametrize("name", sorted(set(ALL_FORMATS) - {"u8.wav", "24.wav", "faststart.m4a"}))
def test_crops_equal_the_same_part_of_the_whole(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, seconds=12.0)
    for rate in (RATE, rate_of(name)):
        whole = reading.load(path, rate)
        for start, duration in [(0.7, 1.0), (7.123457, 1.5), (9.9, 0.01), (11.5, 9.0)]:
            crop = reading.load(path, rate, start_seconds=start, duration_seconds=duration)
            first = round(start * rate)
            expected = whole[first : first + round(duration * rate)]
            assert len(crop) == len(expected)
            np.testing.assert_allclose(crop, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["tone.wav", "tone.mp3", "bare.mp3", "tone.ogg", "tone.m4a"])
def test_a_crop_past_the_end_says_how_long_the_recording_is(folder: Path, name: str) -> None:
    with pytest.raises(AudioError, match=r"is 6\.0\d s long.* from 70\.00 s on"):
        reading.load(folder / name, RATE, start_seconds=70.0, duration_seconds=1.0)
    with pytest.raises(AudioError, match=r"is 6\.0\d s long"):
        reading.load(folder / name, RATE, start_seconds=6.5)


def test_rates_without_common_divisor(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "x.wav", tone(44101, 4.0), 44101)
    whole = reading.load(tmp_path / "x.wav", RATE)
    crop = reading.load(tmp_path / "x.wav", RATE, start_seconds=2.5, duration_seconds=1.0)
    np.testing.assert_allclose(crop, whole[60000:84000], atol=1e-5)


@pytest.mark.parametrize("name", ["tone.wav", "tone.flac"])
def test_memory_stays_flat(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, seconds=40.0, channels=1)
    tracemalloc.start()
    for _ in reading.stream(path, RATE, block_seconds=1.0):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_500_000  # bytes; the whole would take 7 million


@pytest.mark.parametrize("name", ["tone.mp3", "tone.ogg", "tone.wav"])
def test_a_stream_opens_its_file_once_and_says_what_is_in_it(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    told: list[reading.AudioInfo] = []
    open_source = sources.open_source

    def counted(recording: reading.AudioFile) -> Any:
        opened.append(recording)
        return open_source(recording)

    expected = reading.probe(folder / name)
    monkeypatch.setattr("musicfm.audio.reading.open_source", counted)
    blocks = reading.stream(folder / name, RATE, on_info=told.append)
    next(blocks)
    assert (len(opened), told) == (1, [expected])


def test_a_stream_may_be_left_early(folder: Path) -> None:
    blocks = reading.stream(folder / "tone.mp3", RATE, block_seconds=0.5)
    assert len(next(blocks)) > 0
    blocks.close()  # type: ignore[attr-defined]


# --- what is not a recording -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"hello world\n" * 500, "is not audio"),
        (np.random.default_rng(0).bytes(50000), "is not audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\ntone.wav\n#EXT-X-ENDLIST\n", "not audio"),
        (b"ffconcat version 1.0\nfile 'tone.wav'\n", "is not audio"),
        (b"\xff\xfb" + bytes(1000), "is not audio|has no audio"),
    ],
    ids=["empty", "text", "random", "playlist", "concat", "stub"],
)
def test_other_content(copied: Callable[[str], Path], content: bytes, reason: str) -> None:
    path = copied("tone.wav").with_name("x.mp3")
    path.write_bytes(content)
    for read in (reading.probe, lambda path: reading.load(path, RATE)):
        with pytest.raises(AudioError, match=reason) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(str(path))
        assert message.endswith(".")
        assert "\n" not in message


def test_other_things_than_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AudioError, match="does not exist"):
        reading.load(tmp_path / "none.wav", RATE)
    with pytest.raises(AudioError, match=r"^[^ ]* is not a file; [^()]*$"):
        reading.load(tmp_path, RATE)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(AudioError, match=r"^[^ ]* is not a file; [^()]*$"):
        reading.load(tmp_path / "pipe", RATE)
    path = write(tmp_path, "tone.wav")

    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", deny)
    with pytest.raises(AudioError, match=r"cannot be read \(Permission denied\)"):
        reading.load(path, RATE)


def test_files_that_are_open_in_another_way(tmp_path: Path) -> None:
    path = write(tmp_path, "tone.wav")
    closed = path.open("rb")
    closed.close()
    reader, writer = os.pipe()
    os.close(writer)
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        os.fdopen(reader, "rb") as pipe,
    ):
        for other in (closed, pipe, mapped, path.read_bytes(), None, 3):
            with pytest.raises(AudioError, match="cannot be read as a recording; pass a path"):
                reading.load(other, RATE)  # type: ignore[arg-type]
    with path.open() as text, pytest.raises(AudioError, match="is open as text"):
        reading.load(text, RATE)  # type: ignore[arg-type]


def test_video_without_sound(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="has no audio"):
        reading.load(write_video(tmp_path / "x.mp4"), RATE)


@pytest.mark.parametrize("suffix", ["wav", "aiff"])
def test_no_samples(tmp_path: Path, suffix: str) -> None:
    soundfile.write(tmp_path / f"x.{suffix}", np.zeros((0, 2)), RATE)
    with pytest.raises(AudioError, match="has no samples"):
        reading.load(tmp_path / f"x.{suffix}", RATE)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300, 1e20])
def test_samples_that_are_no_numbers(tmp_path: Path, value: float) -> None:
    samples = tone(RATE, 2.0).astype(np.float64)
    samples[36000, 1] = value
    soundfile.write(tmp_path / "x.wav", samples, RATE, subtype="DOUBLE")
    for rate in (RATE, 16000):
        with pytest.raises(AudioError, match=r"NaN or infinite at 1\.500 s"):
            reading.load(tmp_path / "x.wav", rate, block_seconds=0.4, on_damage="warn")


@pytest.mark.parametrize("field", [(22, "<H", 0), (24, "<I", 0), (24, "<I", 0xFFFFFFF0)])
def test_absurd_headers(copied: Callable[[str], Path], field: tuple[int, str, int]) -> None:
    path, (offset, form, value) = copied("tone.wav"), field
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, value)
    path.write_bytes(data)
    with pytest.raises(AudioError):
        reading.load(path, RATE)


@pytest.mark.parametrize(
    "settings",
    [
        {"sample_rate": 0},
        {"start_seconds": -1.0},
        {"start_seconds": float("nan")},
        {"duration_seconds": 0.0},
        {"block_seconds": 0.0},
        {"on_damage": "ignore"},
    ],
)
def test_settings_are_checked_at_once(folder: Path, settings: dict[str, object]) -> None:
    with pytest.raises(AudioError, match=next(iter(settings)).replace("_", "[_ ]")):
        reading.stream(folder / "tone.wav", **{"sample_rate": RATE, **settings})  # type: ignore[arg-type]


# --- damage -------------------------------------------------------------------------------------

DAMAGED = [
    ("tone.wav", truncate, 3.5),
    ("tone.aiff", truncate, 3.5),
    ("tone.flac", truncate, 3.2),
    ("tone.flac", overwrite, 2.4),
    ("tone.flac", remove, 2.4),
    ("tone.mp3", truncate, 3.4),
    ("tone.mp3", overwrite, 2.8),
    ("tone.mp3", remove, 2.8),
    ("vbr.mp3", truncate, 3.0),
    ("vbr.mp3", overwrite, 2.5),
    ("bare.mp3", overwrite, 2.8),
    ("bare.mp3", remove, 2.8),
    ("tone.aac", overwrite, 2.5),
    ("tone.ogg", truncate, 3.0),
    ("tone.ogg", overwrite, 2.4),
    ("tone.ogg", remove, 2.4),
    ("tone.opus", truncate, 2.0),
    ("tone.opus", overwrite, 1.9),
    ("tone.opus", remove, 1.9),
    ("faststart.m4a", truncate, 3.0),
    ("faststart.m4a", overwrite, 2.4),
    ("tone.m4a", overwrite, 2.4),
    ("tone.webm", truncate, 3.0),
    ("tone.webm", overwrite, 2.4),
    ("tone.wv", truncate, 2.5),
]


@pytest.mark.parametrize(("name", "harm", "at_least_seconds"), DAMAGED)
def test_damage_ends_the_recording_and_moves_nothing(
    copied: Callable[[str], Path],
    name: str,
    harm: Callable[[Path], Path],
    at_least_seconds: float,
) -> None:
    rate, path = rate_of(name), copied(name)
    healthy = reading.load(path, rate)
    harm(path)
    with pytest.raises(AudioError, match=rf"{name} is damaged \(.*\), so that only \d"):
        reading.load(path, rate)
    with pytest.warns(AudioWarning, match=rf"{name} is damaged .* s was decoded\."):
        prefix = reading.load(path, rate, on_damage="warn")
    assert at_least_seconds < len(prefix) / rate < 4.0
    np.testing.assert_allclose(prefix, healthy[: len(prefix)], atol=1e-4)
    crop = reading.load(path, rate, start_seconds=0.5, duration_seconds=0.3)
    np.testing.assert_allclose(crop, healthy[rate // 2 :][: len(crop)], atol=1e-4)
    with pytest.raises(AudioError, match="is damaged"):
        reading.load(path, rate, start_seconds=1.0, duration_seconds=4.9)


@pytest.mark.parametrize("name", ["tone.flac", "tone.ogg", "tone.opus", "tone.wv"])
def test_one_changed_bit_is_found(copied: Callable[[str], Path], name: str) -> None:
    path = copied(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(AudioError, match="is damaged"):
        reading.load(path, RATE)


@pytest.mark.parametrize("name", ["tone.m4a", "tone.flac", "tone.ogg", "tone.mp3"])
def test_nothing_left_is_an_error_either_way(copied: Callable[[str], Path], name: str) -> None:
    path = truncate(copied(name), 0.01 if name != "tone.m4a" else 0.6)
    for on_damage in ("error", "warn"):
        with pytest.raises(AudioError, match=r"damaged|not audio"):
            reading.load(path, RATE, on_damage=on_damage)


def test_a_missing_ogg_page_is_found(copied: Callable[[str], Path]) -> None:
    path = copied("tone.ogg")
    data = path.read_bytes()
    first = data.index(b"OggS", len(data) // 2)
    path.write_bytes(data[:first] + data[data.index(b"OggS", first + 4) :])
    with pytest.raises(AudioError, match="an Ogg page is missing"):
        reading.load(path, RATE)


def test_a_streamed_prefix_precedes_the_error(copied: Callable[[str], Path]) -> None:
    blocks = reading.stream(overwrite(copied("tone.mp3")), RATE, block_seconds=1.0)
    decoded = 0
    with pytest.raises(AudioError, match="is damaged"):  # noqa: PT012
        for block in blocks:
            decoded += len(block)
    assert decoded > 2.5 * RATE


# --- healthy, though it may not look so ---------------------------------------------------------

APE_TAG = b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0) + bytes(8) + b"x" * 32
ID3_TAG = b"ID3\x03\x00\x00\x00\x01\x20\x00" + b"\xff\xfb\x90\x64" * 5120


@pytest.mark.parametrize("name", ["tone.mp3", "bare.mp3", "tone.aac"])
@pytest.mark.parametrize(
    ("head", "tail"),
    [
        (ID3_TAG, b""),
        (ID3_TAG + ID3_TAG, b"TAG" + b"x" * 125),
        (b"", APE_TAG + b"TAG" + b"x" * 125),
        (b"", bytes(5000)),
        (b"", b"junk" * 50),
    ],
    ids=["id3v2", "id3v1", "ape", "zeros", "junk"],
)
def test_tags_and_padding(
    copied: Callable[[str], Path], name: str, head: bytes, tail: bytes
) -> None:
    path = copied(name)
    expected = reading.load(path, RATE)
    path.write_bytes(head + path.read_bytes() + tail)
    np.testing.assert_array_equal(reading.load(path, RATE), expected)


@pytest.mark.parametrize("name", ["tone.mp3", "bare.mp3", "tone.aac"])
@pytest.mark.parametrize(
    "head",
    [
        ID3_TAG + bytes(60_000),
        ID3_TAG + bytes(70_000),
        ID3_TAG + bytes(600_000),
        ID3_TAG + bytes(10) + ID3_TAG + bytes(70_000) + APE_TAG + bytes(32),
        ID3_TAG + np.random.default_rng(0).bytes(200_000),
        bytes(70_000),
    ],
    ids=["60k", "70k", "600k", "gaps", "cover", "zeros"],
)
def test_padding_that_no_tag_counts(copied: Callable[[str], Path], name: str, head: bytes) -> None:
    path = copied(name)
    expected, info = reading.load(path, RATE), reading.probe(path)
    path.write_bytes(head + path.read_bytes())
    np.testing.assert_array_equal(reading.load(path, RATE), expected)
    assert reading.probe(path) == info


def test_one_open_file_can_be_read_by_two_at_once(folder: Path) -> None:
    for name in ("tone.mp3", "tone.wav", "tone.ogg"):
        expected = reading.load(folder / name, RATE)
        with (folder / name).open("rb") as file:
            first = reading.stream(file, RATE, block_seconds=0.5)
            second = reading.stream(file, RATE, block_seconds=0.7)
            begun = [next(first), next(second), next(first)]
            np.testing.assert_array_equal(np.concatenate([begun[0], begun[2], *first]), expected)
            np.testing.assert_array_equal(np.concatenate([begun[1], *second]), expected)


def test_mp3_cut_within_a_frame(copied: Callable[[str], Path]) -> None:
    path = copied("bare.mp3")
    whole = reading.load(path, 44100)
    path.write_bytes(path.read_bytes()[30000:])
    part = reading.load(path, 44100)
    np.testing.assert_allclose(part[5000:], whole[len(whole) - len(part) :][5000:], atol=1e-5)


def test_mp3_and_aac_without_a_length_may_end_anywhere(copied: Callable[[str], Path]) -> None:
    for name in ("bare.mp3", "tone.aac"):
        path = copied(name)
        whole = reading.load(path, RATE)
        part = reading.load(truncate(path), RATE)
        assert 3.4 < len(part) / RATE < 3.8
        np.testing.assert_allclose(part[:80000], whole[:80000], atol=1e-5)


def test_a_live_ogg_recording_has_no_last_page(copied: Callable[[str], Path]) -> None:
    path = copied("tone.ogg")
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"OggS")])
    assert 5.0 < len(reading.load(path, RATE)) / RATE < 6.0


def test_chained_ogg(copied: Callable[[str], Path]) -> None:
    path = copied("tone.ogg")
    once = reading.load(path, 44100)
    path.write_bytes(path.read_bytes() * 2)
    twice = reading.load(path, 44100)
    assert len(twice) == 2 * len(once) == reading.probe(path).num_samples
    np.testing.assert_allclose(twice[:200000], once[:200000], atol=1e-5)
    crop = reading.load(path, 44100, start_seconds=8.0, duration_seconds=1.0)
    np.testing.assert_allclose(crop, twice[352800:396900], atol=1e-5)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_wav_of_unknown_length(copied: Callable[[str], Path], size: int) -> None:
    path = copied("tone.wav")
    expected = reading.load(path, RATE)
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, 4, size)
    struct.pack_into("<I", data, 40, size)
    path.write_bytes(data)
    np.testing.assert_allclose(reading.load(path, RATE), expected, atol=1e-6)


# --- waveforms in memory ------------------------------------------------------------------------


def test_resample_makes_mono() -> None:
    samples = tone(44100, 0.5).T
    mono = reading.resample(samples.astype(np.float64), 44100, 44100)
    assert mono.dtype == np.float32
    np.testing.assert_allclose(mono, samples.mean(axis=0), atol=1e-6)
    np.testing.assert_array_equal(reading.resample(samples[0], 44100, 44100), samples[0])


def test_resample_leaves_channels_out_as_files_do() -> None:
    one = tone(24000, 2.0)[:, 0]
    empty = np.zeros_like(one)
    six = np.stack([empty, one, empty, empty, empty, empty])
    np.testing.assert_array_equal(reading.resample(six, 24000, 24000), one)
    with pytest.warns(AudioWarning, match=r"cancel each other for 2\.0 s"):
        np.testing.assert_array_equal(reading.resample(np.stack([one, -one]), 24000, 24000), one)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0), "shape"),
        (np.zeros((100, 2)), r"shape \(100, 2\)"),
        (np.zeros((1, 2, 3)), "shape"),
        (np.zeros(5, np.int16), "int16 samples; convert"),
        (np.array([0.0, np.nan]), r"NaN or infinite at 1\.000 s"),
    ],
)
def test_resample_refuses(samples: np.ndarray[tuple[int, ...]], reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        reading.resample(samples, 1, 2)
    with pytest.raises(AudioError, match="Sample rates"):
        reading.resample(np.zeros(5), 0, 24000)


def test_any_bytes_give_samples_or_an_audio_error(folder: Path, tmp_path: Path) -> None:
    """Random changes, mostly to headers; every library error has to come out as ours."""
    random, path = np.random.default_rng(0), tmp_path / "x"
    for _ in range(100):
        name = ALL_FORMATS[random.integers(len(ALL_FORMATS))]
        data = bytearray((folder / name).read_bytes()[: random.integers(100, 60000)])
        for _ in range(4):
            at = random.integers(min(len(data), random.choice([200, 2000, 60000])))
            data[at : at + 3] = random.bytes(3)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AudioWarning)
            with contextlib.suppress(AudioError):
                assert np.isfinite(reading.load(path, RATE, on_damage="warn")).all()
