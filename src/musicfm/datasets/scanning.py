"""Scanning folders into a manifest: lengths, rates, hashes and tags of all recordings.

A scan reads every byte once, in several processes, and may be interrupted or killed at any moment:
what it has read is noted beside the manifest, and the same command continues. A later scan reads
new and changed files only. A file that cannot be used is reported; the others go on.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from musicfm.audio import reading
from musicfm.audio.folders import (
    check_named,
    common_folder,
    describe,
    describe_passed_over,
    no_recordings,
    recordings_in,
)
from musicfm.audio.processes import (
    End,
    Failure,
    Message,
    PatientWork,
    TaskFunction,
    Work,
    num_cores,
    run_tasks,
)
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import (
    INDEX,
    SPLITS,
    Manifest,
    Split,
    Track,
    check_suffix,
    from_json,
    is_manifest,
    to_json,
)
from musicfm.errors import ConfigError, DataError, printable
from musicfm.files import exclusive, parse_json, sweep_beside, write_file, write_json, writing
from musicfm.progress import AudioProgress
from musicfm.remote import is_url, join

_READ_BYTES = 1 << 23
_GENERATOR = "musicfm render"  # in the labels of rendered songs
_SONG = f"{_GENERATOR}, seed "


@dataclass(frozen=True)
class Failed:
    """A file that is not a track, and why."""

    path: str
    """Absolute path."""
    size: int
    modified: int
    reason: str


@dataclass
class Scan:
    """What was found."""

    manifest: Manifest
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each file that cannot be used."""
    num_read: int = 0
    num_unchanged: int = 0
    """Tracks that were known and were not read again."""
    num_vanished: int = 0
    """Tracks that were known and are not there any more, or not usable."""
    passed_over: dict[str, int] = field(default_factory=dict)
    """How many files were not taken for recordings, by suffix; without pictures, texts and such."""

    @property
    def sizes(self) -> dict[Split | None, int]:
        """How many tracks each split has, if any; None stands for no split."""
        counts = {name: len(self.manifest.of_split(name)) for name in (*SPLITS, None)}
        return {name: count for name, count in counts.items() if count}


def read_track(path: str, check: bool = False) -> Iterator[float | Track]:
    """Reads all that a manifest says about a file.

    Args:
        path: absolute; that of the track is the same.
        check: decode all of it, to find damage that the headers do not show.

    Yields:
        Now and then the seconds decoded since; at last the track.

    Raises:
        AudioError: the file cannot be read or holds no sound; with ``check``, also if it is
            damaged anywhere.
    """
    info = reading.probe(path)
    seconds = info.duration_seconds
    if check or not seconds:
        decoded = 0.0
        for block in reading.stream(path, info.sample_rate):
            decoded += len(block) / info.sample_rate
            yield len(block) / info.sample_rate
        seconds = seconds or decoded
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        while data := file.read(_READ_BYTES):
            digest.update(data)
            yield 0.0
    tags = reading.tags(path)
    artist, reserved = _rendered(Path(path).with_suffix(".jams"))
    yield Track(
        path=path,
        duration=seconds,
        sample_rate=info.sample_rate,
        channels=info.channels,
        size=status.st_size,
        modified=status.st_mtime_ns,
        sha256=digest.hexdigest(),
        artist=artist or tags.get("artist") or tags.get("album_artist") or tags.get("author", ""),
        album=tags.get("album", ""),
        title=tags.get("title", ""),
        genres=tuple(g for part in tags.get("genre", "").split(";") if (g := part.strip())),
        split=None if reserved is None else "test",
        reserved=reserved,
    )


def identities(tracks: Iterable[Track]) -> list[str]:
    """What some tracks are known again by: the SHA-256 of each, and the names of the rendered songs
    among them, which are the same song in any format and on any machine.
    """
    tracks = tuple(tracks)
    songs = {track.artist for track in tracks if track.artist.startswith(_SONG)}
    return sorted({track.sha256 for track in tracks}) + sorted(songs)


