"""What is kept of each recording of a collection, and how it is written.

Either the frames (all of them, or pooled to a rate) or their mean, as one ``.npz`` per recording;
means also as one Parquet table. Whatever the length of a recording, its frames are in memory only
while they are few; then they wait in an unnamed temporary file beside their destination, which no
kill can leave behind.
"""

import contextlib
import os
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicfm.embedding.embedder import Embedder
from musicfm.embedding.pooling import pool, pooled_times
from musicfm.errors import OutputError, as_text
from musicfm.files import atomic_write, write_npy_header, writing
from musicfm.journal import JOURNAL, Recording

if TYPE_CHECKING:
    import pyarrow as pa

Pooling: TypeAlias = Literal["none", "mean"] | float
"""Pooling over time: not at all, to one vector, or to a rate in Hz."""

IN_MEMORY = 32 * 2**20
"""Bytes of one layer of one recording that stay in memory."""

FRAMES_AT_ONCE = 4_096
ROWS_AT_ONCE = 4_096

TABLE, VECTORS = "embeddings.parquet", "vectors.f32"


@dataclass(frozen=True)
class ChunkedArray:
    """A float32 array that is too large to hold, as consecutive parts."""

    shape: tuple[int, ...]
    parts: Iterable[Tensor]


class RunningMean:
    """The mean over time of one recording."""

    def __init__(self) -> None:
        self._sum: Tensor = torch.zeros(())
        self._count = 0

    def add(self, frames: Tensor) -> None:
        """Takes the next frames, (layers, time, dim) float32."""
        self._sum = self._sum + frames.double().sum(dim=1)
        self._count += frames.shape[1]

    def mean(self) -> npt.NDArray[np.float32]:
        """(layers, dim)."""
        return (self._sum / self._count).float().numpy()

    def arrays(self, single: bool) -> dict[str, npt.ArrayLike]:
        """``mean``: (layers, dim), or (dim,) if ``single``."""
        return {"mean": self.mean()[0] if single else self.mean()}

    def close(self) -> None:
        """Nothing to free; a spool has."""


class FrameSpool:
    """The frames of one recording, appended as they come and read back in pieces.

    Args:
        frame_rate: of the frames, in Hz.
        pooled_rate: of those to be kept; None keeps them as they are.
        folder: where frames wait that are too many for the memory.
    """

    def __init__(self, frame_rate: float, pooled_rate: float | None, folder: Path) -> None:
        self._frame_rate, self._pooled_rate, self._folder = frame_rate, pooled_rate, folder
        self._files: list[IO[bytes]] = []
        self._count = self._dim = 0

    def add(self, frames: Tensor) -> None:
        """Takes the next frames, (layers, time, dim) float32."""
        if not self._files:
            self._dim = frames.shape[2]
            self._files = [
                tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(self._folder))  # noqa: SIM115
                for _ in frames
            ]
        self._count += frames.shape[1]
        with writing(self._folder):
            for file, layer in zip(self._files, frames, strict=True):
                file.seek(0, os.SEEK_END)
                file.write(layer.contiguous().numpy().data)

    def arrays(self, single: bool) -> dict[str, ChunkedArray | npt.ArrayLike]:
        """The recording at the rate to be kept.

        Returns:
            ``frames``: (layers, time, dim), or (time, dim) if ``single``; ``times``: (time,) their
            centres in seconds; ``rate`` in Hz.
        """
        if self._pooled_rate is None:
            times, rate = np.arange(self._count) / self._frame_rate, self._frame_rate
        else:
            times = pooled_times(self._count, self._frame_rate, self._pooled_rate)
            rate = self._pooled_rate
        shape = (len(self._files), len(times), self._dim)
        frames = ChunkedArray(shape[1:] if single else shape, self._parts())
        return {"frames": frames, "times": times, "rate": rate}

    def close(self) -> None:
        """Frees memory and disk."""
        for file in self._files:
            file.close()

    def _parts(self) -> Iterator[Tensor]:
        for file in self._files:
            read = partial(self._read, file)
            if self._pooled_rate is not None:
                yield from pool(read, self._count, self._frame_rate, self._pooled_rate)
            else:
                for start in range(0, self._count, FRAMES_AT_ONCE):
                    yield read(start, min(start + FRAMES_AT_ONCE, self._count))

    def _read(self, file: IO[bytes], start: int, stop: int) -> Tensor:
        """Frames [start, stop) of one layer, (time, dim)."""
        row = 4 * self._dim
        file.seek(start * row)
        data = bytearray(file.read((stop - start) * row))
        return torch.frombuffer(data, dtype=torch.float32).view(-1, self._dim)


