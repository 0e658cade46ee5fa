"""Files of unusual framing: joined, cut out of others, with tags and chunks where none belong."""

import io
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from audio_files import Samples, encode, ogg_page, ogg_pages, tone, write
from musicfm.audio import reading
from musicfm.errors import AudioError

ID3_TAG = b"ID3\x03\x00\x00\x00\x00\x00\x0fTIT2\0\0\0\5\0\0\3song"
APE_TAG = b"APETAGEX" + struct.pack("<IIII", 2000, 64, 1, 0) + bytes(8) + b"x" * 64


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str]) -> object:
    """The libraries print nothing of their own."""
    yield
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def assert_crops_match(path: Path, whole: npt.NDArray[np.float32], rate: int) -> None:
    for part in (0.1, 0.45, 0.6, 0.9):
        start = round(part * len(whole)) / rate
        crop = reading.load(path, rate, start_seconds=start, duration_seconds=0.2)
        first = round(start * rate)
        np.testing.assert_allclose(crop, whole[first : first + len(crop)], atol=1e-5)


def mp3(path: Path, rate: int, channels: int, xing: bool) -> Path:
    options = {"write_xing": str(int(xing)), "id3v2_version": "0"}
    encode(path, tone(rate, 2.0, channels), rate, "libmp3lame", "mp3", options)
    return path


# --- tags ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["tone.wav", "tone.aiff", "tone.flac", "tone.ogg", "tone.wv", "tone.m4a", "tone.au"]
)
@pytest.mark.parametrize(
    "head", [ID3_TAG, ID3_TAG + bytes(70_000), APE_TAG + ID3_TAG], ids=["id3", "padded", "two"]
)
def test_tags_before_files_of_any_kind(tmp_path: Path, name: str, head: bytes) -> None:
    path = tmp_path / name
    if name == "tone.au":
        soundfile.write(path, tone(44100, 1.0), 44100)
    else:
        write(tmp_path, name, 1.0)
    expected = reading.load(path, 24000)
    path.write_bytes(head + path.read_bytes())
    np.testing.assert_array_equal(reading.load(path, 24000), expected)


ITEM = struct.pack("<II", 4, 0) + b"Title\0song"
APE_AT_END = ITEM + b"APETAGEX" + struct.pack("<IIII", 2000, len(ITEM) + 32, 1, 0) + bytes(8)
LYRICS = b"LYRICSBEGIN" + b"IND0000200" + b"000021LYRICS200" + b"TAG" + bytes(125)
ID3_FOOTER = b"\4\0\x10\0\0\0\x0a"
ID3_AT_END = b"ID3" + ID3_FOOTER + bytes(10) + b"3DI" + ID3_FOOTER


@pytest.mark.parametrize("name", ["x.w64", "x.caf", "x.ac3", "tone.wv", "tone.flac", "tone.m4a"])
def test_tags_after_files_of_any_kind(tmp_path: Path, name: str) -> None:
    """Which are not sound, even where no header says how long that is."""
    path = tmp_path / name
    if name == "x.ac3":
        encode(path, tone(44100, 1.0), 44100, "ac3", "ac3", {})
    elif name in ("x.w64", "x.caf"):
        soundfile.write(path, tone(44100, 1.0), 44100, format=name[2:].upper())
    else:
        write(tmp_path, name, 1.0)
    content = bytearray(path.read_bytes())
    if name == "x.caf":
        at = content.index(b"data") + 4
        content[at : at + 8] = b"\xff" * 8
        path.write_bytes(content)
    expected = reading.load(path, 44100)
    for tags in (b"TAG" + bytes(125), APE_AT_END, APE_AT_END + LYRICS, ID3_AT_END + APE_AT_END):
        path.write_bytes(content + tags)
        np.testing.assert_array_equal(reading.load(path, 44100), expected)


@pytest.mark.parametrize("name", ["tone.wv", "tone.flac", "tone.m4a"])
def test_junk_behind_all_that_was_declared(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, 1.0)
    expected = reading.load(path, 44100)
    path.write_bytes(path.read_bytes() + b"\r\n" + bytes(1000))
    np.testing.assert_array_equal(reading.load(path, 44100), expected)


