"""The command line: each verb reads its options and calls the function of the same name.

Heavy imports happen within the verbs, so that ``musicfm --help`` answers at once, and so that the
decoder processes, which import the main script, stay light.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

import musicfm
from musicfm.errors import ConfigError, MusicFMError

if TYPE_CHECKING:
    from musicfm.collection import Summary
    from musicfm.datasets.scanning import Scan
    from musicfm.results import Pooling

app = typer.Typer(
    help="Music foundation models: recordings in, embeddings out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # it takes [default: ...] for markup
)

Stats = Annotated[
    Path | None,
    typer.Option(help="For a .pt file: its JSON of statistics, if not the one beside it."),
]

Music = Annotated[
    list[Path], typer.Argument(help="Recordings and folders; or a manifest, or shards.")
]
Workers = Annotated[int | None, typer.Option(min=1, help="Processes. [default: all cores]")]
Timeout = Annotated[
    float, typer.Option(min=0.1, help="Seconds without progress until a file is given up.")
]


def main() -> NoReturn:
    """Runs the command line; bad input ends in one sentence on standard error and status 1."""
    warnings.showwarning = _show_warning
    try:
        app()
    except MusicFMError as error:
        sys.exit(f"error: {error}")
    sys.exit(0)


@app.callback(invoke_without_command=True)
def _common(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(f"musicfm {musicfm.__version__}")
        raise typer.Exit


@app.command()
def embed(
    paths: Annotated[
        list[Path] | None, typer.Argument(help="Recordings, and folders of them.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for the results; the same one continues a run.")
    ] = Path("embeddings"),
    listing: Annotated[
        Path | None,
        typer.Option("--list", help="File with a path a line; - reads them from stdin."),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            help="nano, msd, fma, a folder, a .pt or .ckpt file, or a hub id like name/model."
        ),
    ] = "msd",
    layer: Annotated[
        str,
        typer.Option(
            help="Hidden state: a number, several (3,7), or all; 0 is the front end's output. "
            "auto is 7 of 12, and as deep in relation in other models."
        ),
    ] = "auto",
    pool: Annotated[
        str, typer.Option(help="Over time: none, mean (one vector), or a rate in Hz.")
    ] = "none",
    format: Annotated[
        Literal["npz", "parquet"],
        typer.Option(help="An .npz per recording, or one table of means (with --pool mean)."),
    ] = "npz",
    overlap: Annotated[
        float | None,
        typer.Option(help="Seconds that windows overlap. [default: a sixth of the context]"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1, mps; auto takes what is there.")
    ] = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="To compute with.")
    ] = "float32",
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Windows at once. [default: 1 on a CPU, else 16]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode. [default: all cores but one]")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.1, help="Seconds without progress until a decoder is given up.")
    ] = 60.0,
    on_damage: Annotated[
        Literal["error", "warn"],
        typer.Option(help="Refuse damaged recordings, or use what comes before the damage."),
    ] = "error",
    stats: Stats = None,
    allow_hash_mismatch: Annotated[
        bool, typer.Option("--allow-hash-mismatch", help="Use msd or fma even if altered.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Embed again what is done already.")
    ] = False,
) -> None:
    """Embed recordings of any format and length.

    Each .npz holds frames (time, dim), their times in seconds and their rate in Hz. Long recordings
    are cut into overlapping windows of the model's context. A bad file is reported and skipped; a
    run that was interrupted continues where it stopped. OUT/report.json says what became of all.
    """
    sources = [*(paths or []), *(_read_list(listing) if listing else [])]
    if not sources:
        raise ConfigError("nothing to embed; give files or folders, or --list FILE")
    pooling, layers = _pooling(pool), _layers(layer)

    import torch

    from musicfm.collection import embed_collection
    from musicfm.embedding import Embedder
    from musicfm.model import MusicFM

    options: dict[str, Any] = {"stats": stats, "allow_hash_mismatch": allow_hash_mismatch}
    loaded = MusicFM.from_pretrained(model, **options)
    try:
        loaded = loaded.to(_device(device), getattr(torch, dtype))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"cannot compute on '{device}': {_first_line(error)}") from error
    embedder = Embedder(loaded, layers, overlap_seconds=overlap, batch_size=batch_size)
    with _interruptible(f"what is done is in {out}, and the same command continues"):
        summary = embed_collection(
            embedder,
            sources,
            out,
            pooling=pooling,
            file_format=format,
            num_workers=workers,
            timeout_seconds=timeout,
            on_damage=on_damage,
            overwrite=overwrite,
            progress=True,
        )
    _say(_describe(summary, out))
    raise typer.Exit(1 if summary.failures else 0)


@app.command()
def scan(
    sources: Annotated[
        list[Path] | None, typer.Argument(help="Recordings, and folders of them.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The manifest: .parquet or .jsonl.")] = Path(
        "manifest.parquet"
    ),
    check: Annotated[
        bool, typer.Option("--check", help="Decode everything, to find damage inside.")
    ] = False,
    valid: Annotated[
        float | None, typer.Option(help="Split: this part for validation. [default: as before]")
    ] = None,
    test: Annotated[float, typer.Option(help="With --valid: this part for testing.")] = 0.0,
    split_by: Annotated[
        Literal["artist", "album", "folder", "track"],
        typer.Option(help="What is never divided between splits."),
    ] = "artist",
    seed: Annotated[int, typer.Option(help="Another one gives another split.")] = 0,
    fma: Annotated[
        Path | None, typer.Option(help="Instead of SOURCES: the folder of the FMA dataset.")
    ] = None,
    subset: Annotated[
        Literal["small", "medium", "large", "full"], typer.Option(help="With --fma: which one.")
    ] = "small",
    workers: Workers = None,
    timeout: Timeout = 60.0,
) -> None:
    """List recordings in a manifest: lengths, rates, hashes, tags, splits.

    Scanning into the same manifest again reads only what is new or has changed. Bad files are
    reported and left out; those that damage makes hang or crash, too. Ctrl-C keeps what is done.
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
    with _interruptible("what is done is kept, and the same command continues"):
        if fma is not None:
            scanned = fma_dataset.scan_fma(out, fma, subset, **options)
        else:
            scanned = update_manifest(out, sources or [], splitting=splitting, **options)
    _say(_describe_scan(scanned, out))
    if valid and "valid" not in scanned.sizes:
        _say(f"warning: by {split_by}, nothing fell to validation; raise --valid, or change --seed")
    raise typer.Exit(1 if scanned.failures else 0)


