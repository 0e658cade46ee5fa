"""Read a SoundFont 2 file: which samples a preset plays for a key and a velocity, and how.

MuseScore's variant (``.sf3``), whose samples are Ogg Vorbis, is read, too.

After the SoundFont Technical Specification 2.04 (Creative Technology, 2006); the numbers of its
sections stand beside what follows from them. A preset's zones point to instruments, and those
instruments' zones to samples; here both are combined once, into flat :class:`Zone` objects that
hold every generator in the file's own integer units.

Modulators are not read: velocity acts on loudness as the specification's default modulator has it
(8.4.1), and nothing else of a performance exists in a :class:`~musicfm.render.song.Song`.
"""

import hashlib
import importlib.util
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from musicfm.errors import SoundFontError

_Array: TypeAlias = npt.NDArray[Any]


class Gen(IntEnum):
    """Generators by their number in the file (8.1.2), those that are used here."""

    START_OFFSET = 0
    END_OFFSET = 1
    LOOP_START_OFFSET = 2
    LOOP_END_OFFSET = 3
    START_OFFSET_32K = 4
    MOD_LFO_TO_PITCH = 5
    VIB_LFO_TO_PITCH = 6
    MOD_ENV_TO_PITCH = 7
    FILTER_CUTOFF = 8
    FILTER_Q = 9
    MOD_LFO_TO_CUTOFF = 10
    MOD_ENV_TO_CUTOFF = 11
    END_OFFSET_32K = 12
    MOD_LFO_TO_VOLUME = 13
    PAN = 17
    MOD_LFO_DELAY = 21
    MOD_LFO_FREQUENCY = 22
    VIB_LFO_DELAY = 23
    VIB_LFO_FREQUENCY = 24
    MOD_ENV_DELAY = 25
    MOD_ENV_ATTACK = 26
    MOD_ENV_HOLD = 27
    MOD_ENV_DECAY = 28
    MOD_ENV_SUSTAIN = 29
    KEY_TO_MOD_ENV_HOLD = 31
    KEY_TO_MOD_ENV_DECAY = 32
    VOL_ENV_DELAY = 33
    VOL_ENV_ATTACK = 34
    VOL_ENV_HOLD = 35
    VOL_ENV_DECAY = 36
    VOL_ENV_SUSTAIN = 37
    VOL_ENV_RELEASE = 38
    KEY_TO_VOL_ENV_HOLD = 39
    KEY_TO_VOL_ENV_DECAY = 40
    INSTRUMENT = 41
    KEY_RANGE = 43
    VELOCITY_RANGE = 44
    LOOP_START_OFFSET_32K = 45
    KEY = 46
    VELOCITY = 47
    ATTENUATION = 48
    LOOP_END_OFFSET_32K = 50
    COARSE_TUNE = 51
    FINE_TUNE = 52
    SAMPLE = 53
    SAMPLE_MODES = 54
    SCALE_TUNING = 56
    EXCLUSIVE_CLASS = 57
    ROOT_KEY = 58


_NUM_GENERATORS = 61

