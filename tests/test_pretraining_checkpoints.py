from pathlib import Path

import pytest
import torch

from musicfm.errors import CheckpointError
from musicfm.pretraining.checkpoints import (
    checkpoint_path,
    checkpoint_steps,
    latest_valid,
    prune,
)
from musicfm.training import load_checkpoint, save_checkpoint


def write(folder: Path, *steps: int) -> None:
    for step in steps:
        checkpoint = {"step": step, "weights": torch.arange(1_000.0) + step}
        save_checkpoint(checkpoint, checkpoint_path(folder, step))


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    write(tmp_path, 7)
    found = load_checkpoint(checkpoint_path(tmp_path, 7))
    assert found["step"] == 7
    assert torch.equal(found["weights"], torch.arange(1_000.0) + 7)


def test_only_checkpoints_count(tmp_path: Path) -> None:
    write(tmp_path, 3, 20, 100)
    for name in ("step-1.ckpt", "step-00000200.ckpt.old", ".step-00000300.ckpt.ab.partial"):
        (tmp_path / name).touch()
    assert checkpoint_steps(tmp_path) == [3, 20, 100]
    assert checkpoint_steps(tmp_path / "absent") == []


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(1, None, [4]), (2, None, [3, 4]), (2, 1, [1, 3, 4]), (2, 4, [3, 4]), (9, 2, [1, 2, 3, 4])],
)
def test_the_last_and_the_best_are_kept(
    tmp_path: Path, keep: int, best: int | None, left: list[int]
) -> None:
    write(tmp_path, 1, 2, 3, 4)
    prune(tmp_path, 4, keep, best)
    assert checkpoint_steps(tmp_path) == left


def test_damaged_ones_that_a_run_fell_back_from_do_not_count(tmp_path: Path) -> None:
    write(tmp_path, 3, 4, 7)
    prune(tmp_path, 4, 1, 3)
    assert checkpoint_steps(tmp_path) == [3, 4]


def test_damaged_ones_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4)
    cut = checkpoint_path(tmp_path, 4)
    cut.write_bytes(cut.read_bytes()[:-200])
    flipped = checkpoint_path(tmp_path, 3)
    content = bytearray(flipped.read_bytes())
    content[content.find(torch.arange(1_000.0).add(3).numpy().tobytes()) + 50] ^= 1
    flipped.write_bytes(content)
    step, damaged = latest_valid(tmp_path)
    assert step == 2
    assert ["4.ckpt is damaged" in message for message in damaged] == [True, False]
    assert "3.ckpt is damaged (bad checksum" in damaged[1]


def test_none_left_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, 1)
    checkpoint_path(tmp_path, 1).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"all 1 checkpoints in .* are damaged; begin again"):
        latest_valid(tmp_path)


def test_a_failed_save_leaves_the_old_one(tmp_path: Path) -> None:
    write(tmp_path, 1)
    path = checkpoint_path(tmp_path, 1)
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"code": lambda: 0}, path)
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_names_that_are_no_text_are_damage(tmp_path: Path) -> None:
    write(tmp_path, 1, 2)
    path = checkpoint_path(tmp_path, 2)
    path.write_bytes(path.read_bytes().replace(b"step-00000002", b"step-000000\xff\xfe"))
    step, damaged = latest_valid(tmp_path)
    assert step == 1
    assert len(damaged) == 1


def test_a_checkpoint_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    path = checkpoint_path(tmp_path, 1)
    path.write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match=r"1\.ckpt is damaged; remove it"):
        load_checkpoint(path)
