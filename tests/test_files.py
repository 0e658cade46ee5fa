import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from musicfm.errors import ConfigError, DataError, MusicFMError, OutputError
from musicfm.files import (
    atomic_write,
    check_target,
    claim,
    exclusive,
    parse_json,
    read_object,
    scratch,
    sweep,
    sweep_beside,
    write_npy_header,
)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that is there already."""
    path = tmp_path / "result"
    path.write_text("old")
    return path


def test_a_file_appears_whole_under_folders_that_are_made(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "result"
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == target.parent
        assert not target.exists()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_what_was_there_stays_until_the_end(target: Path) -> None:
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_target_is_checked_before_there_is_anything_to_write(tmp_path: Path) -> None:
    check_target(tmp_path / "new" / "result")
    assert not list((tmp_path / "new").iterdir())
    (tmp_path / "file").touch()
    for target in (tmp_path, tmp_path / "file" / "result"):
        with pytest.raises(OutputError, match=f"cannot write {target}"):
            check_target(target)


def write_and_raise(target: Path, error: BaseException) -> None:
    with atomic_write(target) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), OutputError),
        (OutputError("ours"), OutputError),
    ],
)
def test_an_error_leaves_what_was_there_and_nothing_else(
    raised: BaseException, seen: type[BaseException], target: Path
) -> None:
    with pytest.raises(seen) as caught:
        write_and_raise(target, raised)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]
    if isinstance(raised, OutputError):
        assert caught.value is raised


def test_a_full_disk_is_named(target: Path) -> None:
    message = f"cannot write {target}: No space left on device; choose another folder, or free"
    with pytest.raises(OutputError, match=message) as caught:
        write_and_raise(target, OSError(errno.ENOSPC, "No space left on device"))
    assert isinstance(caught.value, MusicFMError)
    assert isinstance(caught.value, OSError)


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "or free space there"),
        (errno.EDQUOT, "or free space there"),
        (errno.EACCES, "Permission denied; choose another folder$"),
        (errno.EROFS, "choose another folder$"),
        (errno.ENAMETOOLONG, "choose a shorter name; results are named after their recordings$"),
    ],
)
def test_what_to_do_follows_from_what_is_wrong(number: int, cure: str, target: Path) -> None:
    with pytest.raises(OutputError, match=f"cannot write {target}: .*{cure}"):
        write_and_raise(target, OSError(number, os.strerror(number)))


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_named(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OutputError, match="has no locks, which keep two runs apart; choose"):
        exclusive(tmp_path, ".lock").__enter__()


def test_a_name_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long; choose a shorter name"):
        exclusive(tmp_path, f".{'x' * 255}.lock").__enter__()
    target = tmp_path / ("x" * 256)
    with pytest.raises(OutputError, match="too long; choose a shorter"), atomic_write(target):
        pass


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_disk_that_fails_at_the_end_loses_nothing(
    call: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OutputError), atomic_write(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_a_file_is_no_folder(target: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"), atomic_write(target / "result"):
        pass
    assert target.read_text() == "old"


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "result").mkdir()
    with pytest.raises(OutputError, match="directory"), atomic_write(tmp_path / "result"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_permissions_follow_the_umask(umask: int, tmp_path: Path) -> None:
    with atomic_write(tmp_path / "result"):
        pass
    assert stat.S_IMODE((tmp_path / "result").stat().st_mode) == 0o666 & ~umask


@pytest.mark.parametrize("name", ["x" * 255, "曲" * 85, "🎵" * 63])
def test_a_name_as_long_as_names_may_be(name: str, tmp_path: Path) -> None:
    with atomic_write(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert (tmp_path / name).read_text() == "new"


def test_what_killed_runs_left_is_swept_up_but_not_what_others_write(tmp_path: Path) -> None:
    names = [".a.npz.0123abcd.partial", "b/.c.npz.0123abcd.partial", "d/.e.npz.0123abcd.partial"]
    kept = ["a.npz", ".hidden", "b/x.partial", ".of.another.program.partial"]
    for name in (*names, *kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with exclusive(tmp_path / "d", ".journal.jsonl.lock"):
        sweep(tmp_path)
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {*kept, names[2], "d/.journal.jsonl.lock"}


def test_scratch_is_empty_and_leaves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "new" / ".scratch"
    (place / "left by a kill").mkdir(parents=True)
    with scratch(place) as folder:
        assert not list(folder.iterdir())
        (folder / "a").touch()
    assert not place.exists()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*Not a directory"):
        scratch(tmp_path / "file" / "in").__enter__()


def test_what_killed_runs_left_of_a_file_is_swept_up_and_of_others_not(tmp_path: Path) -> None:
    kept = ["a.json", ".a.json.lock", ".a.json.b.0123abcd.partial", ".b.json.0123abcd.partial"]
    kept.append(".a.json.0123abcd.partial.txt")
    for name in (".a.json.0123abcd.partial", ".a.json.abcd0123.partial", *kept):
        (tmp_path / name).touch()
    sweep_beside(tmp_path / "a.json")
    assert {path.name for path in tmp_path.iterdir()} == {*kept}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "nests too deeply"),
        ('{"a": ' * 100_000, "nests too deeply"),
        ("9223372036854775808", "more than 64 bits"),
        ("9" * 10_000, "digits"),
        (b"\xff", "decode"),
        ("", "Expecting value"),
    ],
)
def test_json_that_cannot_be_used_is_a_value_error(text: str | bytes, message: str) -> None:
    assert parse_json('{"a": [1, -9223372036854775808, 0.5, null]}') == {
        "a": [1, -(2**63), 0.5, None]
    }
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("content", ["", "[]", "3", "{", "[" * 100_000])
def test_a_damaged_file_of_ours_says_what_to_do(tmp_path: Path, content: str) -> None:
    path = tmp_path / "fit.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"fit\.json .*damaged; delete it"):
        read_object(path, "delete it")
    with pytest.raises(DataError, match=r"none\.json cannot be read"):
        read_object(tmp_path / "none.json", "delete it")


def test_a_folder_is_for_what_it_was_begun_for(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    claim(path, {"head": {"task": "key", "dim": 8}, "train": "ab"}, "a run")
    claim(path, {"head": {"task": "key", "dim": 8}}, "a run")
    with pytest.raises(ConfigError, match=r"holds a run with another head\.dim, train; go on"):
        claim(path, {"head": {"task": "key", "dim": 9}, "train": "cd"}, "a run")


def test_an_npy_header_can_be_written_again_for_more_rows(tmp_path: Path) -> None:
    with (tmp_path / "a.npy").open("wb") as file:
        write_npy_header(file, "<f4", (0, 3))
        file.write(np.arange(600, dtype="<f4").tobytes())
        file.seek(0)
        write_npy_header(file, "<f4", (200, 3))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.arange(600).reshape(200, 3))
