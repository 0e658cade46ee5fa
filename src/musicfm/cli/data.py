"""``musicfm scan``, ``stats``, ``prepare`` and ``render``: collections of recordings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from musicfm.cli.app import (
    DATA,
    Music,
    Timeout,
    Workers,
    amount,
    app,
    interruptible,
    nothing_new,
    say,
)
from musicfm.errors import ConfigError

if TYPE_CHECKING:
    from musicfm.datasets.scanning import Scan


@app.command(rich_help_panel=DATA)
def scan(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Recordings, and folders of them.")
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The manifest: .parquet or .jsonl.")
    ] = Path("manifest.parquet"),
    check: Annotated[
        bool, typer.Option("--check", help="Decode everything, to find damage inside.")
    ] = False,
    valid: Annotated[
        float | None,
        typer.Option(
            help="Split the tracks: this fraction for validation.", show_default="as before"
        ),
    ] = None,
    test: Annotated[float, typer.Option(help="With --valid: this fraction for testing.")] = 0.0,
    split_by: Annotated[
        Literal["artist", "album", "folder", "track"],
        typer.Option(help="What is never divided between splits."),
    ] = "artist",
    seed: Annotated[int, typer.Option(help="Another seed gives another split.")] = 0,
    fma: Annotated[
        Path | None, typer.Option(help="Instead of SOURCES: the folder of the FMA dataset.")
    ] = None,
    subset: Annotated[
        Literal["small", "medium", "large", "full"], typer.Option(help="With --fma: which subset.")
    ] = "small",
    workers: Workers = None,
    timeout: Timeout = 60.0,
) -> None:
    """List recordings in a manifest, with splits for training.

    Scanning into the same manifest again reads only what is new or has changed. Files that cannot
    be read, or that hang or crash the decoder, are reported and left out. Ctrl-C keeps what is
    done.
    """
    if (fma is None) == (not sources):
        raise ConfigError("give files or folders to scan, or --fma and the dataset's folder")
    if fma is not None and valid is not None:
        raise ConfigError("FMA has official splits; leave out --valid")
    if test and valid is None:
        raise ConfigError("--test goes with --valid; give both")

    from musicfm.datasets import fma as fma_dataset
    from musicfm.datasets.scanning import update_manifest
    from musicfm.datasets.splits import Splitting

    splitting = None if valid is None else Splitting(valid, test, split_by, seed)
    options: dict[str, Any] = {
        "check": check,
        "num_workers": workers,
        "timeout_seconds": timeout,
        "progress": True,
    }
    with interruptible("what is done is kept, and the same command continues"):
        if fma is not None:
            scanned = fma_dataset.scan_fma(out, fma, subset, **options)
        else:
            scanned = update_manifest(out, sources or [], splitting=splitting, **options)
    say(_describe_scan(scanned, out))
    for wanted, name, what in ((valid, "valid", "validation"), (test, "test", "testing")):
        if wanted and name not in scanned.sizes:
            say(f"warning: too few groups (--split-by {split_by}): there is nothing for {what}")
    raise typer.Exit(1 if scanned.failures else 0)


@app.command(rich_help_panel=DATA)
def stats(
    sources: Music,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")] = Path(
        "stats.json"
    ),
    sample: Annotated[
        int | None, typer.Option(help="Measure so many random tracks.", show_default="all")
    ] = None,
    sample_seconds: Annotated[
        float | None,
        typer.Option(help="Seconds to measure of each track.", show_default="all of it"),
    ] = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None,
        typer.Option(help="Only this.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.")] = 0,
    recipe: Annotated[
        str | None,
        typer.Option(help="The recipe whose mel is measured.", show_default="the paper's"),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="With --recipe: as for pretrain.")
    ] = None,
    workers: Workers = None,
    timeout: Timeout = 60.0,
) -> None:
    """Measure mean and standard deviation of the mel spectrogram.

    Pretraining a model on this music normalises its input with them.
    """
    if settings and recipe is None:
        raise ConfigError("--set goes with --recipe; give both")

    from musicfm.datasets.scanning import collect
    from musicfm.datasets.statistics import measure
    from musicfm.files import check_target

    check_target(out)
    mel = None
    if recipe is not None:
        from musicfm.pretraining.recipe import load_recipe

        mel = load_recipe(recipe, settings or []).model.mel
    with interruptible("nothing was written"):
        scanned = collect(sources, split=split, num_workers=workers, progress=True)
        found = measure(
            scanned.manifest,
            num_tracks=sample,
            sample_seconds=sample_seconds,
            seed=seed,
            mel=mel,
            num_workers=workers,
            timeout_seconds=timeout,
            progress=True,
        )
    found.save(out)
    num_failed = len(scanned.failures) + len(found.failures)
    say(
        f"mean {found.mean:.4f} dB, standard deviation {found.std:.4f} dB over "
        f"{found.num_tracks} tracks ({found.seconds / 3600:.2f} h), {num_failed} failed; "
        f"wrote {out}"
    )
    raise typer.Exit(1 if num_failed else 0)


@app.command(rich_help_panel=DATA)
def prepare(
    sources: Music,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the shards; the same folder continues a run."),
    ] = Path("shards"),
    split: Annotated[
        Literal["train", "valid", "test"] | None,
        typer.Option(help="Only this.", show_default="all"),
    ] = None,
    sample_rate: Annotated[int, typer.Option(min=1, help="In Hz.")] = 24_000,
    shard_hours: Annotated[float, typer.Option(help="Hours of audio in a shard, about.")] = 2.0,
    piece_seconds: Annotated[
        float, typer.Option(help="Longer recordings are cut into equal pieces.")
    ] = 600.0,
    workers: Workers = None,
    timeout: Timeout = 60.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write again what is done already.")
    ] = False,
) -> None:
    """Pack recordings into WebDataset shards for training.

    Shards are tar files of mono FLAC, with an index.

    Commands that take music also take this folder. Files that cannot be read are reported and left
    out; a run that was interrupted continues where it stopped. OUT/report.json lists every file.
    """
    from musicfm.datasets.scanning import collect
    from musicfm.datasets.shards import prepare as write_shards

    with interruptible(f"what is done is in {out}, and the same command continues"):
        scanned = collect(sources, split=split, num_workers=workers, progress=True)
        prepared = write_shards(
            scanned.manifest,
            out,
            sample_rate=sample_rate,
            shard_seconds=3600 * shard_hours,
            piece_seconds=piece_seconds,
            num_workers=workers,
            timeout_seconds=timeout,
            overwrite=overwrite,
            progress=True,
        )
    num_failed = len(scanned.failures) + len(prepared.failures)
    # Shards are written once: a track that can be read again by now needs all of them anew.
    retry = prepared.failures and prepared.num_done_before
    what = f"{len(prepared.index)} pieces ({prepared.index.seconds / 3600:.2f} h)"
    before = f"{prepared.num_done_before} of them done before"
    if prepared.num_done_before == prepared.num_shards:
        what = f"nothing new: {what}"
        before = "all done before"
    say(
        f"{what} in {prepared.num_shards} shards, {before}, {num_failed} tracks failed; see "
        f"{out / 'report.json'}" + ("; to try them again, add --overwrite" if retry else "")
    )
    raise typer.Exit(1 if num_failed else 0)


@app.command(rich_help_panel=DATA)
def render(
    count: Annotated[int, typer.Argument(help="How many songs.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the songs; the same folder continues a run."),
    ] = Path("songs"),
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the first song. Test songs have seeds from 1100000000 on; those with "
            "other instruments, progressions, forms and tempi from 1200000000; bad recordings "
            "from 1300000000."
        ),
    ] = 0,
    format: Annotated[Literal["flac", "wav"], typer.Option(help="Audio format.")] = "flac",
    soundfonts: Annotated[
        str | None,
        typer.Option(
            "--soundfonts",
            "--soundfont",
            help="General MIDI .sf2 or .sf3 files, separated by commas; each instrument is played "
            "with one of them.",
            show_default="TimGM6mb, from pretty_midi",
        ),
    ] = None,
    lead_sheets: Annotated[
        Path | None,
        typer.Option(
            help="Arrange the compositions of this folder: POP909's structure, or OpenEWLD.",
            show_default="composed songs",
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option(
            help="Cut longer songs, half of them in the middle.", show_default="whole songs"
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that render.", show_default="all cores")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Render again what is done already.")
    ] = False,
) -> None:
    """Compose and render songs with exact labels.

    Each song is a stereo file at 24 kHz with a .jams file beside it: beats, chords, sections, keys
    and tags. A seed gives the same song on any machine. A run that was interrupted continues where
    it stopped.
    """
    from musicfm.render.songs import render_songs

    try:
        summary = render_songs(
            count,
            out,
            seed=seed,
            audio_format=format,
            soundfonts=[Path(path) for path in soundfonts.split(",")] if soundfonts else (),
            lead_sheets=lead_sheets,
            max_seconds=max_seconds,
            num_workers=workers,
            overwrite=overwrite,
            progress=True,
        )
    except KeyboardInterrupt:
        say(f"interrupted; what is done is in {out}, and the same command continues")
        raise typer.Exit(130) from None
    if not summary.done:
        say(f"{nothing_new(summary.skipped, summary.skipped)}; see {out}")
        return
    rendered = amount(summary.audio_seconds, summary.wall_seconds)
    before = f", {summary.skipped} done before" if summary.skipped else ""
    say(f"{summary.done} rendered ({rendered}){before}; see {out}")


def _describe_scan(scanned: "Scan", out: Path) -> str:
    known = f"{len(scanned.manifest)} tracks ({scanned.manifest.seconds / 3600:.2f} h) in {out}"
    is_new = scanned.num_unchanged < len(scanned.manifest) or scanned.num_vanished
    parts = [known if is_new else f"nothing new: {known}"]
    if set(scanned.sizes) - {None}:
        sizes = scanned.sizes.items()
        parts.append(" and ".join(f"{count} {name or 'in no split'}" for name, count in sizes))
    if scanned.num_unchanged:
        parts.append(f"{scanned.num_unchanged} unchanged")
    if scanned.num_vanished:
        parts.append(f"{scanned.num_vanished} dropped")
    if scanned.failures:
        parts.append(f"{len(scanned.failures)} failed; see {out.with_suffix('.report.json')}")
    return ", ".join(parts)
