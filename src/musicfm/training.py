"""The training loop, and what all training shares: whole checkpoints, loaders that end with it.

:class:`Training` takes optimizer steps. What is trained is said by the classes derived from it;
a run is a ``for`` over the steps, which says what happens between them. Devices, processes and
their communication are Lightning Fabric's.
"""

import logging
import multiprocessing
import signal
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from musicfm.audio.processes import end_with_parent
from musicfm.errors import CheckpointError, MusicFMError, OutputError
from musicfm.files import atomic_write
from musicfm.model import published
from musicfm.model.inference.optimized import multiplies_bfloat16

BatchT = TypeVar("BatchT")

TRAINING = "training.json"
"""File beside a model that says how it was trained."""

_FROM_LOADER = "Original Traceback"
"""Mark of an error of a loader's process, as PyTorch passes it on."""

for _name in ("utilities.rank_zero", "utilities.distributed", "accelerators.cuda"):
    # These say that processes have met, and what could be faster.
    logging.getLogger(f"lightning_fabric.{_name}").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    step: int
    model: Path | None
    """The folder of the finished model; None if the run was stopped before its last step."""
    stopped_by: int | None
    """The signal that stopped it."""


class Training(ABC, Generic[BatchT]):
    """A module that is trained, with its optimizer, on the devices of a run.

    Args:
        fabric: the devices and processes of the run, launched.
        objective: what is trained; its forward pass is what processes share.
        precision: "float32", or "bfloat16" or "float16" for matrix products and convolutions;
            weights and the optimizer are float32. A CPU takes bfloat16 for float16.
        accumulation: micro-batches of a step.
    """

    prefix = ""
    """Prefix of the names of tensors in checkpoints."""

    def __init__(
        self, fabric: Fabric, objective: nn.Module, precision: str, accumulation: int = 1
    ) -> None:
        self.fabric, self.objective, self.accumulation = fabric, objective, accumulation
        self.module = fabric.setup_module(objective.train())
        objective.to(fabric.device)  # what is left, where weights are divided among processes
        is_float16 = precision == "float16" and fabric.device.type == "cuda"
        self._half = torch.float16 if is_float16 else torch.bfloat16
        self._mixes = precision != "float32"
        self.scaler = torch.amp.GradScaler(fabric.device.type, enabled=is_float16)
        self.optimizer = self.make_optimizer()
        self.step = 0
        self.seconds_waited = 0.0
        """Seconds that steps have waited for batches."""

    @abstractmethod
    def make_optimizer(self) -> torch.optim.Optimizer:
        """Called once, when the objective is on its devices."""

    @abstractmethod
    def learning_rates(self, step: int) -> Sequence[float]:
        """Those of a step, counted from 0, for each of the optimizer's groups of parameters."""

    @abstractmethod
    def loss(self, batch: BatchT, micro_step: int) -> Tensor:
        """The loss of a micro-batch. Seeds what it draws by the step, so that a run that goes on
        is the same run.
        """

    def before_step(self) -> None:
        """Called when all gradients of a step are there, before the optimizer takes it."""

    def steps(self, batches: Iterable[BatchT], until: int) -> Iterator[int]:
        """Takes steps up to a number, and gives the number of each."""
        source = iter(batches)
        is_ddp = isinstance(self.fabric.strategy, DDPStrategy)
        while self.step < until:
            for group, rate in zip(
                self.optimizer.param_groups, self.learning_rates(self.step), strict=True
            ):
                group["lr"] = rate
            for micro_step in range(self.accumulation):
                begin = time.monotonic()
                batch = self.fabric.to_device(next(source))
                self.seconds_waited += time.monotonic() - begin
                # FSDP2 reduces gradients after each micro-batch: later, they would round otherwise.
                waits = is_ddp and micro_step + 1 < self.accumulation
                with self.fabric.no_backward_sync(self.module, enabled=waits):
                    with self.autocast():
                        loss = self.loss(batch, micro_step)
                    if micro_step == 0:
                        self.optimizer.zero_grad()
                    self.fabric.backward(self.scaler.scale(loss / self.accumulation))
            self.scaler.unscale_(self.optimizer)
            self.before_step()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.step += 1
            yield self.step

    def autocast(self) -> torch.autocast:
        """Half precision where the run has it. Not Fabric's, which casts waveforms too."""
        return torch.autocast(self.fabric.device.type, self._half, enabled=self._mixes)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Without dropout and gradients."""
        self.objective.eval()
        with torch.no_grad(), self.autocast():
            yield
        self.objective.train()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on. All processes have to call it; the first one has the tensors."""
        weights, state = self.objective.state_dict(prefix=self.prefix), self.optimizer.state_dict()
        state["state"] = {
            index: {name: self._gathered(tensor) for name, tensor in moments.items()}
            for index, moments in state["state"].items()
        }
        return {
            "global_step": self.step,
            "state_dict": {name: self._gathered(tensor) for name, tensor in weights.items()},
            "optimizer_states": [state],
            "MixedPrecision": self.scaler.state_dict(),
        }

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Goes on from :meth:`state_dict`, or from a checkpoint of Lightning's Trainer."""
        (state,) = content["optimizer_states"]
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        weights = {
            name: _divided(content["state_dict"][self.prefix + name], tensor)
            for name, tensor in self.objective.state_dict().items()
        }
        for index, moments in state["state"].items():
            for name, tensor in moments.items():
                if name != "step":
                    moments[name] = _divided(tensor, parameters[index])
        self.objective.load_state_dict(weights)
        self.optimizer.load_state_dict(state)
        if content.get("MixedPrecision"):
            self.scaler.load_state_dict(content["MixedPrecision"])
        self.step = content["global_step"]

    def _gathered(self, tensor: Tensor) -> Tensor:
        """A tensor that may be divided among processes, whole, in the first one."""
        if isinstance(tensor, DTensor):
            tensor = tensor.full_tensor()
        return tensor.cpu() if self.fabric.is_global_zero else torch.empty(0)


