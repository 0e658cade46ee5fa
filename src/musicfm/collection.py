"""Embedding a collection of recordings into a folder, so that nothing finished is done twice."""

import contextlib
import errno
import importlib.util
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from musicfm import checkpoint
from musicfm.decoders import Failure, Start, decode_files
from musicfm.embedding import Embedder, Finished, Frames, TrackEvent
from musicfm.errors import ConfigError, OutputError
from musicfm.files import atomic_write
from musicfm.folders import common_folder, describe, recordings_in
from musicfm.journal import Journal, Recording
from musicfm.pooling import check_rate
from musicfm.processes import num_cores
from musicfm.progress import ListeningProgress
from musicfm.results import NpzWriter, Pooling, TableWriter

REPORT = "report.json"


@dataclass
class Summary:
    """What became of a collection."""

    done: int = 0
    skipped: int = 0
    """Recordings that an earlier run had done."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each recording that could not be embedded."""
    damaged: list[tuple[str, str]] = field(default_factory=list)
    """Path and warning of each recording of which only a part was used."""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


def find_recordings(
    sources: Sequence[str | os.PathLike[str]], failures: list[tuple[str, str]]
) -> list[Recording]:
    """All recordings in some files and folders, in a fixed order, each once.

    Folders are searched with all below them; hidden files and folders are passed over. Results are
    named after the path below the folder that all sources have in common. What cannot be used is
    appended to ``failures``, as path and reason.
    """
    paths = [Path(os.path.abspath(source)) for source in sources]
    base = common_folder(paths)
    found: dict[Path, Recording] = {}
    names: dict[str, Path] = {}

    def note(error: OSError) -> None:
        failures.append(describe(error))

    for path in (file for source in paths for file in recordings_in(source, note)):
        if path in found:
            continue
        name = os.path.relpath(path.with_suffix(""), base)
        try:
            status = path.stat()
        except OSError as error:
            failures.append((str(path), f"{path} cannot be read: {error.strerror}"))
            continue
        if name in names:
            failures.append((str(path), _collision(path, names[name])))
            continue
        names[name] = path
        found[path] = Recording(path, name, status.st_size, status.st_mtime_ns)
    return list(found.values())


def _collision(path: Path, other: str | Path) -> str:
    return (
        f"{path}: its result would have the name of that of {other}; rename one of them, or use "
        "another output folder"
    )


