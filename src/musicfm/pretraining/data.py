"""The music of a pretraining run: settled once, found again, listed where it breaks."""

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from torch.utils.data import DataLoader

from musicfm.datasets.crops import Crops, GlobalBatches
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import DataError, TrainingError, printable
from musicfm.files import write_json, writing
from musicfm.pretraining.batches import Example, Examples, example_loader
from musicfm.pretraining.objective import Batch
from musicfm.pretraining.recipe import Recipe
from musicfm.seeds import derive_seed

MAX_BROKEN = 0.05
"""Part of the tracks that may break during training, and at least ten, until a run is stopped."""


def hold_out(manifest: Manifest) -> tuple[Manifest, Manifest]:
    """Tracks to learn from and tracks held out, by their splits; those for testing are in neither.

    Where nothing is in a split yet, about a twentieth of the artists is held out, or of the tracks
    where artists are not known.
    """
    for by in ("artist", "track"):
        divided = split(manifest, Splitting(valid=0.05, by=by))
        train, valid = divided.of_split("train"), divided.of_split("valid")
        if len(train) and len(valid):
            break
    return train, valid


class RunData:
    """The tracks of a run, and one process's share of their clips.

    Args:
        recipe: of the run.
        folder: of the run.
        num_workers: processes that load clips; None: as many as there are cores for.
        world_size: processes that train.
    """

    def __init__(
        self, recipe: Recipe, folder: Path, num_workers: int | None, world_size: int
    ) -> None:
        self._recipe, self._folder, self._world_size = recipe, folder, world_size
        cores = (os.cpu_count() or 1) // world_size
        self._num_workers = max(1, min(8, cores - 1)) if num_workers is None else num_workers
        self._broken: dict[str, str] = {}

    def settle(self, collect: Callable[[], tuple[Manifest, Manifest]], progress: bool) -> None:
        """In the first process: writes down what the run is about, or finds it again."""
        if os.path.exists(self._folder / "recipe.json"):
            self._go_on(collect, progress)
            return
        train, valid = collect()
        _check_tracks(train)
        _check_tracks(valid)
        if not len(train):
            raise DataError("there are no tracks to learn from; give more music")
        train.save(self._folder / "train.parquet")
        valid.save(self._folder / "valid.parquet")
        write_json(self._folder / "recipe.json", self._recipe.to_dict(), indent=2)

    def _go_on(self, collect: Callable[[], tuple[Manifest, Manifest]], progress: bool) -> None:
        """With the tracks that the run began with; if they are there no more, with the same ones
        among those given.

        Raises DataError if these have not all of them.
        """
        paths = [self._folder / name for name in ("train.parquet", "valid.parquet")]
        parts = [Manifest.load(path) for path in paths]
        away = [(path, part) for path, part in zip(paths, parts, strict=True) if _is_away(part)]
        if away:
            given = collect()
            for path, part in away:  # either by itself: a kill may come between the two
                _found_again(part, given).save(path)
        if progress:
            where = printable(str(paths[0]))
            print(
                f"going on with the {len(parts[0])} tracks that the run began with ({where})",
                file=sys.stderr,
            )

    def load(self, rank: int) -> None:
        """Reads what the first process has settled, as the process of a rank."""
        self.train = Manifest.load(self._folder / "train.parquet")
        self.valid = Manifest.load(self._folder / "valid.parquet")
        self._rank = rank

    def train_batches(self, step: int) -> Iterator[Batch]:
        """Micro-batches from a step on, without end."""
        size, micro_size = self._recipe.batch_size, self._recipe.micro_batch_size
        batches = GlobalBatches(size, micro_size, self._rank, self._world_size, step)
        return self._batches(
            example_loader(self._examples(self.train, "train"), batches, self._num_workers)
        )

    def valid_batches(self) -> Iterator[Batch]:
        """Of held-out clips, always the same ones."""
        size = self._recipe.micro_batch_size
        share = range(self._rank, self._recipe.validation_clips, self._world_size)
        batches = [list(share[first : first + size]) for first in range(0, len(share), size)]
        return self._batches(
            example_loader(self._examples(self.valid, "valid"), batches, self._num_workers)
        )

    def _batches(self, loader: DataLoader[Example]) -> Iterator[Batch]:
        for batch, broken in loader:
            self._note_broken(broken)
            yield batch

    def _note_broken(self, broken: Sequence[tuple[str, str]]) -> None:
        """Writes down what could not be read. Raises TrainingError when it is too much."""
        path = self._folder / f"broken.{self._rank}.jsonl"
        for track, reason in broken:
            if track not in self._broken:
                self._broken[track] = reason
                with writing(path), path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"path": track, "reason": reason}) + "\n")
        if len(self._broken) > max(10, MAX_BROKEN * len(self.train)):
            reasons = "; ".join(list(self._broken.values())[:3])
            raise TrainingError(
                f"{len(self._broken)} of {len(self.train)} tracks cannot be read ({reasons}; all "
                f"are listed in {path}); repair or remove them, and resume"
            )

    def _examples(self, manifest: Manifest, purpose: str) -> Examples:
        model, seed = self._recipe.model, derive_seed(self._recipe.seed, purpose)
        crops = Crops(
            manifest, model.sample_rate, model.context_seconds, model.mel.min_samples, seed
        )
        return Examples(crops, model, self._recipe.masking, seed)


def _is_away(manifest: Manifest) -> bool:
    """Whether tracks that were on this machine are not where they were: none of three."""
    if isinstance(manifest.root, str) or not len(manifest):
        return False
    some = (manifest[index] for index in (0, len(manifest) // 2, -1))
    return not any(os.path.exists(manifest.root / (track.shard or track.path)) for track in some)


def _found_again(manifest: Manifest, given: Sequence[Manifest]) -> Manifest:
    """The same tracks by their bytes, in the same order, where they are now. Raises DataError."""
    places: dict[str, list[Track]] = {}
    for track in itertools.chain(*given):
        places.setdefault(track.sha256, []).append(track)
    missing = [track for track in manifest if track.sha256 not in places]
    if missing:
        raise DataError(
            f"{len(missing)} of the {len(manifest)} tracks that the run began with are neither "
            f"where they were nor in the music given, such as {missing[0].path}; give the music "
            "that it began with"
        )
    found = []
    for track in manifest:
        here = places[track.sha256]
        found.append(replace(here.pop() if len(here) > 1 else here[0], split=track.split))
    return Manifest(given[0].root, found)


def _check_tracks(manifest: Manifest) -> None:
    """Raises DataError if a track is reserved for testing."""
    reserved = [track for track in manifest if track.reserved]
    if reserved:
        first = reserved[0]
        raise DataError(
            f"{len(reserved)} tracks are reserved for testing, such as {first.path} "
            f"({first.reserved}); pretrain without them"
        )
