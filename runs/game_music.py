"""Fetches free music of Debian's game packages, to learn from without labels.

    python runs/game_music.py MUSIC              (Debian or Ubuntu; about 4 GB are downloaded)

A package's music becomes MUSIC/PACKAGE/NAME.flac, mono, 24 kHz; MUSIC/manifest.csv tells of each
file its package, version, licence and SHA-256. The licence is the one that the package's copyright
file (DEP 5) states for that file. A file is left out where that says nothing of it, or names a
licence that is not in LICENCES. runs/game_music.csv is the manifest of what was fetched for nano.

What finished models are tested on comes from other packages (RESERVED), which are never used here.
Tracks recur across games, so what matches a recording of those is removed in the end.
"""

import csv
import fnmatch
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

PACKAGES = (
    "0ad-data",
    "colobot-common-sounds",
    "flare-game",
    "freecol",
    "freedroidrpg-data",
    "hedgewars-data",
    "marsshooter-data",
    "megaglest-data",
    "naev-data",
    "pushover-data",
    "scorched3d-data",
    "supertux-data",
    "supertuxkart-data",
    "ufoai-music",
    "unknown-horizons",
    "widelands-data",
)
RESERVED = (
    "ardentryst",
    "asc-music",
    "drascula-music",
    "enigma-data",
    "extremetuxracer-data",
    "fillets-ng-data",
    "fretsonfire-songs-muldjord",
    "fretsonfire-songs-sectoid",
    "hyperrogue-music",
    "lordsawar-data",
    "nexuiz-music",
    "planetblupi-music-ogg",
    "singularity-music",
    "starfighter-data",
    "warzone2100-music",
    "wesnoth-1.16-music",
    "xmoto-data",
)
LICENCES = ("cc0", "cc-by-3", "cc-by-4", "cc-by-sa", "gpl", "gfdl", "public-domain", "pd", "zlib")
SOUND = (".ogg", ".mp3", ".opus", ".flac", ".oga", ".wav")
ARCHIVES = (".zip", ".pk3")
RATE = 24_000
SHORTEST_SECONDS = 40.0
MATCH = 0.78
"""Likeness from which on two recordings count as one. Of 208 files and 382 reserved recordings, one
that two games share had .85, another that may be had .81, and all others .76 at most."""
FIELDS = ("file", "package", "version", "licence", "seconds", "sha256", "source")

Samples = npt.NDArray[np.float32]


def files_of(package: Path, only_music: bool = True) -> Iterator[tuple[str, bytes]]:
    """Path and content of all sound, or of music, and of the copyright file; also in archives."""
    process = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE)
    with tarfile.open(fileobj=process.stdout, mode="r|") as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            is_archive = name.endswith(ARCHIVES)
            is_wanted = name.endswith(("/copyright", "/copyright.gz")) or is_archive
            if not member.isfile() or not (is_wanted or is_sound(name, only_music)):
                continue
            file = tar.extractfile(member)
            assert file is not None
            if not is_archive:
                yield name, file.read()
                continue
            with tempfile.TemporaryFile() as copy:
                while block := file.read(1 << 20):
                    copy.write(block)
                with zipfile.ZipFile(copy) as archive:
                    for inner in archive.namelist():
                        if is_sound(inner, only_music):
                            yield inner, archive.read(inner)
    process.wait()


def is_sound(name: str, only_music: bool) -> bool:
    """Whether a file is sound, and, if asked, lies where games have their music."""
    is_music = any(word in name.lower() for word in ("music", "themes", "cdtracks"))
    return name.lower().endswith(SOUND) and (is_music or not only_music)


def stanzas(copyright: str) -> list[tuple[list[str], str]]:
    """Patterns of files, and the short name of their licence, in the order of the file."""
    found = []
    for paragraph in re.split(r"\n\s*\n", copyright):
        files = re.search(r"^Files:(.*?)(?=^\S|\Z)", paragraph, re.S | re.M)
        licence = re.search(r"^License:[ \t]*(\S.*)$", paragraph, re.M)
        if files and licence:
            found.append((files.group(1).split(), licence.group(1).strip()))
    return found


def licence_of(path: str, licences: list[tuple[list[str], str]]) -> str | None:
    """Of an installed file; the last paragraph that matches counts, as DEP 5 says."""
    found = None
    for patterns, licence in licences:
        for pattern in (pattern.removeprefix("./") for pattern in patterns):
            # Sources are installed elsewhere: their last folders and the name are the same.
            short = pattern.removeprefix("data/").removeprefix("dat/").removeprefix("share/")
            if pattern == "*" or fnmatch.fnmatch(path, f"*{short}"):
                found = licence
    return found


def is_free(licence: str) -> bool:
    """Whether all of a file's licences are known to be free; of alternatives one is enough."""
    return any(
        all(part.strip().lower().startswith(LICENCES) for part in re.split(r",|\band\b", choice))
        for choice in re.split(r"\bor\b", licence, flags=re.I)
    )


