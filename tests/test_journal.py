import json
import os
from pathlib import Path

import pytest

from musicfm.errors import OutputError
from musicfm.journal import JOURNAL, Journal, Recording, read_options

A, B = (Recording(Path(f"/music/{name}.wav"), name, 10, 20) for name in "ab")


def journal(
    folder: Path, layer: int = 7, recordings: list[Recording] | None = None, overwrite: bool = False
) -> Journal:
    return Journal(folder, {"layer": layer}, recordings or [A, B], overwrite)


def test_what_is_noted_is_found_again(tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    with journal(out) as first:
        assert not first.has(A)
        (out / "a.npz").touch()
        first.add(A, output="a.npz")
        assert first.has(A)
    with journal(out) as second:
        assert second.has(A)
        assert not second.has(B)


def test_what_was_about_to_be_done_is_known_after_a_kill(tmp_path: Path) -> None:
    with journal(tmp_path) as it:
        assert not it.owns("a")
        it.begin(A)
        it.add(A, output="a.npz")
    with journal(tmp_path) as it:
        assert it.owns("a")
        assert not it.owns("b")
        it.begin(A)
        it.begin(B)
    with journal(tmp_path) as it:
        assert it.owns("b")
        assert list(it.entries) == [str(A)]
    assert (tmp_path / JOURNAL).read_text().count("begins") == 2


def test_a_changed_recording_and_a_lost_result_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    with journal(tmp_path) as it:
        it.add(A, output="a.npz")
        assert not it.has(Recording(A.path, A.name, 11, 20))
        assert not it.has(Recording(A.path, A.name, 10, 21))
        (tmp_path / "a.npz").unlink()
        assert not it.has(A)


def test_recordings_that_have_changed_places_do_not_count(tmp_path: Path) -> None:
    """Of one size and one age, as they come out of an archive."""

    def at(name: str) -> Recording:
        path = tmp_path / f"{name}.wav"
        return Recording(path, name, path.stat().st_size, 20)

    for name in "abc":
        (tmp_path / f"{name}.wav").write_bytes(name.encode() * 100)
    with journal(tmp_path) as it:
        for name in "abc":
            (tmp_path / f"{name}.npz").touch()
            it.add(at(name), output=f"{name}.npz")
    for name, content in (("a", b"b"), ("b", b"a")):
        (tmp_path / f"{name}.wav").write_bytes(content * 100)
    with journal(tmp_path) as it:
        assert [it.has(at(name)) for name in "abc"] == [False, False, True]


def test_a_recording_that_moved_is_known_by_its_content(tmp_path: Path) -> None:
    def at(folder: str, content: bytes) -> Recording:
        path = tmp_path / folder / "a.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return Recording(path, "a", len(content), 20)

    (tmp_path / "a.npz").touch()
    content = bytes(300_000)
    before = at("before", content)
    url = Recording("https://x.org/1/b.wav", "b", 5, 0)
    with journal(tmp_path) as it:
        it.add(before, output="a.npz")
        it.add(url, output="a.npz")
    after = at("after", content)
    other = at("other", content[:150_000] + b"x" + content[150_001:])
    with journal(tmp_path) as it:
        for recording in (after, other):  # copies are two, and one of them has the name
            assert it.name_conflict(recording) == str(before)
            assert not it.has_moved(recording)
    Path(before.path).unlink()
    with journal(tmp_path) as it:
        assert it.has_moved(after)
        assert it.name_conflict(after) is None
        assert it.name_conflict(other) == str(before)
        assert it.name_conflict(Recording("https://x.org/2/b.wav", "b", 5, 0)) == str(url)
        it.add(after, output="a.npz")
    with journal(tmp_path) as it:
        assert list(it.entries) == [str(url), str(after)]
    with pytest.raises(OutputError, match=r"those of 1 .*as https://x\.org/1"):
        journal(tmp_path, layer=8, recordings=[after], overwrite=True).__enter__()
    Path(after.path).rename(before.path)
    with journal(tmp_path, layer=8, recordings=[before, url], overwrite=True) as it:
        assert not it.entries


@pytest.mark.parametrize("kept", range(1, 40, 6))
def test_a_line_cut_short_by_a_kill_is_as_if_never_written(tmp_path: Path, kept: int) -> None:
    with journal(tmp_path) as it:
        it.add(A, output="a.npz")
        it.add(B, output="b.npz")
    path = tmp_path / JOURNAL
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]) + lines[2][:kept])
    with journal(tmp_path) as it:
        assert list(it.entries) == [str(A)]
        it.add(B, output="b.npz")
    assert path.read_bytes().splitlines(keepends=True) == lines


