"""What all training has in common; the rest is tested with the runs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from musicfm import training

LOADER = """
import os, sys, time
from torch.utils.data import DataLoader, Dataset
from musicfm.training import begin_loading, ending_loaders

class Numbers(Dataset):
    def __len__(self):
        return 1_000

    def __getitem__(self, number):
        return os.getpid()

if __name__ == "__main__":
    loader = DataLoader(
        Numbers(), num_workers=2, worker_init_fn=begin_loading, multiprocessing_context=sys.argv[1]
    )
    with ending_loaders():
        found = iter(loader)
        print(*(int(next(found)) for _ in range(2)), flush=True)
        if sys.argv[2] == "fails":
            raise KeyError("of the run")
        time.sleep(600)
"""


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    (folder / "loader.py").write_text(LOADER)
    return subprocess.Popen(
        [sys.executable, str(folder / "loader.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_loaders_end_with_a_run_that_is_killed(context: str, tmp_path: Path) -> None:
    with start(tmp_path, context, "is killed") as run:
        assert run.stdout is not None
        workers = [int(word) for word in run.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(is_alive, workers))
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while any(map(is_alive, workers)):
        assert time.monotonic() < end, "loaders live on"
        time.sleep(0.1)


@pytest.mark.processes
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_loaders_end_with_a_run_that_fails(context: str, tmp_path: Path) -> None:
    with start(tmp_path, context, "fails") as run:
        try:
            _, said = run.communicate(timeout=60)
        finally:
            run.kill()
    # And its own failure is the one that is told.
    assert said.splitlines()[-1] == "KeyError: 'of the run'"


def test_other_processes_outlive_a_run_that_fails() -> None:
    other = multiprocessing.get_context("forkserver").Process(target=time.sleep, args=(60,))
    other.start()
    with pytest.raises(KeyError), training.ending_loaders():
        raise KeyError("of the run")
    assert other.is_alive()
    other.kill()
    other.join()


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("native", [True, False], ids=["native bfloat16", "none"])
def test_a_precision_that_a_cpu_has_no_instructions_for_is_warned_of(
    precision: str, native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "multiplies_bfloat16", lambda: native)
    slow = precision == "float16" or (precision == "bfloat16" and not native)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        training.check_precision(precision, "cpu")
        training.check_precision(precision, "cuda")
    assert [f"no instructions for {precision}" in str(item.message) for item in caught] == (
        [True] if slow else []
    )
