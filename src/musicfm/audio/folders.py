"""Which files of a folder are recordings."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

# What counts as a recording within a folder; a file that is named itself may be called anything.
AUDIO_SUFFIXES = frozenset(
    """
    .aac .ac3 .aif .aifc .aiff .alac .amr .ape .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3
    .mp4 .mpc .mpga .oga .ogg .opus .ra .rf64 .snd .tta .voc .w64 .wav .wave .weba .webm .wma .wv
    """.split()
)


def recordings_in(source: Path, on_error: Callable[[OSError], None]) -> Iterator[Path]:
    """The recordings in a folder and all below it, sorted; a file is itself.

    What links to folders lead to comes after that, unless it is there already or leads back above.
    Hidden files and folders are passed over. ``on_error`` is told of folders that cannot be read.
    """
    if not os.path.isdir(source):  # unlike Path.is_dir, of what may not be read, too
        yield source
        return
    for folder, files in _folders(str(source), on_error):
        for name in sorted(files):
            if not name.startswith(".") and is_named_as_audio(name):
                yield Path(folder, name)


def _folders(
    source: str, on_error: Callable[[OSError], None]
) -> Iterator[tuple[str, Sequence[str]]]:
    """A folder, all below it, and then what links lead to: each once, with its files."""
    origin = os.path.realpath(source)
    pending = deque([(source, origin)])
    visited: set[str] = set()
    while pending:
        top, real = pending.popleft()
        for folder, subfolders, files in os.walk(top, onerror=on_error):
            here = os.path.normpath(real + folder[len(top) :])
            if here in visited:
                subfolders.clear()
                continue
            visited.add(here)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for link in [name for name in subfolders if os.path.islink(os.path.join(folder, name))]:
                subfolders.remove(link)
                target = os.path.realpath(os.path.join(folder, link))
                if os.path.commonpath([target, origin]) != target:
                    pending.append((os.path.join(folder, link), target))
            yield folder, files


def is_named_as_audio(name: str) -> bool:
    """Whether a file of this name, path or URL counts as a recording."""
    return os.path.splitext(name)[1].lower() in AUDIO_SUFFIXES


def describe(error: OSError) -> tuple[str, str]:
    """The path of a folder that cannot be read, and one sentence about it."""
    path = str(error.filename)
    return path, f"{path} cannot be read: {error.strerror}; check its permissions"


def common_folder(paths: list[Path]) -> str:
    """The folder that absolute paths of files and folders have in common."""
    folders = [str(path if os.path.isdir(path) else path.parent) for path in paths]
    return os.path.commonpath(folders or ["."])
