"""Sound fonts made by hand, and songs of a few notes."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from musicfm.render.song import Labels, Note, Part, Production, Song
from musicfm.render.soundfont import Gen

PLAIN = Production(
    cents=0.0,
    equalizer=(),
    reverb_seconds=0.5,
    noise_db=-90.0,
    noise_slope_db=0.0,
    width=1.0,
    level_db=-20.0,
    codec="none",
    codec_kbps=128,
    seed=0,
)

Zone = Sequence[tuple[int, int]]
"""Generators and their amounts, in the order of the file."""


@dataclass(frozen=True)
class Sample:
    """A record of shdr; addresses are in the chunk smpl."""

    start: int = 0
    end: int = 100
    loop_start: int = 20
    loop_end: int = 60
    rate: int = 32_000
    key: int = 60
    correction: int = 0
    kind: int = 1


@dataclass(frozen=True)
class Font:
    """What a file is made from; the defaults make one preset that plays one sample as it is."""

    presets: Sequence[tuple[int, int, Sequence[Zone]]] = ((0, 0, [[(Gen.INSTRUMENT, 0)]]),)
    """Bank, program, zones."""
    instruments: Sequence[Sequence[Zone]] = ([[(Gen.SAMPLE, 0)]],)
    samples: Sequence[Sample] = (Sample(),)
    pcm: npt.NDArray[np.int16] = field(default_factory=lambda: np.arange(200, dtype=np.int16))
    info: Sequence[tuple[bytes, bytes]] = ((b"ifil", b"\2\0\4\0"), (b"INAM", b"Made\0\0"))

    def to_bytes(self, tables: Mapping[bytes, bytes] | None = None) -> bytes:
        """The file, with other tables where given."""
        pdta = b"".join(chunk(*table) for table in (self.tables() | dict(tables or {})).items())
        return chunk(
            b"RIFF",
            b"sfbk"
            + chunk(b"LIST", b"INFO" + b"".join(chunk(*entry) for entry in self.info))
            + chunk(b"LIST", b"sdta" + chunk(b"smpl", self.pcm.tobytes()))
            + chunk(b"LIST", b"pdta" + pdta),
        )

    def tables(self) -> dict[bytes, bytes]:
        """The chunks of pdta."""
        preset_zones = [zones for _, _, zones in self.presets]
        numbers = [(program, bank) for bank, program, _ in self.presets] + [(0, 0)]
        starts = np.cumsum([0, *map(len, preset_zones)]).tolist()
        phdr = [
            struct.pack("<20sHHH12x", b"preset", *number, start)
            for number, start in zip(numbers, starts, strict=True)
        ]
        pbag, pgen = _zone_tables(preset_zones)
        starts = np.cumsum([0, *map(len, self.instruments)]).tolist()
        inst = [struct.pack("<20sH", b"instrument", start) for start in starts]
        ibag, igen = _zone_tables(self.instruments)
        shdr = [
            struct.pack(
                "<20s5IBbHH",
                b"sample",
                *(sample.start, sample.end, sample.loop_start, sample.loop_end, sample.rate),
                *(sample.key, sample.correction, 0, sample.kind),
            )
            for sample in self.samples
        ]
        return {
            b"phdr": b"".join(phdr),
            b"pbag": pbag,
            b"pmod": bytes(10),
            b"pgen": pgen,
            b"inst": b"".join(inst),
            b"ibag": ibag,
            b"imod": bytes(10),
            b"igen": igen,
            b"shdr": b"".join(shdr) + bytes(46),
        }


def chunk(name: bytes, content: bytes) -> bytes:
    """A RIFF chunk."""
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


def span(lowest: int, highest: int) -> int:
    """The amount of a range of keys or velocities."""
    return lowest | highest << 8


def _zone_tables(owners: Iterable[Sequence[Zone]]) -> tuple[bytes, bytes]:
    zones = [zone for zones in owners for zone in zones]
    starts = np.cumsum([0, *map(len, zones)]).tolist()
    bags = b"".join(struct.pack("<HH", start, 0) for start in starts)
    pairs = [pair for zone in zones for pair in zone]
    return bags, b"".join(struct.pack("<Hh", *pair) for pair in pairs) + bytes(4)


def part(
    program: int,
    notes: Iterable[tuple[float, float, int, int]],
    *,
    is_drums: bool = False,
    pan: float = 0.0,
) -> Part:
    """A part of notes: start, end, pitch, velocity."""
    return Part(
        role="lead",
        program=program,
        is_drums=is_drums,
        notes=tuple(Note(*note) for note in notes),
        gain_db=0.0,
        pan=pan,
        reverb_db=-12.0,
    )


def song(*parts: Part, duration: float, production: Production = PLAIN) -> Song:
    """A song without labels."""
    return Song(0, 0, duration, parts, production, Labels((), (), (), (), ()))