def embed_collection(
    embedder: Embedder,
    sources: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    pooling: Pooling = "none",
    file_format: Literal["npz", "parquet"] = "npz",
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    overwrite: bool = False,
    progress: bool = False,
) -> Summary:
    """Embeds files and folders into a folder. ``musicfm embed`` is this function.

    What an earlier run into the same folder has done is skipped, if neither the recording nor the
    settings have changed. A recording that cannot be used is noted, and the rest goes on.

    Args:
        embedder: with the model and layers to use.
        sources: files, and folders to search; see :func:`find_recordings`.
        out: the output folder. Besides results it gets ``journal.jsonl`` and ``report.json``.
        pooling: over time: none, to the mean, or to a rate in Hz.
        file_format: a ``.npz`` per recording, or one Parquet table, which needs means.
        num_workers: processes that decode; None leaves one core for the model.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        overwrite: embed again what is done already.
        progress: show a bar on standard error.

    Raises:
        ConfigError: settings that make no sense together.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    if file_format == "parquet" and pooling != "mean":
        raise ConfigError("a Parquet table holds one vector per recording; pool to the mean")
    if file_format == "parquet" and importlib.util.find_spec("pyarrow") is None:
        raise ConfigError("Parquet needs pyarrow; pip install 'musicfm[parquet]'")
    if not isinstance(pooling, str):
        check_rate(pooling)
    num_workers = num_cores(num_workers, spare=1)
    begin, summary = time.monotonic(), Summary()
    recordings = find_recordings(sources, summary.failures)
    if not recordings and not summary.failures:
        raise ConfigError(f"no recordings in {', '.join(map(str, sources))}")
    settings = {
        "model": checkpoint.fingerprint(embedder.model),
        "dtype": str(embedder.model.dtype).removeprefix("torch."),
        "layers": list(embedder.layers) if not embedder.single else embedder.layers[0],
        "window_frames": embedder.windowing.window,
        "overlap_frames": embedder.windowing.overlap,
        "pooling": pooling,
        "format": file_format,
        "on_damage": on_damage,
    }
    folder = Path(out)
    with Journal(folder, settings, recordings, overwrite) as journal:
        pending = _pending(recordings, journal, overwrite, summary)
        writer = (
            TableWriter(folder, embedder)
            if file_format == "parquet"
            else NpzWriter(folder, embedder, pooling)
        )
        sizes = {recording: recording.size for recording in pending}
        decoded = decode_files(
            ((recording, recording.path) for recording in pending),
            embedder.config.sample_rate,
            num_workers=num_workers,
            timeout_seconds=timeout_seconds,
            on_damage=on_damage,
        )
        try:
            with (
                contextlib.closing(decoded),
                ListeningProgress("Embedding", sizes, progress) as bar,
                contextlib.closing(_Run(writer, journal, summary, bar, embedder.rate)) as run,
            ):
                for _, reason in summary.failures:
                    bar.say(f"failed: {reason}")
                for event in embedder.tracks(decoded):
                    run.handle(event)
        finally:
            summary.wall_seconds = time.monotonic() - begin
            writer.conclude(journal.entries.values())
            _write_report(folder / REPORT, settings, summary)
    return summary


def _pending(
    recordings: Iterable[Recording], journal: Journal, overwrite: bool, summary: Summary
) -> list[Recording]:
    """What is to be done; the rest is noted as skipped, or as failed if its name is taken."""
    owners = {entry["name"]: path for path, entry in journal.entries.items()}
    pending = []
    for recording in recordings:
        owner = owners.get(recording.name, str(recording))
        if owner != str(recording):
            summary.failures.append((str(recording), _collision(recording.path, owner)))
        elif journal.has(recording) and not overwrite:
            summary.skipped += 1
        else:
            pending.append(recording)
    return pending


class _Run:
    """Takes the events of one run to the disk, the summary and the bar."""

    def __init__(
        self,
        writer: NpzWriter | TableWriter,
        journal: Journal,
        summary: Summary,
        bar: ListeningProgress[Recording],
        frame_rate: float,
    ) -> None:
        self._writer, self._journal, self._summary, self._bar = writer, journal, summary, bar
        self._frame_rate = frame_rate
        self._under_way: dict[Recording, Any] = {}

    def handle(self, event: TrackEvent[Recording]) -> None:
        """Takes one step of one recording."""
        recording = event.key
        match event:
            case Start(duration_seconds=duration):
                self._bar.starts(recording, duration)
            case Frames(frames=frames):
                if recording not in self._under_way:
                    self._under_way[recording] = self._writer.accumulator()
                self._under_way[recording].add(frames)
                self._bar.hears(recording, frames.shape[1] / self._frame_rate)
            case Finished(duration=duration, warnings=warnings):
                self._finish(recording, duration, warnings)
            case Failure(reason=reason):
                self._fail(recording, reason)

    def close(self) -> None:
        """Forgets what is under way."""
        for collected in self._under_way.values():
            collected.close()

    def _finish(self, recording: Recording, duration: float, warnings: Sequence[str]) -> None:
        try:
            with contextlib.closing(self._under_way.pop(recording)) as collected:
                found = self._writer.write(recording.name, collected, duration, str(recording))
        except OutputError as error:
            if _hits_all(error):
                raise
            self._fail(recording, str(error))
            return
        self._journal.add(recording, **found, duration=duration, warnings=warnings)
        self._summary.done += 1
        self._summary.audio_seconds += duration
        for warning in warnings:
            self._summary.damaged.append((str(recording), warning))
            self._bar.say(f"warning: {warning}")
        self._bar.ends(recording)

    def _fail(self, recording: Recording, reason: str) -> None:
        if collected := self._under_way.pop(recording, None):
            collected.close()
        self._summary.failures.append((str(recording), reason))
        self._bar.say(f"failed: {reason}")
        self._bar.ends(recording)


def _hits_all(error: OutputError) -> bool:
    """Whether a failure to write is the disk's, not that of one file's name."""
    cause = error.__cause__
    whole_disk = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
    return isinstance(cause, OSError) and cause.errno in whole_disk


def _write_report(path: Path, settings: Mapping[str, Any], summary: Summary) -> None:
    """The summary for programs."""
    report = {"settings": settings, **asdict(summary)}
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(report, indent=2) + "\n")
