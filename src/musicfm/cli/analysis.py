"""``musicfm analyze``."""

from pathlib import Path
from typing import Annotated

import typer

from musicfm.cli.app import (
    ANALYSE,
    Decoders,
    Device,
    OnDamage,
    Out,
    Timeout,
    app,
    as_begun,
    conclude,
    device_of,
    interruptible,
    say,
)
from musicfm.cli.lists import check_there


@app.command(rich_help_panel=ANALYSE)
def analyze(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Recordings, and folders of them.")],
    out: Out = Path("analyses"),
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="nano, or the folder of a model that has heads.",
            show_default="that of --head, or nano",
        ),
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a head; again for more.", show_default="those of the model"),
    ] = None,
    export: Annotated[
        str,
        typer.Option(
            help="Also write, separated by commas: csv (a table), labels (for Audacity), midi "
            "(tempo and clicks), click (the recording with clicks)."
        ),
    ] = "",
    tempo: Annotated[
        str,
        typer.Option(
            help="What is known of the tempo: a range in beats per minute, such as 80-160; or "
            "half or double of what would be found.",
            show_default="40-240",
        ),
    ] = "",
    page: Annotated[
        bool, typer.Option("--page/--no-page", help="Write an HTML page that plays the song.")
    ] = True,
    device: Device = "auto",
    workers: Decoders = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Analyse again what is done already.")
    ] = False,
) -> None:
    """Find beats, chords, sections, key and tags of songs.

    Writes a JAMS file for each song, and a page that shows and plays it. Pages contain everything,
    also the sound, and open without a network. Pages and exports can also be asked for later; they
    are made from the JAMS files. A file that cannot be read is reported and skipped; a run that was
    interrupted continues where it stopped.
    """
    check_there(paths)

    from musicfm.analysis.analyzer import load_predictor
    from musicfm.analysis.songs import analyse_collection, first_page

    begun = as_begun(
        context, out, overwrite, model=model, head=head, tempo=tempo, on_damage=on_damage
    )
    model, head, tempo, on_damage = begun.values()
    kinds = [kind.strip() for kind in export.split(",") if kind.strip()]
    with interruptible(f"what is done is in {out}, and the same command continues"):
        summary = analyse_collection(
            load_predictor(model, list(map(Path, head or ())), device_of(device), tempo),
            paths,
            out,
            page=page,
            exports=kinds,
            num_workers=workers,
            timeout_seconds=timeout,
            on_damage=on_damage,
            overwrite=overwrite,
            progress=True,
            options=begun,
        )
    if page and (shown := first_page(out)):
        say(f"open {shown}")
    conclude(summary, "analysed", out)
