"""``musicfm library``: a collection to search, see and carry on."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from musicfm.cli.app import (
    LIBRARY,
    Decoders,
    Device,
    Group,
    OnDamage,
    Timeout,
    app,
    conclude,
    device_of,
    interruptible,
    say,
)
from musicfm.cli.lists import check_there, with_manifests
from musicfm.errors import ConfigError

if TYPE_CHECKING:
    from musicfm.library.database import Track

library = Group(help="Search your music: similar songs, playlists, duplicates.")
app.add_typer(library, name="library", rich_help_panel=LIBRARY)

Lib = Annotated[Path, typer.Argument(metavar="LIB", help="Folder of the library.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Playlist = Annotated[
    Path | None, typer.Option("--out", "-o", help="Write a playlist (.m3u8).", show_default="none")
]


@library.command()
def add(
    lib: Lib,
    paths: Annotated[
        list[str], typer.Argument(help="Recordings, folders of them, or manifests; paths or URLs.")
    ],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="As for embed.", show_default="the library's, or nano"),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(help="Folder of a head; again for more.", show_default="those of the model"),
    ] = None,
    prune: Annotated[
        bool, typer.Option("--prune", help="Remove tracks whose files are gone from PATHS.")
    ] = False,
    device: Device = "auto",
    workers: Decoders = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
) -> None:
    """Add new and changed recordings to a library; make the library if there is none.

    The model goes over each recording once: for the vectors by which similar ones are found, and
    for beats, chords, sections, key and tags. A file that cannot be read is reported and skipped; a
    run that was interrupted continues where it stopped. Files that were moved or tagged are
    recognised by their sound.
    """
    sources = with_manifests(paths)
    check_there(sources)

    from musicfm.library.adding import add as add_to

    with interruptible(f"what is done is in {lib}, and the same command continues"):
        summary = add_to(
            lib,
            sources,
            model=model,
            heads=head or (),
            device=device_of(device),
            num_workers=workers,
            timeout_seconds=timeout,
            on_damage=on_damage,
            prune=prune,
            progress=True,
        )
    for count, what in (
        (summary.recognised, "recognised by their sound: moved, tagged, or copies"),
        (summary.missing, "tracks whose files are gone (--prune removes them)"),
        (summary.removed, "removed, whose files are gone"),
    ):
        if count:
            say(f"{count} {what}")
    if summary.fitted > 1:
        say(f"similarities are of version {summary.fitted} of the transform from now on")
    conclude(summary, "added", lib)


@library.command()
def fit(lib: Lib) -> None:
    """Fit the transform by which vectors are compared to the library as it is now.

    Adding does this by itself when the library has grown by half.
    """
    from musicfm.library.library import Library

    fitted = Library(lib).fit()
    say(f"similarities are of version {fitted.version} of the transform from now on")


@library.command()
def index(lib: Lib) -> None:
    """Make an index for searching more than a million vectors quickly, though approximately.

    Adding completes it at the end of a run; what is not in it yet is searched exactly.
    """
    from musicfm.library.index import MOST_EXACT
    from musicfm.library.library import Library

    found = Library(lib).index()
    say(
        f"{lib} has an index of {' and of '.join(found)}"
        if found
        else f"{lib} needs no index: up to {MOST_EXACT:,} vectors are all compared, within 40 ms"
    )


@library.command()
def similar(
    lib: Lib,
    song: Annotated[str, typer.Argument(help="A track of the library, or any recording.")],
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="Largest number of tracks.")
    ] = 10,
    segment: Annotated[
        str | None,
        typer.Option(help="Find tracks with a part like this one of the song, such as 1:20-1:40."),
    ] = None,
    tempo: Annotated[
        str | None, typer.Option(help="Beats per minute, such as 120-130.", show_default="any")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Such as Am, 'Eb minor' or 8A.", show_default="any")
    ] = None,
    key_distance: Annotated[
        int,
        typer.Option(
            min=0, help="Also keys so many steps away on Camelot's wheel; 1 goes well together."
        ),
    ] = 0,
    not_artist: Annotated[
        bool, typer.Option("--not-artist", help="Only tracks by other artists.")
    ] = False,
    out: Playlist = None,
    as_json: Json = False,
) -> None:
    """Find tracks that sound like a song, or like a part of it."""
    from musicfm.library.library import Library
    from musicfm.library.m3u import write_m3u8

    if key_distance and key is None:
        raise ConfigError("--key-distance is the distance from --key; give both")
    found = Library(lib).similar(
        song,
        limit=limit,
        segment=None if segment is None else _range(segment, "--segment", _seconds),
        tempo=None if tempo is None else _range(tempo, "--tempo", float),
        key=key,
        key_distance=key_distance,
        not_artist=not_artist,
    )
    rows = [
        {
            **_row(each.track),
            "similarity": round(each.similarity, 4),
            **({} if each.start is None else {"start": each.start}),
        }
        for each in found
    ]
    if out is not None:
        write_m3u8(out, [each.track for each in found])
    _show(rows, as_json)


@library.command()
def playlist(
    lib: Lib,
    first: Annotated[
        str | None, typer.Option("--from", help="The first track.", show_default="none")
    ] = None,
    last: Annotated[
        str | None, typer.Option("--to", help="The last track.", show_default="none")
    ] = None,
    around: Annotated[
        str | None,
        typer.Option(help="Instead: tracks that sound like this one.", show_default="none"),
    ] = None,
    length: Annotated[int, typer.Option("--length", "-n", min=1, help="Number of tracks.")] = 20,
    harmonic: Annotated[
        bool, typer.Option("--harmonic", help="Prefer keys that go together.")
    ] = False,
    near_tempo: Annotated[
        bool,
        typer.Option("--near-tempo", help="Prefer tempi within 6 % (or of half or double)."),
    ] = False,
    out: Playlist = None,
    as_json: Json = False,
) -> None:
    """Make a playlist in which each track sounds like the one before.

    It goes from one track to another, or stays near one (--around).
    """
    from musicfm.library.library import Library
    from musicfm.library.m3u import write_m3u8

    if (around is None) == (first is None) or (first is None) != (last is None):
        raise ConfigError("give --from and --to, or --around")
    tracks = Library(lib).playlist(
        around or first or "", last, length=length, harmonic=harmonic, near_tempo=near_tempo
    )
    if len(tracks) < length:
        say(f"the library has only {len(tracks)} tracks for it, not {length}")
    if out is not None:
        write_m3u8(out, tracks)
        say(f"{len(tracks)} tracks are in {out}")
    if out is None or as_json:
        _show([_row(track) for track in tracks], as_json)


@library.command()
def duplicates(lib: Lib, as_json: Json = False) -> None:
    """Find copies of recordings: in other encodings, at other levels, or cut.

    Other performances of a piece do not count. Nothing is deleted.
    """
    from musicfm.library.library import Library

    found, failures = Library(lib).duplicates()
    for reason in failures:
        say(f"failed: {reason}")
    if as_json:
        groups = [
            {
                "path": group.track.path,
                "duplicates": [
                    {
                        "path": other.track.path,
                        "start": round(other.start, 2),
                        "agreement": round(other.agreement, 4),
                    }
                    for other in group.others
                ],
            }
            for group in found
        ]
        print(json.dumps(groups, indent=1))
        return
    for group in found:
        say(group.track.path, sys.stdout)
        for other in group.others:
            about = f"  {other.agreement:.3f}  from {other.start:+.1f} s on  "
            say(about + other.track.path, sys.stdout)
    say(f"recordings with copies: {len(found)}")


def _row(track: "Track") -> dict[str, Any]:
    return {"path": track.path, **track.facts()}


def _show(rows: Sequence[dict[str, Any]], as_json: bool) -> None:
    """A list, as JSON or as a table."""
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        likeness = f"{row['similarity']:.3f}  " if "similarity" in row else ""
        start = "at {:.0f}:{:02.0f}  ".format(*divmod(row["start"], 60)) if "start" in row else ""
        tempo = f"{row['tempo']:.0f} bpm" if row["tempo"] else ""
        name = " - ".join(filter(None, (row["artist"], row["title"])))
        say(f"{likeness}{start}{tempo:8}{row['key'] or '':9}{name}  ({row['path']})", sys.stdout)


def _range(text: str, option: str, number: Any) -> tuple[float, float]:
    """Two numbers with a hyphen between them. Raises ConfigError."""
    try:
        low, high = map(number, text.split("-"))
        if not low < high:
            raise ValueError
    except ValueError:
        example = "1:20-1:40" if option == "--segment" else "120-130"
        raise ConfigError(f"{option} is '{text}'; give two numbers, such as {example}") from None
    return low, high


def _seconds(text: str) -> float:
    """Seconds of "1:20", "1:02:03" or "80". Raises ValueError."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", text):
        raise ValueError(text)
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total
