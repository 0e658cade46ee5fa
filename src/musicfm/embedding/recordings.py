"""Which recordings there are in files, folders and at URLs, and what their results are called."""

import itertools
import os
import posixpath
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import TypeAlias

from musicfm.audio.folders import (
    by_suffix,
    check_named,
    common_folder,
    describe,
    is_named_as_audio,
    no_recordings,
    note_passed_over,
    recordings_in,
)
from musicfm.errors import ConfigError
from musicfm.journal import Recording
from musicfm.remote import Location, RemoteFile, files_below, is_url

Source: TypeAlias = str | os.PathLike[str] | Recording
"""A file or folder, at a path or URL; or a recording that is known already."""


def find_recordings(
    sources: Sequence[Source],
    failures: list[tuple[str, str]],
    passed_over: dict[str, int] | None = None,
    left_out: list[tuple[str, str]] | None = None,
) -> list[Recording]:
    """All recordings in some files and folders, in a fixed order, each once.

    Folders are searched with all below them; hidden files and folders are passed over. Results are
    named after the path below the folder that all sources have in common; URLs and paths apart.
    What cannot be used is appended to ``failures``, as path and reason. Of ``song.flac`` and
    ``song.ogg`` in one folder, whose results would have one name, the first is used.

    Args:
        sources: paths and URLs of files and folders; or recordings, which stay as they are.
        failures: is appended to.
        passed_over: is added to, as :func:`musicfm.audio.folders.recordings_in` does.
        left_out: is appended to: other formats of what is used, as path and reason.

    Raises ConfigError if there is nothing at all, a source is empty, or a URL is one that fsspec
    does not know how to read.
    """
    found: list[Recording] = []
    names: dict[str, Location] = {}
    for recording in every_recording(sources, failures, passed_over):
        if recording.name in names:
            path, other = str(recording), names[recording.name]
            if left_out is not None and is_twin(path, str(other)):
                left_out.append((path, twin_reason(path, str(other))))
            else:
                failures.append((path, collision(recording.path, other)))
        else:
            names[recording.name] = recording.path
            found.append(recording)
    return found


def every_recording(
    sources: Sequence[Source],
    failures: list[tuple[str, str]],
    passed_over: dict[str, int] | None = None,
) -> list[Recording]:
    """As :func:`find_recordings`, but those whose results would have the same name stay."""
    passed_over = {} if passed_over is None else passed_over
    check_named(sources)
    paths = [
        Path(os.path.abspath(source))
        for source in sources
        if not isinstance(source, Recording) and not is_url(source)
    ]
    urls = [source for source in sources if isinstance(source, str) and is_url(source)]
    given = [source for source in sources if isinstance(source, Recording)]
    found: dict[Location, Recording] = {}
    for recording in itertools.chain(
        _on_disk(paths, failures, passed_over), _at_urls(urls, failures, passed_over), given
    ):
        found.setdefault(recording.path, recording)
    if not found and not failures:
        raise ConfigError(no_recordings(sources, passed_over))
    return list(found.values())


def _on_disk(
    paths: list[Path], failures: list[tuple[str, str]], passed_over: dict[str, int]
) -> Iterator[Recording]:
    base = common_folder(paths)

    def note(error: OSError) -> None:
        failures.append(describe(error))

    found = (file for source in paths for file in recordings_in(source, note, passed_over))
    for path in dict.fromkeys(found):
        try:
            status = path.stat()
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
            reason = getattr(error, "strerror", error)
            failures.append((str(path), f"{path} cannot be read: {reason}"))
            continue
        name = os.path.relpath(path.with_suffix(""), base)
        yield Recording(path, name, status.st_size, status.st_mtime_ns)


def _at_urls(
    urls: list[str], failures: list[tuple[str, str]], passed_over: dict[str, int]
) -> Iterator[Recording]:
    files: list[RemoteFile] = []
    for url in urls:
        try:
            below = list(files_below(url))
        except OSError as error:
            failures.append((url, f"{url} cannot be read: {error.strerror}; check the URL"))
            continue
        is_folder = [file.url for file in below] != [url]
        for file in below:
            if not is_folder or is_named_as_audio(file.url):
                files.append(file)
            else:
                note_passed_over(file.url, passed_over)
    files.sort(key=lambda file: by_suffix(file.url)[0])
    base = posixpath.commonpath([posixpath.dirname(file.url) for file in files] or ["."])
    for file in files:
        name = posixpath.splitext(posixpath.relpath(file.url, base))[0]
        yield Recording(file.url, name, file.size, file.version)


def is_twin(path: str, other: str) -> bool:
    """Whether two files have one name in one folder, but for the format."""
    return os.path.splitext(path)[0] == os.path.splitext(other)[0]


def twin_reason(path: str, other: str) -> str:
    """Why one of them is left out."""
    return (
        f"{path} is left out: {PurePath(other).name} has the same name; rename one of them to use "
        "both"
    )


def collision(path: Location, other: Location) -> str:
    """Why a recording cannot be used whose result would have the name of another one's."""
    return (
        f"{path}: its result would have the name of that of {other}; rename one of them, or use "
        "another output folder"
    )
