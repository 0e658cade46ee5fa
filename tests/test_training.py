"""What all training has in common; the rest is tested with the runs."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from musicfm import training
from musicfm.training import Training

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
            _, said = run.communicate(timeout=240)
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


class Line(Training[Tensor]):
    """A line through points (x, y)."""

    def __init__(self, accumulation: int = 1) -> None:
        torch.manual_seed(0)
        fabric = Fabric(accelerator="cpu", devices=1)
        super().__init__(fabric, nn.Linear(1, 1), "float32", accumulation)
        # As float16 has it on a GPU.
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        self.rates: list[float] = []

    def make_optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.module.parameters())

    def learning_rates(self, step: int) -> Sequence[float]:
        return [0.1 / (step + 1)]

    def loss(self, batch: Tensor, micro_step: int) -> Tensor:
        error: Tensor = self.module(batch[:, :1]) - batch[:, 1:]
        return error.square().mean()

    def before_step(self) -> None:
        self.rates.append(self.optimizer.param_groups[0]["lr"])


POINTS = torch.randn(10, 4, 2, generator=torch.Generator().manual_seed(0))


def test_steps_have_their_numbers_and_learning_rates() -> None:
    line = Line()
    assert list(line.steps(POINTS, 4)) == [1, 2, 3, 4]
    assert line.rates == [0.1, 0.1 / 2, 0.1 / 3, 0.1 / 4]


def test_micro_batches_are_one_batch() -> None:
    whole, parts = Line(), Line(accumulation=2)
    list(whole.steps(POINTS, 10))
    list(parts.steps(POINTS.reshape(20, 2, 2), 10))
    for one, other in zip(whole.objective.parameters(), parts.objective.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_training_goes_on_from_its_checkpoint_exactly(tmp_path: Path) -> None:
    whole, begun, resumed = Line(), Line(), Line()
    list(whole.steps(POINTS, 10))
    list(begun.steps(POINTS, 4))
    training.save_checkpoint(begun.state_dict(), tmp_path / "x.ckpt")
    resumed.load_state_dict(training.load_checkpoint(tmp_path / "x.ckpt"))
    assert resumed.scaler.get_scale() == 16.0
    assert list(resumed.steps(POINTS[4:], 10)) == [5, 6, 7, 8, 9, 10]
    assert resumed.scaler.state_dict() == whole.scaler.state_dict()
    for one, other in zip(
        whole.objective.parameters(), resumed.objective.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_a_gradient_that_overflows_takes_no_step_and_lowers_the_scale() -> None:
    line = Line()
    before = [parameter.detach().clone() for parameter in line.objective.parameters()]
    list(line.steps([POINTS[0] * 1e30], 1))
    assert line.scaler.get_scale() == 4.0
    assert all(map(torch.equal, before, line.objective.parameters()))
