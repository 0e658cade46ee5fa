import hashlib
import io
import json
import math
import random
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

import audio_files
from musicfm.audio import reading
from musicfm.datasets.tracks import Manifest, Track, recordings_of
from musicfm.errors import AudioError, ConfigError, DataError
from musicfm.journal import Recording

BARE = Track("a/b.mp3", 3.5, 44100, 2, 1000, 1_700_000_000_123_456_789, "0" * 64)
FULL = Track(
    "c é\n.flac",
    1 / 3,
    24000,
    1,
    10,
    0,
    "f" * 64,
    artist="A",
    album="B",
    title="C",
    genres=("Rock", "Pop"),
    split="valid",
    reserved="rendered test song, seed 1100000003",
    shard="shard-000000.tar",
    offset=512,
)
FORMATS = pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])


@FORMATS
def test_a_manifest_comes_back_as_it_was_saved(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"music{suffix}"
    saved = Manifest(tmp_path / "music", [BARE, FULL])
    saved.save(path)
    loaded = Manifest.load(path)
    assert list(loaded) == [BARE, FULL]
    assert [loaded[0], loaded[-1]] == [BARE, FULL]
    assert loaded.root == tmp_path / "music"
    assert loaded.digest() == saved.digest()
    assert list(loaded.durations) == [3.5, 1 / 3]
    assert loaded.seconds == math.fsum([3.5, 1 / 3])


@FORMATS
def test_equal_manifests_are_equal_files(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        Manifest(tmp_path, [BARE, FULL]).save(tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@FORMATS
def test_an_empty_manifest_is_one(tmp_path: Path, suffix: str) -> None:
    Manifest(tmp_path, []).save(tmp_path / f"m{suffix}")
    empty = Manifest.load(tmp_path / f"m{suffix}")
    assert len(empty) == len(empty.select(lambda _: True)) == len(empty.of_split("train")) == 0
    assert (empty.seconds, list(empty)) == (0.0, [])


def test_a_manifest_beside_its_music_moves_with_it(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    Manifest(tmp_path / "here" / "music", [BARE]).save(tmp_path / "here" / "m.jsonl")
    Manifest(tmp_path / "elsewhere", [BARE]).save(tmp_path / "here" / "fixed.jsonl")
    moved = (tmp_path / "here").rename(tmp_path / "there")
    assert Manifest.load(moved / "m.jsonl").root == moved / "music"
    assert Manifest.load(moved / "fixed.jsonl").root == tmp_path / "elsewhere"
    assert Manifest.load(moved / "m.jsonl", root=tmp_path).root == tmp_path


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    digest = Manifest("x", [BARE, FULL]).digest()
    moved = [replace(FULL, path="other", title="D", shard=None), replace(BARE, modified=1)]
    assert Manifest("y", moved).digest() == digest
    text = f"{'0' * 64} 3.5\n{'f' * 64} {1 / 3!r}\n"
    assert digest == hashlib.sha256(text.encode()).hexdigest()
    for change in ({"duration": 3.6}, {"sha256": "1" * 64}):
        other: dict[str, Any] = dict(change)
        assert Manifest("x", [replace(BARE, **other), FULL]).digest() != digest
    assert Manifest("x", [BARE]).digest() != digest


def test_tracks_are_selected_and_changed() -> None:
    manifest = Manifest("x", [BARE, FULL])
    assert list(manifest.of_split("valid")) == [FULL]
    assert list(manifest.of_split(None)) == [BARE]
    assert list(manifest.of_split("test")) == []
    assert list(manifest.select(lambda track: track.channels == 2)) == [BARE]
    changed = manifest.map(lambda track: replace(track, split="train"))
    assert [track.split for track in changed] == ["train", "train"]
    with pytest.raises(IndexError):
        manifest[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": 0.0}, "track 'a/b.mp3' has an impossible duration, 0.0"),
        ({"duration": math.nan}, "impossible duration, nan"),
        ({"size": 0}, "impossible size, 0"),
        ({"sample_rate": -1}, "impossible sample_rate, -1"),
        ({"offset": -1}, "impossible offset, -1"),
        ({"split": "dev"}, "split 'dev'; splits are train, valid, test"),
        ({"path": FULL.path}, "occurs twice"),
    ],
)
def test_impossible_tracks_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Manifest("x", [FULL, replace(BARE, **change)])


def lines(path: Path, *texts: str) -> Path:
    path.write_text("\n".join(texts) + "\n")
    return path


HEADER = json.dumps({"musicfm_manifest": 1, "root": "."})
GOOD = '{"path": "a", "duration": 1, "sample_rate": 1, "channels": 1, "size": 1, "modified": 1,'
GOOD += ' "sha256": ""}'


def test_a_line_by_hand_is_read(tmp_path: Path) -> None:
    (track,) = Manifest.load(lines(tmp_path / "m.jsonl", HEADER, GOOD))
    assert track == Track("a", 1.0, 1, 1, 1, 1, "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "it is not an object"),
        ('{"path": "b"}', "'channels' is missing"),
        (GOOD.replace("sha256", "sha1"), "unknown key 'sha1'"),
        (GOOD.replace('"a"', "7"), "'path' is 7"),
        (GOOD.replace('"size": 1', '"size": true'), "'size' is True"),
        (GOOD.replace('"size": 1', '"size": 1, "genres": [3]'), r"'genres' is \[3\]"),
        ("[" * 100_000, "nests too deeply"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = lines(tmp_path / "m.jsonl", HEADER, GOOD.replace('"a"', '"c"'), line)
    with pytest.raises(DataError, match=rf"m.jsonl, line 3 is not a track \(.*{message}") as error:
        Manifest.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "{}", "{", "[1]", '{"musicfm_manifest": 1}', GOOD])
def test_foreign_files_are_refused(tmp_path: Path, text: str) -> None:
    path = lines(tmp_path / "m.jsonl", text)
    with pytest.raises(DataError, match=r"m\.jsonl is not a manifest of musicfm"):
        Manifest.load(path)
    parquet.write_table(pa.table({"x": [1]}), tmp_path / "m.parquet")
    with pytest.raises(DataError, match=r"m\.parquet is not a manifest of musicfm"):
        Manifest.load(tmp_path / "m.parquet")


def test_newer_manifests_are_refused(tmp_path: Path) -> None:
    path = lines(tmp_path / "m.jsonl", HEADER.replace("1", "2"))
    with pytest.raises(DataError, match=r"m\.jsonl was written by a newer musicfm \(version 2"):
        Manifest.load(path)


def test_damaged_tables_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    Manifest("x", [BARE]).save(path)
    table = parquet.read_table(path)
    audio_files.truncate(path)
    with pytest.raises(DataError, match=r"m\.parquet is damaged, or not a Parquet file"):
        Manifest.load(path)
    parquet.write_table(table.drop_columns(["sha256"]), path)
    with pytest.raises(DataError, match=r"m\.parquet has other columns"):
        Manifest.load(path)


def test_missing_and_misnamed_files_are_named(tmp_path: Path) -> None:
    for suffix in (".parquet", ".jsonl"):
        with pytest.raises(DataError, match=f"cannot read .*m{suffix}: No such file"):
            Manifest.load(tmp_path / f"m{suffix}")
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.jsonl"):
        Manifest.load(tmp_path / "m.csv")
    with pytest.raises(ConfigError, match=r"must end in \.parquet or \.jsonl"):
        Manifest("x", []).save(tmp_path / "m.csv")


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> tuple[Manifest, Path]:
    """A manifest of a file and of the same file amid others, and the file."""
    folder = tmp_path_factory.mktemp("shard")
    file = audio_files.write(folder, "tone.flac", seconds=20)
    data = file.read_bytes()
    (folder / "shard.tar").write_bytes(bytes(700) + data + bytes(300))
    loose = Track(file.name, 20.0, 44100, 2, len(data), 0, "")
    inside = replace(loose, path="inside.flac", shard="shard.tar", offset=700)
    return Manifest(folder, [loose, inside]), file


def test_a_track_is_read_alike_from_a_file_and_from_a_shard(shard: tuple[Manifest, Path]) -> None:
    manifest, file = shard
    loose, inside = manifest
    with manifest.open(loose) as path, manifest.open(inside) as part:
        assert path == file
        assert isinstance(part, io.BufferedReader)
        info = reading.probe(part)
        assert (info.sample_rate, info.num_samples) == (44100, 20 * 44100)
        for start, seconds in ((0.0, None), (0.0, 1.0), (13.7, 2.0), (19.5, 9.0)):
            a, b = (
                reading.load(source, 24000, start_seconds=start, duration_seconds=seconds)
                for source in (path, part)
            )
            np.testing.assert_array_equal(a, b)


def test_a_part_of_a_shard_behaves_like_a_file(shard: tuple[Manifest, Path]) -> None:
    manifest, file = shard
    content, rng = file.read_bytes(), random.Random(0)
    with manifest.open(manifest[1]) as part, file.open("rb") as whole:
        assert isinstance(part, io.BufferedReader)
        for _ in range(300):
            whence = rng.choice([0, 1, 2])
            offset = rng.randrange(0, len(content)) if whence == 0 else rng.randrange(-99, 99)
            if whole.tell() + offset < 0:
                continue
            assert part.seek(offset, whence) == whole.seek(offset, whence)
            size = rng.choice([0, 1, 5000, 200_000, -1])
            assert part.read(size) == whole.read(size)
            assert part.tell() == whole.tell()


def test_a_missing_shard_is_named(shard: tuple[Manifest, Path], tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, shard[0])
    with (
        pytest.raises(DataError, match=r"cannot read .*shard\.tar: No such file"),
        manifest.open(manifest[1]),
    ):
        pass


def test_values_that_no_track_has_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "music.parquet"
    Manifest(tmp_path, [FULL]).save(path)
    table = parquet.read_table(path)
    at = table.schema.get_field_index("genres")
    changed = table.set_column(at, table.schema.field(at), [[["Rock", None]]])
    parquet.write_table(changed, path)
    with pytest.raises(DataError, match=r"music\.parquet lacks values that every track has"):
        Manifest.load(path)
    lines = tmp_path / "music.jsonl"
    Manifest(tmp_path, [BARE]).save(lines)
    text = lines.read_text()
    lines.write_text(re.sub(r'"duration": [\d.]+', f'"duration": {-(2**63)}', text))
    with pytest.raises(DataError, match=r"music\.jsonl has values that no track has"):
        Manifest.load(lines)
    for old, new in (("a/b.mp3", "\\ud800"), ("44100", "9" * 30), ("1000", "1" + "[" * 50_000)):
        lines.write_text(text.replace(old, new))
        with pytest.raises(DataError, match=r"music\.jsonl, line 2 is not a track"):
            Manifest.load(lines)
    for header in ('{"musicfm_manifest": 1, "root": 3}', '{"musicfm_manifest": 1e999, "root": ""}'):
        lines.write_text(f"{header}\n")
        with pytest.raises(DataError, match=r"is not a manifest of musicfm"):
            Manifest.load(lines)


def test_names_that_no_file_can_have_are_reported(tmp_path: Path) -> None:
    manifest = Manifest(tmp_path, [replace(BARE, path="a\0b.mp3"), replace(FULL, shard="a\0.tar")])
    with manifest.open(manifest[0]) as recording, pytest.raises(AudioError, match="valid file"):
        reading.probe(recording)
    with pytest.raises(DataError, match="cannot read"), manifest.open(manifest[1]):
        pass


def test_tracks_are_recordings_unless_they_are_pieces(tmp_path: Path) -> None:
    (recording,) = recordings_of(Manifest(tmp_path, [BARE]))
    assert recording == Recording(tmp_path / "a/b.mp3", "a/b", BARE.size, BARE.modified)
    (remote,) = recordings_of(Manifest("s3://bucket/music", [BARE]))
    assert remote.path == "s3://bucket/music/a/b.mp3"
    with pytest.raises(ConfigError, match=r"is a piece in the shard shard-000000\.tar; give"):
        recordings_of(Manifest(tmp_path, [BARE, FULL]))
    for path in ("/home/b.mp3", "a/../../b.mp3"):
        with pytest.raises(ConfigError, match=f"track '{path}' is not below the manifest's root"):
            recordings_of(Manifest(tmp_path, [replace(BARE, path=path)]))


@FORMATS
def test_a_root_may_be_a_url(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"music{suffix}"
    Manifest("s3://bucket/music", [BARE]).save(path)
    assert Manifest.load(path).root == "s3://bucket/music"
    Manifest(tmp_path, [BARE]).save(path)
    assert Manifest.load(f"file://{path}").root == f"file://{tmp_path}"
    assert Manifest.load(path, root="s3://elsewhere").root == "s3://elsewhere"
