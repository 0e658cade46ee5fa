"""Tags written into files, and taken back."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

import audio_files
from musicfm.errors import OutputError
from musicfm.library.tagging import Journal, Written, write_tags

mutagen = pytest.importorskip("mutagen")

FORMATS = (
    "tone.mp3", "bare.mp3", "tone.flac", "tone.ogg", "tone.opus", "tone.m4a", "faststart.m4a",
    "alac.m4a", "tone.wv", "tone.wma", "tone.wav", "tone.aiff",
)  # fmt: skip
WHOLE = ("mp3", "wav", "aiff", "m4a")
"""Whose tags have whole numbers for beats per minute."""
VALUES = {"tempo": "123.97", "key": "F#m", "tags": "rock, piano"}
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(2_000)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "journal" / "tagging.sqlite")
    yield opened
    opened.close()


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0)]


def seen_by_ffmpeg(path: Path) -> dict[str, str]:
    """Another program's view of the tags, by names in lower case."""
    with av.open(str(path)) as container:
        found = {**container.metadata, **container.streams.audio[0].metadata}
    return {name.lower(): value for name, value in found.items()}


@pytest.mark.parametrize("name", FORMATS)
def test_tags_are_written_and_taken_back(tmp_path: Path, journal: Journal, name: str) -> None:
    path = audio_files.write(tmp_path, name, seconds=1.0)
    path.chmod(0o640)
    before, sound = path.read_bytes(), packets(path)

    tempo = "124" if name.endswith(WHOLE) else "123.97"
    stored = VALUES | {"tempo": tempo}
    assert write_tags(path, VALUES, None) == Written(path, stored, {})
    assert path.read_bytes() == before
    assert write_tags(path, VALUES, journal).values == stored
    assert packets(path) == sound
    assert path.stat().st_mode & 0o777 == 0o640
    assert {*os.listdir(tmp_path)} == {"journal", name}
    if not name.endswith(("m4a", "aiff")):  # where FFmpeg does not tell
        assert tempo in seen_by_ffmpeg(path).values()
        assert "F#m" in seen_by_ffmpeg(path).values()

    assert list(journal.undo()) == [path]
    assert path.read_bytes() == before
    assert list(journal.undo()) == []


def test_standard_names(tmp_path: Path, journal: Journal) -> None:
    flac = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    mp3 = audio_files.write(tmp_path, "tone.mp3", seconds=1.0)
    m4a = audio_files.write(tmp_path, "tone.m4a", seconds=1.0)
    for path in (flac, mp3, m4a):
        write_tags(path, VALUES, journal)
    comments = dict(mutagen.File(flac).tags)
    assert {comments["bpm"][0], comments["initialkey"][0], comments["grouping"][0]} == {
        "123.97", "F#m", "rock, piano"
    }  # fmt: skip
    frames = mutagen.File(mp3).tags
    assert [str(frames[name]) for name in ("TBPM", "TKEY", "TIT1")] == ["124", "F#m", "rock, piano"]
    atoms = mutagen.File(m4a).tags
    assert atoms["tmpo"] == [124]
    assert bytes(atoms["----:com.apple.iTunes:initialkey"][0]) == b"F#m"
    assert atoms["\xa9grp"] == ["rock, piano"]


def rich_mp3(folder: Path, version: int) -> Path:
    """With frames of many kinds, and an ID3v1 tag that says something else."""
    from mutagen import id3

    path = audio_files.write(folder, "tone.mp3", seconds=1.0)
    tags = id3.ID3()
    for frame in (
        id3.TIT2(1, ["Ttle"]), id3.TPE1(1, ["One", "Two"]),
        id3.APIC(0, "image/png", 3, "", PICTURE),
        id3.POPM("a@b.c", 196, 7), id3.PRIV("own", b"\0\1"), id3.USLT(1, "eng", "", "la"),
        id3.TXXX(1, "FOO", ["a"]), id3.GEOB(0, "a/b", "f", "Serato Markers2", b"\0x"),
        id3.UFID("http://musicbrainz.org", b"abc"), id3.CTOC("toc", 3, ["one"], []),
        id3.CHAP("one", 0, 500, 2**32 - 1, 2**32 - 1, [id3.TIT2(1, ["First"])]),
    ):  # fmt: skip
        tags.add(frame)
    if version == 3:
        tags.add(id3.TYER(0, ["1999"]))
        tags.add(id3.TDAT(0, ["3112"]))
    else:
        tags.add(id3.TDRC(3, ["1999-12-31"]))
    tags.save(path, v2_version=version, v23_sep=None)
    path.write_bytes(path.read_bytes() + b"TAG" + b"Old title".ljust(124, b"\0") + b"\x11")
    return path


