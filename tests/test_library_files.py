"""What a library writes into files, and for other programs, by the command line."""

import csv
import json
import os
from pathlib import Path
from xml.etree import ElementTree as xml

import numpy as np
import pyarrow.parquet as parquet
import pytest

import audio_files
import libraries
from command_line import Run
from musicfm.cli.app import need
from musicfm.datasets.annotations import read_jams
from musicfm.errors import ConfigError
from musicfm.library.library import Library

mutagen = pytest.importorskip("mutagen")


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Recordings in two folders."""
    folder = tmp_path / "music"
    for name in ("a.b/tone.flac", "c/tone.mp3", "c/tone.ogg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        audio_files.write(folder / name.split("/")[0], name.split("/")[1], seconds=1.0)
    return folder


@pytest.fixture
def lib(tmp_path: Path, music: Path) -> Library:
    return libraries.make(tmp_path / "lib", sorted(music.glob("*/*")))


def test_tag_writes_and_takes_back(lib: Library, music: Path, run: Run) -> None:
    paths = [Path(track.path) for track in lib.tracks()]
    before = {path: path.read_bytes() for path in paths}
    tempo, key = f"{lib.tracks()[0].tempo:.2f}".rstrip("0").rstrip("."), lib.tracks()[0].key
    whole = f"{lib.tracks()[0].tempo:.0f}"
    assert key is not None

    status, out, err = run("library", "tag", lib.path, "--dry-run")
    assert (status, err.strip()) == (0, "3 would be written")
    assert f"{paths[0]}: tempo {tempo}, key" in out
    assert f"{paths[1]}: tempo {whole}, key" in out  # as an ID3 tag has it
    assert {path: path.read_bytes() for path in paths} == before
    assert not (lib.path / "tagging.sqlite").exists()

    status, _, err = run("library", "tag", lib.path, "--key-notation", "camelot", "--tags")
    assert (status, err.strip()) == (0, "3 written")
    flac = mutagen.File(music / "a.b" / "tone.flac")
    assert flac["bpm"] == [tempo]
    assert flac["initialkey"][0][-1] in "AB"
    assert flac["grouping"] == ["rock, piano"]
    for track in lib.tracks():  # so that nothing is computed again
        state = Path(track.path).stat()
        assert (track.size, track.modified) == (state.st_size, state.st_mtime_ns)
    status, out, err = run("library", "tag", lib.path)
    assert (status, err.strip()) == (0, "0 written")
    assert "is there" in out

    status, out, err = run("library", "tag", lib.path, "--undo")
    assert (status, err.strip()) == (0, "3 restored")
    assert {path: path.read_bytes() for path in paths} == before


def test_one_bad_file_does_not_end_tag(lib: Library, music: Path, run: Run) -> None:
    (music / "c" / "tone.mp3").write_bytes(b"no music")
    status, _, err = run("library", "tag", lib.path)
    assert status == 1
    assert "tone.mp3 cannot be written" in err
    assert err.strip().endswith("2 written, 1 failed")


def test_a_full_disk_is_told_in_a_sentence(
    lib: Library, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from musicfm.library.tagging import Journal

    real, before = Journal.__init__, [Path(track.path).read_bytes() for track in lib.tracks()]

    def opened(self: Journal, path: Path) -> None:
        real(self, path)
        self._database.execute("PRAGMA query_only = 1")  # as if the disk were full

    monkeypatch.setattr(Journal, "__init__", opened)
    status, _, err = run("library", "tag", lib.path)
    assert status == 1
    assert err.startswith(f"error: cannot write the journal {lib.path}/tagging.sqlite: ")
    assert [Path(track.path).read_bytes() for track in lib.tracks()] == before


def test_only_one_run_writes_tags(lib: Library, run: Run) -> None:
    from musicfm.library import tagging

    with tagging._journal(lib):
        status, _, err = run("library", "tag", lib.path)
    assert status == 1
    assert "another run is writing" in err


def test_exports(lib: Library, music: Path, tmp_path: Path, run: Run) -> None:
    status, _, err = run(
        "library", "export", lib.path, "--rekordbox", tmp_path / "o.xml", "--csv",
        tmp_path / "o.csv", "--parquet", tmp_path / "o.parquet", "--jams", tmp_path / "jams",
    )  # fmt: skip
    assert status == 0, err
    assert "2 tracks are in" in err
    assert "1 left out, whose formats rekordbox does not play" in err

    tracks = lib.tracks()
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == [track.path for track in tracks]
    assert [float(row["tempo"]) for row in rows] == [round(t.tempo or 0, 2) for t in tracks]
    assert json.loads(rows[0]["tags"]) == dict(tracks[0].tags)

    table = parquet.read_table(tmp_path / "o.parquet")
    assert table.schema.metadata[b"model"] == b"nano"
    raw = lib.vectors(raw=True)
    for row, track in zip(table.to_pylist(), tracks, strict=True):
        assert (row["path"], row["key"], dict(row["tags"])) == (track.path, track.key, track.tags)
        np.testing.assert_array_equal(np.float32(row["vector"]), raw[track.vector])

    found = sorted(path.relative_to(tmp_path / "jams") for path in (tmp_path / "jams").rglob("*.*"))
    assert [str(path) for path in found if path.suffix == ".jams"] == [
        "a.b/tone.flac.jams", "c/tone.mp3.jams", "c/tone.ogg.jams"
    ]  # fmt: skip
    assert read_jams(tmp_path / "jams" / "c" / "tone.mp3.jams").annotations.beats is not None

    names = [each.attrib["Name"] for each in xml.parse(tmp_path / "o.xml").iter("TRACK")]
    assert names == ["tone", "tone"]


def test_a_lancedb_table_finds_what_is_similar(lib: Library, tmp_path: Path, run: Run) -> None:
    lancedb = pytest.importorskip("lancedb")
    for _ in range(2):  # the second replaces the first
        status, _, err = run("library", "export", lib.path, "--lancedb", tmp_path / "lance")
        assert (status, err.strip()) == (0, f"3 tracks are in {tmp_path / 'lance'}")
    table = lancedb.connect(tmp_path / "lance").open_table("tracks")
    assert table.schema.metadata[b"model"] == b"nano"
    vectors, tracks = lib.vectors(), lib.tracks()
    for row, track in zip(table.to_arrow().to_pylist(), tracks, strict=True):
        assert (row["path"], row["key"], dict(row["tags"])) == (track.path, track.key, track.tags)
        np.testing.assert_array_equal(np.float32(row["vector"]), vectors[track.vector])
    found = table.search(vectors[tracks[0].vector]).distance_type("cosine").limit(3).to_list()
    expected = [tracks[0].path, *(each.track.path for each in lib.similar(tracks[0].path))]
    assert [row["path"] for row in found] == expected

    (tmp_path / "file").write_bytes(b"")
    for address in (str(tmp_path / "file"), "nonsense://bucket/music"):
        status, _, err = run("library", "export", lib.path, "--lancedb", address)
        assert status == 1
        assert err.startswith(f"error: cannot write {address}: ")
        assert "Traceback" not in err


def test_without_lancedb_it_says_how_to_get_it(
    lib: Library, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(need.__globals__, "find_spec", lambda name: None)
    status, _, err = run("library", "export", lib.path, "--lancedb", tmp_path / "lance")
    assert (status, err) == (1, "error: this needs lancedb; pip install 'musicfm[lancedb]'\n")


def test_one_name_that_is_too_long_does_not_end_an_export(
    lib: Library, tmp_path: Path, run: Run
) -> None:
    with lib.database.connect() as connection:
        connection.execute(
            "UPDATE tracks SET path = ? WHERE id = 1", [f"{tmp_path}/music/{'x' * 250}.mp3"]
        )
    status, _, err = run("library", "export", lib.path, "--jams", tmp_path / "jams")
    assert status == 1
    assert "2 tracks are in" in err
    assert "File name too long; choose a shorter name" in err


def test_tables_have_names_as_they_are(lib: Library, tmp_path: Path) -> None:
    from musicfm.library import exports

    path = os.fsdecode(b"/two\nlines \xff.mp3")
    with lib.database.connect() as connection:
        connection.execute(
            "UPDATE tracks SET path = CAST(? AS TEXT) WHERE id = 1", [os.fsencode(path)]
        )
    exports.write_csv(lib, tmp_path / "o.csv")
    with (tmp_path / "o.csv").open(encoding="utf-8", newline="") as file:
        assert "/two\nlines \\udcff.mp3" in [row["path"] for row in csv.DictReader(file)]


def test_files_that_are_gone_are_left_out(lib: Library, music: Path, run: Run) -> None:
    from musicfm.library.writing import Writer

    (music / "c" / "tone.mp3").unlink()
    Writer(lib.database).mark_missing()
    _, _, err = run("library", "export", lib.path, "--csv", lib.path / "o.csv")
    assert err.startswith("2 tracks")


def test_a_library_without_heads(tmp_path: Path, music: Path, run: Run) -> None:
    lib = libraries.make(tmp_path / "bare", [music / "c" / "tone.mp3"], has_heads=False)
    status, out, err = run("library", "tag", lib.path)
    assert (status, err.strip()) == (0, "0 written")
    assert "nothing to write" in out
    run("library", "export", lib.path, "--rekordbox", tmp_path / "o.xml", "--jams", tmp_path / "j")
    (element,) = xml.parse(tmp_path / "o.xml").iter("TRACK")
    assert not element.attrib.keys() & {"AverageBpm", "Tonality"}
    assert not (tmp_path / "j").exists()


@pytest.mark.parametrize("verb", ["tag", "export --csv o.csv", "map --out o.html"])
def test_what_is_no_library_is_told_in_a_sentence(
    tmp_path: Path, run: Run, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    verb, *options = verb.split()
    status, _, err = run("library", verb, tmp_path / "none", *options)
    assert status == 1
    assert f"{tmp_path / 'none'} is not a library" in err
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_export(lib: Library, run: Run) -> None:
    status, _, err = run("library", "export", lib.path)
    assert (status, "name a file" in err) == (1, True)


def test_an_empty_library(tmp_path: Path) -> None:
    from musicfm.library import exports

    lib = libraries.make(tmp_path / "lib", [audio_files.write(tmp_path, "tone.wav", seconds=1.0)])
    with lib.database.connect() as connection:
        connection.execute("UPDATE tracks SET missing = 1")
    with pytest.raises(ConfigError, match="there are no tracks"):
        exports.write_csv(lib, tmp_path / "o.csv")
    assert not (tmp_path / "o.csv").exists()
