"""What all training with Lightning needs: whole checkpoints, quiet, loaders that end with it."""

import logging
import multiprocessing
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import CheckpointIO

from musicfm.audio.processes import end_with_parent
from musicfm.errors import CheckpointError, MusicFMError, OutputError
from musicfm.files import atomic_write
from musicfm.model import published
from musicfm.model.inference.optimized import multiplies_bfloat16

_FROM_LOADER = "Original Traceback"
"""In an error of a loader's process, as PyTorch passes it on."""


class AtomicCheckpointIO(CheckpointIO):
    """Streams a checkpoint to a temporary file beside its place, syncs it, and renames it."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        with atomic_write(Path(path)) as temporary:
            try:
                torch.save(checkpoint, temporary)
            except RuntimeError as error:  # what torch makes of a full disk
                raise OutputError(
                    f"cannot write {path}: {str(error).splitlines()[0]}; free space there, and "
                    "resume"
                ) from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        try:
            content: dict[str, Any] = published.unpickle(Path(path))
        except CheckpointError as error:
            raise CheckpointError(
                f"{path} is damaged; remove it, and go on from the checkpoint before or begin again"
            ) from error
        return content

    def remove_checkpoint(self, path: str | Path) -> None:
        Path(path).unlink(missing_ok=True)


def check_precision(precision: str, accelerator: str) -> None:
    """Warns of a precision that a CPU has no instructions for."""
    native = precision == "bfloat16" and multiplies_bfloat16()
    if accelerator == "cpu" and precision != "float32" and not native:
        message = (
            f"this CPU has no instructions for {precision}, in which training takes several times "
            "as long as in float32"
        )
        warnings.warn(message, stacklevel=3)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences what Lightning says of settings that are meant."""
    names = ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        # Said of Lightning's own code, of a few workers, which do here, and of resuming.
        for pattern in (
            ".*LeafSpec.*is deprecated",
            ".*does not have many workers",
            "Checkpoint directory .* exists and is not empty",
        ):
            warnings.filterwarnings("ignore", pattern)
        for name in names:
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            yield
        finally:
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


@contextmanager
def ending_loaders() -> Iterator[None]:
    """Ends the processes of DataLoaders when what uses them fails; says their errors in a sentence.

    At its exit Python sends SIGTERM to those that are left, which they ignore, and waits for them
    for ever.
    """
    before = set(multiprocessing.active_children())
    try:
        yield
    except BaseException as error:
        with _ignoring_dead_workers():
            for loader in set(multiprocessing.active_children()) - before:
                loader.kill()
                loader.join()
        text = str(error.args[0]) if error.args else ""
        if isinstance(error, MusicFMError) and _FROM_LOADER in text:
            # PyTorch puts the loader's traceback into the error, and its message last.
            sentence = text.strip().splitlines()[-1].partition(": ")[2]
            raise type(error)(sentence) from error
        raise


@dataclass
class Stop:
    """Whether a run is to end after the step under way."""

    by: int | None = None
    """The signal that asked for it."""


@contextmanager
def stop_requested() -> Iterator[Stop]:
    """Within, SIGTERM and Ctrl-C do not end the program: they are noted, so that a run can finish
    its step and save. Outside of the main thread, to which signals come, nothing is noted.
    """
    stop = Stop()
    if threading.current_thread() != threading.main_thread():
        yield stop
        return

    def note(number: int, _: object) -> None:
        stop.by = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _ignoring_dead_workers() -> Iterator[None]:
    """Without PyTorch's handler of SIGCHLD, to which a process that is killed is an error."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() != threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, handler)


def begin_loading(_: int) -> None:
    """What a process of a DataLoader begins with: ``worker_init_fn``.

    Workers share the cores with the training process, and leave signals to it. Ctrl-C in a
    terminal, and what ends a job, reach them too: they must live on until the step under way is
    saved. They end with the process that started them, to which PyTorch sees only where that has
    forked them.
    """
    torch.set_num_threads(1)
    end_with_parent()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
