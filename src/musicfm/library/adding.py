"""Recordings into a library: each is encoded once, and a run that was killed loses nothing."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Literal

from musicfm.analysis.analyzer import Analysis, analyse
from musicfm.audio import reading
from musicfm.audio.decoders import decode_files
from musicfm.audio.folders import describe_passed_over
from musicfm.audio.processes import num_cores
from musicfm.embedding.collection import (
    Account,
    Source,
    Summary,
    Written,
    written,
)
from musicfm.embedding.recordings import every_recording
from musicfm.errors import AudioError, ConfigError, as_text
from musicfm.files import scratch
from musicfm.journal import Recording
from musicfm.library import index
from musicfm.library.database import Database, Settings, Track
from musicfm.library.encoding import TrackEncoder
from musicfm.library.transform import is_due
from musicfm.library.writing import Encoded, Writer
from musicfm.progress import RecordingProgress
from musicfm.remote import Location, is_url
from musicfm.tasks.features import FeatureFiles, Features

FIRST_FIT = 20
"""The number of tracks for which a run that goes on fits the first transform."""


@dataclass
class Added(Summary):
    """The result of adding recordings to a library."""

    recognised: int = 0
    """The number of recordings that were known by their sound: they have moved, have other tags, or
    are copies."""
    missing: int = 0
    """The number of tracks of the library whose files are gone."""
    removed: int = 0
    """The number of tracks that were taken out, since their files are gone."""
    fitted: int = 0
    """The version of the transform that was fitted; 0 if none was."""


def add(
    folder: Path,
    sources: Sequence[Source],
    *,
    model: str | None = None,
    heads: Sequence[str] = (),
    device: str = "cpu",
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    prune: bool = False,
    progress: bool = False,
) -> Added:
    """Adds what is new or has changed to a library, which is made if need be.

    Args:
        folder: of the library.
        sources: as :func:`musicfm.embedding.recordings.find_recordings` takes them.
        model: as --model of other commands takes it; None: the library's, and nano for a new one.
        heads: folders of heads; none: the library's, and those of the model for a new one.
        device: to compute on.
        num_workers: processes that decode; None leaves one core for the model.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        prune: whether to take out tracks whose files are gone from the folders among the sources.
        progress: whether to show a bar on standard error.

    Raises:
        ConfigError: no recordings, or another model or other heads than the library's.
        DataError: the library is damaged.
        OutputError: it cannot be written, or another run is writing to it.
    """
    begin, summary = time.monotonic(), Added()
    recordings = every_recording(sources, summary.failures, summary.passed_over)
    database = Database(folder)
    encoder = _encoder(database, model, heads, device)
    with database.alone():
        if database.exists:
            check_same(database, encoder.settings())
        else:
            Database.create(folder, encoder.settings())
        database.sweep()
        writer = Writer(database)
        known = {track.path: track for track in database.tracks()}
        pending = [each for each in recordings if not _is_done(each, known.get(str(each)))]
        summary.skipped = len(recordings) - len(pending)
        sizes = {recording: recording.size for recording in pending}
        try:
            with RecordingProgress("Adding", sizes, progress) as bar:
                run = _Run(writer, encoder, summary, bar)
                run.encode(pending, num_workers, timeout_seconds, on_damage)
        finally:
            missing = writer.mark_missing()
            if prune:
                removed = [track for track in missing if _is_below(track.path, recordings, sources)]
                writer.remove(removed)
                summary.removed = len(removed)
            summary.missing = len(missing) - summary.removed
            if is_due(database):
                summary.fitted = writer.fit().version
            summary.wall_seconds = time.monotonic() - begin
        if index.is_installed():
            index.build_all(database)
    return summary


def _is_below(path: str, recordings: Sequence[Recording], sources: Sequence[Source]) -> bool:
    """Whether a path lies below a given folder in which there is at least one recording: where
    there is none, a disk may not be mounted.
    """
    paths = [source for source in sources if not isinstance(source, Recording)]
    folders = [os.path.abspath(path) for path in paths if not is_url(path)]
    return any(
        _lies_in(path, folder) and any(_lies_in(str(each), folder) for each in recordings)
        for folder in folders
    )


def _lies_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(os.path.join(folder, ""))


def _encoder(
    database: Database, model: str | None, heads: Sequence[str], device: str
) -> TrackEncoder:
    """The model and heads of a library, or of one that is to be made."""
    if not database.exists:
        return TrackEncoder.load(model or "nano", heads, device)
    settings = database.settings()
    return TrackEncoder.load(model or settings.model, heads or settings.heads, device)


def check_same(database: Database, asked: Settings) -> None:
    """Raises ConfigError if a library was made with another model or other heads."""
    there = database.settings()
    for what, one, other in (
        ("model", there.fingerprint, asked.fingerprint),
        ("heads", there.heads_fingerprint, asked.heads_fingerprint),
    ):
        if one != other:
            names = [
                f"{', '.join(settings.heads) or settings.model} ({prints[:8] or 'none'})"
                if what == "heads"
                else f"'{settings.model}' ({prints[:8]})"
                for settings, prints in ((there, one), (asked, other))
            ]
            raise ConfigError(
                f"{database.folder} was made with the {what} {names[0]}, and not with {names[1]}; "
                "use the same, or add the music to another library, since results of two models "
                "cannot be compared"
            )


def _is_done(recording: Recording, track: Track | None) -> bool:
    return track is not None and not track.missing and _state(recording) == _state(track)


def _state(file: Recording | Track) -> tuple[int, int]:
    return file.size, file.modified


class _Run(Account[Recording]):
    """One run over recordings."""

    def __init__(
        self,
        writer: Writer,
        encoder: TrackEncoder,
        summary: Added,
        bar: RecordingProgress[Recording],
    ) -> None:
        super().__init__(summary, bar)
        self._writer, self._encoder, self._added = writer, encoder, summary
        self._sounds: dict[Recording, str] = {}
        for _, reason in summary.failures:
            bar.say(f"failed: {reason}")
        if summary.passed_over:
            bar.say(describe_passed_over(summary.passed_over))

    def encode(
        self,
        pending: Sequence[Recording],
        num_workers: int | None,
        timeout_seconds: float,
        on_damage: Literal["error", "warn"],
    ) -> None:
        """Encodes and writes the recordings whose sound is not known."""
        predictor = self._encoder.predictor
        with scratch(self._writer.database.folder / ".features") as folder:
            files = {
                recording: predictor.files(folder, str(number))
                for number, recording in enumerate(pending)
            }
            decoded = decode_files(
                self._unknown(pending),
                predictor.encoder.sample_rate,
                num_workers=num_cores(num_workers, spare=1),
                timeout_seconds=timeout_seconds,
                on_damage=on_damage,
            )
            targets = {key: list(layers.values()) for key, layers in files.items()}
            events = written(predictor.encoder.tracks(decoded), FeatureFiles(targets))
            with contextlib.closing(decoded), contextlib.closing(events):
                for done in self.follow(events, predictor.encoder.rate):
                    self._finish(done, predictor.features(files[done.key]))
                    for path in files[done.key].values():
                        path.unlink()

    def _unknown(self, pending: Sequence[Recording]) -> Iterator[tuple[Recording, Location]]:
        """The recordings that have to be encoded; of the others, what is new of them is noted."""
        for recording in pending:
            try:
                sound = reading.sound_hash(recording.path)
                if self._writer.recognise(recording, sound):
                    self._added.recognised += 1
                    self._bar.on_end(recording)
                    continue
            except AudioError as error:
                self.on_error(recording, str(error))
                continue
            self._sounds[recording] = sound
            yield recording, recording.path

    def _finish(self, done: Written[Recording], states: Features) -> None:
        found = Encoded(self._encoder.vectors(states), done.duration, done.warnings)
        try:
            if self._encoder.predictor.heads:
                analysis = self._analysis(done, states)
                found = replace(
                    found,
                    analysis=analysis.to_jams(),
                    tempo=analysis.tempo,
                    key=analysis.key,
                    tags=analysis.tags,
                )
            self._writer.write(done.key, self._sounds.pop(done.key), found)
            if is_due(self._writer.database, FIRST_FIT):  # so that it can be searched meanwhile
                self._added.fitted = self._writer.fit().version
        except AudioError as error:  # its tags are read once more
            self.on_error(done.key, str(error))
        else:
            self.on_done(done)

    def _analysis(self, done: Written[Recording], states: Features) -> Analysis:
        about = reading.labels(done.key.path)
        return analyse(
            self._encoder.predictor,
            states,
            done.duration,
            about["title"],
            done.warnings,
            about["artist"],
            as_text(PurePath(str(done.key)).name),
        )
