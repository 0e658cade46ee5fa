"""Embedding a collection of recordings into a folder, so that nothing finished is done twice."""

import contextlib
import errno
import os
import time
import unicodedata
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

from musicfm.audio.decoders import Failure, Start, decode_files
from musicfm.audio.folders import describe_passed_over
from musicfm.audio.processes import num_cores
from musicfm.embedding.embedder import (
    Embedder,
    Finished,
    Frames,
    TrackEvent,
)
from musicfm.embedding.pooling import check_rate
from musicfm.embedding.recordings import Source as Source
from musicfm.embedding.recordings import collision, is_twin, twin_reason
from musicfm.embedding.recordings import find_recordings as find_recordings
from musicfm.embedding.results import NpzWriter, Pooling, TableWriter
from musicfm.errors import ConfigError, DataError, MusicFMError, OutputError
from musicfm.files import is_same_name, write_json
from musicfm.journal import Journal, Recording
from musicfm.model import checkpoint
from musicfm.progress import RecordingProgress
from musicfm.remote import is_url

KeyT = TypeVar("KeyT")
KeyT_contra = TypeVar("KeyT_contra", contravariant=True)

REPORT = "report.json"

_NAMED = 3
"""Recordings that are left out, and said to be, one by one."""


@dataclass
class Summary:
    """The result of a run over a collection."""

    done: int = 0
    skipped: int = 0
    """Recordings that an earlier run had done."""
    completed: int = 0
    """Recordings among these that lacked a file, which this run wrote."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each recording that could not be used."""
    damaged: list[tuple[str, str]] = field(default_factory=list)
    """Path and warning of each recording of which only a part was used."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each recording that lies beside another format of the same name."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files in folders were not taken for recordings, by suffix; without pictures, texts
    and the like."""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