# Default, lowest and highest value of a generator (8.1.3); the default of all others is 0.
_RANGES: dict[int, tuple[int, int, int]] = {
    Gen.MOD_LFO_TO_PITCH: (0, -12000, 12000),
    Gen.VIB_LFO_TO_PITCH: (0, -12000, 12000),
    Gen.MOD_ENV_TO_PITCH: (0, -12000, 12000),
    Gen.FILTER_CUTOFF: (13500, 1500, 13500),
    Gen.FILTER_Q: (0, 0, 960),
    Gen.MOD_LFO_TO_CUTOFF: (0, -12000, 12000),
    Gen.MOD_ENV_TO_CUTOFF: (0, -12000, 12000),
    Gen.MOD_LFO_TO_VOLUME: (0, -960, 960),
    Gen.PAN: (0, -500, 500),
    Gen.MOD_LFO_DELAY: (-12000, -12000, 5000),
    Gen.MOD_LFO_FREQUENCY: (0, -16000, 4500),
    Gen.VIB_LFO_DELAY: (-12000, -12000, 5000),
    Gen.VIB_LFO_FREQUENCY: (0, -16000, 4500),
    Gen.MOD_ENV_DELAY: (-12000, -12000, 5000),
    Gen.MOD_ENV_ATTACK: (-12000, -12000, 8000),
    Gen.MOD_ENV_HOLD: (-12000, -12000, 5000),
    Gen.MOD_ENV_DECAY: (-12000, -12000, 8000),
    Gen.MOD_ENV_SUSTAIN: (0, 0, 1000),
    Gen.KEY_TO_MOD_ENV_HOLD: (0, -1200, 1200),
    Gen.KEY_TO_MOD_ENV_DECAY: (0, -1200, 1200),
    Gen.VOL_ENV_DELAY: (-12000, -12000, 5000),
    Gen.VOL_ENV_ATTACK: (-12000, -12000, 8000),
    Gen.VOL_ENV_HOLD: (-12000, -12000, 5000),
    Gen.VOL_ENV_DECAY: (-12000, -12000, 8000),
    Gen.VOL_ENV_SUSTAIN: (0, 0, 1440),
    Gen.VOL_ENV_RELEASE: (-12000, -12000, 8000),
    Gen.KEY_TO_VOL_ENV_HOLD: (0, -1200, 1200),
    Gen.KEY_TO_VOL_ENV_DECAY: (0, -1200, 1200),
    Gen.KEY: (-1, -1, 127),
    Gen.VELOCITY: (-1, -1, 127),
    Gen.ATTENUATION: (0, 0, 1440),
    Gen.COARSE_TUNE: (0, -120, 120),
    Gen.FINE_TUNE: (0, -99, 99),
    Gen.SCALE_TUNING: (100, 0, 1200),
    Gen.EXCLUSIVE_CLASS: (0, 0, 127),
    Gen.ROOT_KEY: (-1, -1, 127),
}

# What only an instrument may set (8.1.2 says so of each).
_INSTRUMENT_ONLY = frozenset(
    {
        *(Gen.START_OFFSET, Gen.END_OFFSET, Gen.LOOP_START_OFFSET, Gen.LOOP_END_OFFSET),
        *(Gen.START_OFFSET_32K, Gen.END_OFFSET_32K),
        *(Gen.LOOP_START_OFFSET_32K, Gen.LOOP_END_OFFSET_32K),
        *(Gen.KEY, Gen.VELOCITY, Gen.SAMPLE_MODES, Gen.EXCLUSIVE_CLASS, Gen.ROOT_KEY, Gen.SAMPLE),
    }
)

_BAG = [("generator", "<u2"), ("modulator", "<u2")]
_GENERATOR = [("number", "<u2"), ("amount", "<i2")]
_RECORDS: dict[bytes, np.dtype[Any]] = {
    b"phdr": np.dtype(
        [("name", "S20"), ("program", "<u2"), ("bank", "<u2"), ("bag", "<u2"), ("rest", "<u4", 3)]
    ),
    b"pbag": np.dtype(_BAG),
    b"pgen": np.dtype(_GENERATOR),
    b"inst": np.dtype([("name", "S20"), ("bag", "<u2")]),
    b"ibag": np.dtype(_BAG),
    b"igen": np.dtype(_GENERATOR),
    b"shdr": np.dtype(
        [
            ("name", "S20"),
            *((field, "<u4") for field in ("start", "end", "loop_start", "loop_end", "rate")),
            *(("key", "u1"), ("correction", "i1"), ("link", "<u2"), ("type", "<u2")),
        ]
    ),
}

_VORBIS, _ROM = 0x10, 0x8000  # bits of a sample's type
_MAX_ZONES = 200_000  # of a whole font; General MIDI ones have some thousands
_MAX_SAMPLE_RATE = 400_000

_TIMGM6MB_SHA256 = "82475b91a76de15cb28a104707d3247ba932e228bada3f47bba63c6b31aaf7a1"


