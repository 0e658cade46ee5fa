"""Shards: tar files of FLAC for object stores and many readers, as WebDataset lays them out.

A sample is ``KEY.json`` and ``KEY.flac``, mono at one rate, 16 bits, samples beyond ±1 clipped.
Recordings are dealt to shards in an order drawn from their hashes, so that a shard is a fair sample
of the collection; none is divided between shards.

The index is a manifest: each of its tracks knows its shard and the bytes that it occupies there. So
a random crop reads about twice its own bytes out of a shard, 2 MB for 30 s, just as out of a file;
what a process reads is a function of seed, step and position, without a stream to keep in step.
The cost of a crop does not depend on how long the FLAC is (FFmpeg finds the place by bisection).
Long recordings are nevertheless cut, into equal pieces, so that a streaming reader can hold one in
memory. The only loss: no crop spans two pieces.

Every shard is a pure function of its tracks. It appears under its name when it is complete, so that
a run may be killed at any moment, and the same command continues it.
"""

import contextlib
import functools
import hashlib
import io
import itertools
import json
import math
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import soundfile

from musicfm.audio import reading
from musicfm.audio.processes import (
    Failure,
    Message,
    Now,
    TaskFunction,
    num_cores,
    run_tasks,
)
from musicfm.datasets.tracks import INDEX, Manifest, Track, open_track, to_json
from musicfm.errors import AudioError, ConfigError, DataError, OutputError
from musicfm.files import atomic_write, write_json, writing
from musicfm.journal import Journal, Recording
from musicfm.progress import AudioProgress
from musicfm.remote import Location, join

REPORT = "report.json"

VERSION = 1
"""Version of the contents of a shard; runs of different versions never mix."""


@dataclass
class Prepared:
    """The result of packing a collection."""

    index: Manifest
    num_shards: int
    num_done_before: int
    """Shards that an earlier run wrote."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each track that could not be used."""


_Blocks: TypeAlias = Iterator[npt.NDArray[np.float32]]
_Bad: TypeAlias = tuple[tuple[int, str], ...]
"""Tracks of a shard that cannot be used, by their place in it, and why."""


@dataclass(frozen=True)
class _Shard:
    """What one shard is to hold."""

    path: Path
    root: Location
    first: int
    """The number of its first track among those of all shards."""
    tracks: tuple[Track, ...]
    sample_rate: int
    piece_seconds: float
    bad: _Bad = ()

    @property
    def index(self) -> Path:
        """Its own manifest."""
        return self.path.with_suffix(".jsonl")

    def __str__(self) -> str:
        return str(self.path)


def prepare(
    manifest: Manifest,
    out: str | os.PathLike[str],
    *,
    sample_rate: int = 24_000,
    shard_seconds: float = 7_200.0,
    piece_seconds: float = 600.0,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    overwrite: bool = False,
    progress: bool = False,
    _stream: Callable[..., "_Blocks"] = reading.stream,
) -> Prepared:
    """Writes a collection as shards with an index. ``musicfm prepare`` is this function.

    Shards that an earlier run into the same folder has completed are kept. A track that cannot be
    used is reported, and the rest goes on.

    Args:
        manifest: the collection.
        out: the folder: ``shard-000000.tar`` and a manifest of each shard beside it, one of all in
            ``index.parquet``, ``report.json``, and ``journal.jsonl``.
        sample_rate: of the result, in Hz.
        shard_seconds: about how much audio a shard holds; at least one recording.
        piece_seconds: longer recordings are cut into equal pieces that are no longer.
        num_workers: processes, each writing one shard; None takes all cores, and 16 at most.
        timeout_seconds: after which a track that makes no progress is given up.
        overwrite: write again what is done already, also of other tracks or settings.
        progress: show a bar on standard error.

    Raises:
        ConfigError: impossible settings, or no tracks.
        OutputError: the folder cannot be written, or holds shards of other tracks or settings.
    """
    _check(sample_rate, shard_seconds=shard_seconds, piece_seconds=piece_seconds)
    if not len(manifest):
        raise ConfigError("there are no tracks to prepare; scan some, or choose another split")
    num_workers, out = num_cores(num_workers), Path(out)
    template = _Shard(out, manifest.root, 0, (), sample_rate, piece_seconds)
    shards = _plan(manifest, template, shard_seconds)
    settings = {
        "version": VERSION,
        "tracks": _fingerprint(manifest),
        "sample_rate": sample_rate,
        "shard_seconds": shard_seconds,
        "piece_seconds": piece_seconds,
    }
    task = functools.partial(_write_shard, stream=_stream)
    recordings = [_recording(shard) for shard in shards]
    with Journal(out, settings, recordings, overwrite) as journal:
        pending = [
            shard
            for shard, recording in zip(shards, recordings, strict=True)
            if overwrite or not (journal.has(recording) and os.path.exists(shard.index))
        ]
        work = math.fsum(track.duration for shard in pending for track in shard.tracks)
        num_tracks = sum(len(shard.tracks) for shard in pending)
        with AudioProgress("Preparing", num_tracks, work, progress) as bar:
            for shard, bad in _write_all(pending, task, num_workers, timeout_seconds, bar):
                failures = [(str(shard.tracks[at].path), reason) for at, reason in bad]
                journal.add(_recording(shard), output=shard.path.name, failures=failures)
        entries = [journal.entries[str(recording)] for recording in recordings]
        parts = (Manifest.load(shard.index) for shard in shards)
        index = Manifest(out, itertools.chain.from_iterable(parts))
        index.save(out / INDEX)
        try:
            bad_tracks = [(str(path), str(why)) for e in entries for path, why in e["failures"]]
        except (KeyError, ValueError, TypeError) as error:
            raise OutputError(
                f"the journal in {out} is damaged; prepare into another folder, or overwrite"
            ) from error
        prepared = Prepared(index, len(shards), len(shards) - len(pending), bad_tracks)
        _write_report(out / REPORT, settings, prepared)
    return prepared


