"""``musicfm library``: a collection to search, see and carry on."""

import json
from pathlib import Path
from typing import Annotated, Any

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
    show,
)

library = Group(help="Search your music: similar songs, playlists, duplicates.")
app.add_typer(library, name="library", rich_help_panel=LIBRARY)

Lib = Annotated[Path, typer.Argument(metavar="LIB", help="Folder of the library.")]


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
    device: Device = "auto",
    workers: Decoders = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
) -> None:
    """Add what is new or has changed to a library, which is made if it is not there.

    Each recording is encoded once: for the vectors that similar ones are found by, and for beats,
    chords, sections, key and tags. A bad file is reported and skipped; a run that was interrupted
    continues where it stopped. Files that have moved or have other tags are known by their sound.
    """
    from musicfm.library.adding import add as add_to

    with interruptible(f"what is done is in {lib}, and the same command continues"):
        summary = add_to(
            lib,
            paths,
            model=model,
            heads=head or (),
            device=device_of(device),
            num_workers=workers,
            timeout_seconds=timeout,
            on_damage=on_damage,
            progress=True,
        )
    conclude(summary, "added", lib)


@library.command()
def fit(lib: Lib) -> None:
    """Fit the transform anew that vectors are compared with."""
    from musicfm.library.library import Library

    fitted = Library(lib).fit()
    say(f"vectors of {lib} are compared with version {fitted.version} of its transform now")


@library.command()
def similar(
    lib: Lib,
    song: Annotated[str, typer.Argument(help="A track of the library, or any recording.")],
    limit: Annotated[int, typer.Option(min=1, help="Tracks at most.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="A list for programs.")] = False,
) -> None:
    """Find tracks that sound like a song."""
    from musicfm.library.library import Library

    found = Library(lib).similar(song, limit=limit)
    rows: list[dict[str, Any]] = [
        {
            "path": each.track.path,
            "similarity": round(each.similarity, 4),
            "title": each.track.title,
            "artist": each.track.artist,
            "album": each.track.album,
            "tempo": each.track.tempo,
            "key": each.track.key,
        }
        for each in found
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    show("\n".join(f"{row['similarity']:.3f}  {row['title']}  {row['path']}" for row in rows))
