"""Where a server listens, and that it says so."""

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from command_line import Run
from musicfm.errors import ConfigError
from musicfm.serving.server import listen


def test_an_address_that_is_taken_is_an_error() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert port > 0
        with pytest.raises(ConfigError, match=rf"^cannot listen at 127\.0\.0\.1, port {port}: "):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"^cannot listen at nowhere\.invalid, port 1: "):
        listen("nowhere.invalid", 1)


@pytest.fixture(autouse=True)
def _sigterm() -> Iterator[None]:
    """The command handles SIGTERM, for the rest of its process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_the_command_ends_with_one_sentence_if_it_cannot_serve(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, error = run("serve", "--port", port)
    assert (status, out) == (1, "")
    assert error.startswith(f"error: cannot listen at 127.0.0.1, port {port}: ")
    status, _, error = run("serve", "--port", "0", "--head", tmp_path / "nothing")
    assert status == 1
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    status, _, error = run("serve", "--port", "0", "--layer", "9")
    assert (status, error) == (1, "error: no layer 9; this model has layers 0 to 4\n")