def _rendered(labels: Path) -> tuple[str, str | None]:
    """The artist of a rendered song, by the labels beside it, and why it must not be trained on, if
    so; nothing of other recordings.

    All takes of a song are by one artist, lest some be validated and others trained on.
    """
    try:
        sandbox = parse_json(labels.read_bytes())["sandbox"]
        if sandbox["generator"] != _GENERATOR:
            return "", None
        seed, purpose = int(sandbox["seed"]), str(sandbox["split"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "", None
    is_free = purpose in ("train", "valid")
    return f"{_SONG}{seed}", None if is_free else f"rendered {purpose} song, seed {seed}"


def scan(
    sources: Sequence[str | os.PathLike[str]],
    known: Iterable[Track | Failed] = (),
    *,
    check: bool = False,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    progress: bool = False,
    note: Callable[[Track | Failed], None] = lambda _: None,
    _read: Callable[..., Iterator[float | Track]] = read_track,
) -> Scan:
    """Reads files and folders, and all below them, into a manifest sorted by path.

    Its root is the folder that all sources have in common.

    Args:
        sources: files and folders.
        known: what is known already, by absolute path; not read again if size and time of change
            are the same.
        check: decode everything that is read, to find damage inside.
        num_workers: processes; None takes all cores, and 16 at most.
        timeout_seconds: after which a file that makes no progress is given up.
        progress: show a bar on standard error.
        note: told of everything that was read, as soon as it was.

    Raises:
        ConfigError: there are no sources, a manifest is one, or they hold no recordings.
    """
    if not sources:
        raise ConfigError("there is nothing to scan; give files or folders")
    check_named(sources)
    if manifests := _manifests(sources):
        raise ConfigError(f"{manifests[0]} is a manifest; scan the files and folders that it lists")
    num_workers = num_cores(num_workers)
    roots = [Path(os.path.abspath(source)) for source in sources]
    before = {item.path: item for item in known}
    passed_over: dict[str, int] = {}
    found, pending = _find(roots, before, passed_over)
    num_unchanged = sum(isinstance(item, Track) for item in found.values())
    if not found and not pending:
        raise ConfigError(no_recordings(sources, passed_over))
    with AudioProgress("Scanning", len(pending), sum(pending.values()), progress) as bar:
        for item in found.values():
            if isinstance(item, Failed):
                bar.say(f"failed: {item.reason}")
        if passed_over:
            bar.say(describe_passed_over(passed_over))
        for item in _read_all(pending, partial(_read, check=check), num_workers, timeout_seconds):
            if isinstance(item, Track):
                earlier = before.get(item.path)
                if item.split is None and isinstance(earlier, Track):
                    item = replace(item, split=earlier.split)
                bar.advance(seconds=item.duration)
            else:
                bar.say(f"failed: {item.reason}")
            found[item.path] = item
            note(item)
            bar.advance(files=1, work=pending[item.path])
    root = common_folder(roots)
    tracks = [item for item in found.values() if isinstance(item, Track)]
    relative = [replace(t, path=Path(os.path.relpath(t.path, root)).as_posix()) for t in tracks]
    there = {track.path for track in tracks}
    return Scan(
        Manifest(root, sorted(relative, key=lambda track: track.path)),
        [(item.path, item.reason) for item in found.values() if isinstance(item, Failed)],
        num_read=len(pending),
        num_unchanged=num_unchanged,
        num_vanished=sum(isinstance(t, Track) and t.path not in there for t in before.values()),
        passed_over=passed_over,
    )


def _find(
    roots: Sequence[Path], before: Mapping[str, Track | Failed], passed_over: dict[str, int]
) -> tuple[dict[str, Track | Failed], dict[str, int]]:
    """What is known of the files in some folders, and the sizes of those that have to be read.

    Known are failures, and what has not changed; tracks in folders that cannot be read stay, too.
    """
    found: dict[str, Track | Failed] = {}
    pending: dict[str, int] = {}
    closed: set[str] = set()

    def note_folder(error: OSError) -> None:
        path, reason = describe(error)
        found[path] = Failed(path, 0, 0, reason)
        closed.add(path)

    files = (file for root in roots for file in recordings_in(root, note_folder, passed_over))
    for path in dict.fromkeys(map(str, files)):
        item = before.get(path)
        try:
            path.encode()
            status = os.stat(path)
        except UnicodeError:
            reason = f"{printable(path)} is not valid UTF-8; rename the file"
            found[path] = Failed(path, 0, 0, reason)
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            why = getattr(error, "strerror", error)
            reason = f"{path} cannot be read: {why}; check the path"
            found[path] = Failed(path, 0, 0, reason)
            closed.add(path)  # perhaps a folder on a disk that is away
        else:
            if item and (item.size, item.modified) == (status.st_size, status.st_mtime_ns):
                found[path] = item
            else:
                pending[path] = status.st_size
    for path, item in before.items():
        if isinstance(item, Track) and not closed.isdisjoint(map(str, Path(path).parents)):
            found[path] = item
    return found, pending


def _manifests(sources: Sequence[str | os.PathLike[str]]) -> list[str | os.PathLike[str]]:
    return [source for source in sources if is_manifest(source)]


def _read_all(
    pending: dict[str, int], task: TaskFunction, num_workers: int, timeout_seconds: float
) -> Iterator[Track | Failed]:
    """Yield a track or a failure for each path, as they come."""
    jobs = ((path, path) for path in pending)
    tracks: dict[str, Any] = {}
    with contextlib.closing(
        run_tasks(task, jobs, num_workers=num_workers, timeout_seconds=timeout_seconds)
    ) as events:
        for event in events:
            match event:
                case Message(path, Track() as track):
                    tracks[path] = track
                case End(path):
                    yield tracks.pop(path)
                case Failure(path, reason):
                    try:
                        modified = os.stat(path).st_mtime_ns
                    except OSError:
                        modified = 0
                    yield Failed(path, pending[path], modified, reason)


def update_manifest(
    out: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]],
    *,
    annotate: Callable[[Manifest], Manifest] | None = None,
    splitting: Splitting | None = None,
    check: bool = False,
    **work: Unpack[PatientWork],
) -> Scan:
    """Scans files and folders into a manifest, or brings it up to date. ``musicfm scan`` is this.

    What could not be used is listed in a ``.report.json`` beside the manifest, and tried again by
    the next scan.

    Args:
        out: the manifest, ``.parquet`` or ``.jsonl``.
        sources: files and folders; tracks of an earlier scan that are not in them are dropped,
            unless their folder cannot be read.
        annotate: adds to the tracks what their files do not tell.
        splitting: how to split them, instead of as before; the splits of ``annotate`` and of
            reserved songs are kept.
        check: read and decode all files, also those that have not changed.
        work: see :class:`musicfm.audio.processes.PatientWork`.

    Raises:
        ConfigError: no recordings, or ``out`` has another suffix.
        DataError: what is at ``out`` is not a manifest.
        OutputError: nothing can be written there, or another scan is writing there.
    """
    out = Path(out)
    check_suffix(out)
    with _notes(out, check) as (notes, note):
        before: dict[str, Track | Failed] = {}
        if os.path.exists(out):
            before = {track.path: track for track in _absolute(Manifest.load(out))}
        if splitting is not None:
            before = {path: _unsplit(item) for path, item in before.items()}
            notes = [_unsplit(item) for item in notes]
        # To be checked, a file has to be read again; but not twice when a check was interrupted.
        unread = [replace(item, modified=-1) for item in before.values()] if check else []
        known: dict[str, Track | Failed] = before | {item.path: item for item in [*unread, *notes]}
        scanned = scan(sources, known.values(), check=check, note=note, **work)
        if annotate is not None:
            scanned.manifest = annotate(scanned.manifest)
        if splitting is not None:
            scanned.manifest = split(scanned.manifest, splitting)
        scanned.manifest.save(out)
        _write_report(_report_path(out), scanned)
    return scanned