@dataclass(frozen=True, slots=True, eq=False)
class PCM:
    """A sample as it lies in the file, from where it starts to where it ends."""

    pcm: npt.NDArray[np.int16] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Vorbis:
    """A compressed sample, decoded when it is first played."""

    name: str
    encoded: memoryview = field(repr=False)
    start: int
    """First sample that is played, in the decoded sample."""
    end: int

    @cached_property
    def pcm(self) -> npt.NDArray[np.int16]:
        """From where it starts to where it ends. Raises SoundFontError if it is damaged."""
        try:
            decoded, _ = soundfile.read(io.BytesIO(self.encoded), dtype="int16", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise SoundFontError(
                f"the sample {self.name} of the sound font cannot be decoded ({error}); give "
                "another sound font"
            ) from error
        return np.ascontiguousarray(decoded[self.start : self.end, 0])


@dataclass(frozen=True, slots=True, eq=False)
class Zone:
    """A sample, the keys and velocities that play it, and how it is played."""

    keys: tuple[int, int]
    """Lowest and highest."""
    velocities: tuple[int, int]
    """Lowest and highest."""
    generators: tuple[int, ...]
    """Values by number; preset and instrument added up and limited as in 8.1.3."""
    sample: "PCM | Vorbis" = field(repr=False)
    loop: tuple[int, int]
    """First value and the one after the last, within the sample; (0, 0) if there is no loop."""
    is_loop_left: bool
    """Whether the rest of the sample is played when the key is let go."""
    sample_rate: int
    root_key: int
    """The key that plays the sample as it was recorded."""
    correction: int
    """Correction of the sample's pitch, in cents."""

    def __getitem__(self, generator: Gen) -> int:
        return self.generators[generator]


@dataclass(frozen=True, slots=True, eq=False)
class SoundFont:
    """The content of a sound font file."""

    name: str
    sha256: str
    licence: str
    """The file's words about copying, or "unknown"."""
    presets: Mapping[tuple[int, int], Sequence[Zone]] = field(repr=False)
    """Zones by bank and program; drum kits are in bank 128."""


def load_font(path: Path | None = None) -> SoundFont:
    """Read a sound font.

    Args:
        path: an ``.sf2`` or ``.sf3`` file, or None for TimGM6mb, which the package pretty_midi
            brings along.

    Raises:
        SoundFontError: there is no such file, or it is damaged.
    """
    path = _installed_font() if path is None else path
    if not os.path.isfile(path):
        raise SoundFontError(
            f"there is no sound font at {path}; give the path of an .sf2 or .sf3 file"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SoundFontError(
            f"cannot read the sound font {path}: {error.strerror or error}; check its permissions"
        ) from error
    try:
        return _parse(data, path.stem)
    except _DamageError as damage:
        raise SoundFontError(
            f"{path} cannot be used as a sound font: {damage}; give another file"
        ) from None


def _installed_font() -> Path:
    # pretty_midi is not imported: it takes a second, and all that is wanted is its data.
    spec = importlib.util.find_spec("pretty_midi")
    if spec is None or spec.origin is None:
        raise SoundFontError(
            "the sound font TimGM6mb comes with the package pretty_midi, which is not installed; "
            "run pip install 'musicfm[render]' or name an .sf2 file"
        )
    return Path(spec.origin).with_name("TimGM6mb.sf2")


class _DamageError(Exception):
    """What is wrong with the file, as the middle of a sentence."""


def _parse(data: bytes, stem: str) -> SoundFont:
    if data[:4] != b"RIFF" or data[8:12] != b"sfbk":
        raise _DamageError("it is not a SoundFont 2 file")
    chunks: dict[bytes, memoryview] = {}
    size = int.from_bytes(data[4:8], "little")
    if size + 8 > len(data):
        raise _DamageError(f"it is cut off, with {len(data)} of {size + 8} bytes")
    for name, content in _chunks(memoryview(data)[12 : 8 + size]):
        if name == b"LIST":
            chunks |= dict(_chunks(content[4:]))
    info = {name: _text(chunks[name]) for name in (b"INAM", b"ICOP") if name in chunks}
    sha256 = hashlib.sha256(data).hexdigest()
    licence = "GPL-2.0" if sha256 == _TIMGM6MB_SHA256 else info.get(b"ICOP") or "unknown"
    tables = {name: _table(chunks, name, record) for name, record in _RECORDS.items()}
    if b"smpl" not in chunks:
        raise _DamageError("it has no samples")
    return SoundFont(info.get(b"INAM") or stem, sha256, licence, _presets(tables, chunks[b"smpl"]))


def _chunks(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """The chunks of a RIFF list: four letters, the size, the content, and 0 if that is odd."""
    position = 0
    while position + 8 <= len(data):
        name = bytes(data[position : position + 4])
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        position += 8
        if position + size > len(data):
            raise _DamageError(f"its chunk {_text(name)} is larger than what holds it")
        yield name, data[position : position + size]
        position += size
        # Some fonts (FluidR3Mono) leave out the byte after an odd chunk; no name begins with 0.
        position += size % 2 and position < len(data) and data[position] == 0


def _text(data: bytes | memoryview) -> str:
    """Zero-terminated text, without what cannot be printed."""
    text = bytes(data).split(b"\0")[0].decode("utf-8", "replace")
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _table(chunks: Mapping[bytes, memoryview], name: bytes, record: np.dtype[Any]) -> _Array:
    """The records of a chunk of pdta; the last of them only says where the one before ends."""
    content = chunks.get(name, memoryview(b""))
    if len(content) < record.itemsize or len(content) % record.itemsize:
        raise _DamageError(f"its table {_text(name)} is missing or cut off")
    return np.frombuffer(content, record)


def _presets(
    tables: Mapping[bytes, _Array], sound: memoryview
) -> dict[tuple[int, int], tuple[Zone, ...]]:
    instrument_zones = _zones_by_owner(tables, b"inst", b"ibag", b"igen", Gen.SAMPLE)
    preset_zones = _zones_by_owner(tables, b"phdr", b"pbag", b"pgen", Gen.INSTRUMENT)
    samples = tables[b"shdr"][:-1]
    presets: dict[tuple[int, int], tuple[Zone, ...]] = {}
    num_zones = 0
    for header, outer_zones in zip(tables[b"phdr"], preset_zones, strict=False):
        zones = []
        for outer in outer_zones:
            index = outer[Gen.INSTRUMENT] & 0xFFFF
            if index >= len(instrument_zones):
                raise _DamageError(f"its preset {_text(header['name'])} has an unknown instrument")
            num_zones += len(instrument_zones[index])
            if num_zones > _MAX_ZONES:
                raise _DamageError(f"it has more than {_MAX_ZONES} zones")
            for inner in instrument_zones[index]:
                keys, velocities = (
                    _common(outer, inner, which) for which in (Gen.KEY_RANGE, Gen.VELOCITY_RANGE)
                )
                if keys[0] <= keys[1] and velocities[0] <= velocities[1]:
                    zones.append(_zone(keys, velocities, _combined(outer, inner), samples, sound))
        # Of two presets with one number, the first counts (7.2).
        presets.setdefault((int(header["bank"]), int(header["program"])), tuple(zones))
    return presets


def _zones_by_owner(
    tables: Mapping[bytes, _Array], owner: bytes, bag: bytes, generator: bytes, target: Gen
) -> list[list[dict[int, int]]]:
    """For each preset or instrument its zones that have a ``target``, global values filled in."""
    owner_bags = _ascending(tables[owner]["bag"], len(tables[bag]) - 1, owner)
    starts = _ascending(tables[bag]["generator"], len(tables[generator]), bag)
    numbers, amounts = (tables[generator][field].tolist() for field in ("number", "amount"))
    zones_by_owner = []
    for first, last in itertools.pairwise(owner_bags):
        common: dict[int, int] = {}
        zones = []
        for index in range(first, last):
            zone = {}
            for number, amount in zip(
                numbers[starts[index] : starts[index + 1]],
                amounts[starts[index] : starts[index + 1]],
                strict=True,
            ):
                zone[number] = amount
                if number == target:  # it is the last one; what follows is to be ignored (7.5, 7.9)
                    break
            if target in zone:
                zones.append(common | zone)
            elif index == first:  # the global zone (7.3, 7.7)
                common = zone
        zones_by_owner.append(zones)
    return zones_by_owner


def _ascending(indices: _Array, last: int, table: bytes) -> list[int]:
    signed = indices.astype(np.int64)
    if np.any(np.diff(signed) < 0) or signed[-1] > last:
        raise _DamageError(f"its table {_text(table)} points outside the file's other tables")
    return signed.tolist()


def _common(outer: Mapping[int, int], inner: Mapping[int, int], which: Gen) -> tuple[int, int]:
    """What two ranges of keys or velocities share; their ends are the two bytes of the amount."""
    whole = 127 << 8
    ranges = [zone.get(which, whole) & 0xFFFF for zone in (outer, inner)]
    return max(value & 0xFF for value in ranges), min(value >> 8 for value in ranges)


_DEFAULTS, _LOWEST, _HIGHEST = np.array(
    [_RANGES.get(number, (0, -0x8000, 0x7FFF)) for number in range(_NUM_GENERATORS)]
).T


def _combined(outer: Mapping[int, int], inner: Mapping[int, int]) -> tuple[int, ...]:
    """An instrument's values, or the defaults, plus a preset's (9.4), in their ranges."""
    values = _DEFAULTS.copy()
    for number, amount in inner.items():
        if number < _NUM_GENERATORS:
            values[number] = amount
    for number, amount in outer.items():
        if number < _NUM_GENERATORS and number not in _INSTRUMENT_ONLY:
            values[number] += amount
    return tuple(np.clip(values, _LOWEST, _HIGHEST).tolist())


def _zone(
    keys: tuple[int, int],
    velocities: tuple[int, int],
    generators: tuple[int, ...],
    samples: _Array,
    sound: memoryview,
) -> Zone:
    index = generators[Gen.SAMPLE] & 0xFFFF
    if index >= len(samples):
        raise _DamageError(f"it lacks sample {index}, which an instrument plays")
    sample = samples[index]
    name = _text(sample["name"])
    if sample["type"] & _ROM:
        raise _DamageError(f"its sample {name} is in the memory of a sound card")

    first, last = int(sample["start"]), int(sample["end"])
    loop_start, loop_end = int(sample["loop_start"]), int(sample["loop_end"])
    encoded = memoryview(b"")
    if sample["type"] & _VORBIS:
        # Start and end are bytes here, and the loop counts from the start of the sample.
        if not 0 <= first < last <= len(sound):
            raise _DamageError(f"its sample {name} lies outside of its sound")
        encoded = sound[first:last]
        first, last = 0, _vorbis_length(encoded, name)
    num_samples = last if encoded else len(sound) // 2

    def address(position: int, fine: Gen, coarse: Gen) -> int:
        return position + generators[fine] + 0x8000 * generators[coarse]

    start = address(first, Gen.START_OFFSET, Gen.START_OFFSET_32K)
    end = address(last, Gen.END_OFFSET, Gen.END_OFFSET_32K)
    if not 0 <= start < end <= num_samples:
        raise _DamageError(f"its sample {name} lies outside of its sound")
    rate = int(sample["rate"])
    if not 0 < rate <= _MAX_SAMPLE_RATE:
        raise _DamageError(f"its sample {name} has a rate of {rate} Hz")
    mode = generators[Gen.SAMPLE_MODES] & 3
    loop = (
        address(loop_start, Gen.LOOP_START_OFFSET, Gen.LOOP_START_OFFSET_32K) - start,
        address(loop_end, Gen.LOOP_END_OFFSET, Gen.LOOP_END_OFFSET_32K) - start,
    )
    # Common in good fonts, and what synthesizers do with them: a loop that is not in the sample.
    if mode not in (1, 3) or not 0 <= loop[0] < loop[1] <= end - start:
        loop = (0, 0)
    root_key = generators[Gen.ROOT_KEY]
    if root_key < 0:
        root_key = int(sample["key"]) if sample["key"] < 128 else 60  # 255: unpitched (7.10)
    return Zone(
        keys=keys,
        velocities=velocities,
        generators=generators,
        sample=(
            Vorbis(name, encoded, start, end)
            if encoded
            else PCM(np.frombuffer(sound, "<i2", end - start, 2 * start))
        ),
        loop=loop,
        is_loop_left=mode == 3,
        sample_rate=rate,
        root_key=root_key,
        correction=int(sample["correction"]),
    )


def _vorbis_length(encoded: memoryview, name: str) -> int:
    """Samples of an Ogg Vorbis stream: where its last page ends (RFC 3533, section 6)."""
    data = bytes(encoded)
    last = data.rfind(b"OggS")
    if not data.startswith(b"OggS") or last + 14 > len(data):
        raise _DamageError(f"its sample {name} is not Ogg Vorbis, as its header says")
    return int.from_bytes(data[last + 6 : last + 14], "little", signed=True)