@app.command()
def stats(
    sources: Music,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("stats.json"),
    sample: Annotated[int | None, typer.Option(help="Draw so many tracks. [default: all]")] = None,
    sample_seconds: Annotated[
        float | None, typer.Option(help="Of each, a part so long. [default: the whole]")
    ] = None,
    split: Annotated[
        Literal["train", "valid", "test"] | None, typer.Option(help="Only this. [default: all]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another one draws another sample.")] = 0,
    workers: Workers = None,
    timeout: Timeout = 60.0,
) -> None:
    """Measure mean and standard deviation of the mel, which a new model's input needs."""
    from musicfm.datasets.scanning import collect
    from musicfm.datasets.statistics import measure

    with _interruptible("nothing was written"):
        scanned = collect(sources, split=split, num_workers=workers, progress=True)
        found = measure(
            scanned.manifest,
            num_tracks=sample,
            sample_seconds=sample_seconds,
            seed=seed,
            num_workers=workers,
            timeout_seconds=timeout,
            progress=True,
        )
    found.save(out)
    num_failed = len(scanned.failures) + len(found.failures)
    _say(
        f"mean {found.mean:.4f} dB, deviation {found.std:.4f} dB over {found.num_tracks} tracks "
        f"({found.seconds / 3600:.2f} h), {num_failed} failed; wrote {out}"
    )
    raise typer.Exit(1 if num_failed else 0)


@app.command()
def prepare(
    sources: Music,
    out: Annotated[
        Path, typer.Option(help="Folder for the shards; the same one continues a run.")
    ] = Path("shards"),
    split: Annotated[
        Literal["train", "valid", "test"] | None, typer.Option(help="Only this. [default: all]")
    ] = None,
    sample_rate: Annotated[int, typer.Option(min=1, help="In Hz.")] = 24_000,
    shard_hours: Annotated[float, typer.Option(help="Of audio, about, in a shard.")] = 2.0,
    piece_seconds: Annotated[
        float, typer.Option(help="Longer recordings are cut into equal pieces.")
    ] = 600.0,
    workers: Workers = None,
    timeout: Timeout = 60.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write again what is done already.")
    ] = False,
) -> None:
    """Write recordings as WebDataset shards (tar files of mono FLAC) with an index.

    Commands that take music take the folder, too. Bad files are reported and left out; a run that
    was interrupted continues where it stopped. OUT/report.json says what became of all.
    """
    from musicfm.datasets.scanning import collect
    from musicfm.datasets.shards import prepare as write_shards

    with _interruptible(f"what is done is in {out}, and the same command continues"):
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
    _say(
        f"{len(prepared.index)} pieces ({prepared.index.seconds / 3600:.2f} h) in "
        f"{prepared.num_shards} shards, {prepared.num_done_before} of them done before, "
        f"{num_failed} tracks failed; see {out / 'report.json'}"
    )
    raise typer.Exit(1 if num_failed else 0)


