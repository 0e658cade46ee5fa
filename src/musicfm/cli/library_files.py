"""``musicfm library`` again: what it writes into files, and for other programs."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from musicfm.cli.app import interruptible, need, say
from musicfm.cli.library import Lib, library
from musicfm.errors import ConfigError, MusicFMError


@library.command()
def tag(
    lib: Lib,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be written, and write nothing.")
    ] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Restore the files as they were before the first time.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace tempo and key if they are there.")
    ] = False,
    key_notation: Annotated[
        Literal["standard", "camelot", "openkey"],
        typer.Option(help="How keys are written: Ebm, 2A or 7m."),
    ] = "standard",
    tags: Annotated[bool, typer.Option("--tags", help="Also write tags, as the grouping.")] = False,
) -> None:
    """Write tempo and key into the files themselves, for players and DJ software.

    Only their metadata are changed, and existing values are kept.
    """
    need("tags")
    from musicfm.library import tagging
    from musicfm.library.library import Library

    failed = count = 0
    done = "restored" if undo else "would be written" if dry_run else "written"
    with interruptible(f"to restore all files: musicfm library tag {lib} --undo"):
        found = (
            tagging.undo(Library(lib))
            if undo
            else tagging.tag(
                Library(lib),
                notation=key_notation,
                with_tags=tags,
                overwrite=overwrite,
                dry_run=dry_run,
            )
        )
        for each in found:
            if isinstance(each, MusicFMError):
                failed += 1
                say(f"failed: {each}")
            elif isinstance(each, Path):
                count += 1
                say(str(each), sys.stdout)
            else:
                count += bool(each.values)
                parts = [f"{field} {text}" for field, text in each.values.items()]
                parts += [f"{field} {text} is there" for field, text in each.kept.items()]
                say(f"{each.path}: {', '.join(parts) or 'nothing to write'}", sys.stdout)
    say(f"{count} {done}" + (f", {failed} failed" if failed else ""))
    raise typer.Exit(1 if failed else 0)


@library.command()
def export(
    lib: Lib,
    rekordbox: Annotated[
        Path | None, typer.Option(help="An XML file to import in rekordbox: beat grids and cues.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A table.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="A table with vectors.")] = None,
    jams: Annotated[
        Path | None, typer.Option(help="A folder, for a JAMS file of each track.")
    ] = None,
    lancedb: Annotated[
        str | None,
        typer.Option(help="A LanceDB database, for a table with vectors: a folder, or s3://..."),
    ] = None,
) -> None:
    """Export a library for other programs: rekordbox, CSV, Parquet, JAMS, LanceDB."""
    if lancedb is not None:
        need("lancedb")
    from musicfm.library import exports
    from musicfm.library.library import Library

    opened = Library(lib)
    if rekordbox is not None:
        count, left_out = exports.write_rekordbox(opened, rekordbox)
        say(
            f"{count} tracks are in {rekordbox}"
            + (f"; {left_out} left out, whose formats rekordbox does not play" if left_out else "")
        )
    for target, write in ((csv, exports.write_csv), (parquet, exports.write_parquet)):
        if target is not None:
            say(f"{write(opened, target)} tracks are in {target}")
    if lancedb is not None:
        say(f"{exports.write_lancedb(opened, lancedb)} tracks are in {lancedb}")
    failures: list[str] = []
    if jams is not None:
        count, failures = exports.write_jams(opened, jams)
        say(f"{count} tracks are in {jams}")
        for reason in failures:
            say(f"failed: {reason}")
    if all(target is None for target in (rekordbox, csv, parquet, jams, lancedb)):
        raise ConfigError(
            "nothing to export; name a file: --rekordbox, --csv, --parquet, --jams or --lancedb"
        )
    raise typer.Exit(1 if failures else 0)


@library.command("map")
def map_(
    lib: Lib,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page, such as map.html.")],
) -> None:
    """Draw a map: a page with a point for each track, near those that sound alike.

    The page plays the recordings from where they are, relative to it: if you move one, move both.
    """
    need("map")
    from musicfm.files import atomic_write, check_target
    from musicfm.library.library import Library
    from musicfm.library.map import map_page

    check_target(out)
    page = map_page(Library(lib), out.absolute().parent)
    with atomic_write(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    say(f"open {out} in a browser")
