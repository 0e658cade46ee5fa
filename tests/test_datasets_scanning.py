import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import soundfile

import audio_files
from musicfm.datasets import scanning
from musicfm.datasets.scanning import (
    collect,
    read_track,
    scan,
    update_manifest,
)
from musicfm.datasets.splits import Splitting
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import ConfigError, DataError, OutputError
from musicfm.render.labels import GENERATOR


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some recordings in two folders, most with tags. Do not change it."""
    folder = tmp_path_factory.mktemp("music")
    for index, suffix in enumerate(["flac", "mp3", "ogg", "wav"]):
        path = folder / f"album {index % 2}" / f"{index}.{suffix}"
        path.parent.mkdir(exist_ok=True)
        with soundfile.SoundFile(path, "w", 44100, 2) as file:
            file.artist, file.title, file.genre = f"Artist {index % 2}", "Song;", "Rock; Pop"
            file.album = "Album"
            file.write(audio_files.tone(44100, 0.5 + index / 4))
    audio_files.write(folder, "tone.aac", seconds=1)
    return folder


@pytest.fixture
def music(originals: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    folder = tmp_path / "music"
    for path in sorted(originals.rglob("*.*")):
        target = folder / path.relative_to(originals)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    return folder


def found(path: str, *, check: bool) -> Iterator[float | Track]:
    """Stands in for `read_track`: does what the file's name says."""
    what = Path(path).stem
    if "hang" in what:
        time.sleep(1e6)
    if "crash" in what:
        os.kill(os.getpid(), signal.SIGKILL)
    if "slow" in what:
        for _ in range(8):
            time.sleep(0.5)
            yield 0.1
    yield from read_track(path, check)


def paths(manifest: Manifest) -> list[str]:
    return [track.path for track in manifest]


NAMES = ["album 0/0.flac", "album 0/2.ogg", "album 1/1.mp3", "album 1/3.wav", "tone.aac"]


def test_a_scan_finds_what_the_files_say(originals: Path) -> None:
    scanned = scan([originals], num_workers=2)
    assert paths(scanned.manifest) == NAMES
    assert (scanned.failures, scanned.num_read, scanned.num_unchanged) == ([], 5, 0)
    for track in scanned.manifest:
        path = originals / track.path
        assert (track.sample_rate, track.channels) == (44100, 2)
        assert (track.size, track.modified) == (path.stat().st_size, path.stat().st_mtime_ns)
        assert track.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        if path.suffix != ".aac":
            index = int(path.stem)
            assert track.duration == pytest.approx(0.5 + index / 4, abs=1e-4)
            assert (track.artist, track.album) == (f"Artist {index % 2}", "Album")
            assert (track.title, track.genres) == ("Song;", ("Rock", "Pop"))
    assert scanned.manifest[4].duration == pytest.approx(1.0, abs=0.1)  # found by decoding
    assert scanned.manifest[4].artist == ""


def test_sources_may_be_files_and_folders(originals: Path) -> None:
    sources = [originals / "tone.aac", originals / "album 1", originals / "album 1" / "1.mp3"]
    scanned = scan(sources, num_workers=1)
    assert paths(scanned.manifest) == ["album 1/1.mp3", "album 1/3.wav", "tone.aac"]
    assert scanned.manifest.root == originals


def test_a_name_that_no_file_can_have_costs_only_itself(originals: Path) -> None:
    scanned = scan([originals / "tone.aac", originals / "zero\0byte.wav"], num_workers=1)
    assert paths(scanned.manifest) == ["tone.aac"]
    assert "byte.wav cannot be read: embedded null byte" in scanned.failures[0][1]


def test_bad_files_are_listed_and_the_rest_is_used(music: Path) -> None:
    (music / "empty.mp3").touch()
    (music / "text.wav").write_text("not audio at all, whatever its name says")
    soundfile.write(music / "zero.wav", audio_files.tone(44100, 0.0), 44100)
    (music / "dead link.wav").symlink_to(music / "nowhere")
    (music / os.fsdecode(b"latin \xe9.wav")).write_bytes((music / NAMES[3]).read_bytes())
    for name in ("hang.wav", "crash.wav", "slow.wav"):
        (music / name).write_bytes((music / NAMES[3]).read_bytes())
    scanned = scan([music], num_workers=2, timeout_seconds=3.0, _read=found)
    assert paths(scanned.manifest) == sorted([*NAMES, "slow.wav"])
    reasons = {Path(path).stem: reason for path, reason in scanned.failures}
    expected = {
        "empty": "is empty",
        "text": "is not audio in a known format",
        "zero": "has no samples in it",
        "dead link": "cannot be read: No such file",
        os.fsdecode(b"latin \xe9"): r"latin \udce9.wav is not valid UTF-8; rename",
        "hang": "made no progress in the decoder for 3 s",
        "crash": "was in a decoder that was killed",
    }
    assert set(reasons) == set(expected)
    for name, text in expected.items():
        assert text in reasons[name]
        assert "\n" not in reasons[name]


