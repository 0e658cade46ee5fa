import contextlib
import importlib.util
import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from musicfm.errors import SoundFontError
from musicfm.render import soundfont
from musicfm.render.soundfont import Gen, SoundFont, load_font
from sound_fonts import Font, Sample, Zone, chunk, span


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "made.sf2"


def load(path: Path, font: Font) -> SoundFont:
    path.write_bytes(font.to_bytes())
    return load_font(path)


def only_zone(path: Path, font: Font) -> soundfont.Zone:
    (zone,) = load(path, font).presets[0, 0]
    return zone


def one(zone: Zone = (), sample: Sample | None = None, preset: Zone = ()) -> Font:
    """One zone, with these generators at its instrument and its preset."""
    return Font(
        presets=[(0, 0, [[*preset, (Gen.INSTRUMENT, 0)]])],
        instruments=[[[*zone, (Gen.SAMPLE, 0)]]],
        samples=[sample or Sample()],
    )


def test_a_plain_zone_has_the_defaults_of_the_specification(path: Path) -> None:
    font = load(path, Font())
    (zone,) = font.presets[0, 0]
    assert (font.name, font.licence, len(font.sha256)) == ("Made", "unknown", 64)
    assert (zone.keys, zone.velocities) == ((0, 127), (0, 127))
    assert zone.sample.pcm.tolist() == list(range(100))
    assert (zone.loop, zone.sample_rate, zone.root_key, zone.correction) == ((0, 0), 32_000, 60, 0)
    assert zone[Gen.FILTER_CUTOFF] == 13_500
    assert zone[Gen.SCALE_TUNING] == 100
    times = [gen for gen in Gen if gen.name.endswith(("DELAY", "ATTACK", "HOLD", "DECAY"))]
    keyed = {gen for gen in times if gen.name.startswith("KEY_TO")}
    assert {zone[gen] for gen in set(times) - keyed} == {-12_000}
    assert {zone[gen] for gen in keyed} == {0}


def test_a_preset_adds_to_what_its_instrument_says_or_leaves_out(path: Path) -> None:
    zone = only_zone(
        path,
        one(
            [(Gen.VOL_ENV_RELEASE, 1200), (Gen.PAN, -300), (Gen.ATTENUATION, 100)],
            preset=[(Gen.VOL_ENV_RELEASE, -200), (Gen.FILTER_CUTOFF, -3500), (Gen.ATTENUATION, 50)],
        ),
    )
    assert zone[Gen.VOL_ENV_RELEASE] == 1000
    assert zone[Gen.PAN] == -300
    assert zone[Gen.FILTER_CUTOFF] == 10_000
    assert zone[Gen.ATTENUATION] == 150


def test_sums_stay_in_the_ranges_of_the_specification(path: Path) -> None:
    extreme = [(Gen.PAN, 400), (Gen.ATTENUATION, -5), (Gen.VOL_ENV_RELEASE, 32_767)]
    zone = only_zone(path, one(extreme, preset=[(Gen.PAN, 400)]))
    assert (zone[Gen.PAN], zone[Gen.ATTENUATION], zone[Gen.VOL_ENV_RELEASE]) == (500, 0, 8000)


def test_a_preset_does_not_touch_what_is_for_instruments_only(path: Path) -> None:
    preset = [(Gen.ROOT_KEY, 70), (Gen.EXCLUSIVE_CLASS, 3), (Gen.START_OFFSET, 9)]
    preset += [(Gen.SAMPLE_MODES, 1), (Gen.KEY, 40)]
    zone = only_zone(path, one(preset=preset))
    assert (zone.root_key, zone[Gen.EXCLUSIVE_CLASS], zone[Gen.KEY]) == (60, 0, -1)
    assert (zone.loop, len(zone.sample.pcm)) == ((0, 0), 100)


