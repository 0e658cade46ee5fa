import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from musicfm.audio.folders import (
    _RARER_SUFFIXES,
    AUDIO_SUFFIXES,
    common_folder,
    describe_passed_over,
    is_named_as_audio,
    recordings_in,
)
from musicfm.datasets.scanning import collect, scan
from musicfm.embedding.collection import find_recordings
from musicfm.errors import CheckpointError, ConfigError, DataError
from musicfm.model.musicfm import MusicFM


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Files that are called like recordings, and others."""
    for name in ("b/2.FLAC", "b/.hidden.wav", "a/1.mp3", "a/c/3.opus", ".d/4.wav", "a/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def fail(error: OSError) -> None:
    raise error


def test_recordings_come_in_order_and_hidden_ones_do_not(library: Path) -> None:
    found = [path.relative_to(library).as_posix() for path in recordings_in(library, fail)]
    assert found == ["a/1.mp3", "a/c/3.opus", "b/2.FLAC"]
    assert list(recordings_in(library / "a" / "notes.txt", fail)) == [library / "a" / "notes.txt"]


OTHERS = ("f.bak", "a/f.BAK", "no suffix", "x.aax", ".y.bak", "n.txt", "c.JPG", "l.cue", "r.jams")


def test_what_is_passed_over_is_counted(library: Path) -> None:
    """But not pictures, texts and the like, nor what is hidden."""
    for name in OTHERS:
        (library / name).touch()
    counts: dict[str, int] = {}
    assert len(list(recordings_in(library, fail, counts))) == 3
    assert counts == {".bak": 2, ".aax": 1, "": 1}
    assert describe_passed_over(counts) == (
        "skipped 4 files whose suffixes are not those of recordings: 2 .bak, 1 without a suffix, "
        "1 .aax; to use one, give its own path"
    )
    assert describe_passed_over({}) == ""
    assert "skipped 1 file whose" in describe_passed_over({".x": 1})
    many = {f".{number}": 1 for number in range(30)}
    assert describe_passed_over(many).count(" .") == 8
    assert "1 .15, and others; to" in describe_passed_over(many)


def test_what_is_passed_over_is_said(
    library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in OTHERS:
        (library / name).touch()
    expected = {".bak": 2, ".aax": 1, "": 1}
    assert scan([library], num_workers=1).passed_over == expected
    said = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    assert said == [describe_passed_over(expected)]
    for source in (library, f"file://{library}"):
        counts: dict[str, int] = {}
        assert len(find_recordings([source], [], counts)) == 3
        assert counts == expected
    for name in ("b/2.FLAC", "a/1.mp3", "a/c/3.opus"):
        (library / name).unlink()
    for refused in (lambda: find_recordings([library], []), lambda: scan([library])):
        with pytest.raises(ConfigError, match=r"no recordings in .* \(skipped 4 files whose"):
            refused()


def test_rarer_formats_count_and_leave_names_to_common_ones(tmp_path: Path) -> None:
    names = ["song.3gp", "song.avi", "song.mp3", "other.ts", "other.M4R", "a.eac3"]
    for name in names:
        (tmp_path / name).touch()
    failures: list[tuple[str, str]] = []
    found = [one.path.name for one in find_recordings([tmp_path], failures)]  # type: ignore[union-attr]
    assert found == ["song.mp3", "a.eac3", "other.M4R"]
    assert [Path(path).name for path, _ in failures] == ["other.ts", "song.3gp", "song.avi"]
    remote = find_recordings([f"file://{tmp_path}"], [])
    assert [Path(str(one)).name for one in remote] == found


def test_the_page_on_embedding_lists_all_suffixes() -> None:
    page = (Path(__file__).parent.parent / "docs" / "embedding.md").read_text()
    listed = page.split("by these suffixes:\n\n```text\n")[1].split("```")[0].split()
    assert all(is_named_as_audio(f"x.{suffix}") for suffix in listed)
    assert len(listed) == len(AUDIO_SUFFIXES | _RARER_SUFFIXES)


def test_an_empty_path_is_not_the_current_folder(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(library)
    readers: list[Callable[[list[Any]], object]] = [
        lambda sources: find_recordings(sources, []),
        lambda sources: scan(sources, num_workers=1),
        lambda sources: collect(sources, num_workers=1),
    ]
    for read in readers:
        for sources in ([""], ["a", ""]):
            with pytest.raises(ConfigError, match=r"a path is empty; give \. for the current"):
                read(sources)
    assert len(find_recordings(["."], [])) == 3


def test_links_to_folders_are_followed_once_and_never_upwards(library: Path) -> None:
    elsewhere = library.parent / "elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    for name in ("5.wav", "deep/6.wav"):
        (elsewhere / name).touch()
    for link, target in (
        ("a/linked", elsewhere),
        ("a/part", elsewhere / "deep"),
        ("a/same", library / "b"),
        ("b/up", library),
        ("b/root", Path("/")),
        ("b/loop", library / "b" / "loop"),
    ):
        (library / link).symlink_to(target)
    (elsewhere / "deep" / "back").symlink_to(elsewhere)
    found = [path.relative_to(library).as_posix() for path in recordings_in(library, fail)]
    assert found == [
        "a/1.mp3",
        "a/c/3.opus",
        "b/2.FLAC",
        "a/linked/5.wav",
        "a/linked/deep/6.wav",
    ]


def test_what_is_in_a_closed_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat: Callable[..., Any] = os.stat
    closed, readable = tmp_path / "closed" / "b.wav", tmp_path / "a.wav"
    readable.touch()

    def refuse(path: Any, **options: Any) -> Any:
        if "/closed" in str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    failures: list[tuple[str, str]] = []
    assert [one.path for one in find_recordings([closed, readable], failures)] == [readable]
    assert failures == [(str(closed), f"{closed} cannot be read: Permission denied")]
    with pytest.raises(CheckpointError, match=r"no model '.*closed'"):
        MusicFM.from_pretrained(closed.parent)
    with pytest.raises(DataError, match=r"no file can be used: .*Permission denied"):
        collect([closed], num_workers=1)


def test_what_paths_have_in_common(library: Path) -> None:
    assert common_folder([library / "a" / "1.mp3", library / "a" / "c"]) == str(library / "a")
    assert common_folder([library / "a" / "1.mp3", library / "b"]) == str(library)


def test_folders_that_cannot_be_read_are_named(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir: Callable[..., Any] = os.scandir

    def refuse(path: Any) -> Any:
        if Path(path).name == "c":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    reason = f"{library / 'a' / 'c'} cannot be read: Permission denied; check its permissions"
    failures: list[tuple[str, str]] = []
    assert len(find_recordings([library], failures)) == 2
    assert failures == [(str(library / "a" / "c"), reason)]
    found = scan([library], num_workers=1).failures
    assert (str(library / "a" / "c"), reason) in found
