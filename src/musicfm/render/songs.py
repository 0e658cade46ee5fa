"""Rendering many songs into a folder, in parallel, so that nothing finished is done twice."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from musicfm.decoders import follow_parent, sigint_blocked
from musicfm.errors import ConfigError, MusicFMError
from musicfm.files import atomic_write
from musicfm.journal import Journal, Recording
from musicfm.progress import AudioProgress
from musicfm.render.composition import GENERATOR_VERSION, compose
from musicfm.render.labels import GENERATOR, jams_text
from musicfm.render.soundfont import SoundFont, load_font
from musicfm.render.splits import split_of
from musicfm.render.synthesis import synthesize

AudioFormat = Literal["flac", "wav"]

SAMPLE_RATE = 24_000
"""Of songs, unless another is asked for: the models'."""

_SONGS_PER_WORKER = 2  # one being rendered, and one waiting


@dataclass
class RenderSummary:
    """What became of some songs."""

    done: int = 0
    skipped: int = 0
    """Songs that an earlier run had rendered."""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class _Job:
    """What all songs of a run have in common."""

    folder: Path
    audio_format: AudioFormat
    sample_rate: int

    def audio_path(self, seed: int) -> Path:
        return self.folder / f"song_{seed}.{self.audio_format}"

    def labels_path(self, seed: int) -> Path:
        return self.folder / f"song_{seed}.jams"


def render_songs(
    count: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    audio_format: AudioFormat = "flac",
    sample_rate: int = SAMPLE_RATE,
    soundfont: Path | None = None,
    num_workers: int | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> RenderSummary:
    """Composes and renders songs with their labels. ``musicfm render`` is this function.

    Song S becomes ``song_S.flac``, 16 bits and stereo, with ``song_S.jams`` beside it. What an
    earlier run into the same folder has done is skipped.

    Args:
        count: number of songs.
        out: the output folder; besides songs it gets ``journal.jsonl``.
        seed: of the first song; the others' follow it. See :mod:`musicfm.render.splits` for the
            ranges that are reserved for test songs.
        audio_format: of the audio files.
        sample_rate: of the audio files, in Hz.
        soundfont: a General MIDI ``.sf2`` file; None takes the one that pretty_midi brings along.
        num_workers: processes that render; None takes all cores. One is this process itself.
        overwrite: render again what is done already.
        progress: show a bar on standard error.

    Raises:
        ConfigError: a count, seed or number of workers that cannot be.
        SoundFontError: there is no sound font, or it is damaged or lacks an instrument.
        OutputError: the folder cannot be written, or holds songs of other settings.
    """
    begin, summary = time.monotonic(), RenderSummary()
    _check_seeds(seed, count)
    if num_workers is None:
        num_workers = os.cpu_count() or 1
    if num_workers < 1:
        raise ConfigError(f"num_workers is {num_workers}; give 1 or more")
    font = load_font(soundfont)
    settings = {
        "generator": GENERATOR,
        "generator_version": GENERATOR_VERSION,
        "sound_font": font.name,
        "sound_font_sha256": font.sha256,
        "sound_font_licence": font.licence,
        "format": audio_format,
        "sample_rate": sample_rate,
    }
    job = _Job(Path(out), audio_format, sample_rate)
    songs = {number: _entry(number) for number in range(seed, seed + count)}
    with Journal(job.folder, settings, songs.values(), overwrite) as journal:
        pending = [
            number
            for number, entry in songs.items()
            if overwrite or not (journal.has(entry) and job.audio_path(number).is_file())
        ]
        summary.skipped = count - len(pending)
        num_workers = min(num_workers, len(pending))
        rendered = (
            _render_in_processes(job, soundfont, pending, num_workers)
            if num_workers > 1
            else ((number, _render(job, font, number)) for number in pending)
        )
        with (
            AudioProgress("Rendering", len(pending), len(pending), progress) as bar,
            contextlib.closing(rendered),
        ):
            for number, seconds in rendered:
                journal.add(songs[number], output=job.labels_path(number).name, duration=seconds)
                summary.done += 1
                summary.audio_seconds += seconds
                bar.advance(files=1, seconds=seconds, work=1)
    summary.wall_seconds = time.monotonic() - begin
    return summary


def _check_seeds(seed: int, count: int) -> None:
    if count < 1:
        raise ConfigError(f"{count} songs cannot be rendered; give 1 or more")
    first, last = split_of(seed), split_of(seed + count - 1)
    if first != last:
        raise ConfigError(
            f"seeds {seed} to {seed + count - 1} reach from {first} songs into {last} songs; "
            "render them apart, into a folder each"
        )


def _entry(seed: int) -> Recording:
    """A song in the journal, which knows recordings by path; a song has its name only."""
    return Recording(Path(f"song_{seed}"), f"song_{seed}", 0, 0)


def _render(job: _Job, font: SoundFont, seed: int) -> float:
    """Writes a song and its labels; how long it is, in seconds."""
    import soundfile

    song = compose(seed)
    samples = synthesize(song, font, job.sample_rate)
    with atomic_write(job.audio_path(seed)) as temporary:
        try:
            soundfile.write(
                temporary,
                samples,
                job.sample_rate,
                format=job.audio_format.upper(),
                subtype="PCM_16",
            )
        except soundfile.LibsndfileError as error:  # its word for a full disk
            raise OSError(str(error)) from error
    with atomic_write(job.labels_path(seed)) as temporary:
        temporary.write_text(jams_text(song, font), encoding="utf-8")
    return song.duration


def _render_in_processes(
    job: _Job, soundfont: Path | None, seeds: list[int], num_workers: int
) -> Generator[tuple[int, float], None, None]:
    """As :func:`_render` for each seed; in whatever order they are finished."""
    pool = ProcessPoolExecutor(
        num_workers,
        multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(job, soundfont),
    )
    waiting: dict[Future[float], int] = {}
    left: Iterator[int] = iter(seeds)
    try:
        while True:
            while len(waiting) < num_workers * _SONGS_PER_WORKER:
                if (seed := next(left, None)) is None:
                    break
                with sigint_blocked():  # this may start a process
                    waiting[pool.submit(_render_in_worker, seed)] = seed
            if not waiting:
                return
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise MusicFMError(
            "a rendering process was killed, or could not start; if memory is short, use fewer "
            "workers; the same command continues"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_worker: tuple[_Job, SoundFont]  # what a process renders with; loaded once


def _start_worker(job: _Job, soundfont: Path | None) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    threading.Thread(target=follow_parent, daemon=True).start()
    _worker = job, load_font(soundfont)


def _render_in_worker(seed: int) -> float:
    return _render(*_worker, seed)