@app.command()
def render(
    count: Annotated[int, typer.Argument(help="How many songs.")],
    out: Annotated[
        Path, typer.Option(help="Folder for the songs; the same one continues a run.")
    ] = Path("songs"),
    seed: Annotated[
        int,
        typer.Option(
            help="Of the first song. Test songs begin at 1100000000, those of other instruments, "
            "progressions, forms and tempi at 1200000000, bad recordings at 1300000000."
        ),
    ] = 0,
    format: Annotated[Literal["flac", "wav"], typer.Option(help="Of the audio.")] = "flac",
    soundfont: Annotated[
        Path | None,
        typer.Option(help="A General MIDI .sf2 file. [default: TimGM6mb, from pretty_midi]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that render. [default: all cores]")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Render again what is done already.")
    ] = False,
) -> None:
    """Compose and render songs with exact labels; nothing is downloaded.

    Each song is a stereo file at 24 kHz with a .jams beside it: beats, chords, segments, keys and
    tags. A seed gives the same song on any machine. A run that was interrupted continues where it
    stopped.
    """
    from musicfm.render.songs import render_songs

    try:
        summary = render_songs(
            count,
            out,
            seed=seed,
            audio_format=format,
            soundfont=soundfont,
            num_workers=workers,
            overwrite=overwrite,
            progress=True,
        )
    except KeyboardInterrupt:
        _say(f"interrupted; what is done is in {out}, and the same command continues")
        raise typer.Exit(130) from None
    amount = _amount(summary.audio_seconds, summary.wall_seconds)
    before = f", {summary.skipped} done before" if summary.skipped else ""
    _say(f"{summary.done} rendered ({amount}){before}; see {out}")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="As embed's --model.")],
    destination: Annotated[
        Path, typer.Argument(help="A folder (ours), or a .pt file (published).")
    ],
    stats: Stats = None,
) -> None:
    """Convert between the published checkpoints' layout and ours, in either direction."""
    from musicfm import checkpoint

    checkpoint.convert(source, destination, stats=stats)
    _say(f"wrote {destination}")


