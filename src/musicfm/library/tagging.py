"""Tempo, key and tags, written into files: only into their metadata, and so that it can be undone.

A file is copied, the copy's metadata are changed by mutagen, and the copy takes the file's place
once its packets of sound have been found equal. What a change replaced is in a journal before that:
a kill leaves the old file or the new one, and either can be told from the journal.
"""

import hashlib
import mmap
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from musicfm.audio.reading import sound_hash
from musicfm.errors import MusicFMError, OutputError
from musicfm.files import atomic_write, exclusive, sweep_beside, writing
from musicfm.library.database import Track
from musicfm.library.keys import Notation, write_key
from musicfm.library.library import Library
from musicfm.remote import is_url

JOURNAL = "tagging.sqlite"
"""The name of the journal in a library's folder."""

_ID3 = {"tempo": ("TBPM",), "key": ("TKEY",), "tags": ("TIT1", "GRP1")}
_MP4 = {
    "tempo": ("tmpo", "----:com.apple.iTunes:BPM"),
    "key": ("----:com.apple.iTunes:initialkey", "----:com.apple.iTunes:KEY"),
    "tags": ("\xa9grp",),
}
_ASF = {
    "tempo": ("WM/BeatsPerMinute",),
    "key": ("WM/InitialKey",),
    "tags": ("WM/ContentGroupDescription",),
}
_COMMENTS = {"tempo": ("BPM", "TEMPO"), "key": ("INITIALKEY", "KEY"), "tags": ("GROUPING",)}
"""Vorbis comments, and APE tags."""

_JOURNAL = """
CREATE TABLE IF NOT EXISTS changes (
    id INTEGER PRIMARY KEY,
    path BLOB NOT NULL,
    before TEXT NOT NULL,  -- SHA-256 of the file
    after TEXT NOT NULL,
    start INTEGER NOT NULL,  -- bytes at the beginning that stayed, and at the end
    rest INTEGER NOT NULL,
    replaced BLOB NOT NULL,  -- those between, as they were before
    done INTEGER NOT NULL
)
"""
_CHUNK = 1 << 20
_ID3_V1_BYTES = 128


@dataclass(frozen=True)
class Written:
    """What was written into a file, or would be."""

    path: Path
    values: Mapping[str, str]
    """By field: tempo, key, tags; as they are stored. Empty if there was nothing to write."""
    kept: Mapping[str, str]
    """Existing values that were kept, by field."""


