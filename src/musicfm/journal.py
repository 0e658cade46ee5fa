"""The journal of a folder of results: what is done, and under which settings.

A result counts when its line is in the journal; the line is written after the result has its final
name, so a run that was killed at any moment continues where it stopped. What a run is about to
write has a line before: files that are there without one, nobody here wrote.
"""

import contextlib
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from musicfm.errors import OutputError
from musicfm.files import differences, exclusive, parse_json, sweep, write_file, writing
from musicfm.remote import Location, is_url

JOURNAL = "journal.jsonl"

_GLANCE_BYTES = 1 << 16
_FORMER_SETTINGS = ("page", "exports")
"""Settings of analyses before 0.2: a run that wrote a page, say, could not be continued by one that
did not."""


@dataclass(frozen=True)
class Recording:
    """A recording and the name of its result, relative to the output folder, without suffix."""

    path: Location
    name: str
    size: int
    modified: int
    """Changes with the file: nanoseconds since 1970, or what its store says."""

    def __str__(self) -> str:
        return str(self.path)


class Journal:
    """What is done in a folder, and under which settings: a lock, a header, and a line each.

    Args:
        folder: of the results; made if need be.
        settings: what defines a result. A mapping in it may grow: results of a folder that has
            fewer of its items are done again.
        recordings: of this run.
        overwrite: whether to begin anew where there are results of other settings. Refused while
            some would stay, since a folder never mixes settings.
        options: kept for :func:`read_options`; None: those that are there stay.

    Raises OutputError on entry: another run is writing there, results of other settings are there,
    or the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        settings: Mapping[str, Any],
        recordings: Iterable[Recording],
        overwrite: bool,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        """By the recording's path."""
        self._paths: dict[str, str] = {}
        """By the name of the result, which one recording has."""
        self._begun: set[str] = set()
        self._states: Counter[tuple[int, int]] = Counter()
        """How many recordings were of a size and an age when this run began."""
        self._folder, self._path = folder, folder / JOURNAL
        self._settings, self._overwrite = dict(settings), overwrite
        self._options = None if options is None else dict(options)
        self._recordings = tuple(recordings)
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._open as stack, writing(self._path):
            stack.enter_context(exclusive(self._folder, f".{JOURNAL}.lock"))
            sweep(self._folder)
            self._read()
            self._file = stack.enter_context(self._path.open("a", encoding="utf-8"))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self._path):  # a line that found the disk full is tried once more
            self._open.close()

    def has(self, recording: Recording) -> bool:
        """Whether a recording is done, and has not changed since."""
        entry = self.entries.get(str(recording))
        if entry is None or not self._holds(entry, recording):
            return False
        # Recordings that are as long and as old as others may have changed places with them.
        return self._states[_state(entry)] < 2 or entry.get("glance") == _partial_hash(
            recording.path
        )

    def has_moved(self, recording: Recording) -> bool:
        """Whether a recording is done, and lay elsewhere then."""
        entry = self._moved(recording)
        return entry is not None and self._holds(entry, recording)

    def name_conflict(self, recording: Recording) -> str | None:
        """The path of another recording whose result has the name that this one's would have."""
        path = self._paths.get(recording.name, str(recording))
        if path == str(recording) or self._moved(recording):
            return None
        if os.path.splitext(path)[0] == os.path.splitext(str(recording))[0] and _is_gone(path):
            return None  # it is there in another format now
        return path

    def owns(self, name: str) -> bool:
        """Whether a run into this folder has written a result of this name, or was about to."""
        return name in self._paths or name in self._begun

    def begin(self, recording: Recording) -> None:
        """Notes that the result of a recording is about to be written."""
        if not self.owns(recording.name):
            self._begun.add(recording.name)
            self._write({"begins": recording.name})

    def add(self, recording: Recording, **facts: Any) -> None:
        """Notes that a recording is done."""
        entry = {
            "path": str(recording),
            "name": recording.name,
            "size": recording.size,
            "modified": recording.modified,
            "glance": _partial_hash(recording.path),
            **facts,
        }
        self._put(entry)
        self._write(entry)

    def _holds(self, entry: Mapping[str, Any], recording: Recording) -> bool:
        return _is_of_one_state(entry, recording) and os.path.isfile(
            self._folder / str(entry["output"])
        )

    def _put(self, entry: dict[str, Any]) -> None:
        """In place of what the recording had, and of what had its name: there it lay before."""
        path, name = entry["path"], entry["name"]
        if old := self.entries.pop(path, None):
            self._paths.pop(old["name"], None)
        if name in self._paths:
            self.entries.pop(self._paths[name], None)
        self.entries[path], self._paths[name] = entry, path

    def _moved(self, recording: Recording) -> dict[str, Any] | None:
        """The entry of a recording that lay elsewhere, if it is this one and is there no more."""
        entry = self.entries.get(self._paths.get(recording.name, ""))
        if entry is None or not _is_of_one_state(entry, recording):
            return None
        if not _is_gone(entry["path"]):
            return None
        seen = entry.get("glance")
        return entry if seen is not None and seen == _partial_hash(recording.path) else None

    def _write(self, line: Mapping[str, Any]) -> None:
        with writing(self._path):
            self._file.write(_line(line).decode())
            self._file.flush()

    def _read(self) -> None:
        """Reads the journal, or begins one."""
        content = self._path.read_bytes() if os.path.exists(self._path) else b""
        # What follows the last line's end was being written when a run was killed.
        whole = content[: content.rfind(b"\n") + 1]
        try:
            header, *lines = [parse_json(line) for line in whole.splitlines()] or [None]
            self._begun = {_begun(line) for line in lines if "begins" in line}
            entries = [_checked(line) for line in lines if "begins" not in line]
            for entry in entries:
                self._put(entry)
            self._states = Counter(map(_state, self.entries.values()))
            there = None if header is None else dict(header["settings"])
            options = None if header is None else header.get("options")
            for former in _FORMER_SETTINGS:
                (there or {}).pop(former, None)
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{self._path} is damaged, or not a journal of musicfm; use another output folder"
            ) from error
        if there is not None and there != self._settings:
            if self.entries:
                self._refuse_mixture(there)
            # The files stay this folder's: a run that goes on may replace them.
            self._begun |= self._paths.keys()
            self.entries, self._paths = {}, {}
            whole = b"".join(_line({"begins": name}) for name in sorted(self._begun))
        else:
            whole = whole.partition(b"\n")[2]
        header = {"settings": self._settings}
        if options := (options if self._options is None else self._options):
            header["options"] = options
        whole = _line(header) + whole
        if whole != content:
            write_file(self._path, whole)

    def _refuse_mixture(self, there: Mapping[str, Any]) -> None:
        differing = sorted(differences(there, self._settings))
        what = f"{self._folder} holds results of other settings ({', '.join(differing)} differ)"
        if not self._overwrite and not _adds_to(there, self._settings):
            raise OutputError(f"{what}; use another folder (--out), or do them again (--overwrite)")
        mine = {str(recording) for recording in self._recordings}
        moved = {e["path"] for r in self._recordings if (e := self._moved(r)) is not None}
        if kept := sorted(set(self.entries) - mine - moved):
            raise OutputError(
                f"{what}, and this run would not overwrite those of {len(kept)} recordings, such "
                f"as {kept[0]}; use another folder"
            )


