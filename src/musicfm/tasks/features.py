"""Hidden states of labelled recordings, computed once and kept on the disk.

A file per recording, named after the recording's hash, in a folder named after all else that the
hidden states hang on: the encoder, its layers, and what it hears at once. So a file that is there
is never wrong, and a run that was interrupted goes on.
"""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicfm.datasets.labelled import LabelledTrack
from musicfm.decoders import Failure, decode_files
from musicfm.embedding import Finished, Frames, WindowEncoder
from musicfm.files import atomic_write
from musicfm.pooling import pool, pooled_times
from musicfm.processes import num_cores
from musicfm.progress import AudioProgress
from musicfm.tasks.base import Array


@dataclass(frozen=True)
class Features:
    """Hidden states of one recording, on the disk."""

    path: Path
    rate: float
    """Frames per second; frame k is centred at ``k / rate`` seconds."""

    def frames(self) -> npt.NDArray[np.float16]:
        """(layers, time, dim), mapped into memory."""
        array: npt.NDArray[np.float16] = np.load(self.path, mmap_mode="r")
        return array

    def times(self, rate: float) -> Array:
        """(outputs,) centres in seconds when pooled to a rate."""
        return pooled_times(self.frames().shape[1], self.rate, rate)

    def pooled(self, layers: Sequence[int], rate: float, outputs: range | None = None) -> Tensor:
        """Pooled to a rate in Hz.

        Args:
            layers: of the encoder's, by their place among those that were computed.
            rate: of the outputs.
            outputs: consecutive ones that are wanted; None: all.

        Returns:
            (layers, outputs, dim) float32.
        """
        frames = self.frames()

        def read(start: int, stop: int) -> Tensor:
            return torch.from_numpy(frames[list(layers), start:stop].astype(np.float32))

        return torch.cat(list(pool(read, frames.shape[1], self.rate, rate, outputs)), dim=1)


def extract(
    encoder: WindowEncoder,
    tracks: Sequence[LabelledTrack],
    cache: Path,
    *,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    progress: bool = False,
) -> tuple[dict[str, Features], list[str]]:
    """Computes what is not there yet.

    Args:
        encoder: gives the hidden states.
        tracks: the recordings.
        cache: the folder to keep them in.
        num_workers: processes that decode; None leaves one core for the encoder.
        timeout_seconds: after which a decoder without progress is given up.
        progress: show a bar on standard error.

    Returns:
        Features by the recordings' SHA-256, and why others have none.

    Raises OutputError if the folder cannot be written.
    """
    folder = cache / _key(encoder)
    by_path = {item.audio: item for item in tracks}
    pending = [item for item in by_path.values() if not _file(folder, item).is_file()]
    failures: list[str] = []
    decoded = decode_files(
        ((item.audio, item.audio) for item in pending),
        encoder.sample_rate,
        num_workers=num_cores(num_workers, spare=1),
        timeout_seconds=timeout_seconds,
        on_damage="error",
    )
    work = sum(item.track.size for item in pending)
    parts: dict[Path, list[Tensor]] = {}
    with (
        contextlib.closing(decoded),
        AudioProgress("Computing features", len(pending), work, progress) as bar,
    ):
        for event in encoder.tracks(decoded):
            match event:
                case Frames(key=path, frames=frames):
                    parts.setdefault(path, []).append(frames.half())
                case Finished(key=path, duration=duration):
                    item = by_path[path]
                    frames = torch.cat(parts.pop(path), dim=1)
                    with atomic_write(_file(folder, item)) as new, new.open("wb") as stream:
                        np.save(stream, frames.numpy())
                    bar.advance(files=1, seconds=duration, work=item.track.size)
                case Failure(key=path, reason=reason):
                    parts.pop(path, None)
                    failures.append(reason)
                    bar.say(f"failed: {reason}")
                    bar.advance(files=1, work=by_path[path].track.size)
    there = {
        item.track.sha256: Features(path, encoder.rate)
        for item in tracks
        if (path := _file(folder, item)).is_file()
    }
    return there, failures


def _key(encoder: WindowEncoder) -> str:
    windowing = encoder.windowing
    text = f"{encoder.fingerprint()} {windowing.window} {windowing.overlap} {windowing.frame}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _file(folder: Path, item: LabelledTrack) -> Path:
    return folder / f"{item.track.sha256}.npy"
