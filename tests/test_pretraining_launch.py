"""Runs launched as on a cluster, by torchrun and SLURM, on this machine; a process is killed."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

import slurm
from musicfm.datasets.tracks import Manifest
from songs import write_songs
from test_pretraining_run import MICRO, rows, start, weights

pytestmark = pytest.mark.processes

RECIPE = MICRO.replace(micro_batch_size=1)
SLURM = Path(__file__).parents[1] / "examples" / "pretrain.slurm"

# Python runs this at its start: the second process of a run is killed once, at its fifth step.
KILL = """
import os, pathlib, signal
killed = pathlib.Path(os.environ["KILLED"])
if os.environ.get("RANK") == "1" and not killed.exists():
    from musicfm.pretraining.loop import Pretraining
    before_step = Pretraining.before_step

    def disturbed(training):
        if training.step == 4:
            killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        before_step(training)

    Pretraining.before_step = disturbed
"""

# As docs/scaling.md says to, and the script for SLURM does by itself.
UNSHARED = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder, 7)
    return folder


@pytest.fixture(scope="module")
def music(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest with the splits of the other tests."""
    path = tmp_path_factory.mktemp("music") / "music.parquet"
    tracks = list(write_songs(songs, 7))
    split = [replace(t, split="train" if k < 5 else "valid") for k, t in enumerate(tracks)]
    Manifest(songs, split).save(path)
    return path


@pytest.fixture(scope="module")
def undisturbed(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes to the end, without a launcher."""
    out = tmp_path_factory.mktemp("undisturbed")
    assert start(RECIPE, songs, out, world_size=2) == [0, 0]
    return out


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "customized").mkdir()
    (tmp_path / "customized" / "sitecustomize.py").write_text(KILL)
    return {
        **os.environ,
        **slurm.write_commands(tmp_path / "commands"),
        "KILLED": str(tmp_path / "killed"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "customized"), *sys.path]),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def run_all(commands: list[list[str]], environment: dict[str, str], folder: Path) -> None:
    """Runs commands side by side to their ends; what they say goes to files in a folder."""
    logs = [folder / f"command_{k}.log" for k in range(len(commands))]
    children = []
    for command, log in zip(commands, logs, strict=True):
        with log.open("wb") as file:
            children.append(
                subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
            )
    try:
        for child, log in zip(children, logs, strict=True):
            assert child.wait(timeout=300) == 0, log.read_text()[-4_000:]
    finally:
        for child in children:
            child.kill()
            child.wait()


@pytest.mark.timeout(700)
def test_two_machines_go_on_exactly_after_one_of_them_is_killed(
    music: Path, undisturbed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    recipe, out = tmp_path / "micro.json", tmp_path / "out"
    recipe.write_text(json.dumps(RECIPE.to_dict()))
    # Where machines meet: not on one of them, whose end the other would take for a failure.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    machine = [
        sys.executable, "-m", "torch.distributed.run",
        "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "2",
        "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{store.port}",
        "--rdzv-conf", "is_host=false", "--rdzv-id", "test",
        "-m", "musicfm", "pretrain", str(recipe), str(music),
        "--out", str(out), "--resume", "--device", "cpu", "--workers", "0",
    ]  # fmt: skip
    run_all([machine, machine], {**environment, **UNSHARED}, tmp_path)
    assert Path(environment["KILLED"]).exists()
    assert rows(out) == rows(undisturbed)
    assert weights(out) == weights(undisturbed)


@pytest.mark.timeout(700)
def test_a_job_of_slurm_goes_on_exactly_after_a_process_is_killed(
    music: Path, undisturbed: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    recipe, out = tmp_path / "micro.json", tmp_path / "out"
    recipe.write_text(json.dumps(RECIPE.to_dict()))
    job = {**slurm.JOB, "SLURM_GPUS_ON_NODE": "2", "RDZV_PORT": str(free_port())}
    options = ["--device", "cpu", "--workers", "0"]
    command = ["bash", str(SLURM), str(recipe), str(music), str(out), *options]
    run_all([command], {**environment, **job}, tmp_path)
    assert Path(environment["KILLED"]).exists()
    assert rows(out) == rows(undisturbed)
    assert weights(out) == weights(undisturbed)
    assert not Path(environment["REQUEUED"]).exists()


def test_a_job_that_was_stopped_is_put_into_the_queue_again(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    """One that got on, that is; one that fails at once would fail for ever."""
    out, trained = tmp_path / "out", tmp_path / "commands" / "torchrun"
    command = ["bash", str(SLURM), "tiny", "music", str(out)]
    requeued = Path(environment["REQUEUED"])
    for program, again in (
        ("exit 1", False),
        (f"mkdir -p {out}/checkpoints; touch {out}/checkpoints/step-00000005.ckpt; exit 1", True),
        ("exit 1", False),
        (f"mkdir {out}/model; touch {out}/model/training.json", False),
    ):
        trained.write_text(f"#!/bin/bash\n{program}\n")
        trained.chmod(0o755)
        requeued.unlink(missing_ok=True)
        done = subprocess.run(command, env={**environment, **slurm.JOB}, check=False)
        assert requeued.exists() == again
        assert (done.returncode == 0) == (again or (out / "model").exists())