def read_options(folder: Path) -> dict[str, Any]:
    """The options that the last run into a folder noted; none if it noted none, or is damaged."""
    try:
        with (folder / JOURNAL).open("rb") as file:
            return dict(parse_json(file.readline())["options"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _adds_to(there: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether settings differ from those there only in having more in their mappings."""
    if there.keys() != settings.keys():
        return False
    return all(
        there[key].items() <= value.items()
        if isinstance(value, Mapping) and isinstance(there[key], Mapping)
        else there[key] == value
        for key, value in settings.items()
    )


def _line(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content).encode() + b"\n"


def _is_of_one_state(entry: Mapping[str, Any], recording: Recording) -> bool:
    return _state(entry) == (recording.size, recording.modified)


def _state(entry: Mapping[str, Any]) -> tuple[int, int]:
    return entry["size"], entry["modified"]


def _is_gone(path: str) -> bool:
    """Whether a file was on this machine, and is there no more."""
    return not is_url(path) and not os.path.exists(path)


def _partial_hash(location: Location) -> str | None:
    """SHA-256 of a little of a file, to know it again elsewhere; None of what is not there, or far.

    Of its beginning, middle and end: recordings begin and end alike, in silence.
    """
    if isinstance(location, str):
        return None
    try:
        with location.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            digest = hashlib.sha256()
            for place in (0, end // 2, max(0, end - _GLANCE_BYTES)):
                file.seek(place)
                digest.update(file.read(_GLANCE_BYTES))
    except OSError:
        return None
    return digest.hexdigest()


def _begun(line: Mapping[str, Any]) -> str:
    """The name of the result that a line says begins. Raises TypeError for one that does not."""
    if not isinstance(line["begins"], str):
        raise TypeError("values of other types")
    return line["begins"]


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """A line of the journal. Raises ValueError, KeyError or TypeError for one that is none."""
    texts, numbers = ("path", "name", "output"), ("size", "modified")
    if not (
        all(isinstance(entry[key], str) for key in texts)
        and all(isinstance(entry[key], int) for key in numbers)
    ):
        raise TypeError("values of other types")
    return entry