def test_settings_never_mix(tmp_path: Path) -> None:
    journal(tmp_path, layer=6).__enter__().__exit__()  # has no results that could be mixed
    with journal(tmp_path, layer=7) as it:
        it.add(A, output="a.npz")
    with pytest.raises(OutputError, match=r"results of other settings \(layer differ\)"):
        journal(tmp_path, layer=8).__enter__()
    with pytest.raises(OutputError, match=r"would not overwrite those of 1 .* /music/a\.wav"):
        journal(tmp_path, layer=8, recordings=[B], overwrite=True).__enter__()
    with journal(tmp_path, layer=8, overwrite=True) as it:
        assert not it.entries
        assert it.owns(A.name)  # its file may be replaced, now and by a run that goes on
    header, line = map(json.loads, (tmp_path / JOURNAL).read_text().splitlines())
    assert (header, line) == ({"settings": {"layer": 8}}, {"begins": A.name})


def test_options_are_noted_and_stay(tmp_path: Path) -> None:
    assert read_options(tmp_path) == {}
    with Journal(tmp_path, {}, [A], False, {"model": "nano"}) as it:
        it.add(A, output="a.npz")
    with Journal(tmp_path, {}, [A], False):
        pass
    assert read_options(tmp_path) == {"model": "nano"}
    with Journal(tmp_path, {}, [A], False, {"model": "msd"}) as it:
        assert list(it.entries) == [str(A)]
    assert read_options(tmp_path) == {"model": "msd"}


def test_a_mapping_of_settings_may_grow(tmp_path: Path) -> None:
    def entries(**heads: str) -> list[str]:
        with Journal(tmp_path, {"heads": heads}, [A], False) as it:
            found = list(it.entries)
            it.add(A, output="a.jams")
        return found

    assert entries(beat="1") == []
    assert entries(beat="1", key="2") == []
    assert entries(beat="1", key="2") == [str(A)]
    with pytest.raises(OutputError, match=r"\(heads.beat, heads.key differ\); use another"):
        entries(beat="3")


def test_only_one_run_at_a_time(tmp_path: Path) -> None:
    with journal(tmp_path), pytest.raises(OutputError, match="another run is writing to"):
        journal(tmp_path).__enter__()
    with journal(tmp_path):
        pass


@pytest.mark.parametrize(
    "content",
    [
        "not json\n",
        "[]\n",
        '{"settings": 1}\n',
        '{"settings": {"layer": 7}}\n{"begins": 1}\n',
        '{"settings": {}}\n{"no": "path"}\n',
        '{"settings": {}}\n{"path": "/a", "name": "a", "size": 1, "modified": 2}\n',
        '{"settings": {}}\n{"path": "/a", "name": 1, "size": 1, "modified": 2, "output": "a"}\n',
        "[" * 100_000 + "\n",
    ],
)
def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / JOURNAL).write_text(content)
    with pytest.raises(OutputError, match="not a journal of musicfm"):
        journal(tmp_path).__enter__()
    assert (tmp_path / JOURNAL).read_text() == content


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"cannot write .*file/out: "):
        journal(tmp_path / "file" / "out").__enter__()


def test_what_a_killed_run_left_half_written_goes(tmp_path: Path) -> None:
    (tmp_path / ".a.npz.0123abcd.partial").touch()
    with journal(tmp_path):
        assert not list(tmp_path.glob(".*.partial"))


def test_a_disk_that_fills_up_is_one_sentence_and_the_line_never_was(tmp_path: Path) -> None:
    def fill(it: Journal) -> None:
        with open("/dev/full", "wb") as full:
            os.dup2(full.fileno(), it._file.fileno())

    full = pytest.raises(OutputError, match=r"journal\.jsonl: No space left on device")
    with full, journal(tmp_path) as it:
        fill(it)
        it.add(A, output="a.npz")
    with journal(tmp_path) as it:
        assert not it.entries
