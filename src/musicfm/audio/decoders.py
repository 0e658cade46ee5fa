"""Decode many recordings ahead of the model, in processes that a bad file may crash.

Beside its pipe, each process has its own ring of slots in shared memory. It fills a free slot and
sends ``(slot, count)``; we copy the samples out and send the slot back. While the consumer is busy,
messages wait in the pipe and samples in the ring, and when that is full so does the decoder;
neither side counts anything. For all else see `musicfm.audio.processes`.
"""

import ctypes
import math
import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from typing import Any, Generic, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from musicfm.audio import reading
from musicfm.audio.processes import End as End
from musicfm.audio.processes import Failure as Failure
from musicfm.audio.processes import (
    KeyT,
    Worker,
    run_workers,
    serve,
)
from musicfm.errors import AudioWarning, printable

SILENT = "is silent: no sample is above -80 dB"
"""Stands in the warning of a recording that is so from its beginning to its end."""
_SILENT_PEAK = 1e-4

_Path: TypeAlias = str | os.PathLike[str]
_Samples: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Start(Generic[KeyT]):
    """The recording says that it is so long; it may be wrong. Only given if it says so."""

    key: KeyT
    duration_seconds: float


@dataclass(frozen=True, eq=False)
class Block(Generic[KeyT]):
    """The next samples of a recording: (count,) float32, count > 0, the receiver's own copy."""

    key: KeyT
    samples: _Samples


Event: TypeAlias = Start[KeyT] | Block[KeyT] | End[KeyT] | Failure[KeyT]


def decode_files(
    jobs: Iterable[tuple[KeyT, _Path] | None],
    sample_rate: int,
    *,
    num_workers: int,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    block_seconds: float = 10.0,
    num_slots: int = 6,
    _decode: Callable[..., Iterator[_Samples]] = reading.stream,
) -> Generator[Event[KeyT], None, None]:
    """Yield the samples of each recording, in order within it; those of several interleave.

    Every job ends in one `End` or one `Failure`; a bad file raises nothing. Close the generator
    when leaving early (``with contextlib.closing(...)``): it ends the processes, frees the memory.

    Args:
        jobs: pairs of a key, which comes back in the events, and a path or URL. Taken lazily: each
            worker has at most one in hand and one waiting. None: see
            `musicfm.audio.processes.run_workers`.
        sample_rate: of the samples returned, in Hz.
        num_workers: processes, each decoding one file at a time.
        timeout_seconds: a worker that delivers nothing for so long is killed and its file given up;
            time in which it waits for the consumer does not count.
        on_damage: as in `musicfm.audio.stream`.
        block_seconds: about how long the blocks are.
        num_slots: blocks that each worker may decode ahead; its ring takes ``num_slots *
            block_seconds * sample_rate * 4`` bytes.

    Raises:
        ValueError: num_workers or num_slots is below 1.
        MusicFMError: the worker processes do not start.
    """
    if num_workers < 1 or num_slots < 1:
        raise ValueError(f"num_workers ({num_workers}) and num_slots ({num_slots}) must be >= 1")
    decode = partial(
        _decode, sample_rate=sample_rate, on_damage=on_damage, block_seconds=block_seconds
    )
    # A decoder rounds its blocks up to whole frames, a few hundredths of a second.
    shape = num_slots, math.ceil(1.05 * block_seconds * sample_rate)
    workers = [_Decoder[KeyT](decode, shape, timeout_seconds) for _ in range(num_workers)]
    return run_workers((job and (job[0], os.fspath(job[1])) for job in jobs), workers)


class _Decoder(Worker[KeyT, Start[KeyT] | Block[KeyT] | End[KeyT]]):
    """A worker with a ring."""

    def __init__(
        self, decode: Callable[..., Iterator[_Samples]], shape: tuple[int, int], timeout: float
    ) -> None:
        super().__init__(timeout)
        self._decode, self._shape = decode, shape
        self._ring: Any = None

    def _program(self, context: SpawnContext) -> tuple[Callable[..., None], tuple[Any, ...]]:
        if self._ring is None:  # unlike SharedMemory it has no name that a kill could leave behind
            self._ring = context.RawArray(ctypes.c_float, math.prod(self._shape))
        return _work, (self._ring, self._shape, self._decode)

    def _event(self, key: KeyT, message: Any) -> Start[KeyT] | Block[KeyT] | End[KeyT]:
        match message:
            case int(slot), int(count):
                samples = _slots(self._ring, self._shape)[slot, :count].copy()
                self._send(slot)
                return Block(key, samples)
            case "start", duration:
                return Start(key, duration)
            case _, warnings:
                return End(key, warnings)
        raise AssertionError(message)


def _slots(ring: Any, shape: tuple[int, int]) -> _Samples:
    return np.frombuffer(ring, np.float32).reshape(shape)


def _work(
    pipe: Connection, ring: Any, shape: tuple[int, int], decode: Callable[..., Iterator[_Samples]]
) -> None:
    """The worker: paths and free slots come in, samples go out, until the other side is gone."""
    slots, free, paths = _slots(ring, shape), deque(range(shape[0])), deque[str]()

    def receive() -> None:
        message = pipe.recv()
        (free if isinstance(message, int) else paths).append(message)

    def next_path() -> str:
        while not paths:
            receive()
        return paths.popleft()

    def begin(info: reading.AudioInfo) -> None:
        if duration := info.duration_seconds:
            pipe.send(("start", duration))

    def deliver(path: str) -> None:
        peak = 0.0
        for block in decode(path, on_info=begin):
            peak = max(peak, float(np.abs(block).max(initial=0.0)))
            for start in range(0, len(block), shape[1]):
                part = block[start : start + shape[1]]
                while not free:
                    receive()
                slot = free.popleft()
                slots[slot, : len(part)] = part
                pipe.send((slot, len(part)))
        if peak <= _SILENT_PEAK:
            warnings.warn(f"{printable(path)} {SILENT}", AudioWarning, stacklevel=1)

    serve(pipe, deliver, next_path)
