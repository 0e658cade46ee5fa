import csv
import re
from pathlib import Path

import pytest

import audio_files
from musicfm.datasets.fma import BROKEN, SUBSETS, Subset, read_metadata, scan_fma
from musicfm.datasets.tracks import Manifest
from musicfm.errors import ConfigError, DataError

# As published, with fewer columns: two lines name them, the third names the index.
HEAD = [
    ["", "album", "album", "artist", "set", "set", "track", "track", "track", "track"],
    [
        "",
        "comments",
        "title",
        "name",
        "split",
        "subset",
        "genre_top",
        "genres",
        "interest",
        "title",
    ],
    ["track_id", "", "", "", "", "", "", "", "", ""],
]
ROWS = [
    ["2", "0", "AWOL", "AWOL", "training", "small", "Hip-Hop", "[21]", "1", "Food"],
    ["5", "0", "AWOL", "AWOL", "training", "small", "", "[21, 76]", "1", "This\nWorld"],
    ["1003", "0", "", "Kurt Vile", "validation", "medium", "Pop", "[10, 999]", "1", "Fréaky"],
    ["1004", "0", "Niris", "Nicky Cook", "test", "large", "", "[]", "1", "Where is"],
    ["98565", "0", "x", "y", "training", "small", "Rock", "[12]", "1", "known to be broken"],
    ["98558", "0", "x", "y", "training", "medium", "Rock", "[12]", "1", "broken, too"],
]
GENRES = [
    ["genre_id", "#tracks", "parent", "title", "top_level"],
    ["10", "13845", "0", "Pop", "10"],
    ["12", "32923", "0", "Rock", "12"],
    ["21", "12706", "0", "Hip-Hop", "21"],
    ["76", "1952", "10", "Experimental Pop", "10"],
]


def write(path: Path, rows: list[list[str]]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small FMA: its metadata, and the small and large trees."""
    write(tmp_path / "fma_metadata" / "tracks.csv", HEAD + ROWS)
    write(tmp_path / "fma_metadata" / "genres.csv", GENRES)
    mp3 = audio_files.write(tmp_path, "tone.mp3", seconds=0.5).read_bytes()
    trees = {
        "small": ["000/000002", "000/000005", "098/098565"],
        "large": ["000/000002", "000/000005", "001/001003", "001/001004", "098/098558"],
    }
    for name, numbers in trees.items():
        for number in numbers:
            path = tmp_path / f"fma_{name}" / f"{number}.mp3"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(mp3 + number.encode())
        (tmp_path / f"fma_{name}" / "README.txt").write_text("text")
    return tmp_path


def test_tracks_have_the_facts_and_official_splits(root: Path) -> None:
    out = root / "m.parquet"
    scanned = scan_fma(out, root, "large", num_workers=1)
    assert scanned.failures == []
    loaded = Manifest.load(out)
    found = {track.path: track for track in loaded}
    assert loaded.root == root / "fma_large"
    assert list(found) == ["000/000002.mp3", "000/000005.mp3", "001/001003.mp3", "001/001004.mp3"]
    kurt = found["001/001003.mp3"]
    assert (kurt.artist, kurt.album, kurt.title) == ("Kurt Vile", "", "Fréaky")
    assert kurt.genres == ("Pop", "999")  # a genre that has no name
    assert [t.split for t in loaded] == ["train", "train", "valid", "test"]
    assert [t.genres for t in loaded][:2] == [("Hip-Hop",), ("Hip-Hop", "Experimental Pop")]
    assert found["000/000005.mp3"].title == "This\nWorld"
    assert kurt.duration == pytest.approx(0.5, abs=0.01)


def test_a_rescan_reads_nothing_and_keeps_the_splits(root: Path) -> None:
    out = root / "m.jsonl"
    first = list(scan_fma(out, root, "large", num_workers=1).manifest)
    again = scan_fma(out, root, "large", num_workers=1)
    assert (again.num_read, list(again.manifest)) == (0, first)


def test_subsets_are_nested_and_known_broken_tracks_are_left_out(root: Path) -> None:
    found = scan_fma(root / "m.jsonl", root, "small", num_workers=1)
    assert [Path(track.path).stem for track in found.manifest] == ["000002", "000005"]
    assert found.failures == []  # 98565 is there, and it is known
    assert len(BROKEN) == 21


def test_whole_recordings_are_not_known_to_be_broken(root: Path) -> None:
    (root / "fma_large").rename(root / "fma_full")
    found = scan_fma(root / "m.jsonl", root, "full", num_workers=1)
    assert "098/098558.mp3" in [track.path for track in found.manifest]
    assert [Path(path).stem for path, _ in found.failures] == ["098565"]


def test_missing_tracks_are_failures(root: Path) -> None:
    (root / "fma_small" / "000" / "000005.mp3").unlink()
    found = scan_fma(root / "m.jsonl", root, "small", num_workers=1)
    ((path, reason),) = found.failures
    assert Path(path).name == "000005.mp3"
    assert "No such file" in reason


@pytest.mark.parametrize(("subset", "size"), [("medium", "22 GiB"), ("full", "879 GiB")])
def test_what_is_absent_is_named_with_its_size(root: Path, subset: Subset, size: str) -> None:
    url = f"https://os.unil.cloud.switch.ch/fma/fma_{subset}.zip"
    with pytest.raises(DataError, match=rf"fma_{subset} is not there; download {url} \({size}\)"):
        scan_fma(root / "m.jsonl", root, subset)
    with pytest.raises(DataError, match=r"fma_metadata\.zip \(342 MiB\) and unzip it in"):
        scan_fma(root / "m.jsonl", root / "elsewhere", subset)


def test_there_are_four_subsets(root: Path) -> None:
    assert SUBSETS == ("small", "medium", "large", "full")
    with pytest.raises(ConfigError, match="no subset 'tiny'; there are small, medium, large, full"):
        scan_fma(root / "m.jsonl", root, "tiny")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, "two", r"line 4 is damaged \(invalid literal"),
        (4, "dev", r"line 4 is damaged \('dev'\)"),
        (5, "huge", r"line 4 is damaged \(subset 'huge'\)"),
        (7, "[21", r"line 4 is damaged \(Expecting"),
        (7, "21", r"line 4 is damaged \('int' object"),
    ],
)
def test_damaged_metadata_are_named(root: Path, column: int, value: str, message: str) -> None:
    folder = root / "fma_metadata"
    row = [*ROWS[0]]
    row[column] = value
    write(folder / "tracks.csv", [*HEAD, row])
    with pytest.raises(DataError, match=rf"tracks\.csv, {message}"):
        read_metadata(folder)


def test_foreign_metadata_are_named(root: Path) -> None:
    folder = root / "fma_metadata"
    write(folder / "tracks.csv", [["a", "b"]])
    with pytest.raises(DataError, match=r"tracks\.csv has no column set\.split"):
        read_metadata(folder)
    (folder / "tracks.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"tracks\.csv is damaged"):
        read_metadata(folder)
    (folder / "genres.csv").unlink()
    with pytest.raises(DataError, match=re.escape(f"cannot read {folder / 'genres.csv'}: No such")):
        read_metadata(folder)


def test_biographies_may_be_long(root: Path) -> None:
    folder = root / "fma_metadata"
    row = [*ROWS[0][:-1], "x" * 1_000_000]
    write(folder / "tracks.csv", [*HEAD, row])
    assert len(read_metadata(folder)[2].title) == 1_000_000
    assert csv.field_size_limit() < 1_000_000
