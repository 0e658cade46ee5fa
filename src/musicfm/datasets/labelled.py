"""Labelled data in our canonical form: a folder of recordings, with a JAMS file beside each.

``song.flac`` has its annotations in ``song.jams``. Whatever is wrong with one of the two is noted
with file and reason, and the rest goes on.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Unpack

from musicfm.audio.folders import by_suffix
from musicfm.audio.processes import Work
from musicfm.datasets import annotations
from musicfm.datasets.annotations import Annotations, fit, read_jams
from musicfm.datasets.scanning import collect
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import Manifest, Split, Track
from musicfm.errors import DataError
from musicfm.remote import join

ANNOTATIONS = ".jams"


@dataclass(frozen=True)
class LabelledTrack:
    """A recording and what is known about it."""

    track: Track
    audio: Path
    annotations: Annotations


def digest(items: Iterable[LabelledTrack]) -> str:
    """SHA-256 of recordings and what is known about them, in any order."""
    lines = sorted(f"{item.track.sha256} {annotations.digest(item.annotations)}" for item in items)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@dataclass(frozen=True)
class Labelled:
    """A labelled collection."""

    tracks: tuple[LabelledTrack, ...]
    problems: tuple[str, ...]

    def of_split(self, split: Split | None) -> tuple[LabelledTrack, ...]:
        """The tracks of a split, or of none, in their order."""
        return tuple(item for item in self.tracks if item.track.split == split)


def _is_unchanged(track: Track, audio: Path) -> bool:
    """Whether a recording is still the one of the manifest; a copy of it is."""
    try:
        status = audio.stat()
        if (status.st_size, status.st_mtime_ns) == (track.size, track.modified):
            return True
        with audio.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == track.sha256
    except OSError:  # what cannot be read is reported where it is decoded
        return True


def read_labelled(
    sources: Sequence[str | os.PathLike[str]],
    splitting: Splitting,
    **work: Unpack[Work],
) -> Labelled:
    """Reads recordings and the annotations beside them.

    Args:
        sources: files and folders; or one manifest, whose splits are kept.
        splitting: of the tracks that are in no split.
        work: see :class:`musicfm.audio.processes.Work`.

    Raises:
        ConfigError: no recordings.
        DataError: the manifest cannot be used, or no recording has annotations.
    """
    scanned = collect(sources, **work)
    tracks: list[LabelledTrack] = []
    by_labels: dict[Path, Path] = {}
    problems = [reason for _, reason in scanned.failures]
    for track in sorted(scanned.manifest, key=lambda track: by_suffix(track.path)[0]):
        if track.shard is not None:
            raise DataError(
                f"{track.path} is in the shard {track.shard}, which has no annotations; give a "
                "folder of recordings with a .jams file beside each"
            )
        audio = join(scanned.manifest.root, track.path)
        if isinstance(audio, str):
            raise DataError(f"{audio} is at a URL; labelled recordings have to be on this machine")
        path = audio.with_suffix(ANNOTATIONS)
        try:
            if not os.path.exists(path):
                raise DataError(f"{audio} has no annotations: there is no {path.name} beside it")
            if not _is_unchanged(track, audio):
                raise DataError(
                    f"{audio} is not the file that was scanned, and is left out; scan it again"
                )
            if (other := by_labels.setdefault(path, audio)) != audio:
                raise DataError(f"{audio} is left out: {path.name} has the labels of {other.name}")
            read = fit(read_jams(path), track.duration, str(path))
        except DataError as error:
            problems.append(str(error))
            continue
        problems.extend(read.problems)
        tracks.append(LabelledTrack(track, audio, read.annotations))
    if not tracks:
        more = f" ({problems[0]})" if problems else ""
        raise DataError(
            f"no recording in {', '.join(map(str, sources))} has annotations{more}; put a .jams "
            "file of the same name beside each"
        )
    return Labelled(divided(tracks, partial(split, how=splitting)), tuple(problems))


def divided(
    tracks: Sequence[LabelledTrack], divide: Callable[[Manifest], Manifest]
) -> tuple[LabelledTrack, ...]:
    """Tracks in the splits that ``divide`` gives them.

    What has no labels is not among them, and so leaves no part with nothing that has.
    """
    manifest = divide(Manifest(".", [item.track for item in tracks]))
    return tuple(replace(item, track=track) for item, track in zip(tracks, manifest, strict=True))
