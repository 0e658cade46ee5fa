import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from musicfm.audio.folders import common_folder, recordings_in
from musicfm.datasets.scanning import collect, scan
from musicfm.embedding.collection import find_recordings
from musicfm.errors import CheckpointError, DataError
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
