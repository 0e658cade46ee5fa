"""What happens around the steps of a run: watching, validating, saving, stopping, in this order."""

import math
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from musicfm.pretraining.batches import Example, Loaded
from musicfm.pretraining.checkpoints import checkpoint_path, prune
from musicfm.pretraining.metrics import MetricsFile
from musicfm.pretraining.module import PretrainingModule, Window
from musicfm.pretraining.objective import code_statistics
from musicfm.pretraining.recipe import Recipe

COLLAPSE_PERPLEXITY = 0.02
"""Of the number of codes: targets with a lower perplexity carry too little."""


class Heartbeat(Callback):
    """Runs after every step of a run.

    Args:
        recipe: of the run.
        folder: of the run; ``checkpoints/`` and ``metrics.jsonl`` go there.
        validation: gives a loader of this process's held-out clips, or None if there are none.
        note_broken: takes what of the collection could not be read; may raise TrainingError.
        show_progress: whether to draw a bar.
    """

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        validation: Callable[[], DataLoader[Example] | None],
        note_broken: Callable[[list[tuple[str, str]]], None],
        show_progress: bool,
    ) -> None:
        self._recipe, self._folder = recipe, folder
        self._validation, self._note_broken = validation, note_broken
        self._metrics = MetricsFile(folder)
        self._bar = _Bar(recipe.steps, show_progress)
        self._best: tuple[float, int] | None = None
        """Lowest loss on held-out clips, and its step."""
        self._has_warned = False
        self._handlers: dict[int, Any] = {}
        self.stopped_by: int | None = None
        """The signal that ended the run before its last step."""

    # ----------------------------------------------------------- Lightning's hooks

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _ours(pl_module)
        # Lightning's own handlers end a run without saving, or in the middle of a step.
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._request_stop(module))
        if trainer.is_global_zero:
            self._metrics.rewind(trainer.global_step)
            self._bar.start(trainer.global_step)
        self._reset_clock()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Loaded, batch_idx: int
    ) -> None:
        self._waited += time.monotonic() - self._batch_ended

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Loaded,
        batch_idx: int,
    ) -> None:
        module = _ours(pl_module)
        self._note_broken(batch.broken)
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._after_step(trainer, module)
        self._batch_ended = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._end()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._end()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best, "has_warned": self._has_warned}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self._best = None if best is None else (best[0], best[1])
        self._has_warned = state_dict["has_warned"]

    def _end(self) -> None:
        """Before Lightning puts back the handlers that it found."""
        self._bar.stop()
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    # ----------------------------------------------------------- after a step

    def _after_step(self, trainer: Trainer, module: PretrainingModule) -> None:
        step, recipe = trainer.global_step, self._recipe
        is_last = step == recipe.steps
        self._norms.append(module.gradient_norm)
        if step % recipe.log_every == 0 or is_last:
            self._log(trainer, module)
        is_best = False
        if step % recipe.validate_every == 0 or is_last:
            is_best = self._validate(trainer, module)
        is_due = step % recipe.checkpoint_every == 0 or is_last or module.stop_agreed
        if is_due or is_best:
            self._save(trainer, module)
        self._bar.advance(step)
        if module.stop_agreed and not is_last:
            trainer.should_stop = True
            self.stopped_by = self.stopped_by or signal.SIGTERM

    def _log(self, trainer: Trainer, module: PretrainingModule) -> None:
        module.window.gather()
        loss, codes = module.window.totals()
        module.window.clear()
        elapsed = time.monotonic() - self._begin
        statistics = code_statistics(codes)
        optimizer = self._recipe.optimizer
        factor = optimizer.factor(trainer.global_step - 1, self._recipe.steps)
        seconds = len(self._norms) * self._recipe.batch_size * self._recipe.model.context_seconds
        self._report(
            trainer,
            {
                "loss": loss.mean.item(),
                "accuracy": loss.accuracy.item(),
                **statistics._asdict(),
                "gradient_norm": _finite_mean(self._norms),
                "learning_rate": factor * optimizer.learning_rate,
                "skipped_steps": module.num_skipped,
                "audio_per_second": seconds / elapsed,
                "waiting": self._waited / elapsed,
                "memory_gb": _memory(module.device) / 1e9,
            },
        )
        size = codes.shape[1]
        if statistics.code_perplexity < COLLAPSE_PERPLEXITY * size and not self._has_warned:
            self._has_warned = True
            self._bar.say(
                f"warning: the tokens have nearly collapsed (perplexity "
                f"{statistics.code_perplexity:.1f} of {size} codes); check that model.mel.mean "
                "and .std are those of this collection (musicfm stats)"
            )
        self._reset_clock()

    def _validate(self, trainer: Trainer, module: PretrainingModule) -> bool:
        """Measures on held-out clips; whether the loss is the lowest so far."""
        loader = self._validation()
        if loader is None:
            return False
        window = Window(*module.window.num_codes)
        module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            for loaded in loader:
                loaded = trainer.strategy.batch_to_device(loaded)
                window.add(*module.objective(loaded.batch))
                self._note_broken(loaded.broken)
        module.train()
        window.take_step()
        window.gather()
        loss, codes = window.totals()
        values = {
            "valid_loss": loss.mean.item(),
            "valid_accuracy": loss.accuracy.item(),
            "valid_unigram_accuracy": code_statistics(codes).unigram_accuracy,
        }
        # The first process alone has the totals.
        value = trainer.strategy.broadcast(values["valid_loss"])
        self._report(trainer, values)
        self._bar.say(
            f"step {trainer.global_step}: held-out loss {value:.4f}, accuracy "
            f"{values['valid_accuracy']:.4f} (most frequent token: "
            f"{values['valid_unigram_accuracy']:.4f})"
        )
        is_best = math.isfinite(value) and (self._best is None or value < self._best[0])
        if is_best:
            self._best = (value, trainer.global_step)
        self._reset_clock()
        return is_best

    def _save(self, trainer: Trainer, module: PretrainingModule) -> None:
        module.window.gather()
        folder = self._folder / "checkpoints"
        path = checkpoint_path(folder, trainer.global_step)
        trainer.save_checkpoint(path, weights_only=False)
        if trainer.is_global_zero:
            best = self._best[1] if self._best else None
            prune(folder, trainer.global_step, self._recipe.keep_checkpoints, best)

    def _report(self, trainer: Trainer, values: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        self._metrics.add(trainer.global_step, values)
        for logger in trainer.loggers:
            known = {name: value for name, value in values.items() if value is not None}
            logger.log_metrics(known, step=trainer.global_step)
        self._bar.show(values)

    def _reset_clock(self) -> None:
        self._begin = self._batch_ended = time.monotonic()
        self._waited = 0.0
        self._norms: list[float] = []

    def _request_stop(self, module: PretrainingModule) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, _: FrameType | None) -> None:
            if module.stop_requested:
                raise KeyboardInterrupt  # asked twice: at once, back to the last checkpoint
            module.stop_requested = True
            self.stopped_by = number
            self._bar.say("stopping after this step, which is saved; once more to stop at once")

        return handle