def decode(content: bytes) -> Samples:
    """Mono samples at RATE; none of what cannot be read."""
    try:
        samples, rate = soundfile.read(io.BytesIO(content), always_2d=True, dtype="float32")
    except soundfile.LibsndfileError:
        return np.zeros(0, np.float32)
    mono = samples.mean(axis=1)
    return mono if rate == RATE else soxr.resample(mono, rate, RATE)


@contextmanager
def downloaded(package: str) -> Iterator[Path]:
    """A package, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as work:
        subprocess.run(["apt-get", "download", "-qq", package], cwd=work, check=True)
        (archive,) = Path(work).glob("*.deb")
        yield archive


def unpack(archive: Path, package: str, out: Path) -> list[dict[str, str]]:
    """Writes the music of a package. Rows of the manifest."""
    query = ["dpkg-deb", "-f", str(archive), "Version"]
    version = subprocess.run(query, check=True, capture_output=True, text=True).stdout.strip()
    licences: list[tuple[list[str], str]] = []
    contents = []
    for name, content in files_of(archive):
        if name.endswith("/copyright"):
            licences = stanzas(content.decode(errors="replace"))
        elif name.endswith(SOUND):
            contents.append((name, content))
    rows = []
    for name, content in contents:
        licence = licence_of(name, licences)
        if licence is None or not is_free(licence):
            print(f"{package}: {name} is left out: its licence is {licence}", flush=True)
            continue
        samples = decode(content)
        if len(samples) < SHORTEST_SECONDS * RATE:
            continue
        path = out / package / (Path(name).stem + ".flac")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.clip(samples, -1.0, 1.0), RATE, subtype="PCM_16")
        rows.append(
            {
                "file": str(path.relative_to(out)),
                "package": package,
                "version": version,
                "licence": licence,
                "seconds": f"{len(samples) / RATE:.1f}",
                "sha256": hashlib.sha256(content).hexdigest(),
                "source": name,
            }
        )
    return rows


def write(rows: list[dict[str, str]], out: Path) -> None:
    """Writes the manifest."""
    with (out / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: row["file"]))


# ------------------------------------------------------------------------- recordings that recur


def chroma(samples: Samples) -> Samples:
    """(frames, 12) of unit length, two a second, less their mean: what a recording is known by."""
    size, hop = 8_192, RATE // 2
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(samples, size // 2), size)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=1)) ** 2
    hertz = np.fft.rfftfreq(size, 1 / RATE)
    heard = (hertz > 100.0) & (hertz < 2_000.0)
    classes = np.round(12 * np.log2(hertz[heard] / 440.0)).astype(int) % 12
    levels = np.log1p(
        1e-3 * np.stack([power[:, heard][:, classes == c].sum(1) for c in range(12)], 1)
    )
    levels -= levels.mean(axis=1, keepdims=True)
    return (levels / (np.linalg.norm(levels, axis=1, keepdims=True) + 1e-9)).astype(np.float32)


def likeness(one: Samples, other: Samples, piece: int = 40) -> float:
    """The best mean cosine of 20 s from the middle of one recording, anywhere in another."""
    middle = max(0, (len(one) - piece) // 2)
    needle = one[middle : middle + piece]
    if len(other) < len(needle):
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(other, len(needle), axis=0)
    return float((windows * needle.T).sum(axis=(1, 2)).max() / len(needle))


def reserved_recordings() -> dict[str, Samples]:
    """What no file may match, as chroma, by name."""
    found = {}
    for package in RESERVED:
        with downloaded(package) as archive:
            for name, content in files_of(archive, only_music=False):
                if not name.lower().endswith(SOUND):
                    continue
                samples = decode(content)
                if len(samples) >= SHORTEST_SECONDS / 2 * RATE:
                    found[f"{package}: {name}"] = chroma(samples)
    return found


def without_matches(
    rows: list[dict[str, str]], out: Path, reserved: Mapping[str, Samples]
) -> list[dict[str, str]]:
    """Removes the files that are recordings of reserved packages. Rows of the others."""
    kept = []
    for row in rows:
        one = chroma(decode((out / row["file"]).read_bytes()))
        best, name = max((max(likeness(one, r), likeness(r, one)), n) for n, r in reserved.items())
        if best < MATCH:
            kept.append(row)
            continue
        print(f"{row['file']} is left out: it is like {name} ({best:.2f})", flush=True)
        (out / row["file"]).unlink()
    return kept


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, str]] = []
    for package in PACKAGES:
        with downloaded(package) as archive:
            rows += unpack(archive, package, out)
        print(f"{package}: {len(rows)} recordings so far", flush=True)
    write(without_matches(rows, out, reserved_recordings()), out)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
