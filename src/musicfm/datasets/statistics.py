"""Mean and standard deviation of the log-mel over a collection: what normalises a model's input.

Moments are summed for each track in float64 and merged in the tracks' order, so that the result is
the same however many processes there are. Merging: T. F. Chan, G. H. Golub and R. J. LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances", 1979.
"""

import contextlib
import functools
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from musicfm.audio import reading
from musicfm.audio.processes import (
    End,
    Failure,
    Message,
    num_cores,
    run_tasks,
)
from musicfm.datasets.tracks import Manifest, Track, open_track
from musicfm.errors import AudioError, ConfigError, DataError
from musicfm.files import read_object, write_json
from musicfm.model.config import MelConfig
from musicfm.progress import AudioProgress
from musicfm.remote import Location, join
from musicfm.seeds import derive_seed

_BLOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Moments:
    """Number, mean, and sum of squared deviations of some values."""

    count: int = 0
    mean: float = 0.0
    deviation: float = 0.0

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Self:
        """The moments of an array of any shape."""
        array = np.asarray(values, np.float64)
        mean = float(array.mean()) if array.size else 0.0
        return cls(array.size, mean, float(np.square(array - mean).sum()))

    def __add__(self, other: "Moments") -> "Moments":
        """The moments of both sets of values together."""
        count = self.count + other.count
        if count == 0:
            return self
        step = other.mean - self.mean
        part = other.count / count
        deviation = self.deviation + other.deviation + step * step * self.count * part
        return Moments(count, self.mean + step * part, deviation)

    @property
    def std(self) -> float:
        """Standard deviation of the values, or NaN of none."""
        return math.sqrt(self.deviation / self.count) if self.count else math.nan


@dataclass
class MelStatistics:
    """What was measured, in dB."""

    mean: float
    std: float
    num_tracks: int
    seconds: float
    """Seconds of audio measured."""
    failures: list[tuple[str, str]] = field(default_factory=list)
    """Path and reason of each track that could not be used."""
    mel: MelConfig = field(default_factory=MelConfig)
    """The mel that was measured; its own mean and std played no part."""

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the published JSON format. Raises OutputError."""
        values = {
            "melspec_2048_mean": self.mean,
            "melspec_2048_std": self.std,
            "num_tracks": self.num_tracks,
            "seconds": self.seconds,
            "mel": _layout(self.mel),
        }
        write_json(Path(path), values, indent=2)


@dataclass(frozen=True)
class _Part:
    """A part of a track, or all of it."""

    root: Location
    track: Track
    start_seconds: float
    duration_seconds: float | None

    @property
    def seconds(self) -> float:
        return self.duration_seconds or self.track.duration

    def __str__(self) -> str:
        return str(join(self.root, self.track.path))


def measure(
    manifest: Manifest,
    *,
    num_tracks: int | None = None,
    sample_seconds: float | None = None,
    seed: int = 0,
    mel: MelConfig | None = None,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    progress: bool = False,
) -> MelStatistics:
    """Measures the log-mel of a collection before it is normalised. ``musicfm stats`` is this.

    Args:
        manifest: the collection.
        num_tracks: of so many tracks, drawn by a hash; None: all.
        sample_seconds: of a random part so long of each; None: the whole.
        seed: other seeds draw other samples.
        mel: what to compute; None: that of the published model. Its mean and std play no part.
        num_workers: processes; None takes all cores, and 16 at most.
        timeout_seconds: after which a track that makes no progress is given up.
        progress: show a bar on standard error.

    Raises:
        ConfigError: a sample of nothing.
        DataError: no track could be used, or all are equally silent.
    """
    for name, value in (("num_tracks", num_tracks), ("sample_seconds", sample_seconds)):
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; give more than 0")
    parts = [_part(manifest, track, sample_seconds, seed) for track in manifest]
    if num_tracks is not None and num_tracks < len(parts):
        parts = sorted(parts, key=lambda part: _draw(part.track, seed, "track"))[:num_tracks]
    mel = mel or MelConfig()
    task = functools.partial(_measure_part, mel=mel)
    moments: dict[int, Moments] = {}
    failures: dict[int, str] = {}
    with (
        AudioProgress(
            "Measuring", len(parts), sum(part.seconds for part in parts), progress
        ) as bar,
        contextlib.closing(
            run_tasks(
                task,
                enumerate(parts),
                num_workers=num_cores(num_workers),
                timeout_seconds=timeout_seconds,
            )
        ) as events,
    ):
        for event in events:
            match event:
                case Message(index, Moments() as found):
                    moments[index] = found
                case Message(_, seconds):
                    bar.advance(seconds=seconds, work=seconds)
                case End():
                    bar.advance(files=1)
                case Failure(index, reason):
                    failures[index] = reason
                    bar.say(f"failed: {reason}")
                    bar.advance(files=1)
    total = functools.reduce(Moments.__add__, (moments[i] for i in sorted(moments)), Moments())
    failed = [(str(parts[index]), failures[index]) for index in sorted(failures)]
    if not total.std > 0:
        reason = failed[0][1] if failed else "they are silent, or there are none"
        raise DataError(f"the tracks have no statistics: {reason}")
    seconds = total.count / mel.n_mels / mel.rate
    return MelStatistics(total.mean, total.std, len(moments), seconds, failed, mel)


def check_measured(path: Path, mel: MelConfig) -> None:
    """Raises ConfigError if statistics in a file are known to be those of another mel."""
    there = read_object(path, "measure again").get("mel")
    if there is not None and there != _layout(mel):
        raise ConfigError(
            f"{path} was measured on another mel ({there}) than the model's ({_layout(mel)}); "
            "measure again, with --recipe and --set as for the model"
        )


def _layout(mel: MelConfig) -> dict[str, int]:
    names = ("sample_rate", "n_fft", "hop_length", "n_mels")
    return {name: getattr(mel, name) for name in names}


def _part(manifest: Manifest, track: Track, seconds: float | None, seed: int) -> _Part:
    if seconds is None or seconds >= track.duration:
        return _Part(manifest.root, track, 0.0, None)
    start = _draw(track, seed, "start") * (track.duration - seconds)
    return _Part(manifest.root, track, start, seconds)


def _draw(track: Track, seed: int, what: str) -> float:
    """From 0 to 1, evenly, whatever the order of the tracks."""
    return derive_seed(seed, what, track.sha256, track.path) / 2**63


def _measure_part(part: _Part, mel: MelConfig) -> Iterator[float | Moments]:
    """Yields the seconds measured since the last time; in the end the moments."""
    import torch

    from musicfm.model.mel import LogMel, stream_mel

    torch.set_num_threads(1)  # there are as many processes as cores
    moments = Moments()
    with open_track(part.track, part.root) as source, torch.inference_mode():
        blocks: Iterable[npt.NDArray[np.float32]] = reading.stream(
            source,
            mel.sample_rate,
            start_seconds=part.start_seconds,
            duration_seconds=part.duration_seconds,
            block_seconds=_BLOCK_SECONDS,
        )
        for frames in stream_mel(map(torch.from_numpy, blocks), LogMel(mel)):
            moments += Moments.of(frames.numpy())
            yield len(frames) / mel.rate
    if moments.count == 0:
        seconds = mel.min_samples / mel.sample_rate
        raise AudioError(f"{part} is shorter than {seconds:.3f} s; drop it")
    yield moments
