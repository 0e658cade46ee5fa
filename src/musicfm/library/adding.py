"""Recordings into a library, each encoded once, so that a run that was killed loses nothing."""

import contextlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

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
    every_recording,
    written,
)
from musicfm.embedding.results import as_text
from musicfm.errors import AudioError, ConfigError
from musicfm.files import scratch
from musicfm.journal import Recording
from musicfm.library import matrices
from musicfm.library.database import (
    Database,
    Kind,
    Settings,
    Track,
    num_rows,
    read_settings,
)
from musicfm.library.listening import Listener, Vectors
from musicfm.library.matrices import Matrix
from musicfm.library.transform import current, fit, is_due
from musicfm.progress import RecordingProgress
from musicfm.remote import Location, is_url
from musicfm.tasks.features import FeatureFiles, Features


@dataclass
class Added(Summary):
    """What became of the recordings that a library was to take in."""

    moved: int = 0
    """Recordings that lay elsewhere before, and files that are copies of those that are known."""
    missing: int = 0
    """Tracks of the library whose files are gone."""
    removed: int = 0
    """Of these, those that were taken out."""
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
        sources: as :func:`musicfm.embedding.collection.find_recordings` takes them.
        model: as --model of other commands takes it; None: the library's, and nano for a new one.
        heads: folders of heads; none: the library's, and those of the model for a new one.
        device: to compute on.
        num_workers: processes that decode; None leaves one core for the model.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        prune: whether to take out tracks whose files are gone.
        progress: whether to show a bar on standard error.

    Raises:
        ConfigError: no recordings, or another model or other heads than the library's.
        DataError: the library is damaged.
        OutputError: it cannot be written, or another run is writing to it.
    """
    begin, summary = time.monotonic(), Added()
    recordings = every_recording(sources, summary.failures, summary.passed_over)
    database = Database(folder)
    listener = _listener(database, model, heads, device)
    with database.alone():
        if database.exists:
            check_same(database, listener.settings())
        else:
            Database.create(folder, listener.settings())
        database.sweep()
        writer = Writer(database)
        known = {track.path: track for track in database.tracks()}
        pending = [each for each in recordings if not _is_done(each, known.get(str(each)))]
        summary.skipped = len(recordings) - len(pending)
        sizes = {recording: recording.size for recording in pending}
        try:
            with RecordingProgress("Adding", sizes, progress) as bar:
                run = _Run(writer, listener, summary, bar)
                run.listen(pending, num_workers, timeout_seconds, on_damage)
        finally:
            summary.missing = writer.look_for_files()
            if is_due(database):
                summary.fitted = fit(database).version
            summary.wall_seconds = time.monotonic() - begin
    return summary


def _listener(database: Database, model: str | None, heads: Sequence[str], device: str) -> Listener:
    """What a library encodes with, or is to."""
    if not database.exists:
        return Listener.load(model or "nano", heads, device)
    settings = database.settings()
    return Listener.load(model or settings.model, heads or settings.heads, device)


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
                "go on with the same, or make another library"
            )


def _is_done(recording: Recording, track: Track | None) -> bool:
    return track is not None and not track.missing and _state(recording) == _state(track)


def _state(file: Recording | Track) -> tuple[int, int]:
    return file.size, file.modified


class _Run(Account[Recording]):
    """One run over recordings, some of which are to be encoded."""

    def __init__(
        self,
        writer: "Writer",
        listener: Listener,
        summary: Added,
        bar: RecordingProgress[Recording],
    ) -> None:
        super().__init__(summary, bar)
        self._writer, self._listener, self._added = writer, listener, summary
        self._sounds: dict[Recording, str] = {}
        for _, reason in summary.failures:
            bar.say(f"failed: {reason}")
        if summary.passed_over:
            bar.say(describe_passed_over(summary.passed_over))

    def listen(
        self,
        pending: Sequence[Recording],
        num_workers: int | None,
        timeout_seconds: float,
        on_damage: Literal["error", "warn"],
    ) -> None:
        """Encodes what is not known by its sound."""
        predictor = self._listener.predictor
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
        """Those that have to be encoded; of the others, what is known is kept."""
        for recording in pending:
            try:
                sound = reading.sound_hash(recording.path)
                if self._writer.recognise(recording, sound):
                    self._added.moved += 1
                    self._bar.on_end(recording)
                    continue
            except AudioError as error:
                self.on_error(recording, str(error))
                continue
            self._sounds[recording] = sound
            yield recording, recording.path

    def _finish(self, done: Written[Recording], found: Features) -> None:
        recording = done.key
        try:
            self._writer.write(
                recording,
                self._sounds.pop(recording),
                self._listener.vectors(found),
                self._analysis(recording, found, done.duration, done.warnings),
                done.duration,
                done.warnings,
            )
        except AudioError as error:  # its tags are read once more
            self.on_error(recording, str(error))
        else:
            self.on_done(done)

    def _analysis(
        self, recording: Recording, found: Features, duration: float, damage: tuple[str, ...]
    ) -> Analysis | None:
        """What the heads say; None without heads."""
        if not self._listener.predictor.heads:
            return None
        about = labels(recording.path)
        return analyse(
            self._listener.predictor,
            found,
            duration,
            about["title"],
            damage,
            about["artist"],
            as_text(PurePath(str(recording)).name),
        )


def labels(recording: Location) -> dict[str, str]:
    """Title, artist and album, as a recording's tags say; its title may be the file's name.

    Raises AudioError if it cannot be read.
    """
    tags = reading.tags(recording)
    stem = PurePath(str(recording)).stem
    artist = tags.get("artist") or tags.get("album_artist", "")
    found = {"title": tags.get("title") or stem, "artist": artist, "album": tags.get("album", "")}
    return {name: as_text(value) for name, value in found.items()}


class Writer:
    """Writes to a library whose lock is held."""

    def __init__(self, database: Database) -> None:
        self.database = database
        with database.connect() as connection:
            self._transform = current(connection)

    def recognise(self, recording: Recording, sound: str) -> bool:
        """Whether the sound of a file is known already: by other tags, elsewhere, or of a copy. If
        so, notes what is new of it.

        Raises AudioError if its tags cannot be read, OutputError.
        """
        known = self.database.tracks("sound = ?", [sound])
        if not known:
            return False
        path = str(recording)
        track = next((each for each in known if each.path == path), None) or next(
            (each for each in known if _is_gone(each.path)), None
        )
        facts = {**_facts(recording, sound), **labels(recording.path)}
        with self.database.connect() as connection:
            if track is None:
                _copy(connection, known[0].id, facts)
            else:
                connection.execute(
                    f"DELETE FROM tracks WHERE {_AT} AND id != ?", (_bytes(path), track.id)
                )
                _update(connection, track.id, facts)
        return True

    def write(
        self,
        recording: Recording,
        sound: str,
        vectors: Vectors,
        analysis: Analysis | None,
        duration: float,
        damage: Sequence[str],
    ) -> None:
        """Adds a track, or replaces the one at its path; its vectors first.

        Raises AudioError if its tags cannot be read, OutputError.
        """
        facts = {**_facts(recording, sound), **labels(recording.path), "duration": duration}
        facts["warnings"] = json.dumps(list(damage))
        facts |= {"tags": "{}", "analysis": None, "tempo": None, "key": None}
        if analysis is not None:
            content = json.dumps(analysis.to_jams()).encode()
            facts |= {
                "tags": json.dumps(analysis.tags),
                "analysis": zlib.compress(content),
                "tempo": analysis.tempo,
                "key": analysis.key,
            }
        with self.database.connect() as connection:
            settings, rows = read_settings(connection), num_rows(connection)
            parts: dict[Kind, Matrix] = {
                "tracks": vectors.track[None],
                "segments": vectors.segments,
            }
            for kind, part in parts.items():
                matrices.append(self.database.raw_path(kind, settings), rows[kind], part)
                if self._transform is not None:
                    path = self.database.searched_path(kind, settings)
                    matrices.append(path, rows[kind], self._transform(part))
            facts |= {
                "vector": rows["tracks"],
                "first_segment": rows["segments"],
                "num_segments": len(vectors.segments),
            }
            there = connection.execute(
                f"SELECT id FROM tracks WHERE {_AT}", (facts["path"],)
            ).fetchone()
            if there is None:
                _insert(connection, facts)
            else:
                _update(connection, there[0], facts)

    def look_for_files(self) -> int:
        """Marks tracks whose files are gone; how many these are."""
        gone = {track.id: _is_gone(track.path) for track in self.database.tracks()}
        with self.database.connect() as connection:
            connection.executemany(
                "UPDATE tracks SET missing = ? WHERE id = ? AND missing != ?",
                [(is_gone, track, is_gone) for track, is_gone in gone.items()],
            )
        return sum(gone.values())


_AT = "path = CAST(? AS TEXT)"
"""A path: bytes, since names of files may be no UTF-8, which SQLite takes so alone."""


def _bytes(path: str) -> bytes:
    return os.fsencode(path)


def _facts(recording: Recording, sound: str) -> dict[str, Any]:
    return {
        "path": _bytes(str(recording)),
        "size": recording.size,
        "modified": recording.modified,
        "sound": sound,
        "missing": 0,
    }


def _mark(name: str) -> str:
    return "CAST(? AS TEXT)" if name == "path" else "?"


def _insert(connection: sqlite3.Connection, facts: Mapping[str, Any]) -> None:
    marks = ", ".join(map(_mark, facts))
    connection.execute(
        f"INSERT INTO tracks ({', '.join(facts)}) VALUES ({marks})", [*facts.values()]
    )


def _update(connection: sqlite3.Connection, track: int, facts: Mapping[str, Any]) -> None:
    changes = ", ".join(f"{name} = {_mark(name)}" for name in facts)
    connection.execute(f"UPDATE tracks SET {changes} WHERE id = ?", [*facts.values(), track])


def _copy(connection: sqlite3.Connection, track: int, facts: Mapping[str, Any]) -> None:
    """Another track at another place, with the same vectors and the same analysis."""
    same = "duration, tempo, key, tags, warnings, analysis, vector, first_segment, num_segments"
    marks = ", ".join(map(_mark, facts))
    connection.execute(f"DELETE FROM tracks WHERE {_AT}", (facts["path"],))
    connection.execute(
        f"INSERT INTO tracks ({', '.join(facts)}, {same}) "
        f"SELECT {marks}, {same} FROM tracks WHERE id = ?",
        [*facts.values(), track],
    )


def _is_gone(path: str) -> bool:
    """Whether a file was on this machine, and is there no more."""
    return not is_url(path) and not os.path.exists(path)