def _check(sample_rate: int, **seconds: float) -> None:
    """Raises ConfigError for impossible settings."""
    for name, value in seconds.items():
        if not 1.0 <= value < math.inf:
            raise ConfigError(f"{name} is {value}; give 1 or more")
    # What can be read again, and what FLAC has.
    if not (1_000 <= sample_rate < 65_536 or sample_rate in range(65_540, 655_351, 10)):
        raise ConfigError(
            f"sample_rate is {sample_rate} Hz; give 1000 to 65535, or a multiple of 10 up to 655350"
        )


def _plan(manifest: Manifest, template: _Shard, shard_seconds: float) -> list[_Shard]:
    """Which tracks each shard holds."""
    tracks = sorted(manifest, key=lambda track: (_hash(f"{track.sha256} {track.path}"), track.path))
    groups: list[list[Track]] = []
    seconds = math.inf
    for track in tracks:
        if seconds + track.duration > shard_seconds:
            groups.append([])
            seconds = 0.0
        groups[-1].append(track)
        seconds += track.duration
    firsts = itertools.accumulate((len(group) for group in groups), initial=0)
    return [
        replace(
            template,
            path=template.path / f"shard-{number:06d}.tar",
            first=first,
            tracks=tuple(group),
        )
        for number, (first, group) in enumerate(zip(firsts, groups, strict=False))
    ]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(manifest: Manifest) -> str:
    """Changes with everything that shards hold, and with nothing else."""
    lines = sorted(to_json(replace(track, modified=0)) for track in manifest)
    return _hash("\n".join(lines))


def _recording(shard: _Shard) -> Recording:
    """A shard as the journal knows it."""
    return Recording(Path(shard.path.name), shard.path.stem, len(shard.tracks), 0)


def _write_all(
    shards: list[_Shard],
    task: TaskFunction,
    num_workers: int,
    timeout_seconds: float,
    bar: AudioProgress,
) -> Iterator[tuple[_Shard, _Bad]]:
    """Yield each shard when it is written, with its bad tracks.

    A shard in which a track crashed the process, or hung, is written again without that track.
    """
    while shards:
        again: list[_Shard] = []
        at: dict[int, int | None] = {}
        with contextlib.closing(
            run_tasks(
                task,
                enumerate(shards),
                num_workers=num_workers,
                timeout_seconds=timeout_seconds,
            )
        ) as events:
            for event in events:
                shard = shards[event.key]
                match event:
                    case Message(number, Now(_, track)):
                        at[number] = track
                    case Message(_, float(seconds)):
                        bar.advance(seconds=seconds, work=seconds)
                    case Message(_, tuple(bad)):
                        bar.advance(files=len(shard.tracks))
                        for _, reason in bad:
                            bar.say(f"failed: {reason}")
                        yield shard, bad
                    case Failure(number, reason):
                        culprit = at.get(number)
                        if culprit is None:
                            raise OutputError(
                                f"{shard} could not be finished: its process crashed, or the disk "
                                f"took longer than {timeout_seconds:g} s; run it again, perhaps "
                                "with a longer timeout (timeout_seconds, --timeout)"
                            )
                        again.append(replace(shard, bad=(*shard.bad, (culprit, reason))))
        shards = again


