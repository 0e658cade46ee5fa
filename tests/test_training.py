"""What all training has in common; the rest is tested with the runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

LOADER = """
import os, sys, time
from torch.utils.data import DataLoader, Dataset
from musicfm.training import begin_loading

class Numbers(Dataset):
    def __len__(self):
        return 1_000

    def __getitem__(self, number):
        return os.getpid()

if __name__ == "__main__":
    loader = DataLoader(
        Numbers(), num_workers=2, worker_init_fn=begin_loading, multiprocessing_context=sys.argv[1]
    )
    found = iter(loader)
    print(*(int(next(found)) for _ in range(2)), flush=True)
    time.sleep(600)
"""


def is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_loaders_end_with_a_run_that_is_killed(context: str, tmp_path: Path) -> None:
    (tmp_path / "loader.py").write_text(LOADER)
    command = [sys.executable, str(tmp_path / "loader.py"), context]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        workers = [int(word) for word in run.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(is_alive, workers))
        run.send_signal(signal.SIGKILL)
    end = time.monotonic() + 30
    while any(map(is_alive, workers)):
        assert time.monotonic() < end, "loaders live on"
        time.sleep(0.1)
