"""Hidden states of labelled recordings, computed once and kept on the disk.

A file for each layer of a recording, named after the recording's hash, in folders named after all
else that hidden states hang on: the encoder, its precision, and its context. So a file
that is there is never wrong, and a run that was interrupted goes on.
"""

import contextlib
import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicfm.audio.decoders import decode_files
from musicfm.audio.processes import num_cores
from musicfm.datasets.labelled import LabelledTrack
from musicfm.embedding.collection import Account, Summary, Written, written
from musicfm.embedding.embedder import TrackEvent, WindowEncoder
from musicfm.embedding.pooling import pool, pooled_times
from musicfm.errors import DataError
from musicfm.files import atomic_write, write_npy_header, writing
from musicfm.progress import RecordingProgress
from musicfm.remote import Location
from musicfm.tasks.base import Array

KeyT = TypeVar("KeyT")
Where = TypeVar("Where", bound=Location)

Inputs = Literal["frames", "stacked", "statistics"]
"""Form of the hidden states that a head sees: pooled frames, as those of a model; with others
around them; or their means with their standard deviations."""

STACKED_SECONDS = (0.0, 0.04, 0.12, 0.4, 1.0)
"""Distances, to either side, of the outputs that are stacked."""

FRAMES_AT_ONCE = 4_096


@dataclass(frozen=True)
class Features:
    """Hidden states of one recording, on the disk."""

    paths: Mapping[int, Path]
    """Files by layer; each has (time, dim) float16."""
    rate: float
    """Frames per second; frame k is centred at ``k / rate`` seconds."""

    @cached_property
    def num_frames(self) -> int:
        """Of each layer."""
        return len(self.frames(next(iter(self.paths))))

    def frames(self, layer: int) -> npt.NDArray[np.float16]:
        """(time, dim), mapped into memory. Raises DataError if the file is damaged."""
        path = self.paths[layer]
        try:
            array: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
            if array.dtype != np.float16 or array.ndim != 2 or not array.size:
                raise ValueError("no frames")
        except Exception as error:  # of a damaged header NumPy raises nearly anything
            raise DataError(
                f"{path} is damaged; delete it, and it will be computed again"
            ) from error
        return array

    def times(self, rate: float) -> Array:
        """(outputs,) centres in seconds when pooled to a rate."""
        return pooled_times(self.num_frames, self.rate, rate)

    def pooled(
        self,
        layers: Sequence[int],
        rate: float,
        inputs: Inputs = "frames",
        outputs: range | None = None,
        *,
        relative: bool = False,
    ) -> Tensor:
        """What a head sees, but for stacking.

        Args:
            layers: which.
            rate: of the outputs, in Hz.
            inputs: "statistics" gives standard deviations after the means.
            outputs: consecutive ones that are wanted; None: all.
            relative: also how each differs from the mean of the recording.

        Returns:
            (layers, outputs, dim) float32, or twice as wide for either.
        """
        maps = [self.frames(layer) for layer in layers]
        for layer, frames in zip(layers, maps, strict=True):
            if frames.shape != maps[0].shape:
                raise DataError(
                    f"{self.paths[layer]} has {len(frames)} frames, and other layers have "
                    f"{len(maps[0])}; delete it, and it will be computed again"
                )

        def read(start: int, stop: int) -> Tensor:
            frames = np.stack([layer[start:stop] for layer in maps]).astype(np.float32)
            if inputs == "statistics":
                frames = np.concatenate([frames, frames**2], axis=2)
            return torch.from_numpy(frames)

        found = torch.cat(list(pool(read, self.num_frames, self.rate, rate, outputs)), dim=1)
        if inputs == "statistics":
            mean, square = found.chunk(2, dim=2)
            deviation = (square - mean.square()).clamp(min=0.0).sqrt()
            found = torch.cat([mean, deviation], dim=2)
        if relative:
            mean = torch.stack([self._mean(layer) for layer in layers])[:, None]
            found = torch.cat([found, found[..., : mean.shape[2]] - mean], dim=2)
        return found

    def _mean(self, layer: int) -> Tensor:
        """(dim,) of all frames."""
        if layer not in self._means:
            self._means[layer] = torch.from_numpy(mean_frame(self.frames(layer))).float()
        return self._means[layer]

    @cached_property
    def _means(self) -> dict[int, Tensor]:
        return {}


def mean_frame(frames: npt.NDArray[np.float16]) -> Array:
    """(dim,) the mean of (time, dim) frames, of which little is read at once."""
    total = np.zeros(frames.shape[1])
    for first in range(0, len(frames), FRAMES_AT_ONCE):
        total += frames[first : first + FRAMES_AT_ONCE].sum(axis=0, dtype=np.float64)
    return total / len(frames)


def stack_offsets(rate: float) -> list[int]:
    """Which outputs are stacked at a rate in Hz, relative to their own place."""
    reach = {round(seconds * rate) for seconds in STACKED_SECONDS}
    return sorted(reach | {-places for places in reach})


def stacked(
    read: Callable[[int, int], Tensor], num_outputs: int, outputs: range, rate: float
) -> Tensor:
    """Outputs together with those around them; beyond the ends, the first and last ones repeat.

    Args:
        read: gives pooled outputs [start, stop) as (layers, stop - start, dim).
        num_outputs: of the recording.
        outputs: consecutive ones that are wanted.
        rate: of the outputs, in Hz.

    Returns:
        (layers, outputs, offsets * dim).
    """
    offsets = torch.tensor(stack_offsets(rate))
    places = (torch.tensor(outputs)[:, None] + offsets).clamp(0, num_outputs - 1)
    begin = int(places.min())
    around = read(begin, int(places.max()) + 1)
    return around[:, places - begin].flatten(2)


