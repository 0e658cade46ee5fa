"""Rendering many songs into a folder, in parallel, so that nothing finished is done twice."""

import contextlib
import io
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from musicfm.audio.processes import (
    Failure,
    Message,
    TaskFunction,
    num_cores,
    run_tasks,
)
from musicfm.errors import ConfigError, MusicFMError
from musicfm.files import write_file
from musicfm.journal import Journal, Recording
from musicfm.progress import AudioProgress
from musicfm.render.composition import GENERATOR_VERSION, compose
from musicfm.render.labels import GENERATOR, jams_text
from musicfm.render.lead_sheets import choose, digest, read_lead_sheets
from musicfm.render.song import Version
from musicfm.render.soundfont import load_font
from musicfm.render.splits import split_of
from musicfm.render.synthesis import synthesize

AudioFormat = Literal["flac", "wav"]

SAMPLE_RATE = 24_000
"""Default sample rate of songs, in Hz: the models'."""

MIN_SECONDS = 10.0
"""Shortest length to which a song may be cut."""
_PATIENCE_SECONDS = 600.0  # for one song, which takes seconds


@dataclass
class RenderSummary:
    """The result of rendering songs."""

    done: int = 0
    skipped: int = 0
    """Songs that an earlier run had rendered."""
    audio_seconds: float = 0.0
    wall_seconds: float = 0.0


@dataclass(frozen=True)
class _Rendered:
    """A song as it goes to the disk."""

    audio: bytes
    labels: str
    seconds: float


def render_songs(
    count: int,
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    audio_format: AudioFormat = "flac",
    sample_rate: int = SAMPLE_RATE,
    soundfonts: Sequence[Path] = (),
    lead_sheets: Path | None = None,
    max_seconds: float | None = None,
    version: Version = GENERATOR_VERSION,
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
        soundfonts: General MIDI ``.sf2`` or ``.sf3`` files, of which one is drawn for each
            instrument; one that is named twice is drawn twice as often. None: the one that
            pretty_midi brings along.
        lead_sheets: a folder of compositions to arrange; see :mod:`musicfm.render.lead_sheets`.
            None: the songs are the generator's own.
        max_seconds: longer songs are cut to as much, half of them from somewhere in the middle.
        version: of the generator; 1 is that of rendered-v1.
        num_workers: processes that render; None takes all cores. One is this process itself.
        overwrite: render again what is done already.
        progress: show a bar on standard error.

    Raises:
        ConfigError: a count, seed or number of workers that cannot be.
        DataError: there are no lead sheets.
        SoundFontError: there is no sound font, or it is damaged or lacks an instrument.
        OutputError: the folder cannot be written, or holds songs of other settings.
    """
    begin, summary = time.monotonic(), RenderSummary()
    _check(seed, count, max_seconds)
    num_workers = num_cores(num_workers)
    fonts = [_font(path) for path in soundfonts or (None,)]
    settings = {
        "generator": GENERATOR,
        "generator_version": version,
        "sound_fonts": [font.sha256 for font in fonts],
        "lead_sheets": None if lead_sheets is None else digest(_sheets(lead_sheets)),
        "max_seconds": max_seconds,
        "format": audio_format,
        "sample_rate": sample_rate,
    }
    folder = Path(out)
    # To the journal, a song is its name.
    songs = {n: Recording(Path(f"song_{n}"), f"song_{n}", 0, 0) for n in range(seed, seed + count)}
    with Journal(folder, settings, songs.values(), overwrite) as journal:
        pending = [
            number
            for number, song in songs.items()
            if overwrite
            or not (journal.has(song) and os.path.isfile(_audio(folder, song, audio_format)))
        ]
        summary.skipped = count - len(pending)
        how = (tuple(soundfonts), audio_format, sample_rate, lead_sheets, max_seconds, version)
        with AudioProgress("Rendering", len(pending), len(pending), progress) as bar:
            for number, result in _rendered(partial(_render, *how), pending, num_workers):
                song = songs[number]
                write_file(_audio(folder, song, audio_format), result.audio)
                write_file(_labels(folder, song), result.labels)
                journal.add(song, output=_labels(folder, song).name, duration=result.seconds)
                summary.done += 1
                summary.audio_seconds += result.seconds
                bar.advance(files=1, seconds=result.seconds, work=1)
    summary.wall_seconds = time.monotonic() - begin
    return summary


def _rendered(
    render: TaskFunction, pending: Sequence[int], num_workers: int
) -> Iterator[tuple[int, Any]]:
    """The songs of some seeds, as they come. Raises MusicFMError if one cannot be rendered."""
    events = run_tasks(
        render,
        ((number, number) for number in pending),
        num_workers=num_workers,
        timeout_seconds=_PATIENCE_SECONDS,
    )
    with contextlib.closing(events):
        for event in events:
            if isinstance(event, Failure):
                raise MusicFMError(f"song {event.key} cannot be rendered: {event.reason}")
            if isinstance(event, Message):
                yield event.key, event.value


def _check(seed: int, count: int, max_seconds: float | None) -> None:
    if max_seconds is not None and not max_seconds >= MIN_SECONDS:
        raise ConfigError(
            f"songs of {max_seconds:g} s are too short for labels; give {MIN_SECONDS:g} or more"
        )
    if count < 1:
        raise ConfigError(f"{count} songs cannot be rendered; give 1 or more")
    first, last = split_of(seed), split_of(seed + count - 1)
    if first != last:
        raise ConfigError(
            f"seeds {seed} to {seed + count - 1} reach from {first} songs into {last} songs; "
            "render each kind into a folder of its own"
        )


def _audio(folder: Path, song: Recording, audio_format: AudioFormat) -> Path:
    return folder / f"{song.name}.{audio_format}"


def _labels(folder: Path, song: Recording) -> Path:
    return folder / f"{song.name}.jams"


_font = lru_cache(maxsize=16)(load_font)  # once in each process
_sheets = lru_cache(maxsize=1)(read_lead_sheets)


def _render(
    soundfonts: tuple[Path, ...],
    audio_format: AudioFormat,
    sample_rate: int,
    lead_sheets: Path | None,
    max_seconds: float | None,
    version: Version,
    seed: int,
) -> Iterator[_Rendered]:
    """What a process does for a song."""
    import soundfile

    sheet = None if lead_sheets is None else choose(_sheets(lead_sheets), seed)
    song = compose(seed, max_seconds=max_seconds, anywhere=True, version=version, sheet=sheet)
    fonts = [_font(path) for path in soundfonts or (None,)]
    samples = synthesize(song, fonts, sample_rate)
    audio = io.BytesIO()
    soundfile.write(audio, samples, sample_rate, format=audio_format.upper(), subtype="PCM_16")
    yield _Rendered(audio.getvalue(), jams_text(song, fonts), song.duration)
