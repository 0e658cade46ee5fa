"""Which files of a folder are recordings."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from musicfm.errors import ConfigError

# What counts as a recording within a folder; a file that is named itself may be called anything.
AUDIO_SUFFIXES = frozenset(
    """
    .aac .ac3 .aif .aifc .aiff .alac .amr .ape .au .caf .flac .m4a .m4b .mka .mkv .mov .mp2 .mp3
    .mp4 .mpc .mpga .oga .ogg .opus .ra .rf64 .snd .tta .voc .w64 .wav .wave .weba .webm .wma .wv
    """.split()
)
# These do, too; where a result can have the name of one alone, those above come first.
_RARER_SUFFIXES = frozenset(
    """
    .3g2 .3gp .3gpp .aa3 .adts .adx .asf .ast .avi .avr .awb .bwf .dff .divx .dsf .dts .dtshd .eac3
    .ec3 .f4a .f4v .flv .gsm .ircam .m2a .m2t .m2ts .m4p .m4r .m4v .mk3d .mlp .mp1 .mpa .mpe .mpeg
    .mpg .mts .mxf .nist .nut .ogm .ogv .ogx .oma .paf .pvf .qoa .qt .rm .rmvb .sf .shn .sox .sph
    .spx .svx .tak .thd .ts .vob .wmv .wtv .xwma
    """.split()
)
# What lies beside recordings and is none: it is passed over without a word.
_COMPANIONS = frozenset(
    """
    .bmp .gif .heic .ico .jpeg .jpg .png .psd .svg .tif .tiff .webp
    .csv .doc .docx .epub .htm .html .ini .json .jsonl .log .md .nfo .odt .pdf .rtf .tex .toml .tsv
    .txt .url .webloc .xml .yaml .yml .py .sh
    .asx .cue .m3u .m3u8 .pls .wpl .xspf .ass .lrc .srt .sub .vtt
    .beats .jams .krn .lab .mid .midi .mscz .musicxml .mxl .npy .npz .parquet
    .accurip .db .ffp .lock .md5 .partial .sfv .sha1 .sha256 .torrent
    .ckpt .onnx .pt .safetensors .sf2 .sf3
    """.split()
)
_NAMED_SUFFIXES = 8


def recordings_in(
    source: Path,
    on_error: Callable[[OSError], None],
    passed_over: dict[str, int] | None = None,
) -> Iterator[Path]:
    """The recordings in a folder and all below it, sorted; a file is itself.

    What links to folders lead to comes after that, unless it is there already or leads back above.
    Hidden files and folders are passed over. ``on_error`` is told of folders that cannot be read.
    ``passed_over`` counts, by suffix, files that are named neither as recordings nor as what lies
    beside them, such as pictures and texts.
    """
    if not os.path.isdir(source):  # unlike Path.is_dir, of what may not be read, too
        yield source
        return
    for folder, files in _folders(str(source), on_error):
        for name in sorted(files, key=by_suffix):
            if name.startswith("."):
                continue
            if is_named_as_audio(name):
                yield Path(folder, name)
            elif passed_over is not None:
                note_passed_over(name, passed_over)


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
    return _suffix(name) in AUDIO_SUFFIXES or _suffix(name) in _RARER_SUFFIXES


def by_suffix(name: str) -> tuple[bool, str]:
    """To sort files by: rarer formats come last, so that a song that is there in a common one, too,
    keeps its name.
    """
    return _suffix(name) in _RARER_SUFFIXES, name


def note_passed_over(name: str, passed_over: dict[str, int]) -> None:
    """Counts a file that is not a recording by its name, unless it is one that lies beside them."""
    if (suffix := _suffix(name)) not in _COMPANIONS:
        passed_over[suffix] = passed_over.get(suffix, 0) + 1


def describe_passed_over(counts: Mapping[str, int]) -> str:
    """A sentence about what was passed over; empty if nothing was."""
    if not counts:
        return ""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kinds = [f"{count} {suffix or 'without a suffix'}" for suffix, count in ranked]
    if len(kinds) > _NAMED_SUFFIXES:
        kinds[_NAMED_SUFFIXES:] = ["and others"]
    files = "1 file" if sum(counts.values()) == 1 else f"{sum(counts.values())} files"
    return (
        f"skipped {files} whose suffixes are not those of recordings: {', '.join(kinds)}; to use "
        "one, give its own path"
    )


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def no_recordings(sources: Sequence[object], passed_over: Mapping[str, int]) -> str:
    """Says that sources have none, and what they have."""
    said = f"no recordings in {', '.join(map(str, sources))}; check the path"
    return f"{said} ({describe_passed_over(passed_over)})" if passed_over else said


def check_named(sources: Iterable[object]) -> None:
    """Raises ConfigError for a path that is empty, which would stand for the current folder."""
    if "" in sources:
        raise ConfigError("a path is empty; give . for the current folder")


def describe(error: OSError) -> tuple[str, str]:
    """The path of a folder that cannot be read, and one sentence about it."""
    path = str(error.filename)
    return path, f"{path} cannot be read: {error.strerror}; check its permissions"


def common_folder(paths: list[Path]) -> str:
    """The folder that absolute paths of files and folders have in common."""
    folders = [str(path if os.path.isdir(path) else path.parent) for path in paths]
    return os.path.commonpath(folders or ["."])
