import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from fsspec.implementations.memory import MemoryFileSystem

import audio_files
from musicfm import remote
from musicfm.audio import reading
from musicfm.datasets.crops import Crops, GlobalBatches
from musicfm.datasets.scanning import collect, scan
from musicfm.datasets.shards import Prepared, prepare
from musicfm.datasets.tracks import INDEX, Manifest
from musicfm.errors import ConfigError, DataError, OutputError

OPTIONS: dict[str, Any] = {"shard_seconds": 6.0, "piece_seconds": 2.5, "num_workers": 1}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Seven recordings of 1 to 4 seconds. Do not change them."""
    folder = tmp_path_factory.mktemp("music")
    for index, suffix in enumerate(["wav", "flac", "mp3", "ogg", "aac", "wav", "wav"]):
        path = audio_files.write(folder, f"tone.{suffix}", seconds=1 + index / 2)
        path.rename(folder / f"{index}.{suffix}")
    tracks = scan([folder], num_workers=1).manifest
    return tracks.map(lambda t: replace(t, artist="Björk", genres=("a", "b"), split="valid"))


@pytest.fixture(scope="module")
def prepared(manifest: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """The shards of an undisturbed run. Do not change them."""
    return prepare(manifest, tmp_path_factory.mktemp("shards"), **OPTIONS)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard-*.tar"))}


def original(manifest: Manifest, prepared: Prepared) -> dict[str, npt.NDArray[np.float32]]:
    """By source, the pieces in the index put together again."""
    parts: dict[str, list[npt.NDArray[np.float32]]] = {}
    for track in prepared.index:
        assert track.shard is not None
        with tarfile.open(Path(prepared.index.root) / track.shard) as archive:
            member = archive.extractfile(track.path.replace(".flac", ".json"))
            assert member is not None
            facts = json.load(member)
        with prepared.index.open(track) as source:
            samples = reading.load(source, 24000)
        assert len(samples) == round(track.duration * 24000)
        done = parts.setdefault(facts["source"], [])
        assert facts["start"] * 24000 == pytest.approx(sum(map(len, done)))
        done.append(samples)
    return {source: np.concatenate(pieces) for source, pieces in parts.items()}


def test_the_shards_hold_all_recordings(manifest: Manifest, prepared: Prepared) -> None:
    assert prepared.num_shards > 2
    assert prepared.failures == []
    found = original(manifest, prepared)
    assert sorted(found) == [track.path for track in manifest]
    for track in manifest:
        expected = reading.load(Path(manifest.root) / track.path, 24000)
        np.testing.assert_allclose(found[track.path], expected, atol=1 / 32768)


def test_the_index_is_a_manifest_of_bytes(prepared: Prepared) -> None:
    for track in prepared.index:
        assert track.shard is not None
        data = (Path(prepared.index.root) / track.shard).read_bytes()[track.offset :][: track.size]
        assert hashlib.sha256(data).hexdigest() == track.sha256
        assert data[:4] == b"fLaC"
        assert (track.sample_rate, track.channels, track.modified) == (24000, 1, 0)
        assert (track.artist, track.genres, track.split) == ("Björk", ("a", "b"), "valid")
        assert track.duration <= 2.5 + 0.1  # an AAC file is a little longer than it says
    root = Path(prepared.index.root)
    loaded = Manifest.load(root / INDEX)
    assert list(loaded) == list(prepared.index) == list(collect([root]).manifest)
    shards = [list(Manifest.load(path)) for path in sorted(root.glob("shard-*.jsonl"))]
    assert [track for shard in shards for track in shard] == list(prepared.index)


def test_a_crop_is_read_from_a_shard(prepared: Prepared) -> None:
    track = max(prepared.index, key=lambda track: track.duration)
    with prepared.index.open(track) as source:
        whole = reading.load(source, 24000)
        crop = reading.load(source, 24000, start_seconds=0.7, duration_seconds=0.5)
    np.testing.assert_array_equal(crop, whole[round(0.7 * 24000) :][:12000])


def test_processes_share_an_epoch_of_shards_without_loss_or_repetition(prepared: Prepared) -> None:
    crops = Crops(prepared.index, 24000, seconds=1.0, min_samples=2400, seed=0)
    num_steps = crops.per_epoch // 4
    heard = []
    for rank in range(2):
        batches = iter(GlobalBatches(4, 2, rank, world_size=2, first_step=0))
        heard.append([next(batches) for _ in range(num_steps)])
        resumed = iter(GlobalBatches(4, 2, rank, world_size=2, first_step=2))
        assert [next(resumed) for _ in range(num_steps - 2)] == heard[-1][2:]
    numbers = [number for batches in heard for batch in batches for number in batch]
    assert sorted(numbers) == list(range(4 * num_steps))
    places = Counter(crops.place(number)[0] for number in range(crops.per_epoch))
    assert places == {at: max(1, round(d)) for at, d in enumerate(prepared.index.durations)}
    assert all(crops[number].broken == () for number in range(crops.per_epoch))


@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO")  # it closes no file
def test_webdataset_reads_the_shards(prepared: Prepared) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(Path(prepared.index.root).glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [f"{sample['__key__']}.flac" for sample in samples] == [t.path for t in prepared.index]
    for sample, track in zip(samples, prepared.index, strict=True):
        facts = json.loads(sample["json"])
        assert facts["duration"] == track.duration
        assert facts["artist"] == "Björk"
        assert hashlib.sha256(sample["flac"]).hexdigest() == track.sha256


def test_the_bytes_depend_on_nothing_but_the_tracks(
    manifest: Manifest, prepared: Prepared, tmp_path: Path
) -> None:
    turned = Manifest(manifest.root, sorted(manifest, key=lambda t: t.path, reverse=True))
    prepare(turned, tmp_path, **OPTIONS | {"num_workers": 2})
    assert content(tmp_path) == content(Path(prepared.index.root))
    assert (tmp_path / INDEX).read_bytes() == (Path(prepared.index.root) / INDEX).read_bytes()


_calls = itertools.count()


def stall(source: Any, sample_rate: int) -> Iterator[npt.NDArray[np.float32]]:
    """Stands in for `audio.stream`: does not return from the fifth recording."""
    if next(_calls) == 4:
        time.sleep(1e6)
    yield from reading.stream(source, sample_rate)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
from musicfm.datasets.shards import prepare
from musicfm.datasets.tracks import Manifest
from test_datasets_shards import OPTIONS, stall

if __name__ == "__main__":
    prepare(Manifest.load(sys.argv[2]), sys.argv[3], **OPTIONS, _stream=stall)
"""


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_was_stopped_continues(
    manifest: Manifest, prepared: Prepared, tmp_path: Path, number: int
) -> None:
    source, out, script = tmp_path / "m.jsonl", tmp_path / "out", tmp_path / "script.py"
    manifest.save(source)
    script.write_text(PROGRAM)
    command = [sys.executable, str(script), str(Path(__file__).parent), str(source), str(out)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while not list(out.glob("shard-*.tar")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(number)
    done = content(out)
    assert 0 < len(done) < prepared.num_shards
    (out / ".shard-000001.tar.0123abcd.partial").write_bytes(b"left by a kill")
    again = prepare(Manifest.load(source), out, **OPTIONS)
    assert again.num_done_before in (len(done), len(done) - 1)  # one may not be in the journal
    assert content(out) == content(Path(prepared.index.root))
    assert list(again.index) == list(prepared.index)
    assert not list(out.glob("*.partial")) + list(out.glob(".*.partial"))


def test_a_complete_run_is_not_repeated(manifest: Manifest, tmp_path: Path) -> None:
    few = Manifest(manifest.root, list(manifest)[:2])
    prepare(few, tmp_path, **OPTIONS)
    (shard,) = tmp_path.glob("*.tar")
    before = shard.stat().st_mtime_ns
    assert prepare(few, tmp_path, **OPTIONS).num_done_before == 1
    assert shard.stat().st_mtime_ns == before
    touched = few.map(lambda track: replace(track, modified=1))
    assert prepare(touched, tmp_path, **OPTIONS).num_done_before == 1
    with pytest.raises(OutputError, match=r"results of other settings \(piece_seconds differ\)"):
        prepare(few, tmp_path, **OPTIONS | {"piece_seconds": 9.0})
    with pytest.raises(OutputError, match=r"results of other settings \(tracks differ\)"):
        prepare(Manifest(few.root, [few[0]]), tmp_path, **OPTIONS)
    shard.unlink()
    assert prepare(few, tmp_path, **OPTIONS).num_done_before == 0
    other = prepare(few, tmp_path, **OPTIONS | {"piece_seconds": 9.0}, overwrite=True)
    assert (other.num_done_before, other.failures) == (0, [])


def hostile(source: Any, sample_rate: int) -> Iterator[npt.NDArray[np.float32]]:
    """Stands in for `audio.stream`: does what the file's name says."""
    if "hang" in str(source):
        time.sleep(1e6)
    if "crash" in str(source):
        os.kill(os.getpid(), signal.SIGKILL)
    if "unreadable" in str(source):
        raise OSError(5, "Input/output error")
    yield from reading.stream(source, sample_rate)


@pytest.mark.processes
def test_bad_tracks_are_left_out(manifest: Manifest, tmp_path: Path) -> None:
    good = [track for track in manifest if track.path in ("0.wav", "1.flac")]
    names = ["hang", "crash", "crash too", "unreadable", "gone", "damaged"]
    (tmp_path / "damaged").write_bytes((Path(manifest.root) / "5.wav").read_bytes())
    audio_files.truncate(tmp_path / "damaged")
    bad = [replace(good[0], path=str(tmp_path / name)) for name in names]
    mixed = Manifest(manifest.root, [*good, *bad])
    options = OPTIONS | {"shard_seconds": 60.0, "timeout_seconds": 5.0}
    found = prepare(mixed, tmp_path / "a", **options, _stream=hostile)
    reasons = {Path(path).name: reason for path, reason in found.failures}
    expected = {
        "hang": "hang made no progress in the decoder for 5 s",
        "crash": "crash was in a decoder that was killed",
        "crash too": "crash too was in a decoder that was killed",
        "unreadable": "unreadable cannot be read (Input/output error)",
        "gone": "gone does not exist",
        "damaged": "damaged is damaged",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name]
    assert sorted(original(mixed, found)) == ["0.wav", "1.flac"]
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert {Path(failure["path"]).name for failure in report["failures"]} == set(expected)
    again = prepare(mixed, tmp_path / "a", **options)
    assert (again.num_done_before, again.failures) == (1, found.failures)


def test_loud_recordings_are_clipped(tmp_path: Path) -> None:
    loud = np.array([0.5, 1.5, -1.5] * 8000, np.float32)
    soundfile.write(tmp_path / "loud.wav", loud, 24000, subtype="FLOAT")
    found = prepare(scan([tmp_path / "loud.wav"]).manifest, tmp_path / "out", num_workers=1)
    with found.index.open(found.index[0]) as source:
        np.testing.assert_allclose(reading.load(source, 24000), loud.clip(-1, 1), atol=1e-4)


def test_a_full_disk_ends_the_run(manifest: Manifest, tmp_path: Path) -> None:
    few = Manifest(manifest.root, list(manifest)[:2])
    (tmp_path / "shard-000000.tar").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*shard-000000\.tar: Is a directory"):
        prepare(few, tmp_path, **OPTIONS)


def test_impossible_settings_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"piece_seconds is 0\.5; give 1 or more"):
        prepare(manifest, tmp_path, piece_seconds=0.5)
    with pytest.raises(ConfigError, match=r"shard_seconds is inf; give 1 or more"):
        prepare(manifest, tmp_path, shard_seconds=float("inf"), piece_seconds=float("inf"))
    for rate in (24, 100_001, 1_000_000):
        with pytest.raises(ConfigError, match=f"sample_rate is {rate} Hz; give 1000 to 65535, or"):
            prepare(manifest, tmp_path, sample_rate=rate)
    with pytest.raises(ConfigError, match="no tracks to prepare"):
        prepare(Manifest("x", []), tmp_path)
    with pytest.raises(ConfigError, match="num_workers is 0"):
        prepare(manifest, tmp_path, num_workers=0)


def test_a_missing_shard_is_named(prepared: Prepared, tmp_path: Path) -> None:
    moved = Manifest(tmp_path, prepared.index)
    with (
        pytest.raises(DataError, match=r"cannot read .*shard-000000\.tar: No such file"),
        moved.open(moved[0]),
    ):
        pass


# --------------------------------------------------------------------- object stores


@pytest.fixture
def stored(prepared: Prepared, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of the shards in a store whose every second request fails."""
    root = Path(prepared.index.root)
    for path in [*root.glob("*.tar"), root / INDEX]:
        with fsspec.open(f"memory://bucket/shards/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    numbers = itertools.count()
    cat = MemoryFileSystem.cat_file

    def unsteady(self: MemoryFileSystem, path: str, start: int, stop: int) -> bytes:
        if next(numbers) % 2 == 0:
            raise OSError("503 Slow Down")
        return bytes(cat(self, path, start, stop))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", unsteady)
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.001)
    yield "memory://bucket/shards"
    MemoryFileSystem.store.clear()


def test_crops_of_a_store_are_those_of_the_disk(prepared: Prepared, stored: str) -> None:
    manifest = collect([stored]).manifest
    assert list(manifest) == list(prepared.index)
    near, far = (Crops(m, 24_000, 0.7, 1_025, seed=0) for m in (prepared.index, manifest))
    for n in range(near.per_epoch):
        np.testing.assert_array_equal(near[n].samples, far[n].samples)
        assert not far[n].broken


def test_a_manifest_of_a_store_finds_it_from_anywhere(stored: str, tmp_path: Path) -> None:
    collect([stored]).manifest.save(tmp_path / "train.parquet")
    loaded = Manifest.load(tmp_path / "train.parquet")
    assert loaded.root == stored
    assert len(Crops(loaded, 24_000, 0.7, 1_025, seed=0)[0].samples) == 16_800


def test_a_shard_that_cannot_be_had_is_replaced_and_named(
    stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = collect([stored]).manifest
    gone = manifest[0].shard
    cat = MemoryFileSystem.cat_file

    def without(self: MemoryFileSystem, path: str, start: int, stop: int) -> bytes:
        if path.endswith(str(gone)):
            raise OSError("503 Slow Down")
        return bytes(cat(self, path, start, stop))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", without)
    crops = Crops(manifest, 24_000, 0.7, 1_025, seed=0)
    broken = [found for n in range(crops.per_epoch) for found in crops[n].broken]
    assert {path for path, _ in broken} == {t.path for t in manifest if t.shard == gone}
    assert all("7 attempts failed, the last with: 503 Slow Down" in why for _, why in broken)


def test_urls_are_of_manifests_and_shards(stored: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read memory://nowhere/index\.parquet: No such"):
        collect(["memory://nowhere"])
    with pytest.raises(ConfigError, match="is a URL; give that of one manifest or of a folder of"):
        collect([stored, str(tmp_path)])