# --- MPEG ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("xing", [True, False], ids=["xing", "bare"])
@pytest.mark.parametrize(
    ("rate", "channels", "gap"),
    [
        (48000, 2, b""),
        (22050, 1, ID3_TAG),
        (44100, 1, b""),
        (44100, 2, b"TAG" + bytes(125) + ID3_TAG + bytes(70_000)),
        (44100, 2, bytes(5000) + ID3_TAG),
    ],
    ids=["rate", "MPEG-2", "mono", "gap", "zeros"],
)
def test_joined_mp3s_are_as_long_as_both(
    tmp_path: Path, rate: int, channels: int, gap: bytes, xing: bool
) -> None:
    first = mp3(tmp_path / "a.mp3", 44100, 2, xing=True)
    second = mp3(tmp_path / "b.mp3", rate, channels, xing)
    expected = np.concatenate([reading.load(first, 44100), reading.load(second, 44100)])
    path = tmp_path / "joined.mp3"
    path.write_bytes(first.read_bytes() + gap + second.read_bytes())
    joined = reading.load(path, 44100)
    is_declared = xing or bool(rate != 44100 or channels != 2)
    if is_declared:
        np.testing.assert_allclose(joined, expected, atol=1e-6)
        assert reading.probe(path).num_samples == len(joined)
    else:  # of one kind, and nothing but the first one's header says where the second begins
        assert abs(len(joined) - len(expected)) < 3000
        assert reading.probe(path).num_samples is None
    assert_crops_match(path, joined, 44100)


def test_half_a_frame_between_joined_mp3s(tmp_path: Path) -> None:
    first, second = (
        mp3(tmp_path / "a.mp3", 48000, 2, True),
        mp3(tmp_path / "b.mp3", 44100, 2, False),
    )
    expected = reading.load(first, 48000)
    path = tmp_path / "x.mp3"
    for long in (second.read_bytes() * 4, second.read_bytes() * 8):
        path.write_bytes(first.read_bytes() + long[700:])
        both = reading.load(path, 48000)
        np.testing.assert_allclose(both[: len(expected)], expected, atol=1e-6)
        frames = len(long) // 417.96 * 1152 / 44100
        assert len(both) / 48000 == pytest.approx(2.0 + frames, abs=0.1)


def test_joined_aac_of_two_rates(tmp_path: Path) -> None:
    for name, rate in (("a.aac", 44100), ("b.aac", 32000)):
        encode(tmp_path / name, tone(rate, 2.0), rate, "aac", "adts", {})
    parts = [reading.load(tmp_path / name, 44100) for name in ("a.aac", "b.aac")]
    path = tmp_path / "joined.aac"
    path.write_bytes(b"".join((tmp_path / name).read_bytes() for name in ("a.aac", "b.aac")))
    joined = reading.load(path, 44100)
    np.testing.assert_allclose(joined, np.concatenate(parts), atol=1e-6)
    assert_crops_match(path, joined, 44100)