def _unsplit(item: Track | Failed) -> Track | Failed:
    return replace(item, split=None) if isinstance(item, Track) and not item.reserved else item


def _absolute(manifest: Manifest) -> Iterator[Track]:
    root = os.path.abspath(manifest.root)
    return (replace(track, path=os.path.join(root, track.path)) for track in manifest)


@contextlib.contextmanager
def _notes(
    out: Path, check: bool
) -> Iterator[tuple[list[Track | Failed], Callable[[Track | Failed], None]]]:
    """What an interrupted scan has read, and a function that notes more; removed in the end."""
    path = out.with_name(f".{out.name}.{'check' if check else 'scan'}")
    with exclusive(out.parent, f".{out.name}.lock"), contextlib.ExitStack() as stack:
        for target in (path, out, _report_path(out)):
            sweep_beside(target)
        with writing(out):
            content = path.read_bytes() if os.path.exists(path) else b""
            # What follows the last line's end was being written when a scan was killed.
            content = content[: content.rfind(b"\n") + 1]
            write_file(path, content)
            stack.enter_context(writing(path))
            file = stack.enter_context(path.open("a", encoding="utf-8"))

        def note(item: Track | Failed) -> None:
            line = to_json(item) if isinstance(item, Track) else json.dumps(asdict(item))
            with writing(path):
                file.write(line + "\n")
                file.flush()

        yield [_from_note(line, path) for line in content.splitlines()], note
        path.unlink()


