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
        str, typer.Option(help="Address to listen at; 0.0.0.0 is all of this machine's.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65_535, help="To listen at; 0 is one that is free.")
    ] = 8000,
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="nano, or another model as embed takes it; see also --head."
        ),
    ] = "nano",
    head: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a head; again for more.", show_default="those of the model"),
    ] = None,
    layer: Annotated[
        str,
        typer.Option(
            help="Hidden states that can be asked for: a number, several (3,7), auto or all. The "
            "model is not computed beyond them and those of the heads."
        ),
    ] = "all",
    device: Device = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Recordings in hand at once.", show_default="number of cores"),
    ] = None,
    max_requests: Annotated[
        int, typer.Option(min=1, help="Requests under way at once; others get 503 and Retry-After.")
    ] = 32,
    max_megabytes: Annotated[int, typer.Option(min=1, help="Of an upload.")] = 200,
    max_minutes: Annotated[float, typer.Option(min=0.1, help="Of sound in an upload.")] = 30.0,
    upload_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds for an upload to arrive.")
    ] = 300.0,
    work_timeout: Annotated[
        float, typer.Option(min=1, help="Seconds from there to the result, waiting included.")
    ] = 600.0,
    timeout: Timeout = 20.0,
    grace: Annotated[
        float, typer.Option(min=0, help="Seconds to finish what is under way when told to stop.")
    ] = 30.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A name by which browsers call the server, besides localhost; again."),
    ] = None,
) -> None:
    """Analyse and embed over HTTP, with a page to drop songs on.

    There are no users and no passwords: whoever reaches the address is served. Ctrl-C or SIGTERM
    stops it.
    """
    need("web")
    from musicfm.audio.processes import num_cores
    from musicfm.serving.limits import Limits
    from musicfm.serving.server import Server, listen
    from musicfm.serving.service import Service, load

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
        with (
            listen(host, port) as address,
            Service(
                *load(model, head or (), layers_of(layer), device_of(device)),
                limits,
                num_workers=num_cores(workers),
                timeout_seconds=timeout,
            ) as service,
        ):
            Server(
                service,
                {host, *(allow_host or ())},
                grace_seconds=grace,
                started=lambda url: say(f"serving {model} at {url}"),
            ).run([address])
    say("stopped")