def test_global_zones_hold_unless_a_zone_says_otherwise(path: Path) -> None:
    font = Font(
        presets=[
            (0, 0, [[(Gen.COARSE_TUNE, 5)], [(Gen.COARSE_TUNE, 2), (Gen.INSTRUMENT, 0)]]),
            (0, 1, [[(Gen.COARSE_TUNE, 5)], [(Gen.INSTRUMENT, 0)]]),
        ],
        instruments=[
            [
                [(Gen.PAN, 100), (Gen.FINE_TUNE, 7)],
                [(Gen.PAN, 200), (Gen.SAMPLE, 0)],
                [(Gen.PAN, 300)],  # neither global nor of a sample: to be ignored
                [(Gen.SAMPLE, 0), (Gen.PAN, 400)],  # what follows the sample is, too
            ]
        ],
    )
    presets = load(path, font).presets
    values = [
        [(zone[Gen.PAN], zone[Gen.FINE_TUNE], zone[Gen.COARSE_TUNE]) for zone in presets[0, number]]
        for number in (0, 1)
    ]
    assert values == [[(200, 7, 2), (100, 7, 2)], [(200, 7, 5), (100, 7, 5)]]


def test_ranges_of_preset_and_instrument_intersect(path: Path) -> None:
    font = Font(
        presets=[(0, 0, [[(Gen.KEY_RANGE, span(50, 90)), (Gen.INSTRUMENT, 0)]])],
        instruments=[
            [
                [(Gen.KEY_RANGE, span(0, 60)), (Gen.VELOCITY_RANGE, span(9, 99)), (Gen.SAMPLE, 0)],
                [(Gen.KEY_RANGE, span(70, 80)), (Gen.SAMPLE, 0)],
                [(Gen.KEY_RANGE, span(91, 127)), (Gen.SAMPLE, 0)],
            ]
        ],
    )
    zones = load(path, font).presets[0, 0]
    assert [zone.keys for zone in zones] == [(50, 60), (70, 80)]
    assert [zone.velocities for zone in zones] == [(9, 99), (0, 127)]


def test_offsets_move_the_ends_of_a_sample_and_its_loop(path: Path) -> None:
    offsets = [(Gen.START_OFFSET, 3), (Gen.END_OFFSET, -4), (Gen.LOOP_START_OFFSET, -5)]
    offsets += [(Gen.LOOP_END_OFFSET, 6), (Gen.SAMPLE_MODES, 1)]
    zone = only_zone(path, one(offsets, Sample(start=10)))
    assert (int(zone.sample.pcm[0]), int(zone.sample.pcm[-1])) == (13, 95)
    assert zone.loop == (20 - 5 - 13, 60 + 6 - 13)
    far = [(Gen.START_OFFSET_32K, 1), (Gen.LOOP_START_OFFSET_32K, 1)]
    far += [(Gen.LOOP_END_OFFSET_32K, 1), (Gen.END_OFFSET_32K, 1), (Gen.SAMPLE_MODES, 3)]
    pcm = np.arange(40_000).astype(np.int16)
    zone = only_zone(path, replace(one(far), pcm=pcm))
    assert (len(zone.sample.pcm), zone.loop, zone.is_loop_left) == (100, (20, 60), True)


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_modes_1_and_3_loop(mode: int, path: Path) -> None:
    zone = only_zone(path, one([(Gen.SAMPLE_MODES, mode)]))
    assert zone.loop == ((20, 60) if mode in (1, 3) else (0, 0))
    assert zone.is_loop_left == (mode == 3)


@pytest.mark.parametrize(("start", "end"), [(60, 60), (70, 60), (20, 101)])
def test_a_loop_outside_of_its_sample_is_none(start: int, end: int, path: Path) -> None:
    sample = Sample(loop_start=start, loop_end=end)
    assert only_zone(path, one([(Gen.SAMPLE_MODES, 1)], sample)).loop == (0, 0)


