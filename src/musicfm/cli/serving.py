"""``musicfm serve``."""

import contextlib
import logging
import signal
from pathlib import Path
from typing import Annotated

import typer

from musicfm.cli.app import SERVE, Device, Timeout, app, device_of, layers_of, need, say


@app.command(rich_help_panel=SERVE)
def serve(
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="Port to listen on; 0 takes a free one.")
    ] = 8000,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="A model, as for embed; see also --head.",
            show_default="that of the library, or nano",
        ),
    ] = None,
    head: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a head; again for more.", show_default="those of the model"),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(
            help="Hidden states that can be asked for: a number, several (3,7), auto or all. "
            "Blocks beyond them and those of the heads are not run."
        ),
    ] = "all",
    library: Annotated[
        Path | None,
        typer.Option(help="Folder of a library, for its map and for finding similar tracks."),
    ] = None,
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Recordings computed at once.", show_default="number of cores"),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests accepted at once; others get 503 and Retry-After.")
    ] = 32,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Largest upload.")] = 200,
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Longest recording.")] = 30.0,
    upload_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for an upload to arrive.")
    ] = 300.0,
    work_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds from then to the result, including waiting.")
    ] = 600.0,
    timeout: Timeout = 20.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds for finishing running requests before it stops.")
    ] = 30.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            help="A name, besides localhost, under which browsers reach the server; again for more."
        ),
    ] = None,
) -> None:
    """Serve analyses and embeddings over HTTP, with a page for songs.

    There are no users and no passwords: whoever reaches the address is served. Ctrl-C or SIGTERM
    stops it.
    """
    need(*(("web",) if library is None else ("web", "map")))
    from musicfm.analysis.analyzer import load_encoder
    from musicfm.audio.processes import num_cores
    from musicfm.library.library import Library
    from musicfm.serving.limits import Limits
    from musicfm.serving.server import Server, listen
    from musicfm.serving.service import Service, check_library

    # To standard error, as all that commands say.
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    logging.getLogger("musicfm.requests").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        limits = Limits(
            max_bytes=max_megabytes * 1_000_000,
            max_seconds=60.0 * max_minutes,
            upload_seconds=upload_timeout,
            work_seconds=work_timeout,
            max_requests=max_requests,
        )
        opened, heads = None, head or []
        if library is not None:
            opened = Library(library)
            model = model or opened.settings.model
            heads = heads or [Path(folder) for folder in opened.settings.heads]
        loaded = load_encoder(model or "nano", heads, layers_of(layer), device_of(device))
        if opened is not None:
            check_library(opened, loaded[0])
        with (
            listen(host, port) as address,
            Service(
                *loaded,
                limits,
                library=opened,
                num_workers=num_cores(workers),
                timeout_seconds=timeout,
            ) as service,
        ):
            Server(
                service,
                {host, *(allow_host or ())},
                grace_seconds=grace,
                started=lambda url: say(f"serving {model or 'nano'} at {url}"),
            ).run([address])
    say("stopped")