def write_npz(path: Path, arrays: Mapping[str, ChunkedArray | npt.ArrayLike]) -> None:
    """Writes arrays so that ``numpy.load`` reads them. Equal arrays give equal bytes.

    Raises:
        OutputError: not possible; what was at ``path`` before is still there.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            # A ZipInfo made of a name alone has no time of day in it.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as entry:
                if isinstance(array, ChunkedArray):
                    write_npy_header(entry, "<f4", array.shape)
                    for part in array.parts:
                        entry.write(part.contiguous().numpy().data)
                else:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)


def arrays_of(
    collected: FrameSpool | RunningMean,
    layers: Sequence[int],
    single: bool,
    duration: float,
    source: str,
) -> dict[str, ChunkedArray | npt.ArrayLike]:
    """All that the ``.npz`` of a recording holds.

    Args:
        collected: its frames.
        layers: which they are of.
        single: whether to leave out the axis of layers, of which there is one.
        duration: of the recording, in seconds.
        source: where it comes from.
    """
    facts: dict[str, npt.ArrayLike] = {"duration": duration, "layers": layers, "source": source}
    return {**collected.arrays(single), **facts}


class NpzWriter:
    """One ``.npz`` per recording."""

    def __init__(self, folder: Path, embedder: Embedder, pooling: Pooling) -> None:
        self._folder, self._embedder, self._pooling = folder, embedder, pooling

    def accumulator(self, recording: Recording) -> FrameSpool | RunningMean:
        """Takes the frames of one recording."""
        if self._pooling == "mean":
            return RunningMean()
        rate = None if isinstance(self._pooling, str) else self._pooling
        return FrameSpool(self._embedder.rate, rate, self._folder)

    def write(
        self, recording: Recording, collected: FrameSpool | RunningMean, duration: float
    ) -> dict[str, Any]:
        """Writes one recording; returns what the journal must know to find it."""
        output = f"{recording.name}.npz"
        layers, single = self._embedder.layers, self._embedder.single
        arrays = arrays_of(collected, layers, single, duration, str(recording))
        write_npz(self._folder / output, arrays)
        return {"output": output}


class TableWriter:
    """One Parquet table with the mean of every recording.

    A table cannot be appended to, and a run may be killed at any moment: so vectors are appended to
    a plain file of float32, and the table is made of that whenever a run ends.
    """

    def __init__(self, folder: Path, embedder: Embedder) -> None:
        self._folder, self._layers = folder, embedder.layers
        self._dim = embedder.config.encoder.dim

    def accumulator(self, recording: Recording) -> RunningMean:
        """Takes the frames of one recording."""
        return RunningMean()

    def write(
        self, recording: Recording, collected: RunningMean, duration: float
    ) -> dict[str, Any]:
        """Appends one recording; returns what the journal must know to find it."""
        mean, path = collected.mean(), self._folder / VECTORS
        with writing(path), path.open("ab") as file:
            # A kill may have left a part of a vector behind.
            row = file.tell() // mean.nbytes
            file.truncate(row * mean.nbytes)
            file.write(mean.tobytes())
        return {"output": VECTORS, "row": row}

    def conclude(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Writes the table, as of :func:`table_of`.

        Raises:
            OutputError: not possible; the table of the run before is still there.
        """
        from pyarrow import parquet

        done = sorted(entries, key=lambda entry: str(entry["path"]))
        if not done:
            return
        vectors = self._vectors(done)
        with atomic_write(self._folder / TABLE) as temporary, contextlib.ExitStack() as stack:
            file: Any = None
            for start in range(0, len(done), ROWS_AT_ONCE):
                batch = done[start : start + ROWS_AT_ONCE]
                some = vectors[[entry["row"] for entry in batch]]
                paths = [entry["path"] for entry in batch]
                durations = [entry["duration"] for entry in batch]
                table = table_of(self._layers, paths, durations, some)
                file = file or stack.enter_context(parquet.ParquetWriter(temporary, table.schema))
                file.write_table(table)

    def _vectors(self, done: Sequence[Mapping[str, Any]]) -> npt.NDArray[np.float32]:
        """What was appended, (rows, layers, dim), mapped. Raises OutputError if any is missing."""
        path, width = self._folder / VECTORS, len(self._layers) * self._dim
        size = path.stat().st_size if os.path.exists(path) else 0
        for entry in done:
            row, duration = entry.get("row"), entry.get("duration")
            is_there = isinstance(row, int) and 0 <= row < size // (4 * width)
            if not is_there or not isinstance(duration, int | float):
                raise OutputError(
                    f"{path} lacks what {JOURNAL} says of {entry['path']}; use another output "
                    "folder"
                )
        shape = (size // (4 * width), len(self._layers), self._dim)
        return np.memmap(path, np.float32, "r", shape=shape)


def table_of(
    layers: Sequence[int],
    paths: Sequence[str],
    durations: Sequence[float],
    means: npt.NDArray[np.float32],
) -> "pa.Table":
    """Means as a table: ``path``, ``duration``, and ``layer_N`` with the vectors.

    Args:
        layers: what the layers are called.
        paths: of the recordings.
        durations: of each, in seconds.
        means: (recordings, layers, dim).
    """
    import pyarrow as pa

    dim = means.shape[2]
    schema = pa.schema(
        [("path", pa.string()), ("duration", pa.float64())]
        + [(f"layer_{layer}", pa.list_(pa.float32(), dim)) for layer in layers]
    )
    vectors = [
        pa.FixedSizeListArray.from_arrays(pa.array(means[:, index].ravel()), dim)
        for index in range(len(layers))
    ]
    return pa.table([list(map(as_text, paths)), durations, *vectors], schema=schema)
