import copy
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

import recipe
from command_line import Run
from musicfm import cli
from musicfm.audio import processes
from musicfm.model.musicfm import MusicFM
from musicfm.render.soundfont import SoundFont, load_font

torch.set_num_threads(1)
# For processes of tests too: on some CPUs the last bits hang on the number of threads.
os.environ["OMP_NUM_THREADS"] = "1"
# Ray keeps the first token it finds for the life of the process, and would look for one in the home
# directory, which tests of the documentation exchange.
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
# Jobs in the background of a shell have Ctrl-C ignored, and hand that down to what tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Has worker processes fork from one that has imported what they need, once.

    They are spawned in test_audio_processes.py and test_audio_decoders.py, as they are for users.
    """
    if "forkserver" in multiprocessing.get_all_start_methods():
        pytest.MonkeyPatch().setattr(processes, "_START_METHOD", "forkserver")
        needed = ["musicfm.datasets.shards", "musicfm.render.songs", "musicfm.tasks.trials"]
        if any(
            item.path.stem == "test_pretraining_run" and item.get_closest_marker("processes")
            for item in session.items
        ):
            needed.append("musicfm.pretraining.run")
        multiprocessing.set_forkserver_preload(needed)


Golden = Mapping[str, npt.NDArray[Any]]


@pytest.fixture(scope="session")
def golden() -> Golden:
    """Numbers produced by the code of MusicFM's authors; see data/make_golden.py."""
    return dict(np.load(Path(__file__).with_name("data") / "golden.npz"))


@pytest.fixture(scope="session")
def music() -> Tensor:
    """The golden waveform: two clips of four seconds."""
    return torch.from_numpy(recipe.waveform(7, 2, 96_000))


@pytest.fixture(scope="session")
def odd_music() -> Tensor:
    """The other golden waveform: a length that is not a whole number of tokens."""
    return torch.from_numpy(recipe.waveform(8, 1, 72_333))


@pytest.fixture(scope="session")
def published_tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden model, in the published layout. Do not change it."""
    return recipe.write_published(tmp_path_factory.mktemp("published") / "pretrained_tiny.pt")


@pytest.fixture(scope="session")
def _loaded_tiny(published_tiny: Path) -> MusicFM:
    return MusicFM.from_pretrained(published_tiny)


@pytest.fixture
def tiny(_loaded_tiny: MusicFM) -> MusicFM:
    """The golden model, in eval mode; a copy for each test."""
    return copy.deepcopy(_loaded_tiny)


@pytest.fixture(scope="session")
def timgm6mb() -> SoundFont:
    """The sound font that pretty_midi brings along."""
    if find_spec("pretty_midi") is None:
        pytest.skip("TimGM6mb comes with pretty_midi")
    return load_font()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process: status, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["musicfm", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        if isinstance(exit.value.code, str):  # what Python itself would print
            print(exit.value.code, file=sys.stderr)
        captured = capsys.readouterr()
        status = 1 if isinstance(exit.value.code, str) else int(exit.value.code or 0)
        return status, captured.out, captured.err

    return run