def _divided(tensor: Tensor, like: Tensor) -> Tensor:
    """A tensor, divided among processes as another one is."""
    if not isinstance(like, DTensor):
        return tensor
    return distribute_tensor(
        tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def on_device(device: str) -> Fabric:
    """One process on a device, such as "cpu" or "cuda:1"."""
    place = torch.device(device)
    devices = [place.index or 0] if place.type == "cuda" else 1
    return Fabric(accelerator=place.type, devices=devices)


def save_checkpoint(content: dict[str, Any], path: Path) -> None:
    """Streams a checkpoint to a temporary file beside its place, syncs it, and renames it."""
    with atomic_write(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OutputError(
                f"cannot write {path}: {str(error).splitlines()[0]}; free space there, and resume"
            ) from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint. Raises CheckpointError."""
    try:
        content: dict[str, Any] = published.unpickle(path)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path} is damaged; remove it, and continue from the checkpoint before it, or begin "
            "again"
        ) from error
    return content


def check_precision(precision: str, accelerator: str) -> None:
    """Warns of a precision that a CPU has no instructions for."""
    native = precision == "bfloat16" and multiplies_bfloat16()
    if accelerator == "cpu" and precision != "float32" and not native:
        instead = "; it takes bfloat16 instead" if precision == "float16" else ""
        message = (
            f"this CPU has no instructions for {precision}, in which training takes several times "
            f"as long as in float32{instead}"
        )
        warnings.warn(message, stacklevel=3)


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
        # To PyTorch's handler a process that is killed is an error.
        with _handling(signal.SIG_DFL, "SIGCHLD"):
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
def stop_requested(say: Callable[[str], None]) -> Iterator[Stop]:
    """Within, SIGTERM and Ctrl-C do not end the program: they are noted, so that a run can finish
    its step and save. A second one ends it at once, as Ctrl-C does.
    """
    stop = Stop()

    def note(number: int, _: object) -> None:
        if stop.by is not None:
            raise KeyboardInterrupt
        stop.by = number
        say("stopping after this step, which is saved; once more to stop at once")

    with _handling(note, "SIGTERM", "SIGINT"):
        yield stop


@contextmanager
def _handling(handler: Any, *names: str) -> Iterator[None]:
    """Handles signals, those that this system has. They come to the main thread; in another nothing
    changes.
    """
    is_main = threading.current_thread() == threading.main_thread()
    numbers = [getattr(signal, name) for name in names if is_main and hasattr(signal, name)]
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


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