@pytest.mark.parametrize("version", [3, 4])
def test_all_else_in_an_id3_tag_stays(tmp_path: Path, journal: Journal, version: int) -> None:
    from mutagen.id3 import ID3

    path = rich_mp3(tmp_path, version)
    before, end = ID3(path, translate=False, load_v1=False), path.read_bytes()[-128:]
    write_tags(path, VALUES, journal)
    after = ID3(path, translate=False, load_v1=False)
    assert after.version == before.version == (2, version, 0)
    assert {*after} - {*before} == {"TBPM", "TKEY", "TIT1"}
    assert all(repr(after[name]) == repr(before[name]) for name in before)
    assert path.read_bytes()[-128:] == end


def test_all_else_in_other_tags_stays(tmp_path: Path, journal: Journal) -> None:
    flac = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    file = mutagen.File(flac)
    picture = mutagen.flac.Picture()
    picture.data, picture.mime = PICTURE, "image/png"
    file.add_picture(picture)
    file["artist"] = ["One", "Two"]
    file.save()
    m4a = audio_files.write(tmp_path, "tone.m4a", seconds=1.0)
    file = mutagen.File(m4a)
    file["covr"] = [mutagen.mp4.MP4Cover(PICTURE, mutagen.mp4.MP4Cover.FORMAT_PNG)]
    file["----:com.apple.iTunes:MusicBrainz Track Id"] = [b"abc"]
    file["trkn"] = [(3, 12)]
    file.save()
    for path in (flac, m4a):
        before = mutagen.File(path)
        write_tags(path, VALUES, journal)
        after = mutagen.File(path)
        assert all(after.tags[name] == value for name, value in before.tags.items())
    assert mutagen.File(flac).pictures == [picture]


@pytest.mark.parametrize("name", ["tone.mp3", "tone.flac", "tone.m4a"])
def test_what_is_there_is_kept(tmp_path: Path, journal: Journal, name: str) -> None:
    path = audio_files.write(tmp_path, name, seconds=1.0)
    untagged = path.read_bytes()
    write_tags(path, {"tempo": "90", "key": "C"}, journal)
    before = path.read_bytes()
    again = write_tags(path, VALUES | {"tags": ""}, journal)
    assert (again.kept["tempo"], again.kept["key"]) == ("90", "C")
    written = write_tags(path, VALUES, journal, overwrite=True)
    tempo = "124" if name.endswith(WHOLE) else "123.97"
    assert (written.values, written.kept) == (VALUES | {"tempo": tempo}, {})
    assert path.read_bytes() != before
    assert not write_tags(path, VALUES, journal, overwrite=True).values  # all of it is there
    assert list(journal.undo()) == [path]
    assert path.read_bytes() == untagged


def test_other_names_of_a_field_count(tmp_path: Path, journal: Journal) -> None:
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    file = mutagen.File(path)
    file["KEY"], file["BPM"] = "8A", "0"
    file.save()
    written = write_tags(path, {"tempo": "90", "key": "C"}, journal)
    assert (written.values, written.kept) == ({"tempo": "90"}, {"key": "8A"})
    write_tags(path, {"key": "C"}, journal, overwrite=True)
    assert mutagen.File(path)["KEY"] == ["C"]
    assert "INITIALKEY" not in mutagen.File(path)


def test_links_are_followed(tmp_path: Path, journal: Journal) -> None:
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    link = tmp_path / "link.flac"
    link.symlink_to(path)
    write_tags(link, VALUES, journal)
    assert link.is_symlink()
    assert "bpm" in mutagen.File(path)


@pytest.mark.parametrize("content", [b"", b"no music", b"RIFF" + bytes(40)])
def test_files_without_tags_are_refused(tmp_path: Path, journal: Journal, content: bytes) -> None:
    path = tmp_path / "song.mid"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"song\.mid"):
        write_tags(path, VALUES, journal)
    assert path.read_bytes() == content


