"""rendered-v1: a frozen benchmark of rendered songs, which needs no download.

Five sets of songs: for training and validation; for testing in the domain; for testing on held-out
material (instruments, progressions, forms and tempi that no training song has), which is the
headline; and for testing on bad recordings (codecs, noise, detuning). ``rendered_v1.json`` names
the seeds, and for each song a fingerprint of its labels, so that a generator that has changed is
noticed. It never changes: another choice of songs is rendered-v2.

Scores on it rank checkpoints on synthetic music. They do not predict those on recordings.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from musicfm.errors import ConfigError, DataError
from musicfm.files import read_object
from musicfm.render.songs import render_songs

NAME = "rendered-v1"

SetName = Literal["train", "valid", "test", "heldout", "degraded"]
TEST_SETS: tuple[SetName, ...] = ("heldout", "test", "degraded")
"""The headline first."""


@dataclass(frozen=True)
class SongSet:
    """Songs of one purpose."""

    name: SetName
    first_seed: int
    fingerprints: tuple[str, ...]
    """Of the songs' labels, in the order of their seeds."""

    @property
    def seeds(self) -> range:
        """Of the songs."""
        return range(self.first_seed, self.first_seed + len(self.fingerprints))

    def part(self, part: float) -> "SongSet":
        """The first songs: about a part of them, and at least one. Raises ConfigError."""
        if not 0.0 < part <= 1.0:
            raise ConfigError(f"a part of {part:g} of the songs is impossible; give 0 to 1")
        count = max(1, round(part * len(self.fingerprints)))
        return SongSet(self.name, self.first_seed, self.fingerprints[:count])


@cache
def song_sets() -> Mapping[SetName, SongSet]:
    """All songs of the benchmark."""
    content = json.loads(Path(__file__).with_name("rendered_v1.json").read_text(encoding="utf-8"))
    return {
        name: SongSet(name, entry["first_seed"], tuple(entry["fingerprints"]))
        for name, entry in content["sets"].items()
    }


def render_set(
    songs: SongSet, folder: Path, *, num_workers: int | None = None, progress: bool = False
) -> list[Path]:
    """Renders the songs of a set that are not there yet, and checks the labels of all.

    Args:
        songs: which.
        folder: for the songs; one for each set.
        num_workers: processes; None takes all cores.
        progress: show a bar on standard error.

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
        version=1,
        num_workers=num_workers,
        progress=progress,
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
                f"{path} has other labels than the song of {NAME}; remove {folder} if it was "
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
