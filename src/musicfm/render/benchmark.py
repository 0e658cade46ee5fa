"""rendered-v1 and rendered-v2: frozen benchmarks of rendered songs.

rendered-v1 needs no download. Five sets of songs: for training and validation; for testing in the
domain; for testing on held-out material (instruments, progressions, forms and tempi that no
training song has), which is the headline; and for testing on bad recordings (codecs, noise,
detuning).

rendered-v2 is of version 2 of the generator, with several sound fonts and POP909's compositions,
which lie in a folder of the user's. Its test sets differ from the training songs in one thing
each, or in all: sound fonts, compositions, material as above, and bad recordings. Fonts and
compositions are known by their SHA-256, and others are refused. rendered-v2-quick is the same
songs, but for those of POP909, with the sound font that pretty_midi brings along.

``rendered_v1.json`` and ``rendered_v2.json`` name the seeds, and for each song a fingerprint of its
labels, so that a generator that has changed is noticed. They never change: another choice of songs
is another benchmark.

Scores on them rank checkpoints on synthetic music. They do not predict those on recordings.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Unpack

from musicfm.audio.processes import Work
from musicfm.errors import ConfigError, DataError
from musicfm.files import read_object
from musicfm.render.lead_sheets import digest, read_lead_sheets
from musicfm.render.song import Version
from musicfm.render.songs import render_songs

NAME = "rendered-v1"

SetName = Literal["train", "valid", "test", "heldout", "degraded", "all", "fonts", "compositions"]
TEST_SETS: tuple[SetName, ...] = ("heldout", "test", "degraded")
"""Test sets of rendered-v1, the headline first."""

NAME_V2, QUICK = "rendered-v2", "rendered-v2-quick"
COMPOSITIONS = "POP909"
"""The folder of POP909's structure within that of rendered-v2's sources."""
_V2 = "rendered_v2.json"


@dataclass(frozen=True)
class SongSet:
    """Songs of one purpose."""

    name: SetName
    first_seed: int
    fingerprints: tuple[str, ...]
    """Fingerprints of the songs' labels, in the order of their seeds."""
    version: Version = 1
    max_seconds: float | None = None
    fonts: tuple[str, ...] = ()
    """SHA-256 of the sound fonts; none: the one that pretty_midi brings along."""
    compositions: str = ""
    """SHA-256 of the lead sheets that are arranged, as they are read; none: the generator's own."""

    @property
    def seeds(self) -> range:
        """Of the songs."""
        return range(self.first_seed, self.first_seed + len(self.fingerprints))

    def part(self, fraction: float) -> "SongSet":
        """The first songs: about a fraction of them, and at least one. Raises ConfigError."""
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(f"a fraction of {fraction:g} of the songs is impossible; give 0 to 1")
        count = max(1, round(fraction * len(self.fingerprints)))
        return replace(self, fingerprints=self.fingerprints[:count])


@cache
def song_sets() -> Mapping[SetName, SongSet]:
    """All songs of rendered-v1."""
    content = json.loads(Path(__file__).with_name("rendered_v1.json").read_text(encoding="utf-8"))
    return {
        name: SongSet(name, entry["first_seed"], tuple(entry["fingerprints"]))
        for name, entry in content["sets"].items()
    }


@cache
def song_sets_v2(quick: bool = False) -> Mapping[SetName, SongSet]:
    """All songs of rendered-v2, for training and validation first, then the headline.

    Args:
        quick: those of rendered-v2-quick.
    """
    content = _content_v2()
    fonts = {
        name: tuple(font["sha256"] for font in some) for name, some in content["fonts"].items()
    }
    return {
        name: SongSet(
            name,
            entry["first_seed"],
            tuple(entry["fingerprints"]),
            content["generator_version"],
            content["max_seconds"],
            () if quick else fonts[entry["fonts"]],
            content["compositions"] if entry["arranged"] else "",
        )
        for name, entry in content["sets"].items()
        if not (quick and (entry["arranged"] or name == "fonts"))
    }


def name_v2(quick: bool = False) -> str:
    """The benchmark's name with a hash of all that it consists of: songs, fonts, compositions."""
    text = json.dumps(_content_v2(), sort_keys=True)
    name = QUICK if quick else NAME_V2
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _content_v2() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(Path(__file__).with_name(_V2).read_text(encoding="utf-8"))
    return content