def test_a_tag_with_a_cover_between_frames_leaves_nothing_out(tmp_path: Path) -> None:
    path = mp3(tmp_path / "a.mp3", 44100, 2, xing=False)
    expected, data = reading.load(path, 44100), path.read_bytes()
    cover = np.random.default_rng(0).bytes((1 << 14) - 8) + b"\xff\xfb\x90\x64" * 2
    middle = data.index(data[:2], len(data) // 2)
    path.write_bytes(data[:middle] + b"ID3\x03\x00\x00\x00\x01\x00\x00" + cover + data[middle:])
    np.testing.assert_array_equal(reading.load(path, 44100), expected)


def test_damage_in_a_second_file_is_found(tmp_path: Path) -> None:
    data = mp3(tmp_path / "a.mp3", 44100, 2, xing=True).read_bytes()
    once = reading.load(tmp_path / "a.mp3", 44100)
    path = tmp_path / "joined.mp3"
    path.write_bytes(data + data[: len(data) // 2])
    with pytest.raises(AudioError, match=r"damaged \(it has \d+ of the \d+ frames it declares\)"):
        reading.load(path, 44100)
    with pytest.warns(UserWarning, match="is damaged"):
        joined = reading.load(path, 44100, on_damage="warn")
    np.testing.assert_array_equal(joined[: len(once)], once)
    assert 1.4 < len(joined) / len(once) < 1.6


# --- Ogg ----------------------------------------------------------------------------------------


def test_chained_ogg_of_two_rates_and_codecs(tmp_path: Path) -> None:
    parts, data = [], b""
    for name, seconds, channels in (
        ("tone.ogg", 1.5, 2),
        ("tone.opus", 1.5, 1),
        ("tone.ogg", 1.0, 1),
    ):
        written = write(tmp_path, name, seconds, channels)
        parts.append(reading.load(written, 44100))
        data += written.read_bytes()
    path = tmp_path / "chain.ogg"
    path.write_bytes(data)
    joined = reading.load(path, 44100)
    assert len(joined) == reading.probe(path).num_samples == 4 * 44100
    np.testing.assert_allclose(joined, np.concatenate(parts), atol=1e-6)
    assert_crops_match(path, joined, 44100)


def vorbis(tmp_path: Path, seconds: float) -> tuple[Samples, list[bytes]]:
    path = write(tmp_path, "tone.ogg", seconds)
    return reading.load(path, 44100), list(ogg_pages(path.read_bytes()))


def test_ogg_from_the_middle_of_a_broadcast(tmp_path: Path) -> None:
    whole, pages = vorbis(tmp_path, 8.0)
    path = tmp_path / "radio.ogg"
    path.write_bytes(b"".join(pages[:2] + pages[len(pages) // 2 :]))
    part = reading.load(path, 44100)
    assert 2.0 < len(part) / 44100 < 6.0
    np.testing.assert_allclose(part[3000:], whole[len(whole) - len(part) :][3000:], atol=1e-5)
    assert_crops_match(path, part, 44100)
    assert reading.probe(path).num_samples is None  # its last page counts from the beginning
    path.write_bytes(b"".join(pages[:2] + pages[4:6] + pages[8:]))
    with pytest.raises(AudioError, match="an Ogg page is missing"):
        reading.load(path, 44100)


def test_ogg_whose_first_timestamps_are_wrong(tmp_path: Path) -> None:
    """As FFmpeg's stream copy writes them: the first page counts from somewhere else."""
    whole, pages = vorbis(tmp_path, 8.0)
    path = tmp_path / "cut.ogg"
    shift = 100_000
    moved = [ogg_page(page, granule=ogg_granule(page) - shift) for page in pages[3:]]
    path.write_bytes(b"".join([*pages[:2], *moved]))
    part = reading.load(path, 44100)
    np.testing.assert_allclose(part[3000:], whole[len(whole) - len(part) :][3000:], atol=1e-5)
    assert_crops_match(path, part, 44100)
    assert reading.probe(path).num_samples is None


@pytest.mark.parametrize(("codec", "rate"), [("flac", 44100), ("libopus", 48000)])
def test_other_ogg_that_counts_from_elsewhere(tmp_path: Path, codec: str, rate: int) -> None:
    path = tmp_path / "x.ogg"
    encode(path, tone(rate, 6.0), rate, codec, "ogg", {})
    assert reading.probe(path).num_samples == 6 * rate
    pages = list(ogg_pages(path.read_bytes()))
    moved = [page if ogg_granule(page) <= 0 else later(page, -rate) for page in pages]
    path.write_bytes(b"".join(moved))
    assert reading.probe(path).num_samples in (None, 6 * rate)
    assert len(reading.load(path, rate)) == 6 * rate


def later(page: bytes, num_samples: int) -> bytes:
    return ogg_page(page, granule=ogg_granule(page) + num_samples)


def test_ogg_files_with_something_between_them(tmp_path: Path) -> None:
    path = write(tmp_path, "tone.ogg", 2.0)
    one, content = reading.load(path, 44100), path.read_bytes()
    path.write_bytes(content + b"TAG" + bytes(125) + b"OggS" + bytes(100_000) + content)
    np.testing.assert_array_equal(reading.load(path, 44100), np.concatenate([one, one]))
    assert reading.probe(path).num_samples == 2 * len(one)


def ogg_granule(page: bytes) -> int:
    return int.from_bytes(page[6:14], "little", signed=True)


def test_what_ffmpeg_refuses_is_read_by_libsndfile(tmp_path: Path) -> None:
    """Headers once more, on a page among the first ones, and a time before 0."""
    whole, pages = vorbis(tmp_path, 4.0)
    packets = pages[0][28:] + pages[1][27 + pages[1][26] :]
    segments = bytes([len(pages[0]) - 28]) + pages[1][27 : 27 + pages[1][26]]
    again = pages[1][:26] + bytes([len(segments)]) + segments + packets
    stray = ogg_page(again, granule=-104, number=2)
    path = tmp_path / "x.ogg"
    rest = [ogg_page(page, number=i) for i, page in enumerate(pages[2:], 3)]
    path.write_bytes(b"".join([*pages[:2], stray, *rest]))
    part = reading.load(path, 44100)
    assert abs(len(part) - len(whole)) < 2000
    assert_crops_match(path, part, 44100)


def test_ogg_pages_of_an_unknown_stream(tmp_path: Path) -> None:
    _, pages = vorbis(tmp_path, 4.0)
    path = tmp_path / "x.ogg"
    middle = len(pages) // 2
    others = [ogg_page(page, serial=7) for page in pages[middle:]]
    path.write_bytes(b"".join([*pages[:middle], *others]))
    with pytest.raises(AudioError, match="another stream"):
        reading.load(path, 44100)


# --- RIFF and VOC -------------------------------------------------------------------------------

PCM = (np.random.default_rng(0).standard_normal((44_100, 2)) * 3000).astype("<i2")
FLOATS: Samples = (PCM / 32768).astype(np.float32)
MONO = FLOATS.mean(1)
FORM = b"fmt " + struct.pack("<IHHIIHH", 16, 1, 2, 44100, 44100 * 4, 4, 16)


def chunk(name: bytes, data: bytes, length: int | None = None) -> bytes:
    return name + struct.pack("<I", len(data) if length is None else length) + data


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


def wav(data: bytes) -> bytes:
    return riff(FORM, chunk(b"data", data))


RAW = PCM.tobytes()
SLICES = range(0, len(RAW), 12_600)


@pytest.mark.parametrize(
    "content",
    [
        riff(FORM, chunk(b"data", RAW[:40_000]), chunk(b"data", RAW[40_000:])),
        riff(FORM, chunk(b"data", RAW[:4001] + b"\0", 4001), chunk(b"data", RAW[4001:])),
        riff(FORM, chunk(b"LIST", b"INFO"), *[chunk(b"data", RAW[i : i + 12_600]) for i in SLICES]),
        riff(FORM, chunk(b"LIST", b"INFOx"), chunk(b"data", RAW)),
        riff(FORM, chunk(b"LIST", b"INFOx\0", 5), chunk(b"data", RAW)),
        riff(FORM, chunk(b"data", RAW, len(RAW) + 44)),
        riff(FORM, chunk(b"data", RAW), chunk(b"id3 ", ID3_TAG)) + ID3_TAG + b"TAG" + bytes(125),
        wav(RAW) + bytes(200_000),
        wav(RAW[:40_000]) + wav(RAW[40_000:]),
        wav(RAW[:40_000]) + ID3_TAG + bytes(70_000) + wav(RAW[40_000:]),
    ],
    ids=["two", "odd", "many", "unpadded", "padded", "longer", "tags", "zeros", "joined", "gap"],
)  # fmt: skip
def test_wav_of_unusual_chunks(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.wav"
    path.write_bytes(content)
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=1e-7)
    assert reading.probe(path).num_samples == len(PCM)
    assert_crops_match(path, MONO, 44100)


def test_wav_with_more_behind_its_sound_than_it_says(tmp_path: Path) -> None:
    """As of a size that was never updated, or has no room in 32 bits."""
    path = tmp_path / "x.wav"
    path.write_bytes(riff(FORM, chunk(b"data", RAW, 40_000)))
    with pytest.raises(AudioError, match=r"\(\d+ bytes follow after the sound that its header dec"):
        reading.load(path, 44100)


@pytest.mark.parametrize("name", ["tone.aiff", "x.au", "tone.m4a", "tone.wv", "x.caf", "x.w64"])
def test_what_its_header_does_not_account_for_is_reported(tmp_path: Path, name: str) -> None:
    """Of these, decoders read the first file alone."""
    path = tmp_path / name
    if name.startswith("x."):
        soundfile.write(path, FLOATS, 44100, format=name[2:].upper())
    else:
        write(tmp_path, name, 5.0)
    expected = reading.load(path, 44100)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(AudioError, match=r"\(\d+ bytes follow after the sound"):
        reading.load(path, 44100)
    with pytest.warns(UserWarning, match="is damaged"):
        np.testing.assert_array_equal(reading.load(path, 44100, on_damage="warn"), expected)


@pytest.mark.parametrize(
    ("name", "at", "length"),
    [("x.aiff", 4, bytes(4)), ("x.aiff", 4, b"\xff" * 4), ("x.au", 8, b"\xff" * 4)],
)
def test_lengths_that_were_left_open(tmp_path: Path, name: str, at: int, length: bytes) -> None:
    path = tmp_path / name
    soundfile.write(path, FLOATS, 44100)
    data = bytearray(path.read_bytes())
    data[at : at + 4] = length
    path.write_bytes(data)
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=2**-15)


@pytest.mark.parametrize("length", [1 << 40, (1 << 64) - 1])
def test_w64_that_claims_any_length(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.w64"
    soundfile.write(path, FLOATS, 44100, format="W64", subtype="PCM_16")
    data = bytearray(path.read_bytes())
    data[16:24] = length.to_bytes(8, "little")
    path.write_bytes(data)
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=2**-15)


@pytest.mark.parametrize(
    "sync", ["fe7f0180", "7ffe8001", "ff1f00e8", "1fffe800", "72f81f4e"], ids=str
)
@pytest.mark.parametrize("num_zeros", [0, 9000])
def test_coded_sound_is_not_taken_for_pcm(tmp_path: Path, sync: str, num_zeros: int) -> None:
    """As of DTS CDs, and recorded from S/PDIF: as PCM it is noise."""
    path = tmp_path / "x.wav"
    path.write_bytes(wav(bytes(4 * num_zeros) + bytes.fromhex(sync) + RAW))
    with pytest.raises(AudioError, match="holds DTS or Dolby Digital as if it were PCM"):
        reading.load(path, 44100)


def test_dolby_digital_in_wav_is_decoded(tmp_path: Path) -> None:
    encode(tmp_path / "x.ac3", tone(48000, 2.0), 48000, "ac3", "ac3", {})
    encode(tmp_path / "x.spdif", tone(48000, 2.0), 48000, "ac3", "spdif", {})
    path = tmp_path / "x.wav"
    path.write_bytes(wav((tmp_path / "x.spdif").read_bytes()))
    expected = reading.load(tmp_path / "x.ac3", 48000)
    np.testing.assert_allclose(reading.load(path, 48000), expected, atol=1e-6)


@pytest.mark.parametrize("codec", ["pcm_s64le", "pcm_s32le", "pcm_f64le", "pcm_u8"])
def test_wav_of_any_width(tmp_path: Path, codec: str) -> None:
    path = tmp_path / "x.wav"
    encode(path, FLOATS, 44100, codec, "wav", {})
    atol = 2**-7 if codec == "pcm_u8" else 1e-6
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=atol)


@pytest.mark.parametrize("name", [b"RF64", b"BW64"])
@pytest.mark.parametrize("is_finished", [True, False])
def test_wav_with_sizes_of_64_bits(tmp_path: Path, name: bytes, is_finished: bool) -> None:
    """Recorders write 0 at first, and the size at the end."""
    path = tmp_path / "x.wav"
    sizes = [len(RAW) + 72, len(RAW), len(PCM), 0] if is_finished else [0, 0, 0, 0]
    chunks = b"WAVE" + chunk(b"ds64", struct.pack("<QQQI", *sizes)) + FORM
    path.write_bytes(chunk(name, chunks, 2**32 - 1) + chunk(b"data", RAW, 2**32 - 1))
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=1e-7)
    assert_crops_match(path, MONO, 44100)


def test_mp3_that_a_wav_file_calls_pcm(tmp_path: Path) -> None:
    content = mp3(tmp_path / "x.mp3", 44100, 2, False).read_bytes()
    expected = reading.load(tmp_path / "x.mp3", 44100)
    path = tmp_path / "x.wav"
    path.write_bytes(wav(content))
    np.testing.assert_allclose(reading.load(path, 44100)[: len(expected)], expected, atol=1e-6)


def block(kind: int, data: bytes) -> bytes:
    return bytes([kind]) + len(data).to_bytes(3, "little") + data


def test_voc_with_silence_and_two_rates(tmp_path: Path) -> None:
    """FFmpeg leaves the silence out, and takes the second rate for the first."""
    rng = np.random.default_rng(0)
    first, second = (rng.integers(0, 256, 40_000, np.uint8) for _ in range(2))
    slow = block(1, bytes([256 - 100, 0]) + second.tobytes())  # 10 kHz
    blocks = [
        block(3, struct.pack("<HB", 9_999, 256 - 100)),  # a second
        block(1, bytes([256 - 50, 0]) + first[:15_000].tobytes()),  # 20 kHz
        block(2, first[15_000:].tobytes()),
        block(3, struct.pack("<HB", 4_999, 256 - 100)),
        slow,
        block(5, b"a comment\0"),
        slow,
        block(3, struct.pack("<HB", 9_999, 256 - 100)),
    ]
    path = tmp_path / "x.voc"
    head = b"Creative Voice File\x1a" + struct.pack("<HHH", 26, 0x10A, 0x1129)
    path.write_bytes(head + b"".join(blocks) + b"\0")
    found = reading.load(path, 20_000)
    assert len(found) == 20_000 * (1 + 2 + 0.5 + 4 + 4 + 1)
    np.testing.assert_allclose(found[20_000:60_000], (first - 128.0) / 128, atol=1e-6)
    expected = reading.resample((second - 128.0) / 128, 10_000, 20_000)
    for begin in (70_000, 150_000):
        np.testing.assert_allclose(
            found[begin : begin + 80_000][500:-500], expected[500:-500], atol=1e-4
        )
    assert not found[:20_000].any()
    assert np.abs(found[60_100:69_500]).max() < 1e-3
    assert_crops_match(path, found, 20_000)


def test_sound_that_begins_late_in_matroska(tmp_path: Path) -> None:
    """Whose length counts from the beginning of the file, as of what was cut out of a video."""
    path = tmp_path / "x.mkv"
    with av.open(path, "w", format="matroska") as container:
        stream = container.add_stream("pcm_s16le", 44100)
        frame = av.AudioFrame.from_ndarray(PCM.reshape(1, -1), "s16", "stereo")
        frame.sample_rate, frame.pts = 44100, 2 * 44100
        stream.codec_context.time_base = Fraction(1, 44100)
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    assert reading.probe(path).num_samples == pytest.approx(44100, abs=100)
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=1e-6)


def test_voc_of_several_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.voc"
    encode(path, FLOATS, 44100, "pcm_s16le", "voc", {})
    np.testing.assert_allclose(reading.load(path, 44100), MONO, atol=1e-7)
    assert_crops_match(path, MONO, 44100)


# --- reading ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tone.wav", "tone.mp3", "tone.m4a"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5])
def test_a_disk_that_fails(
    tmp_path: Path, name: str, part: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path, name, 2.0).read_bytes()

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() >= len(data) * part:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(AudioError, match=r"cannot be read \(Input/output error\)"):
        reading.load(Failing(data), 24000)


@pytest.mark.parametrize(("more", "is_whole"), [(0, True), (1, True), (2, False)])
def test_the_frame_that_declares_the_length_may_count_itself(
    tmp_path: Path, more: int, is_whole: bool
) -> None:
    """Encoders disagree on that; one frame more is missing."""
    path = mp3(tmp_path / "a.mp3", 44100, 2, xing=True)
    expected, data = reading.load(path, 44100), bytearray(path.read_bytes())
    at = max(data.find(b"Xing"), data.find(b"Info")) + 8
    data[at : at + 4] = (int.from_bytes(data[at : at + 4]) + more).to_bytes(4)
    path.write_bytes(data)
    if is_whole:
        np.testing.assert_allclose(reading.load(path, 44100)[: len(expected)], expected, atol=1e-6)
    else:
        with pytest.raises(AudioError, match="frames it declares"):
            reading.load(path, 44100)
