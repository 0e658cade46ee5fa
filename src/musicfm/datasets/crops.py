"""Random crops of a collection: crop n is a pure function of (seed, n) and of the files.

So whoever computes crop n, in whichever process and after however many interruptions, gets the
same. Clip p of step s is crop ``s * batch_size + p``.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from musicfm.audio import reading
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import AudioError, ConfigError, DataError
from musicfm.seeds import derive_seed

MAX_REPLACEMENTS = 20
"""Files tried for one crop until the collection is given up as broken."""

Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Crop:
    """A piece of a recording, and the files that could not be read in its place."""

    samples: Samples
    """(samples,), fewer than asked for where the recording is shorter."""
    broken: tuple[tuple[str, str], ...] = ()
    """Path and reason of each track that failed before this one was taken."""


class Crops:
    """Crops of recordings, in an order that covers all of the music once an epoch.

    A recording occurs in an epoch as often as the crop fits into it, at random places. A file that
    cannot be read is replaced by another one, which follows from (seed, n) too.

    Args:
        manifest: the recordings.
        sample_rate: of the crops, in Hz.
        seconds: length of a crop.
        min_samples: a crop with fewer samples counts as broken.
        seed: of everything.

    Raises ConfigError if there are no recordings.
    """

    def __init__(
        self, manifest: Manifest, sample_rate: int, seconds: float, min_samples: int, seed: int
    ) -> None:
        if not len(manifest):
            raise ConfigError("there are no recordings to take crops from; give some")
        self._manifest, self._sample_rate, self._seconds = manifest, sample_rate, seconds
        self._min_samples, self._seed = min_samples, seed
        self._durations = manifest.durations
        places = np.maximum(1, np.rint(self._durations / seconds)).astype(np.int64)
        self._ends = np.cumsum(places)

    @property
    def per_epoch(self) -> int:
        """Crops until each recording has had its share."""
        return int(self._ends[-1])

    def __getitem__(self, n: int) -> Crop:
        """Crop n, for any n from 0. Raises AudioError when file after file is broken."""
        broken: list[tuple[str, str]] = []
        for attempt in range(MAX_REPLACEMENTS):
            index, start = self.place(n, attempt)
            track = self._manifest[index]
            try:
                samples = self._load(track, start)
                if len(samples) < self._min_samples:
                    raise AudioError(f"only {len(samples)} samples from {start:.2f} s on")
                return Crop(samples, tuple(broken))
            except (AudioError, DataError) as error:
                broken.append((track.path, str(error)))
        reasons = "; ".join(list(dict.fromkeys(reason for _, reason in broken))[:3])
        raise AudioError(f"{len(broken)} recordings in a row cannot be read: {reasons}")

    def place(self, n: int, attempt: int = 0) -> tuple[int, float]:
        """Index of the track, and start in seconds, of crop n or of its replacements."""
        epoch, index = divmod(n, self.per_epoch)
        if attempt:
            index = derive_seed(self._seed, "replacement", n, attempt) % self.per_epoch
        else:
            index = permuted(index, self.per_epoch, derive_seed(self._seed, "order", epoch))
        track = int(np.searchsorted(self._ends, index, side="right"))
        room = max(0.0, float(self._durations[track]) - self._seconds)
        where = derive_seed(self._seed, "start", n, attempt) / 2**63
        return track, where * room

    def _load(self, track: Track, start: float) -> Samples:
        try:
            with self._manifest.open(track) as recording:
                return reading.load(
                    recording,
                    self._sample_rate,
                    start_seconds=start,
                    duration_seconds=self._seconds,
                )
        except OSError as error:
            reason = error.strerror or error
            raise DataError(f"{track.path} cannot be read ({reason}); check its shard") from error


def permuted(index: int, size: int, seed: int) -> int:
    """Where a random permutation of ``range(size)`` takes ``index``, without storing it.

    A Feistel network over the next even number of bits, followed until it falls into the range
    (cycle walking; Black and Rogaway 2002).
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for round_number in range(4):
            key = hashlib.blake2b(f"{seed} {round_number} {right}".encode(), digest_size=8)
            left, right = right, left ^ (int.from_bytes(key.digest(), "little") & mask)
        index = left << half | right
        if index < size:
            return index


class GlobalBatches(Sampler[list[int]]):
    """The crops of each micro-batch of one process, from a step on, without end.

    A step has ``batch_size`` crops. Process r of w takes the r-th of w equal parts, in
    micro-batches.
    """

    def __init__(
        self, batch_size: int, micro_batch_size: int, rank: int, world_size: int, first_step: int
    ) -> None:
        self._batch_size, self._micro_batch_size = batch_size, micro_batch_size
        self._share = batch_size // world_size
        self._rank, self._step = rank, first_step

    def __iter__(self) -> Iterator[list[int]]:
        step = self._step
        while True:
            begin = step * self._batch_size + self._rank * self._share
            for first in range(begin, begin + self._share, self._micro_batch_size):
                yield list(range(first, first + self._micro_batch_size))
            step += 1