def find_fonts(sources: Path) -> dict[str, Path]:
    """Sound fonts in a folder, by SHA-256. Raises DataError if one of rendered-v2's is missing."""
    there: dict[str, Path] = {}
    for path in sorted(sources.rglob("*.sf[23]")):
        if not os.path.isfile(path):  # a link of a package that leads outside of it
            continue
        with path.open("rb") as file:
            there.setdefault(hashlib.file_digest(file, "sha256").hexdigest(), path)
    wanted = [font for some in _content_v2()["fonts"].values() for font in some]
    for font in wanted:
        if font["sha256"] not in there:
            raise DataError(
                f"{NAME_V2} needs the sound font {font['name']} of Debian's package "
                f"{font['package']} (SHA-256 {font['sha256']}), which is not in {sources}; put it "
                f"there, or use {QUICK}, which needs none"
            )
    return there


def find_compositions(sources: Path) -> Path:
    """The folder of POP909's structure. Raises DataError if it is another or missing."""
    folder = sources / COMPOSITIONS
    expected = _content_v2()["compositions"]
    if not os.path.isdir(folder) or digest(read_lead_sheets(folder)) != expected:
        raise DataError(
            f"{NAME_V2} needs the folder POP909 of "
            "https://github.com/Dsqvival/hierarchical-structure-analysis (3a8d0d0) as it is, and "
            f"{folder} is missing or something else; put it there, or take {QUICK}, which needs "
            "none"
        )
    return folder


def render_set(
    songs: SongSet,
    folder: Path,
    *,
    fonts: Mapping[str, Path] | None = None,
    compositions: Path | None = None,
    **work: Unpack[Work],
) -> list[Path]:
    """Renders the songs of a set that are not there yet, and checks the labels of all.

    Args:
        songs: which.
        folder: for the songs; one for each set.
        fonts: sound fonts by SHA-256, where the set has some; see `find_fonts`.
        compositions: lead sheets, where the set has some; see `find_compositions`.
        work: see :class:`musicfm.audio.processes.Work`.

    Returns:
        The audio files, in the order of their seeds.

    Raises:
        DataError: labels are not the benchmark's.
        SoundFontError: there is no sound font.
        OutputError: the folder cannot be written.
    """
    render_songs(
        len(songs.seeds),
        folder,
        seed=songs.first_seed,
        soundfonts=[fonts[sha256] for sha256 in songs.fonts] if fonts else (),
        lead_sheets=compositions if songs.compositions else None,
        max_seconds=songs.max_seconds,
        version=songs.version,
        **work,
    )
    for seed, expected in zip(songs.seeds, songs.fingerprints, strict=True):
        path = folder / f"song_{seed}.jams"
        cure = "delete it, and it will be rendered again"
        try:
            found = fingerprint(read_object(path, cure))
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged; {cure}") from error
        if found != expected:
            raise DataError(
                f"{path} has other labels than the frozen song; remove {folder} if it was "
                "changed, else this version composes other songs, and its scores belong to no "
                "benchmark"
            )
    return [folder / f"song_{seed}.flac" for seed in songs.seeds]


def fingerprint(jams: Mapping[str, Any]) -> str:
    """Of all labels in a JAMS object, whatever font plays the song."""
    labels = [[entry["namespace"], entry["data"]] for entry in jams["annotations"]]
    text = json.dumps(labels, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def statistics(songs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What labels there are in the JAMS objects of some songs.

    Returns:
        Hours; songs by beats in a bar; the parts of the time that chords, functions of sections
        and keys have; the part of the songs that each tag applies to.
    """
    jams = list(songs)
    seconds = sum(song["file_metadata"]["duration"] for song in jams)
    bars: dict[str, int] = {}
    tags: dict[str, float] = {}
    spans: dict[str, dict[str, float]] = {"chord": {}, "segment_open": {}, "key_mode": {}}
    for song in jams:
        for entry in song["annotations"]:
            namespace, data = entry["namespace"], entry["data"]
            if namespace == "beat_position":
                key = str(data[0]["value"]["num_beats"])
                bars[key] = bars.get(key, 0) + 1
            elif namespace == "tag_open":
                for row in data:
                    tags[row["value"]] = tags.get(row["value"], 0.0) + 1 / len(jams)
            elif namespace in spans:
                for row in data:
                    part = row["duration"] / seconds
                    spans[namespace][row["value"]] = spans[namespace].get(row["value"], 0.0) + part
    return {
        "songs": len(jams),
        "hours": round(seconds / 3600, 3),
        "beats_per_bar": dict(sorted(bars.items())),
        **{name: _rounded(parts) for name, parts in spans.items()},
        "tag_open": _rounded(tags),
    }


def _rounded(parts: Mapping[str, float]) -> dict[str, float]:
    ordered = sorted(parts.items(), key=lambda item: (-item[1], item[0]))
    return {key: round(value, 4) for key, value in ordered}