class Journal:
    """What was in files before they were changed, in an SQLite database.

    Any call may raise sqlite3.Error: the disk is full, or the database damaged.

    Args:
        path: of the database; it is made if need be.
    """

    def __init__(self, path: Path) -> None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(_JOURNAL)

    def close(self) -> None:
        """Closes the database."""
        self._database.close()

    def replace(self, path: Path, change: Callable[[Path], None]) -> None:
        """Changes a file, as a whole or not at all.

        Args:
            path: of the file.
            change: changes the copy of it whose path it is given.

        Raises:
            AudioError: it cannot be read.
            OutputError: it cannot be written, or its sound would have changed.
        """
        if not os.access(path, os.W_OK):
            raise OutputError(f"cannot write {path}: it is read-only; make it writable")
        with _copy(path) as copy:
            change(copy)
            if sound_hash(copy) != sound_hash(path):
                raise OutputError(
                    f"{path} was left as it is: with other tags, its sound would not be the same; "
                    "please report this"
                )
            before, after = _digest(path), _digest(copy)
            start, rest = _common(path, copy)
            with path.open("rb") as file:
                file.seek(start)
                replaced = file.read(os.path.getsize(path) - start - rest)
            row = self._database.execute(
                "INSERT INTO changes VALUES (NULL, ?, ?, ?, ?, ?, ?, 0)",
                (os.fsencode(path), before, after, start, rest, replaced),
            ).lastrowid
        self._database.execute("UPDATE changes SET done = 1 WHERE id = ?", (row,))

    def recover(self) -> None:
        """Clears up after a run that was killed, of which none may be under way any more."""
        for row, name, after in self._rows("SELECT id, path, after FROM changes WHERE NOT done"):
            path = Path(os.fsdecode(name))
            with suppress(OSError):
                sweep_beside(path)
            if os.path.isfile(path) and _digest(path) == after:
                self._database.execute("UPDATE changes SET done = 1 WHERE id = ?", (row,))
            else:
                self._forget(row)

    def undo(self) -> Iterator[Path | MusicFMError]:
        """Puts back what every file was before its first change; yields each file, or why not."""
        stuck = set()
        for row, name, before, after, start, rest in self._rows(
            "SELECT id, path, before, after, start, rest FROM changes ORDER BY id DESC"
        ):
            path = Path(os.fsdecode(name))
            if name in stuck:
                continue
            try:
                self._put_back(row, path, before, after, start, rest)
            except MusicFMError as error:
                stuck.add(name)
                yield error
                continue
            self._forget(row)
            if not self._rows("SELECT 1 FROM changes WHERE path = ?", name):
                yield path

    def _put_back(
        self, row: int, path: Path, before: str, after: str, start: int, rest: int
    ) -> None:
        if not os.path.isfile(path):
            raise OutputError(f"{path} is not there any more; move it back, and undo again")
        if (now := _digest(path)) == before:  # by a run that was killed, or whose disk was full
            return
        if now != after:
            raise OutputError(f"{path} was changed by another program; it is left as it is")
        ((replaced,),) = self._rows("SELECT replaced FROM changes WHERE id = ?", row)
        with _copy(path) as copy:
            with path.open("rb") as tagged, copy.open("wb") as old:
                _copy_bytes(tagged, old, start)
                old.write(replaced)
                tagged.seek(-rest, os.SEEK_END)
                _copy_bytes(tagged, old, rest)
            if _digest(copy) != before:
                raise OutputError(f"{path} is left as it is: the journal is damaged")

    def _forget(self, row: int) -> None:
        self._database.execute("DELETE FROM changes WHERE id = ?", (row,))

    def _rows(self, query: str, *values: object) -> Sequence[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()


def tag(
    library: Library,
    *,
    notation: Notation = "standard",
    with_tags: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
) -> Iterator[Written | MusicFMError]:
    """Writes tempo and key into the files of a library.

    Args:
        library: whose files are written; those that are gone, and those at URLs, are not.
        notation: of keys.
        with_tags: whether to write the tags that are likelier than not, too.
        overwrite: whether values that are there are replaced; a tempo of 0 counts as none.
        dry_run: write nothing.

    Yields what was written into each file, or would be; or why it was not.

    Raises:
        DataError: there is no library.
        OutputError: another run is writing tags, or the journal cannot be written.
    """
    tracks = [track for track in library.database.tracks("missing = 0") if not is_url(track.path)]
    with ExitStack() as stack:
        journal = None
        if not dry_run:
            journal = stack.enter_context(_journal(library))
        for track in tracks:
            try:
                values = _values(track, notation, with_tags)
                written = write_tags(Path(track.path), values, journal, overwrite=overwrite)
            except MusicFMError as error:
                yield error
                continue
            if written.values and journal is not None:
                _refresh(library, track.path)
            yield written


def undo(library: Library) -> Iterator[Path | MusicFMError]:
    """Puts back what the files of a library were before :func:`tag` changed them for the first
    time; yields each file, or why it was left. Raises as :func:`tag` does.
    """
    with _journal(library) as journal:
        for undone in journal.undo():
            if isinstance(undone, Path):
                _refresh(library, undone)
            yield undone


def _refresh(library: Library, path: str | Path) -> None:
    """Tells a library that we changed the tags of a file. If it cannot be told, as while another
    run adds music to it, its next `add` finds out by the sound.
    """
    track = library.track(path)
    if track is not None:
        with suppress(MusicFMError):
            library.refresh(track)


@contextmanager
def _journal(library: Library) -> Iterator[Journal]:
    """The journal of a library, with nobody else in it."""
    library.settings  # noqa: B018  (raises if there is no library)
    path = library.path / JOURNAL
    with exclusive(library.path, ".tagging.lock"):
        try:
            with closing(Journal(path)) as journal:
                journal.recover()
                yield journal
        except sqlite3.Error as error:
            raise OutputError(
                f"cannot write the journal {path}: {error}; nothing was changed without it; free "
                "space there, or if it is damaged, restore it from a copy"
            ) from error


def _values(track: Track, notation: Notation, with_tags: bool) -> dict[str, str]:
    """What is known of a track, by field."""
    values = {}
    if track.tempo is not None:
        values["tempo"] = f"{track.tempo:.2f}".rstrip("0").rstrip(".")
    if track.key is not None:
        values["key"] = write_key(track.key, notation)
    if with_tags and (tags := [tag for tag, sure in track.tags.items() if sure >= 0.5]):
        values["tags"] = ", ".join(tags)
    return values


def write_tags(
    path: Path, values: Mapping[str, str], journal: Journal | None, *, overwrite: bool = False
) -> Written:
    """Writes values into a file's metadata.

    Args:
        path: of the recording; a link is followed.
        values: by field: "tempo" in beats per minute, "key", "tags".
        journal: remembers what was there; None: nothing is written.
        overwrite: whether values that are there are replaced; a tempo of 0 counts as none.

    Raises OutputError: the file has no metadata that we know how to write, or cannot be written.
    """
    path = Path(os.path.realpath(path))
    file = _open(path)
    names = _names(file)
    values = {field: _stored(file, field, text) for field, text in values.items()}
    there = {field: _value(file, names[field]) for field in values}
    kept = {field: text for field, text in there.items() if text and not overwrite}
    wanted = {
        field: text for field, text in values.items() if field not in kept and there[field] != text
    }
    if wanted and journal is not None:
        journal.replace(path, lambda copy: _write(copy, type(file), wanted))
    return Written(path, wanted, kept)


def _open(path: Path, kind: Callable[..., Any] | None = None) -> Any:
    """A file as mutagen has it, with tags, if only in memory. Raises OutputError."""
    import mutagen
    from mutagen.id3 import ID3

    try:
        file = mutagen.File(path) if kind is None else kind(path)
        if file is None:
            raise mutagen.MutagenError("mutagen knows none in files of its kind")
        if isinstance(file.tags, ID3) and file.tags.version >= (2,):
            # As the frames are in the file: not of version 2.4, and without those of an ID3v1 tag.
            file = type(file)(path, translate=False, load_v1=False)
        if file.tags is None:
            file.add_tags()
    except (mutagen.MutagenError, NotImplementedError, OSError, ValueError) as error:
        raise OutputError(f"the tags of {path} cannot be written: {error}") from error
    return file


def _names(file: Any) -> Mapping[str, tuple[str, ...]]:
    """Under which names a file's kind of tags has each field, the one that we write first."""
    from mutagen.asf import ASFTags
    from mutagen.id3 import ID3
    from mutagen.mp4 import MP4Tags

    if isinstance(file.tags, ID3):
        return _ID3
    if isinstance(file.tags, MP4Tags):
        return _MP4
    return _ASF if isinstance(file.tags, ASFTags) else _COMMENTS


def _value(file: Any, names: Sequence[str]) -> str:
    """What a file has under one of the names; empty if it has nothing, or a tempo of 0."""
    for name in names:
        found = file.tags.get(name)
        values = found if isinstance(found, list) else [] if found is None else [found]
        for value in values:
            text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
            if text.strip("0. "):
                return text
    return ""


def _stored(file: Any, field: str, text: str) -> str:
    """A value as its kind of tag takes it: ID3 and MP4 have whole numbers for beats per minute."""
    is_whole = field == "tempo" and _names(file) in (_ID3, _MP4)
    return str(round(float(text))) if is_whole else text


def _write(path: Path, kind: Callable[..., Any], values: Mapping[str, str]) -> None:
    """Writes values, as they are stored, into a file of a kind; all else in it stays."""
    import mutagen
    from mutagen import id3

    file = _open(path, kind)
    names = _names(file)
    for field, text in values.items():
        for name in [name for name in names[field] if name in file.tags] or names[field][:1]:
            if names is _ID3:
                file.tags.setall(
                    name,
                    [
                        getattr(id3, name)(
                            encoding=id3.Encoding.UTF8
                            if file.tags.version >= (2, 4)
                            else id3.Encoding.UTF16,
                            text=[text],
                        )
                    ],
                )
            elif name == "tmpo":
                file.tags[name] = [int(text)]
            else:
                file.tags[name] = [text.encode() if name.startswith("----") else text]
    old_tag = _id3_v1(path)
    version = file.tags.version[1] if names is _ID3 else 0
    try:
        file.save(**({"v2_version": max(3, version), "v23_sep": None} if names is _ID3 else {}))
    except mutagen.MutagenError as error:
        raise OutputError(f"the tags cannot be written: {error}") from error
    if old_tag and _id3_v1(path):  # which mutagen fills anew from what it knows
        with path.open("r+b") as content:
            content.seek(-len(old_tag), os.SEEK_END)
            content.write(old_tag)


def _id3_v1(path: Path) -> bytes:
    """The ID3v1 tag at a file's end; empty if there is none."""
    with path.open("rb") as file:
        file.seek(-min(_ID3_V1_BYTES, os.path.getsize(path)), os.SEEK_END)
        last = file.read()
    return last if last.startswith(b"TAG") else b""


@contextmanager
def _copy(path: Path) -> Iterator[Path]:
    """Gives a copy that takes the file's place if the block succeeds."""
    with atomic_write(path) as copy:
        shutil.copyfile(path, copy)
        yield copy
        shutil.copystat(path, copy)
        os.utime(copy)  # players look for files that are newer than their list


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _common(one: Path, other: Path) -> tuple[int, int]:
    """How many bytes two files that are not empty have in common at their start and end."""
    with (
        one.open("rb") as a,
        other.open("rb") as b,
        mmap.mmap(a.fileno(), 0, access=mmap.ACCESS_READ) as x,
        mmap.mmap(b.fileno(), 0, access=mmap.ACCESS_READ) as y,
    ):
        shorter = min(len(x), len(y))
        start = _agreeing(lambda i, j: x[i:j], lambda i, j: y[i:j], shorter)
        rest = _agreeing(
            lambda i, j: x[len(x) - j : len(x) - i][::-1],
            lambda i, j: y[len(y) - j : len(y) - i][::-1],
            shorter - start,
        )
    return start, rest


_Reader = Callable[[int, int], bytes]


def _agreeing(one: _Reader, other: _Reader, limit: int) -> int:
    """How many bytes agree from the first on, of at most a number."""
    for begin in range(0, limit, _CHUNK):
        end = min(limit, begin + _CHUNK)
        a, b = one(begin, end), other(begin, end)
        if a != b:
            return begin + next(i for i, (p, q) in enumerate(zip(a, b, strict=True)) if p != q)
    return limit


def _copy_bytes(source: BinaryIO, target: BinaryIO, count: int) -> None:
    while count > 0 and (part := source.read(min(count, _CHUNK))):
        target.write(part)
        count -= len(part)