def extract(
    encoder: WindowEncoder,
    tracks: Sequence[LabelledTrack],
    cache: Path,
    *,
    num_workers: int | None = None,
    progress: bool = False,
) -> tuple[dict[str, Features], list[str]]:
    """Computes what is not there yet.

    Args:
        encoder: gives the hidden states.
        tracks: the recordings.
        cache: the folder to keep them in.
        num_workers: processes that decode; None leaves one core for the encoder.
        progress: show a bar on standard error.

    Returns:
        Features by the recordings' SHA-256, and why others have none.

    Raises OutputError if the folder cannot be written.
    """
    folder = cache / _key(encoder)
    files = {
        item.track.sha256: {
            layer: folder / f"layer_{layer}" / f"{item.track.sha256}.npy"
            for layer in encoder.layers
        }
        for item in tracks
    }
    by_path = {
        item.audio: item for item in tracks if not _are_there(files[item.track.sha256].values())
    }
    sizes, summary = {path: item.track.size for path, item in by_path.items()}, Summary()
    with RecordingProgress("Computing features", sizes, progress) as bar:
        computed = compute(
            encoder,
            {path: list(files[item.track.sha256].values()) for path, item in by_path.items()},
            num_workers=num_workers,
        )
        with contextlib.closing(computed):
            for done in Account(summary, bar).follow(computed, encoder.rate):
                bar.on_end(done.key)
    there = {
        sha256: Features(paths, encoder.rate)
        for sha256, paths in files.items()
        if _are_there(paths.values())
    }
    return there, [reason for _, reason in summary.failures]


def compute(
    encoder: WindowEncoder,
    files: Mapping[Where, Sequence[Path]],
    *,
    num_workers: int | None = None,
) -> Generator[TrackEvent[Where] | Written[Where], None, None]:
    """Writes the hidden states of recordings, in memory that their length does not change.

    Args:
        encoder: gives the hidden states.
        files: of each recording, where its layers go.
        num_workers: processes that decode; None leaves one core for the encoder.

    Yields:
        As :func:`musicfm.embedding.collection.written`.
    """
    decoded = decode_files(
        ((path, path) for path in files),
        encoder.sample_rate,
        num_workers=num_cores(num_workers, spare=1),
    )
    with contextlib.closing(decoded):
        yield from written(encoder.tracks(decoded), FeatureFiles(files))


class FeatureFiles(Generic[KeyT]):
    """Where the hidden states of recordings go.

    Args:
        files: of each recording, a file for each layer.
    """

    def __init__(self, files: Mapping[KeyT, Sequence[Path]]) -> None:
        self._files = files

    def accumulator(self, recording: KeyT) -> "FeatureWriter":
        """Takes the frames of one recording."""
        return FeatureWriter(str(recording), self._files[recording])

    def write(self, recording: KeyT, collected: "FeatureWriter", duration: float) -> dict[str, Any]:
        """Gives the files their names."""
        collected.finish()
        return {}


class _Dropped(Exception):
    """A recording is given up; no OSError, which would be taken for the disk's."""


class FeatureWriter:
    """A recording whose frames go to a file for each layer; these get their names in the end.

    Args:
        name: of the recording, for messages.
        targets: the file of each layer.
    """

    def __init__(self, name: str, targets: Sequence[Path]) -> None:
        self._name, self._targets = name, targets
        self._files, self._streams = ExitStack(), list[BinaryIO]()
        self._count = self._dim = 0

    def add(self, frames: Tensor) -> None:
        """Takes the next frames, (layers, time, dim). Raises DataError if float16 cannot hold
        them.
        """
        halved = frames.half()
        if not halved.isfinite().all():
            raise DataError(
                f"{self._name} has hidden states above 65504, which float16 cannot hold; scale "
                "them down in the encoder"
            )
        if not self._streams:
            self._dim = frames.shape[2]
            for target in self._targets:
                temporary = self._files.enter_context(atomic_write(target))
                self._streams.append(self._files.enter_context(temporary.open("wb")))
                write_npy_header(self._streams[-1], "<f2", (0, self._dim))
        self._count += frames.shape[1]
        for target, stream, layer in zip(self._targets, self._streams, halved.numpy(), strict=True):
            with writing(target):
                stream.write(layer.tobytes())

    def finish(self) -> None:
        """Gives the files their names."""
        with self._files:
            for stream in self._streams:
                stream.seek(0)
                write_npy_header(stream, "<f2", (self._count, self._dim))

    def close(self) -> None:
        """Forgets the recording, unless it is finished."""
        with contextlib.suppress(_Dropped), self._files:
            raise _Dropped  # so that no file gets its name


def _are_there(paths: Iterable[Path]) -> bool:
    return all(os.path.isfile(path) for path in paths)


def _key(encoder: WindowEncoder) -> str:
    windowing = encoder.windowing
    text = (
        f"{encoder.fingerprint()} {encoder.precision} "
        f"{windowing.window} {windowing.overlap} {windowing.frame}"
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