class _Bar:
    """Steps done, the latest figures, and the time that remains, on standard error."""

    def __init__(self, steps: int, enabled: bool) -> None:
        self._console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("Pretraining"),
            BarColumn(bar_width=24),
            TextColumn("step {task.completed}/{task.total}"),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self._console,
            disable=not enabled,
            speed_estimate_period=600.0,
        )
        self._task = self._bar.add_task("", total=steps, figures="", start=False)
        self._enabled = enabled

    def start(self, step: int) -> None:
        self._bar.update(self._task, completed=step)
        self._bar.start_task(self._task)
        self._bar.start()

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def show(self, values: Mapping[str, Any]) -> None:
        if "loss" in values:
            figures = (
                f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.3f}, "
                f"{values['audio_per_second']:.0f}x real time"
            )
            self._bar.update(self._task, figures=figures)

    def say(self, message: str) -> None:
        if self._enabled:
            self._console.print(message, markup=False)

    def stop(self) -> None:
        self._bar.stop()


def _ours(module: LightningModule) -> PretrainingModule:
    assert isinstance(module, PretrainingModule)
    return module


def _finite_mean(values: list[float]) -> float | None:
    finite = [value for value in values if value < float("inf")]
    return sum(finite) / len(finite) if finite else None


def _memory(device: torch.device) -> int:
    """The most that was in use so far, in bytes: on a GPU its memory, else the process's; 0 where
    the system does not tell, as Windows does not.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