@app.command()
def pretrain(
    recipe: Annotated[
        str,
        typer.Argument(help="tiny, nano, fm1 to fm9, or a .json or .toml file; see --set."),
    ],
    music: Annotated[
        list[Path], typer.Argument(help="Recordings and folders, or a manifest, or shards.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a value: steps=1000, optimizer.learning_rate=1e-4, ..."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT, if any.")
    ] = False,
    stats: Annotated[
        Path | None, typer.Option(help="Mean and deviation of the mel; musicfm stats writes them.")
    ] = None,
    centroids: Annotated[
        Path | None, typer.Option(help="For k-means tokens; musicfm kmeans writes them.")
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto takes GPUs if there are any.")
    ] = "auto",
    processes: Annotated[
        int | None, typer.Option(min=1, help="On this machine. [default: one per GPU, or 1]")
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines, each started by itself.")] = 1,
    sharded: Annotated[
        bool,
        typer.Option("--sharded", help="Divide a model that does not fit among the processes."),
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Loading clips, per process. [default: 1 to 8]")
    ] = None,
) -> None:
    """Train a model on unlabelled music, by masked token modelling.

    The folder gets checkpoints, metrics.jsonl, TensorBoard's events, curves.png, and in the end
    model/, which --model of other commands takes. Ctrl-C and SIGTERM save after the step under way.
    """
    _need("train", "lightning", "pyarrow", "sklearn", "tensorboard")
    options = [*_mel_settings(stats), *(settings or [])]

    from musicfm.datasets.scanning import collect
    from musicfm.pretraining import recipe as recipes
    from musicfm.pretraining import run

    outcome = run.pretrain(
        recipes.load_recipe(recipe, options),
        lambda: run.hold_out(collect(music, progress=True).manifest),
        out,
        centroids=centroids,
        resume=resume,
        device=device,
        sharded=sharded,
        processes=processes,
        num_nodes=nodes,
        num_workers=workers,
        progress=True,
    )
    if outcome.stopped_by is not None:
        _say(f"stopped at step {outcome.step}, which is saved in {out}; --resume goes on")
        raise typer.Exit(128 + outcome.stopped_by)
    _say(f"trained {outcome.step} steps; the model is in {outcome.model}")


@app.command()
def kmeans(
    recipe: Annotated[str, typer.Argument(help="As pretrain's; of k-means tokens, as fm1's.")],
    music: Annotated[list[Path], typer.Argument(help="As pretrain's.")],
    out: Annotated[Path, typer.Option(help="The .safetensors file to write.")],
    settings: Annotated[list[str] | None, typer.Option("--set", help="As pretrain's.")] = None,
    stats: Annotated[Path | None, typer.Option(help="As pretrain's.")] = None,
) -> None:
    """Fit the k-means tokens of a recipe, for --centroids of pretrain."""
    _need("train", "lightning", "pyarrow", "sklearn", "tensorboard")
    options = [*_mel_settings(stats), *(settings or [])]

    from musicfm.datasets.scanning import collect
    from musicfm.pretraining import kmeans as fitting
    from musicfm.pretraining import recipe as recipes
    from musicfm.pretraining import run

    chosen = recipes.load_recipe(recipe, options)
    train, _ = run.hold_out(collect(music, progress=True).manifest)
    fitted = fitting.fit_centroids(chosen.model, train, chosen.seed, progress=True)
    fitting.save_centroids(fitted, chosen.model, out)
    _say(f"wrote {out}")


def _need(extra: str, *packages: str) -> None:
    """Raises ConfigError if packages of an extra are missing."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise ConfigError(f"this needs {', '.join(missing)}; pip install 'musicfm[{extra}]'")


def _mel_settings(stats: Path | None) -> list[str]:
    if stats is None:
        return []

    from musicfm.published import read_stats

    mean, std = read_stats(stats)
    return [f"model.mel.mean={mean!r}", f"model.mel.std={std!r}"]


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    _say(f"warning: {message}")


def _say(message: str) -> None:
    print(message, file=sys.stderr)


@contextlib.contextmanager
def _interruptible(message: str) -> Iterator[None]:
    """Ctrl-C within ends the program with this message."""
    try:
        yield
    except KeyboardInterrupt:
        _say(f"interrupted; {message}")
        raise typer.Exit(130) from None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().split("\n")[0]


def _read_list(listing: Path) -> list[Path]:
    try:
        text = sys.stdin.read() if str(listing) == "-" else listing.read_text()
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"cannot read the list {listing}: {_first_line(error)}") from error
    return [Path(line) for line in text.splitlines() if line.strip()]


def _layers(layer: str) -> int | list[int] | Literal["all"] | None:
    if layer in ("auto", "all"):
        return None if layer == "auto" else "all"
    try:
        numbers = [int(part) for part in layer.split(",")]
    except ValueError:
        raise ConfigError(f"--layer is '{layer}'; give a number, several (3,7), or all") from None
    return numbers if len(numbers) > 1 else numbers[0]


def _pooling(pool: str) -> "Pooling":
    if pool == "none":
        return "none"
    if pool == "mean":
        return "mean"
    try:
        return float(pool)
    except ValueError:
        raise ConfigError(f"--pool is '{pool}'; give none, mean, or a rate in Hz") from None


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _amount(audio_seconds: float, wall_seconds: float) -> str:
    hours, minutes = audio_seconds / 3600, wall_seconds / 60
    speed = audio_seconds / max(wall_seconds, 1e-9)
    return f"{hours:.2f} h in {minutes:.1f} min, {speed:.1f}x real time"


def _describe(summary: "Summary", out: Path) -> str:
    parts = [f"{summary.done} embedded ({_amount(summary.audio_seconds, summary.wall_seconds)})"]
    if summary.skipped:
        parts.append(f"{summary.skipped} done before")
    if summary.damaged:
        parts.append(f"{len(summary.damaged)} damaged and used in part")
    if summary.failures:
        parts.append(f"{len(summary.failures)} failed")
    return f"{', '.join(parts)}; see {out / 'report.json'}"


def _describe_scan(scanned: "Scan", out: Path) -> str:
    parts = [f"{len(scanned.manifest)} tracks ({scanned.manifest.seconds / 3600:.2f} h) in {out}"]
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
