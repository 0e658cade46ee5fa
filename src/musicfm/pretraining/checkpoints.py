"""Checkpoints of a run: whole or not at all, the last few and the best, and which one to resume."""

import re
import zipfile
from pathlib import Path

from musicfm.errors import CheckpointError

_NAME = re.compile(r"step-(\d{8})\.ckpt")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after so many steps lies."""
    return folder / f"step-{step:08d}.ckpt"


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, ascending."""
    found = (_NAME.fullmatch(path.name) for path in folder.glob("*.ckpt"))
    return sorted(int(match[1]) for match in found if match)


def prune(folder: Path, now: int, keep: int, best: int | None) -> None:
    """Removes all checkpoints but the last ``keep`` up to the step ``now``, and that of ``best``.

    Later ones were damaged, or the run would not be at this step.
    """
    steps = checkpoint_steps(folder)
    kept = {*[step for step in steps if step <= now][-keep:], best}
    for step in set(steps) - kept:
        checkpoint_path(folder, step).unlink(missing_ok=True)


def latest_valid(folder: Path) -> tuple[int, list[str]]:
    """The last whole checkpoint in a folder.

    Returns:
        Its step, and a sentence on each later one that is damaged.

    Raises:
        CheckpointError: all are damaged.
    """
    damaged = []
    for step in reversed(checkpoint_steps(folder)):
        path = checkpoint_path(folder, step)
        if reason := _damage(path):
            damaged.append(f"{path} is damaged ({reason}); falling back to the one before")
        else:
            return step, damaged
    raise CheckpointError(
        f"all {len(damaged)} checkpoints in {folder} are damaged; begin again in another folder"
    )


def _damage(path: Path) -> str | None:
    """What is wrong with a file of torch.save, by the checksums that it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except Exception as error:  # of a damaged archive zipfile raises nearly anything
        return str(error) or type(error).__name__
    return f"bad checksum of {bad}" if bad else None