@pytest.mark.parametrize(("key", "generator", "root"), [(64, -1, 64), (64, 50, 50), (255, -1, 60)])
def test_root_key(key: int, generator: int, root: int, path: Path) -> None:
    assert only_zone(path, one([(Gen.ROOT_KEY, generator)], Sample(key=key))).root_key == root


def test_of_two_presets_with_one_number_the_first_counts(path: Path) -> None:
    zones = [[[(Gen.PAN, pan), (Gen.INSTRUMENT, 0)]] for pan in (1, 2)]
    font = load(path, Font(presets=[(128, 8, zones[0]), (128, 8, zones[1])]))
    assert [zone[Gen.PAN] for zone in font.presets[128, 8]] == [1]


def test_licence_and_name_are_what_the_file_says(path: Path) -> None:
    info = [(b"ifil", b"\2\0\1\0"), (b"ICOP", b"CC0\n by \xff me\0junk")]
    font = load(path, Font(info=info))
    assert (font.name, font.licence) == ("made", "CC0 by \ufffd me")


def test_timgm6mb_is_found_without_importing_pretty_midi(timgm6mb: SoundFont) -> None:
    assert (timgm6mb.name, timgm6mb.licence) == ("TimGM6mb", "GPL-2.0")
    assert {program for bank, program in timgm6mb.presets if bank == 0} == set(range(128))
    kits = {program for bank, program in timgm6mb.presets if bank == 128}
    assert kits == {0, 8, 16, 24, 25, 32, 40, 48}
    for kit in kits:
        keys = {key for zone in timgm6mb.presets[128, kit] for key in range(128)
                if zone.keys[0] <= key <= zone.keys[1]}  # fmt: skip
        assert keys >= set(range(35, 82))


def test_without_pretty_midi_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SoundFontError, match=r"pip install 'musicfm\[render\]'"):
        load_font()


BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "not a SoundFont 2"),
    "text": (b"hello, this is no sound font at all", "not a SoundFont 2"),
    "wav": (chunk(b"RIFF", b"WAVE" + chunk(b"data", bytes(8))), "not a SoundFont 2"),
    "cut off": (Font().to_bytes()[:-1], "cut off"),
    "no lists": (chunk(b"RIFF", b"sfbk"), "phdr is missing"),
    "no table": (Font().to_bytes().replace(b"igen", b"nono"), "igen is missing"),
    "no samples": (Font().to_bytes().replace(b"smpl", b"nono"), "no samples"),
    "large chunk": (
        Font().to_bytes().replace(b"smpl" + struct.pack("<I", 400), b"smpl\xff\xff\xff\xff"),
        "larger than",
    ),
    "odd table": (Font().to_bytes({b"shdr": bytes(47)}), "shdr is missing or cut off"),
    "not compressed": (Font(samples=[Sample(kind=0x11)]).to_bytes(), "is not Ogg Vorbis"),
    "compressed beyond": (Font(samples=[Sample(end=401, kind=0x11)]).to_bytes(), "outside of its"),
    "rom": (Font(samples=[Sample(kind=0x8001)]).to_bytes(), "sound card"),
    "unknown instrument": (Font(presets=[(0, 0, [[(Gen.INSTRUMENT, 1)]])]).to_bytes(), "unknown"),
    "unknown sample": (Font(instruments=[[[(Gen.SAMPLE, -1)]]]).to_bytes(), "lacks sample 65535"),
    "sample too long": (Font(samples=[Sample(end=201)]).to_bytes(), "outside of its sound"),
    "sample backwards": (Font(samples=[Sample(start=9, end=9)]).to_bytes(), "outside of its sound"),
    "no rate": (Font(samples=[Sample(rate=0)]).to_bytes(), "rate of 0"),
    "rate too high": (Font(samples=[Sample(rate=2**32 - 1)]).to_bytes(), "rate of 4294967295"),
    "bags fall": (Font().to_bytes({b"ibag": struct.pack("<4H", 1, 0, 0, 0)}), "points outside"),
    "bags beyond": (Font().to_bytes({b"ibag": struct.pack("<4H", 0, 0, 9, 0)}), "points outside"),
    "presets beyond": (
        Font().to_bytes(
            {b"phdr": bytes(24) + b"\7\0" + bytes(12) + bytes(24) + b"\7\0" + bytes(12)}
        ),
        "points outside",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_give_one_clear_error(name: str, path: Path) -> None:
    content, message = BAD[name]
    path.write_bytes(content)
    with pytest.raises(SoundFontError, match=message) as caught:
        load_font(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_zones_that_multiply_without_end_are_refused(path: Path) -> None:
    zones = [[(Gen.KEY_RANGE, span(1, 0)), (Gen.SAMPLE, 0)]] * 20_000  # of no key, so none is made
    path.write_bytes(Font([(0, 0, [[(Gen.INSTRUMENT, 0)]] * 20_000)], [zones]).to_bytes())
    with pytest.raises(SoundFontError, match="more than 200000 zones"):
        load_font(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.sf2", tmp_path):
        with pytest.raises(SoundFontError, match="there is no sound font"):
            load_font(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(data: st.DataObject, path: Path) -> None:
    content = bytearray(one([(Gen.SAMPLE_MODES, 1), (Gen.PAN, 5)]).to_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, 2 * len(content))) :]
    path.write_bytes(content)
    with contextlib.suppress(SoundFontError):
        load_font(path)


def compressed() -> tuple[Font, "np.ndarray[tuple[int], np.dtype[np.int16]]"]:
    """A font of one compressed sample, and what the sample decodes to."""
    wave = np.round(8_000 * np.sin(np.arange(3_000) / 20)).astype(np.int16)
    file = io.BytesIO()
    soundfile.write(file, wave, 32_000, format="OGG", subtype="VORBIS")
    encoded = file.getvalue()
    decoded, _ = soundfile.read(io.BytesIO(encoded), dtype="int16")
    font = Font(
        instruments=[[[(Gen.SAMPLE_MODES, 1), (Gen.START_OFFSET, 100), (Gen.SAMPLE, 0)]]],
        samples=[Sample(end=len(encoded), loop_start=1_000, loop_end=2_000, kind=0x11)],
        pcm=np.frombuffer(encoded + bytes(len(encoded) % 2), np.int16),
        info=[(b"ifil", b"\3\0\1\0"), (b"INAM", b"Made\0\0")],
    )
    return font, decoded


def test_compressed_samples_are_decoded_and_their_loops_count_from_their_start(path: Path) -> None:
    font, decoded = compressed()
    zone = only_zone(path, font)
    assert zone.loop == (900, 1_900)
    np.testing.assert_array_equal(zone.sample.pcm, decoded[100:])


def test_a_damaged_compressed_sample_is_named_when_it_is_played(path: Path) -> None:
    font, _ = compressed()
    pcm = font.pcm.copy()
    pcm[20:60] = 0
    zone = only_zone(path, replace(font, pcm=pcm))
    with pytest.raises(SoundFontError, match="the sample sample of the sound font cannot be"):
        zone.sample.pcm  # noqa: B018


def test_a_chunk_of_odd_length_may_lack_its_last_byte(path: Path) -> None:
    odd = Font(info=[(b"ICMT", b"odd"), (b"INAM", b"Made\0\0")]).to_bytes()
    without = odd.replace(b"odd\0", b"odd")
    sizes = {odd.index(b"RIFF") + 4: -1, odd.index(b"LIST") + 4: -1}
    data = bytearray(without)
    for position, change in sizes.items():
        value = int.from_bytes(data[position : position + 4], "little") + change
        data[position : position + 4] = value.to_bytes(4, "little")
    path.write_bytes(bytes(data))
    assert load_font(path).name == "Made"