def test_a_check_finds_damage_inside(music: Path) -> None:
    audio_files.overwrite(music / NAMES[0], 1000)
    assert scan([music / NAMES[0]]).failures == []
    ((_, reason),) = scan([music], check=True).failures
    assert "0.flac is damaged" in reason


def test_a_rescan_reads_what_is_new_or_has_changed(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    first = update_manifest(out, [music], num_workers=1)
    content = out.read_bytes()
    again = update_manifest(out, [music], num_workers=1)
    assert (again.num_read, again.num_unchanged, again.num_vanished) == (0, 5, 0)
    assert out.read_bytes() == content

    (music / NAMES[0]).unlink()
    (music / NAMES[1]).touch()
    audio_files.write(music, "tone.wav", seconds=0.7)
    (music / "bad.wav").touch()
    third = update_manifest(out, [music], num_workers=1)
    assert (third.num_read, third.num_unchanged, third.num_vanished) == (3, 3, 1)
    assert paths(Manifest.load(out)) == [*NAMES[1:], "tone.wav"]
    assert Manifest.load(out)[0].modified > first.manifest[1].modified
    # From a copy of nothing, the same is found.
    assert list(Manifest.load(out)) == list(scan([music], num_workers=1).manifest)
    report = json.loads((tmp_path / "m.report.json").read_text())
    assert report["failures"][0]["path"] == str(music / "bad.wav")
    assert (report["tracks"], report["read"], report["vanished"]) == (5, 3, 1)


def test_a_disk_that_is_away_costs_nothing(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, away, scandir = tmp_path / "m.parquet", tmp_path / "away", os.scandir
    update_manifest(out, [music], splitting=Splitting(valid=0.4, by="track"), num_workers=1)
    tracks = list(scanning._absolute(Manifest.load(out)))
    music.rename(away)
    scanned = update_manifest(out, [music], num_workers=1)
    assert (scanned.num_unchanged, scanned.num_vanished, len(scanned.failures)) == (5, 0, 1)
    assert list(scanning._absolute(Manifest.load(out))) == tracks
    away.rename(music)

    def refuse(path: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    assert update_manifest(out, [music], num_workers=1).num_unchanged == 5
    monkeypatch.setattr(os, "scandir", scandir)
    assert update_manifest(out, [music], num_workers=1).num_read == 0
    assert list(scanning._absolute(Manifest.load(out))) == tracks


def test_a_check_reads_again_what_is_known(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    path = music / NAMES[0]
    audio_files.overwrite(path, 1000)
    assert len(update_manifest(out, [music]).manifest) == 5
    checked = update_manifest(out, [music], check=True)
    assert (checked.num_read, len(checked.manifest), len(checked.failures)) == (5, 4, 1)


def test_splits_are_kept_or_made_anew(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.jsonl"
    manifest = update_manifest(out, [music]).manifest
    manifest.map(lambda track: replace(track, split="test")).save(out)
    (music / NAMES[1]).touch()
    (music / "new.wav").write_bytes((music / NAMES[3]).read_bytes())
    assert update_manifest(out, [music]).sizes == {"test": 5, None: 1}
    assert update_manifest(out, [music], check=True).sizes == {"test": 5, None: 1}
    (music / "new.wav").unlink()
    splitting = Splitting(valid=0.5, test=0.0, by="folder", seed=2)
    splits = [t.split for t in update_manifest(out, [music], splitting=splitting).manifest]
    assert set(splits) == {"train", "valid"}
    (music / NAMES[1]).touch()  # read again by a scan that was interrupted
    with scanning._notes(out, False) as (_, note), contextlib.suppress(KeyboardInterrupt):
        for track in scanning._absolute(Manifest.load(out)):
            note(replace(track, split="test"))
        raise KeyboardInterrupt
    assert [t.split for t in update_manifest(out, [music], splitting=splitting).manifest] == splits
    official = update_manifest(
        out,
        [music],
        splitting=splitting,
        annotate=lambda m: m.map(lambda t: replace(t, split="test" if "mp3" in t.path else None)),
    ).manifest
    splits[2] = "test"
    assert [t.split for t in official] == splits


@pytest.mark.parametrize(
    ("sandbox", "reason"),
    [
        ({"split": "heldout", "seed": 7}, "rendered heldout song, seed 7"),
        ({"split": "train", "seed": 7}, None),
    ],
)
def test_rendered_test_songs_are_reserved(
    music: Path, sandbox: dict[str, Any], reason: str | None
) -> None:
    labels = {"sandbox": {"generator": GENERATOR, **sandbox}}
    (music / "album 1" / "3.jams").write_text(json.dumps(labels))
    track = scan([music / "album 1" / "3.wav"], num_workers=1).manifest[0]
    assert (track.reserved, track.split) == (reason, None if reason is None else "test")
    assert track.artist == "musicfm render, seed 7"


@pytest.mark.parametrize(
    "labels", [{"sandbox": {"split": "test", "seed": 7}}, {"sandbox": {}}, [], "{"]
)
def test_other_labels_say_nothing(music: Path, labels: Any) -> None:
    (music / "album 1" / "3.jams").write_text(json.dumps(labels))
    track = scan([music / "album 1" / "3.wav"], num_workers=1).manifest[0]
    assert (track.reserved, track.split, track.artist) == (None, None, "Artist 1")


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from musicfm.datasets import scanning
from test_datasets_scanning import found

if __name__ == "__main__":
    read_all = scanning._read_all
    def wait(pending, task, num_workers, timeout_seconds):
        for item in read_all(pending, task, num_workers, timeout_seconds):
            yield item
            print("read", flush=True)
    scanning._read_all = wait
    scanning.update_manifest(sys.argv[2], [sys.argv[3]], num_workers=1)
"""


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_scan_continues(music: Path, tmp_path: Path, number: int) -> None:
    out, script = tmp_path / "m.parquet", tmp_path / "script.py"
    script.write_text(PROGRAM)
    os.mkfifo(music / "pipe")
    command = [sys.executable, str(script), str(Path(__file__).parent), str(out), str(music)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(number)
    assert not out.exists()
    notes = tmp_path / ".m.parquet.scan"
    num_noted = len(notes.read_bytes().splitlines())
    assert num_noted >= 3
    with notes.open("ab") as file:
        file.write(b'{"path": "torn')
    scanned = update_manifest(out, [music], num_workers=1)
    assert (scanned.num_unchanged, scanned.num_read) == (num_noted, 5 - num_noted)
    assert list(Manifest.load(out)) == list(scan([music]).manifest)
    assert not notes.exists()


def test_two_scans_do_not_write_to_one_manifest(music: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    with (
        scanning._notes(out, False),
        pytest.raises(OutputError, match=f"another run is writing to {tmp_path}"),
    ):
        update_manifest(out, [music])


def test_a_manifest_may_stand_for_its_files(originals: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    scanned = update_manifest(out, [originals]).manifest
    for source in (out, originals):
        assert list(collect([source]).manifest) == list(scanned)
    with pytest.raises(ConfigError, match=r"m\.parquet is a manifest; give it alone"):
        collect([originals, out])
    with pytest.raises(ConfigError, match=r"m\.parquet is a manifest; scan the files"):
        update_manifest(tmp_path / "n.parquet", [out])


def test_the_tracks_of_a_split_are_taken(originals: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.parquet"
    update_manifest(out, [originals], splitting=Splitting(0.5, 0.0, "folder", 2))
    valid = collect([out], split="valid").manifest
    assert 0 < len(valid) < 5
    assert {track.split for track in valid} == {"valid"}
    with pytest.raises(ConfigError, match=r"no track is in split 'test'; .* musicfm scan --valid"):
        collect([out], split="test")


def test_nothing_to_scan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to scan"):
        scan([])
    with pytest.raises(ConfigError, match=f"no recordings in {tmp_path}"):
        scan([tmp_path])
    (tmp_path / "bad.wav").touch()
    with pytest.raises(DataError, match=r"no file can be used: .*bad\.wav is empty"):
        collect([tmp_path])
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.jsonl"):
        update_manifest(tmp_path / "m.txt", [tmp_path])