def _write_shard(shard: _Shard, stream: Callable[..., _Blocks]) -> Iterator[Now | float | _Bad]:
    """Writes a shard and its own manifest; yields seconds done, and at last the bad tracks."""
    bad = dict(shard.bad)
    members: list[Track] = []
    with (
        atomic_write(shard.path) as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for number, track in enumerate(shard.tracks):
            if number in bad:
                continue
            yield Now(str(join(shard.root, track.path)), number)
            with tempfile.TemporaryFile(dir=shard.path.parent) as spool:
                pieces = _Pieces(spool, track.duration, shard)
                try:
                    with open_track(track, shard.root) as source:
                        for block in stream(source, shard.sample_rate):
                            with writing(shard.path):
                                pieces.write(block)
                            yield len(block) / shard.sample_rate
                except OutputError:
                    raise
                except (AudioError, DataError) as error:
                    bad[number] = str(error)
                    continue
                except OSError as error:
                    bad[number] = (
                        f"{join(shard.root, track.path)} cannot be read ({error.strerror})"
                    )
                    continue
                key = f"{shard.first + number:08d}"
                members += _add_pieces(archive, key, pieces, track, shard)
        yield Now(str(shard))
    Manifest(shard.path.parent, members).save(shard.index)
    yield tuple(sorted(bad.items()))


class _Pieces:
    """A recording as FLAC in equal pieces, one after the other in a file.

    They wait there because a recording that turns out to be damaged is not to be in the shard, and
    may be of any length.
    """

    def __init__(self, spool: IO[bytes], duration: float, shard: _Shard) -> None:
        self._spool, self._rate = spool, shard.sample_rate
        self._count = math.ceil(duration / shard.piece_seconds)
        self._samples_per_piece = math.ceil(duration * shard.sample_rate / self._count)
        self._finished: list[tuple[int, int]] = []  # bytes and samples of each
        self._data = io.BytesIO()
        self._flac: soundfile.SoundFile | None = None
        self._written = 0

    def write(self, block: npt.NDArray[np.float32]) -> None:
        """Takes the next samples."""
        while len(block):
            if self._flac is None:
                self._data, self._written = io.BytesIO(), 0
                self._flac = soundfile.SoundFile(
                    self._data, "w", self._rate, 1, "PCM_16", format="FLAC"
                )
            # What a recording has beyond its declared length goes to its last piece.
            is_last = len(self._finished) == self._count - 1
            left = len(block) if is_last else self._samples_per_piece - self._written
            part, block = block[:left], block[left:]
            self._flac.write(part)
            self._written += len(part)
            if self._written >= self._samples_per_piece and not is_last:
                self._finish()

    def read(self) -> Iterator[tuple[bytes, int, int]]:
        """Ends the recording; yields each piece, its first sample, and its number of samples."""
        self._finish()
        self._spool.seek(0)
        first = 0
        for num_bytes, num_samples in self._finished:
            yield self._spool.read(num_bytes), first, num_samples
            first += num_samples

    def _finish(self) -> None:
        if self._flac is not None:
            self._flac.close()
            self._flac = None
            data = self._data.getbuffer()
            self._spool.write(data)
            self._finished.append((len(data), self._written))


def _add_pieces(
    archive: tarfile.TarFile, key: str, pieces: _Pieces, track: Track, shard: _Shard
) -> Iterator[Track]:
    """Adds the samples of a track; yields their lines of the index."""
    for number, (data, first, num_samples) in enumerate(pieces.read()):
        name = f"{key}-{number:03d}"
        member = replace(
            track,
            path=f"{name}.flac",
            duration=num_samples / shard.sample_rate,
            sample_rate=shard.sample_rate,
            channels=1,
            size=len(data),
            modified=0,
            sha256=hashlib.sha256(data).hexdigest(),
            shard=shard.path.name,
        )
        start = first / shard.sample_rate
        facts = {"source": track.path, "start": start, "duration": member.duration}
        about = ("sample_rate", "artist", "album", "title", "genres", "split", "reserved")
        facts |= {name: getattr(member, name) for name in about}
        _add(archive, f"{name}.json", json.dumps(facts, ensure_ascii=False).encode())
        yield replace(member, offset=_add(archive, member.path, data))


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> int:
    """Adds a member that has no time, owner or other trace of where it was made; its offset."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))
    return archive.offset - tarfile.BLOCKSIZE * math.ceil(len(data) / tarfile.BLOCKSIZE)


def _write_report(path: Path, settings: Mapping[str, Any], prepared: Prepared) -> None:
    """The outcome for programs."""
    report = {
        "settings": settings,
        "shards": prepared.num_shards,
        "pieces": len(prepared.index),
        "seconds": prepared.index.seconds,
        "failures": [{"path": path, "reason": reason} for path, reason in prepared.failures],
    }
    write_json(path, report, indent=2)
