"""What other systems than Unix lack, taken away: there is no Windows or macOS here to try."""

import os
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from musicfm import files

UNIX = ("fcntl", "grp", "pwd", "resource", "termios")


@pytest.fixture
def no_unix(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of ours are imported anew, and those of Unix cannot be."""
    for name in [*UNIX, *(name for name in sys.modules if name.split(".")[0] == "musicfm")]:
        monkeypatch.delitem(sys.modules, name, raising=False)
    for name in UNIX:
        monkeypatch.setitem(sys.modules, name, None)
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "musicfm"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    "name", ["cli", "analysis.analyze", "analysis.songs", "embedding.collection", "serving.server"]
)
@pytest.mark.usefixtures("no_unix")
def test_nothing_that_only_unix_has_is_imported(name: str) -> None:
    import_module(f"musicfm.{name}")


@pytest.mark.usefixtures("no_unix")
def test_memory_is_zero_where_the_system_does_not_tell() -> None:
    loop = import_module("musicfm.pretraining.loop")
    assert loop._memory(torch.device("cpu")) == 0


def test_files_are_synced_as_windows_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It syncs no file that is open for reading alone."""
    fcntl = pytest.importorskip("fcntl")
    synced: list[int] = []
    monkeypatch.setattr(
        os, "fsync", lambda handle: synced.append(fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE)
    )
    with files.atomic_write(tmp_path / "x") as temporary:
        temporary.write_text("x")
    assert synced == [os.O_RDWR]