def _from_note(line: bytes, path: Path) -> Track | Failed:
    try:
        values = parse_json(line)
        return Failed(**values) if "reason" in values else from_json(line)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged; delete it and scan again") from error


def _report_path(out: Path) -> Path:
    return out.with_suffix(".report.json")


def _write_report(path: Path, scanned: Scan) -> None:
    """The outcome for programs."""
    report = {
        "tracks": len(scanned.manifest),
        "seconds": scanned.manifest.seconds,
        "read": scanned.num_read,
        "unchanged": scanned.num_unchanged,
        "vanished": scanned.num_vanished,
        "passed_over": scanned.passed_over,
        "failures": [{"path": path, "reason": reason} for path, reason in scanned.failures],
    }
    write_json(path, report, indent=2)


def collect(
    sources: Sequence[str | os.PathLike[str]],
    *,
    split: Split | None = None,
    **work: Unpack[Work],
) -> Scan:
    """The tracks of files and folders, which are scanned, or of a manifest or a folder of shards.

    Args:
        sources: files and folders; or one manifest, or one folder of shards, which may be at a URL.
        split: only the tracks of this one; None: all.
        work: see :class:`musicfm.audio.processes.Work`.

    Raises:
        ConfigError: a manifest amid other sources, no recordings, or none in the split.
        DataError: the manifest cannot be used, or no file can.
    """
    found = _collect(sources, work)
    if split is None:
        return found
    chosen = found.manifest.of_split(split)
    if not len(chosen):
        raise ConfigError(
            f"no track is in split '{split}'; split them into a manifest with musicfm scan --valid"
        )
    return replace(found, manifest=chosen)


def _collect(sources: Sequence[str | os.PathLike[str]], work: Work) -> Scan:
    check_named(sources)
    manifests = _manifests(sources)
    if manifests and len(sources) > 1:
        raise ConfigError(f"{manifests[0]} is a manifest; give it alone, or files and folders only")
    if manifests:
        return Scan(Manifest.load(manifests[0]))
    urls = [source for source in sources if is_url(source)]
    if urls and len(sources) > 1:
        raise ConfigError(f"{urls[0]} is a URL; give that of one manifest or of a folder of shards")
    if urls:
        return Scan(Manifest.load(join(str(urls[0]), INDEX)))
    if len(sources) == 1 and os.path.isfile(index := Path(sources[0], INDEX)):
        return Scan(Manifest.load(index))
    scanned = scan(sources, **work)
    if not len(scanned.manifest):
        raise DataError(f"no file can be used: {scanned.failures[0][1]}")
    return scanned
