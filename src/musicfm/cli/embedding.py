"""``musicfm embed``."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from musicfm.cli.app import (
    CLUSTER,
    COMPUTING,
    EMBED,
    Decoders,
    Device,
    OnDamage,
    Out,
    Stats,
    Timeout,
    app,
    as_begun,
    conclude,
    device_of,
    interruptible,
    layers_of,
    need,
    say,
)
from musicfm.cli.lists import check_there, read_list, with_manifests
from musicfm.errors import ConfigError

if TYPE_CHECKING:
    from musicfm.embedding.results import Pooling

_USE_GPUS = {"auto": None, "cpu": False, "cuda": True}
"""Whether the actors of a cluster use GPUs, by --device."""


@app.command(rich_help_panel=EMBED)
def embed(
    context: typer.Context,
    paths: Annotated[
        list[str] | None,
        typer.Argument(help="Recordings, folders of them, or manifests; paths or URLs."),
    ] = None,
    out: Out = Path("embeddings"),
    listing: Annotated[
        Path | None,
        typer.Option(
            "--list",
            help="File with a path or URL in each line (or from find -print0), or a playlist; - "
            "is standard input.",
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="nano, which comes with the package; msd or fma, the authors' (1.3 GB); a "
            "folder, a .pt or .ckpt file, or a hub id like name/model.",
        ),
    ] = "nano",
    layer: Annotated[
        str,
        typer.Option(
            help="Hidden state: a number, several (3,7), or all; 0 is the output of the front end. "
            "auto is 7 of 12, or relatively as deep in other models."
        ),
    ] = "auto",
    pool: Annotated[
        str, typer.Option(help="Pooling over time: none, mean (one vector), or a rate in Hz.")
    ] = "none",
    format: Annotated[
        Literal["npz", "parquet"],
        typer.Option(help="An .npz per recording, or one table of means (with --pool mean)."),
    ] = "npz",
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            rich_help_panel=CLUSTER,
            help="Compute in this process, or on a Ray cluster (started here without --address).",
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=CLUSTER,
            help="Address of a running Ray cluster: auto, or ray://host:10001.",
            show_default="none",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=CLUSTER,
            min=1,
            help="Number of models in the cluster.",
            show_default="one per GPU, or 1",
        ),
    ] = None,
    overlap: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=COMPUTING,
            help="Seconds that windows overlap.",
            show_default="a sixth of the context",
        ),
    ] = None,
    device: Device = "auto",
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "int8"],
        typer.Option(
            rich_help_panel=COMPUTING, help="Precision; int8 is for CPUs with AVX512-VNNI."
        ),
    ] = "float32",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            rich_help_panel=COMPUTING,
            help="On CUDA, compile the model: takes ten seconds, then it is faster.",
        ),
    ] = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            rich_help_panel=COMPUTING,
            min=1,
            help="Windows computed at once.",
            show_default="1 on a CPU, else 16",
        ),
    ] = None,
    workers: Decoders = None,
    timeout: Timeout = 60.0,
    on_damage: OnDamage = "error",
    stats: Stats = None,
    allow_hash_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-hash-mismatch", help="Use msd or fma even if the file is another one."
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Embed again what is done already.")
    ] = False,
) -> None:
    """Turn recordings into embeddings, one file for each.

    Each .npz holds frames (time, dim), their times in seconds and their rate in Hz. Long recordings
    are cut into overlapping windows of the model's context. A file that cannot be read is reported
    and skipped; a run that was interrupted continues where it stopped, and need not be given its
    options again. OUT/report.json lists every file.
    """
    sources = [*(paths or []), *(read_list(listing) if listing else [])]
    if not sources:
        raise ConfigError("nothing to embed; give files or folders, or --list FILE")
    if engine == "ray" and compile:
        raise ConfigError("--compile is for --engine local")
    if engine == "local" and (address or actors):
        raise ConfigError("--address and --actors are for --engine ray")
    begun = as_begun(
        context, out, overwrite, model=model, layer=layer, pool=pool, format=format,
        overlap=overlap, dtype=dtype, stats=stats, on_damage=on_damage,
    )  # fmt: skip
    model, layer, pool, format, overlap, dtype, stats, on_damage = begun.values()
    pooling, layers = _pooling(pool), layers_of(layer)
    int8 = dtype == "int8"
    if int8 and device not in ("auto", "cpu"):
        raise ConfigError(f"--dtype int8 is for CPUs, and --device is '{device}'; give cpu")
    device = "cpu" if int8 else device
    if engine == "ray":
        need("scale")
        if device not in _USE_GPUS:
            raise ConfigError(f"--device is '{device}'; with --engine ray: auto, cpu or cuda")

    given = with_manifests(sources)
    check_there(given)

    import torch

    from musicfm.embedding.collection import REPORT, embed_collection
    from musicfm.embedding.embedder import Embedder
    from musicfm.embedding.results import TABLE
    from musicfm.model.musicfm import MusicFM

    options: dict[str, Any] = {"stats": stats, "allow_hash_mismatch": allow_hash_mismatch}
    loaded = MusicFM.from_pretrained(model, **options)
    # Actors move their copies to where they compute.
    home = "cpu" if engine == "ray" else device_of(device)
    loaded = loaded.to(home, torch.float32 if int8 else getattr(torch, dtype))
    embedder = Embedder(
        loaded,
        layers,
        overlap_seconds=overlap,
        batch_size=batch_size,
        int8=int8,
        compile=compile,
    )
    how: dict[str, Any] = {
        "pooling": pooling,
        "file_format": format,
        "num_workers": workers,
        "timeout_seconds": timeout,
        "on_damage": on_damage,
        "overwrite": overwrite,
        "progress": True,
        "options": begun,
    }
    with interruptible(f"what is done is in {out}, and the same command continues"):
        if engine == "ray":
            from musicfm.scale.ray_embedding import embed_on_ray

            how |= {"address": address, "actors": actors, "use_gpus": _USE_GPUS[device]}
            summary = embed_on_ray(embedder, given, out, **how)
        else:
            summary = embed_collection(embedder, given, out, **how)
    if format == "parquet" and os.path.exists(out / TABLE):
        say(f"the table, for pandas or pyarrow.parquet.read_table, is {out / TABLE}")
    conclude(summary, "embedded", out / REPORT)


def _pooling(pool: str) -> "Pooling":
    if pool == "none":
        return "none"
    if pool == "mean":
        return "mean"
    try:
        return float(pool)
    except ValueError:
        raise ConfigError(f"--pool is '{pool}'; give none, mean, or a rate in Hz") from None