def test_damaged_files_keep_their_bytes(tmp_path: Path, journal: Journal) -> None:
    for name in ("tone.mp3", "tone.flac", "tone.ogg", "tone.m4a", "tone.wav"):
        path = audio_files.truncate(audio_files.write(tmp_path, name, seconds=1.0))
        before = path.read_bytes()
        try:
            write_tags(path, VALUES, journal)
        except OutputError:
            assert path.read_bytes() == before
    for undone in journal.undo():
        assert isinstance(undone, Path)


def test_a_file_that_was_changed_since_is_not_touched(tmp_path: Path, journal: Journal) -> None:
    one = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    other = audio_files.write(tmp_path, "tone.mp3", seconds=1.0)
    gone = audio_files.write(tmp_path, "tone.ogg", seconds=1.0)
    before = other.read_bytes()
    for path in (one, other, gone):
        write_tags(path, VALUES, journal)
    gone.rename(tmp_path / "moved.ogg")
    file = mutagen.File(one)
    file["title"] = "new"
    file.save()
    content = one.read_bytes()
    undone = list(journal.undo())
    assert other in undone
    said = sorted(str(each) for each in undone if not isinstance(each, Path))
    assert "changed by another program" in said[0]
    assert "not there any more" in said[1]
    assert (one.read_bytes(), other.read_bytes()) == (content, before)
    (tmp_path / "moved.ogg").rename(gone)
    assert gone in list(journal.undo())


def test_sound_that_would_change_is_noticed(tmp_path: Path, journal: Journal) -> None:
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    before = path.read_bytes()

    def spoil(copy: Path) -> None:
        audio_files.write(tmp_path, "tone.flac", seconds=0.5).rename(copy)

    held = tmp_path / "held.flac"
    held.write_bytes(before)
    with pytest.raises(OutputError, match="its sound would not be the same"):
        journal.replace(held, spoil)
    assert held.read_bytes() == before
    assert list(journal.undo()) == []


_KILLED = """
import os, signal, sys
from pathlib import Path
from musicfm.library import tagging
from musicfm.library.tagging import Journal, write_tags
import musicfm.files as files
real, moments = os.replace, iter(range(100))
def replace(source, target):
    if sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    real(source, target)
    os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = replace
journal = Journal(Path(sys.argv[1]))
if sys.argv[4] == "undo":
    list(journal.undo())
write_tags(Path(sys.argv[2]), {"tempo": "90"}, journal)
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path: Path, moment: str) -> None:
    database = tmp_path / "journal" / "tagging.sqlite"
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    before, sound = path.read_bytes(), packets(path)
    killed = subprocess.run([sys.executable, "-c", _KILLED, database, path, moment, "tag"])
    assert killed.returncode == -signal.SIGKILL
    assert packets(path) == sound
    assert ("bpm" in mutagen.File(path)) == (moment == "after")
    journal = Journal(database)
    journal.recover()
    assert sorted(os.listdir(tmp_path)) == ["journal", "tone.flac"]
    assert list(journal.undo()) == ([path] if moment == "after" else [])
    assert path.read_bytes() == before
    journal.close()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_an_undo_that_was_killed_is_continued(tmp_path: Path, moment: str) -> None:
    database = tmp_path / "journal" / "tagging.sqlite"
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    before = path.read_bytes()
    journal = Journal(database)
    write_tags(path, VALUES, journal)
    journal.close()
    killed = subprocess.run([sys.executable, "-c", _KILLED, database, path, moment, "undo"])
    assert killed.returncode == -signal.SIGKILL
    assert (path.read_bytes() == before) == (moment == "after")
    journal = Journal(database)
    journal.recover()
    assert list(journal.undo()) == [path]
    assert path.read_bytes() == before
    journal.close()


def test_read_only_files_are_refused(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = audio_files.write(tmp_path, "tone.flac", seconds=1.0)
    before = path.read_bytes()

    def access(*_: Any) -> bool:
        return False

    monkeypatch.setattr(os, "access", access)  # root may write anything
    with pytest.raises(OutputError, match="read-only"):
        write_tags(path, VALUES, journal)
    assert path.read_bytes() == before