def embed_collection(
    embedder: Embedder,
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    *,
    pooling: Pooling = "none",
    file_format: Literal["npz", "parquet"] = "npz",
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    overwrite: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Summary:
    """Embeds files and folders into a folder. ``musicfm embed`` is this function.

    What an earlier run into the same folder has done is skipped, if neither the recording nor the
    settings have changed. A recording that cannot be used is noted, and the rest goes on.

    Args:
        embedder: with the model and layers to use.
        sources: files, and folders to search, as `musicfm.embedding.recordings` finds them.
        out: the output folder. Besides results it gets ``journal.jsonl`` and ``report.json``.
        pooling: over time: none, to the mean, or to a rate in Hz.
        file_format: a ``.npz`` per recording, or one Parquet table, which needs means.
        num_workers: processes that decode; None leaves one core for the model.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        overwrite: embed again what is done already.
        progress: show a bar on standard error.
        options: noted in the folder, for :func:`musicfm.journal.read_options`.

    Raises:
        ConfigError: settings that make no sense together.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    check_results(pooling, file_format)
    num_workers, folder = num_cores(num_workers, spare=1), Path(out)
    settings = settings_of(embedder, pooling, file_format, on_damage)
    is_table = file_format == "parquet"
    writer = TableWriter(folder, embedder) if is_table else NpzWriter(folder, embedder, pooling)
    with running(
        "Embedding",
        sources,
        folder,
        settings,
        suffixes=[] if is_table else [".npz"],
        conclude=writer.conclude if isinstance(writer, TableWriter) else None,
        overwrite=overwrite,
        progress=progress,
        options=options,
    ) as run:
        decoded = decode_files(
            ((recording, recording.path) for recording in run.pending),
            embedder.config.sample_rate,
            num_workers=num_workers,
            timeout_seconds=timeout_seconds,
            on_damage=on_damage,
        )
        with contextlib.closing(decoded):
            for done in run.follow(written(embedder.tracks(decoded), writer), embedder.rate):
                run.on_done(done)
    return run.summary


def check_results(pooling: Pooling, file_format: Literal["npz", "parquet"]) -> None:
    """Raises ConfigError unless a format can hold what a pooling leaves."""
    if file_format == "parquet" and pooling != "mean":
        raise ConfigError("a Parquet table holds one vector per recording; pool to the mean")
    if not isinstance(pooling, str):
        check_rate(pooling)


def settings_of(
    embedder: Embedder, pooling: Pooling, file_format: str, on_damage: str
) -> dict[str, Any]:
    """What defines a result."""
    return {
        "model": checkpoint.fingerprint(embedder.model),
        "dtype": embedder.precision,
        "layers": list(embedder.layers) if not embedder.single else embedder.layers[0],
        "window_frames": embedder.windowing.window,
        "overlap_frames": embedder.windowing.overlap,
        "pooling": pooling,
        "format": file_format,
        "on_damage": on_damage,
    }


class Writer(Protocol[KeyT_contra]):
    """What is done with the frames of a recording."""

    def accumulator(self, recording: KeyT_contra) -> Any:
        """Takes the frames of one recording: has ``add``, which may raise DataError, and
        ``close``.
        """

    def write(self, recording: KeyT_contra, collected: Any, duration: float) -> dict[str, Any]:
        """Writes one recording; returns what the journal must know to find it."""


@dataclass(frozen=True)
class Written(Generic[KeyT]):
    """A recording is done."""

    key: KeyT
    found: dict[str, Any]
    """Fields for the journal, by which the result is found."""
    duration: float
    """Seconds."""
    warnings: tuple[str, ...]


def written(
    events: Iterable[TrackEvent[KeyT]], writer: Writer[KeyT]
) -> Generator[TrackEvent[KeyT] | Written[KeyT], None, None]:
    """Writes the recordings whose frames arrive in ``events``; passes on all events, and after the
    last of each, which is passed on before, says what was written, or why it could not be.

    Raises OutputError if nothing can be written any more.
    """
    under_way: dict[KeyT, Any] = {}
    refused: set[KeyT] = set()
    try:
        for event in events:
            recording = event.key
            if recording in refused:
                continue
            match event:
                case Frames(frames=frames):
                    if recording not in under_way:
                        under_way[recording] = writer.accumulator(recording)
                    try:
                        under_way[recording].add(frames)
                    except DataError as error:
                        refused.add(recording)
                        under_way.pop(recording).close()
                        yield Failure(recording, str(error))
                    else:
                        yield event
                case Finished(duration=duration, warnings=warnings):
                    yield event
                    try:
                        with contextlib.closing(under_way.pop(recording)) as collected:
                            found = writer.write(recording, collected, duration)
                    except OutputError as error:
                        if is_disk_error(error):
                            raise
                        yield Failure(recording, str(error))
                    else:
                        yield Written(recording, found, duration, warnings)
                case Start() | Failure():
                    if isinstance(event, Failure) and recording in under_way:
                        under_way.pop(recording).close()
                    yield event
    finally:
        for collected in under_way.values():
            collected.close()


class Account(Generic[KeyT]):
    """Keeps account of recordings that are worked on: in a summary and on a bar."""

    def __init__(self, summary: Summary, bar: RecordingProgress[KeyT]) -> None:
        self.summary, self._bar = summary, bar

    def follow(
        self, events: Iterable[TrackEvent[KeyT] | Written[KeyT]], rate: float
    ) -> Iterator[Written[KeyT]]:
        """Notes what happens to recordings; yields those that are written, for `on_done`.

        Args:
            events: as :func:`written` gives them.
            rate: of the frames, in Hz.
        """
        for event in events:
            match event:
                case Start(recording, duration):
                    self._bar.on_start(recording, duration)
                case Frames(recording, frames):
                    self.on_audio(recording, frames.shape[1] / rate)
                case Finished(recording):
                    self.on_write(recording)
                case Failure(recording, reason):
                    self.on_error(recording, reason)
                case Written():
                    yield event

    def on_audio(self, recording: KeyT, seconds: float) -> None:
        """So many more seconds of a recording are done."""
        self._bar.on_audio(recording, seconds)

    def on_write(self, recording: KeyT) -> None:
        """The result of a recording is about to be written."""

    def on_done(self, done: Written[KeyT]) -> None:
        """A recording is done."""
        self.summary.done += 1
        self.summary.audio_seconds += done.duration
        for warning in done.warnings:
            self.summary.damaged.append((str(done.key), warning))
            self._bar.say(f"warning: {warning}")
        self._bar.on_end(done.key)

    def on_error(self, recording: KeyT, reason: str) -> None:
        """A recording cannot be used."""
        self.summary.failures.append((str(recording), reason))
        self._bar.say(f"failed: {reason}")
        self._bar.on_end(recording)


class Run(Account[Recording]):
    """Keeps account of one run over a collection: in the journal, too."""

    def __init__(
        self,
        pending: list[Recording],
        skipped: list[Recording],
        journal: Journal,
        summary: Summary,
        bar: RecordingProgress[Recording],
    ) -> None:
        super().__init__(summary, bar)
        self.pending, self.skipped, self._journal = pending, skipped, journal
        for _, reason in summary.failures:
            bar.say(f"failed: {reason}")
        for _, reason in summary.left_out[:_NAMED]:
            bar.say(reason)
        if len(summary.left_out) > _NAMED:
            bar.say(f"{len(summary.left_out) - _NAMED} more are left out for the same reason")
        if summary.passed_over:
            bar.say(describe_passed_over(summary.passed_over))

    def on_write(self, recording: Recording) -> None:
        """The result of a recording is about to be written; so it is this folder's from now on.

        Raises OutputError if that cannot be noted.
        """
        self._journal.begin(recording)

    def on_done(self, done: Written[Recording]) -> None:
        """A recording is done. Raises OutputError if that cannot be noted."""
        self._journal.add(done.key, **done.found, duration=done.duration, warnings=done.warnings)
        super().on_done(done)


@contextlib.contextmanager
def running(
    what: str,
    sources: Sequence[Source],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    suffixes: Sequence[str],
    conclude: Callable[[Iterable[Mapping[str, Any]]], object] | None = None,
    overwrite: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """A run over a collection into a folder, which it has for itself; in the end, the report.

    Args:
        what: is done, for the bar.
        sources: as :func:`musicfm.embedding.recordings.find_recordings` takes them.
        folder: of the results.
        settings: what defines a result.
        suffixes: of the files of a recording; where one is there that no run into this folder
            wrote, the recording fails.
        conclude: told what is done, in this run and before, when the run ends.
        overwrite: whether to do again what is done, and to replace the files of others.
        progress: whether to show a bar.
        options: noted in the folder, for :func:`musicfm.journal.read_options`.

    Raises:
        ConfigError: no recordings.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    begin, summary = time.monotonic(), Summary()
    recordings = find_recordings(sources, summary.failures, summary.passed_over, summary.left_out)
    with Journal(folder, settings, recordings, overwrite, options) as journal:
        pending, skipped = _pending(recordings, journal, folder, suffixes, overwrite, summary)
        try:
            sizes = {recording: recording.size for recording in pending}
            with RecordingProgress(what, sizes, progress) as bar:
                yield Run(pending, skipped, journal, summary, bar)
        finally:
            summary.wall_seconds = time.monotonic() - begin
            if conclude is not None:
                conclude(journal.entries.values())
            _write_report(folder / REPORT, settings, summary)


def _pending(
    recordings: Iterable[Recording],
    journal: Journal,
    folder: Path,
    suffixes: Sequence[str],
    overwrite: bool,
    summary: Summary,
) -> tuple[list[Recording], list[Recording]]:
    """What is to be done, and what is done; the rest is noted as failed: its name is taken."""
    pending, skipped = [], []
    alike: dict[str, Recording] = {}
    for recording in recordings:
        recording = _done_twin(recording, journal, summary.left_out)
        folded = unicodedata.normalize("NFC", recording.name).casefold()
        other = alike.setdefault(folded, recording)
        if other.name != recording.name and is_same_name(folder, other.name, recording.name):
            summary.failures.append((str(recording), collision(recording.path, other.path)))
        elif other_path := journal.name_conflict(recording):
            summary.failures.append((str(recording), collision(recording.path, other_path)))
        elif _is_result(recording, journal, folder, suffixes):
            continue
        elif not overwrite and (
            # A table holds paths: what has moved is done again for it.
            journal.has(recording) or (suffixes and journal.has_moved(recording))
        ):
            skipped.append(recording)
        elif (
            not overwrite
            and not journal.owns(recording.name)
            and (taken := _first_there(folder / f"{recording.name}{suffix}" for suffix in suffixes))
        ):
            reason = (
                f"{recording}: {taken} is there already, and no run into this folder wrote it; "
                "use another folder, or overwrite it"
            )
            summary.failures.append((str(recording), reason))
        else:
            pending.append(recording)
    summary.skipped = len(skipped)
    return pending, skipped


def _done_twin(
    recording: Recording, journal: Journal, left_out: list[tuple[str, str]]
) -> Recording:
    """A recording; or, of the same name in another format, that which the folder has a result of,
    if it is still there.
    """
    other_path = journal.name_conflict(recording)
    if other_path is None or is_url(other_path) or not is_twin(str(recording), other_path):
        return recording
    try:
        status = os.stat(other_path)
    except OSError:
        return recording
    left_out[:] = [(path, reason) for path, reason in left_out if path != other_path]
    left_out.append((str(recording), twin_reason(str(recording), other_path)))
    return Recording(Path(other_path), recording.name, status.st_size, status.st_mtime_ns)


def _is_result(
    recording: Recording, journal: Journal, folder: Path, suffixes: Sequence[str]
) -> bool:
    """Whether this is what a run wrote, such as a recording with clicks."""
    path = os.path.relpath(recording.path, folder)
    return any(path.endswith(end) and journal.owns(path.removesuffix(end)) for end in suffixes)


def _first_there(paths: Iterable[Path]) -> Path | None:
    # Unlike Path.exists, this is false of a name that is too long.
    return next((path for path in paths if os.path.exists(path)), None)


def is_disk_error(error: MusicFMError) -> bool:
    """Whether a failure to write is the disk's, not that of one file's name."""
    cause = error.__cause__
    whole_disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return isinstance(cause, OSError) and cause.errno in whole_disk


def _write_report(path: Path, settings: Mapping[str, Any], summary: Summary) -> None:
    """The summary for programs."""
    write_json(path, {"settings": settings, **asdict(summary)}, indent=2)
