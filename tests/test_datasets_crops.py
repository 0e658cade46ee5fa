import errno
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest

from musicfm.audio import reading
from musicfm.datasets.crops import Crops, GlobalBatches, permuted
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import AudioError, ConfigError
from songs import write_songs


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Six songs of three seconds."""
    return write_songs(tmp_path_factory.mktemp("songs"), 6)


def crops_of(manifest: Manifest, seconds: float = 1.0, seed: int = 0) -> Crops:
    return Crops(manifest, 24_000, seconds, 1_025, seed)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 65, 1000])
def test_permutations_take_every_index_to_another(size: int) -> None:
    assert sorted(permuted(i, size, 5) for i in range(size)) == list(range(size))


def test_permutations_of_other_seeds_differ() -> None:
    orders = {tuple(permuted(i, 50, seed) for i in range(50)) for seed in range(20)}
    assert len(orders) == 20
    # Where each index goes is spread over the range.
    places = np.array([permuted(0, 50, seed) for seed in range(2_000)])
    assert np.bincount(places, minlength=50).max() < 80


def test_a_crop_is_a_function_of_its_number_alone(manifest: Manifest) -> None:
    once, again = crops_of(manifest), crops_of(manifest)
    backwards = [again[n].samples for n in reversed(range(8))][::-1]
    for n in range(8):
        np.testing.assert_array_equal(once[n].samples, backwards[n])
    assert not np.array_equal(once[0].samples, crops_of(manifest, seed=1)[0].samples)


def test_a_crop_is_a_part_of_its_track(manifest: Manifest) -> None:
    crops = crops_of(manifest)
    for n in range(6):
        track, start = crops.place(n)
        whole = reading.load(Path(manifest.root) / manifest[track].path, 24_000)
        begin = round(start * 24_000)
        np.testing.assert_array_equal(crops[n].samples, whole[begin : begin + 24_000])


def test_an_epoch_covers_tracks_by_their_length(tmp_path: Path) -> None:
    short = write_songs(tmp_path, 2, seconds=0.5)
    long = write_songs(tmp_path, 2, seconds=4.0, first_seed=10)
    crops = crops_of(Manifest(tmp_path, [*short, *long]))
    assert crops.per_epoch == 1 + 1 + 4 + 4
    for epoch in range(3):
        numbers = range(10 * epoch, 10 * epoch + 10)
        tracks = [crops.place(n)[0] for n in numbers]
        assert np.bincount(tracks).tolist() == [1, 1, 4, 4]
    assert [crops.place(n)[0] for n in range(10)] != [crops.place(n)[0] for n in range(10, 20)]


def test_crops_start_everywhere(manifest: Manifest) -> None:
    starts = [crops_of(manifest).place(n)[1] for n in range(600)]
    assert min(starts) < 0.02
    assert max(starts) > 1.98
    assert np.histogram(starts, bins=4, range=(0, 2))[0].min() > 110


def test_a_short_track_gives_what_it_has(tmp_path: Path) -> None:
    crops = crops_of(write_songs(tmp_path, 1, seconds=0.5))
    assert crops[0].samples.shape == (12_000,)


def test_a_broken_track_is_replaced_by_one_that_follows_from_the_number(tmp_path: Path) -> None:
    manifest = write_songs(tmp_path, 4)
    whole = crops_of(manifest)
    (n,) = [n for n in range(12) if whole.place(n)[0] == 2][:1]
    (tmp_path / manifest[2].path).write_bytes(b"RIFF not quite")
    crop, again = crops_of(manifest)[n], crops_of(manifest)[n]
    np.testing.assert_array_equal(crop.samples, again.samples)
    assert crop.samples.shape == (24_000,)
    (path, reason), *_ = crop.broken
    assert path == "song_2.wav"
    assert "song_2.wav" in reason
    healthy = next(m for m in range(12) if whole.place(m)[0] != 2)
    np.testing.assert_array_equal(crops_of(manifest)[healthy].samples, whole[healthy].samples)


def test_a_collection_that_is_all_broken_is_given_up(tmp_path: Path) -> None:
    manifest = write_songs(tmp_path, 3)
    for path in tmp_path.glob("*.wav"):
        path.unlink()
    with pytest.raises(AudioError, match=r"20 recordings in a row cannot be read: .*song_\d\.wav"):
        crops_of(manifest)[0]


def test_a_disk_that_fails_is_a_broken_recording(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Manifest, track: Track) -> BinaryIO:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Manifest, "open", fail)
    message = r"song_\d\.wav cannot be read \(Input/output error\); check its shard"
    with pytest.raises(AudioError, match=message):
        crops_of(manifest)[0]


def test_no_recordings_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no recordings"):
        crops_of(Manifest(tmp_path, []))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_the_crops_of_a_step(world_size: int) -> None:
    def steps(rank: int, first_step: int = 0) -> list[list[int]]:
        batches = iter(GlobalBatches(16, 2, rank, world_size, first_step))
        return [next(batches) for _ in range(2 * 8 // world_size)]

    for step in range(2):
        per_step = 8 // world_size
        crops = [
            n
            for rank in range(world_size)
            for batch in steps(rank)[step * per_step : (step + 1) * per_step]
            for n in batch
        ]
        assert crops == list(range(16 * step, 16 * step + 16))
    assert steps(0, first_step=1)[0] == steps(0)[8 // world_size]
