"""The loop of a run: one optimizer step, and what happens after it.

The loss of a step is the sum over the hidden tokens of the whole batch, divided by their number in
all processes and micro-batches. That number is known only when all have been computed, so each
micro-batch is divided by what is expected, and gradients are corrected before they are clipped.
"""

import math
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.utils.tensorboard import SummaryWriter

from musicfm.errors import TrainingError
from musicfm.model.masking import MaskedLoss
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.checkpoints import checkpoint_path, prune
from musicfm.pretraining.data import RunData
from musicfm.pretraining.metrics import METRICS, add_metrics, rewind_metrics
from musicfm.pretraining.objective import (
    Batch,
    Objective,
    code_statistics,
    use_global_batch_norm,
)
from musicfm.pretraining.recipe import Recipe
from musicfm.progress import Steps
from musicfm.seeds import derive_seed
from musicfm.training import Stop, Training, save_checkpoint, stop_requested

MAX_SKIPPED = 20
"""Steps without a finite gradient, one after another, until a run is given up. In float16 the
first few are how the scale of the loss is found."""

COLLAPSE_PERPLEXITY = 0.02
"""Fraction of the number of codes; targets with a lower perplexity carry too little."""


def divide(objective: Objective, mesh: DeviceMesh) -> Objective:
    """Divides the weights among processes, block by block (FSDP2)."""
    for block in [*objective.model.front_end.blocks, *objective.model.encoder.blocks]:
        fully_shard(block, mesh=mesh["data_parallel"])
    fully_shard(objective, mesh=mesh["data_parallel"])
    return objective


class Pretraining(Training[Batch]):
    """A pretraining run, from a model to its last step.

    Args:
        fabric: the devices and processes of the run.
        recipe: what to do.
        model: to train.
        folder: of the run; ``checkpoints/``, ``metrics.jsonl`` and ``tensorboard/`` go there.
        data: gives the batches.
        progress: show a bar on standard error.
    """

    prefix = "objective."

    def __init__(
        self,
        fabric: Fabric,
        recipe: Recipe,
        model: MusicFM,
        folder: Path,
        data: RunData,
        progress: bool,
    ) -> None:
        self._recipe, self._folder, self._data, self._progress = recipe, folder, data, progress
        if recipe.global_batch_norm:
            use_global_batch_norm(model)
        model.set_activation_checkpointing(recipe.activation_checkpointing)
        if recipe.compile:
            # Block by block: they share what is compiled, and the convolutions gain nothing.
            for block in model.encoder.blocks:
                block.compile()
        accumulation = recipe.accumulation(fabric.world_size)
        super().__init__(fabric, Objective(model), recipe.precision, accumulation)
        self._taken = self._no_sums()
        """Sums over the steps since the last log line; a step counts once it has been taken."""
        self._under_way = self._no_sums()
        self._num_skipped = self._skipped_in_a_row = 0
        self._best: tuple[float, int] | None = None
        """Lowest loss on held-out clips, and its step."""
        self._has_warned = False
        self.stop = Stop()
        """What asks this process to stop; all do after the step if one is asked."""
        self._stop_agreed = False
        # Keeps the loss near 1 while the number of hidden tokens is not known yet.
        tokens = recipe.model.num_tokens(recipe.model.context_samples)
        tokens *= recipe.model.quantizer.num_codebooks
        self._expected = max(1.0, recipe.micro_batch_size * tokens * recipe.masking.probability)

    def run(self) -> int | None:
        """Trains to the last step, or until a signal says to stop: returns that signal."""
        recipe = self._recipe
        events: AbstractContextManager[SummaryWriter | None] = nullcontext()
        if self.fabric.is_global_zero:
            rewind_metrics(self._folder / METRICS, self.step)
            events = SummaryWriter(self._folder / "tensorboard", purge_step=self.step + 1)
        batches = self._data.train_batches(self.step)
        with (
            events as self._events,
            Steps("Pretraining", recipe.steps, self._progress, done=self.step) as self._bar,
            stop_requested(self._bar.say) as self.stop,
        ):
            self._keep_statistics()
            self._reset_clock()
            for step in self.steps(batches, recipe.steps):
                is_last, is_best = step == recipe.steps, False
                if step % recipe.log_every == 0 or is_last:
                    self._log()
                if step % recipe.validate_every == 0 or is_last:
                    is_best = self._validate()
                is_due = step % recipe.checkpoint_every == 0 or is_last
                if is_due or is_best or self._stop_agreed:
                    self._save()
                self._bar.advance()
                if self._stop_agreed and not is_last:
                    return self.stop.by or signal.SIGTERM
        return None

    # ----------------------------------------------------------- a step

    def make_optimizer(self) -> torch.optim.Optimizer:
        config = self._recipe.optimizer
        return torch.optim.AdamW(
            self.module.parameters(),
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            # A fused one would unscale float16 gradients itself, after they are clipped.
            fused=self._recipe.precision != "float16",
        )

    def learning_rates(self, step: int) -> Sequence[float]:
        config = self._recipe.optimizer
        return [config.factor(step, self._recipe.steps) * config.learning_rate]

    def loss(self, batch: Batch, micro_step: int) -> Tensor:
        purpose = ("dropout", self.step, micro_step, self.fabric.global_rank)
        torch.manual_seed(derive_seed(self._recipe.seed, *purpose))
        loss, codes = self.module(batch)
        self._under_way += _flat(loss, codes)
        return loss.total / self._expected

    def before_step(self) -> None:
        """Normalises and clips the gradients, or gives the step up if they are not finite."""
        counts = torch.tensor([float(self._under_way[2]), float(self.stop.by is not None)])
        num_hidden, num_stops = self._summed(counts).tolist()
        self._stop_agreed = num_stops > 0
        parameters = list(self.module.parameters())
        gradients = [p.grad for p in parameters if p.grad is not None]
        # Gradients are means over micro-batches and processes of sums over hidden tokens.
        num_micro_batches = self.accumulation * self.fabric.world_size
        factor = self._expected * num_micro_batches / max(num_hidden, 1.0)
        torch._foreach_mul_(gradients, factor)
        norm = get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self._norms.append(float(norm))
        if torch.isfinite(norm):
            clip_grads_with_norm_(parameters, self._recipe.optimizer.clip_norm, norm)
            self._skipped_in_a_row = 0
            self._keep_statistics()
            self._taken += self._under_way
        else:
            self._skip_step()
        self._under_way = self._no_sums()

    def _skip_step(self) -> None:
        """Leaves weights, optimizer and BatchNorm as they were before the step."""
        self._num_skipped += 1
        self._skipped_in_a_row += 1
        for parameter in self.module.parameters():
            parameter.grad = None  # the optimizer passes over it, and over its moments
        for statistic, before in zip(self._batch_statistics(), self._statistics, strict=True):
            statistic.copy_(before)
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradient was NaN or infinite for {MAX_SKIPPED} steps up to step {self.step}; "
                "lower optimizer.learning_rate, or use precision=float32, and resume from the "
                "last checkpoint or begin again"
            )

    def _keep_statistics(self) -> None:
        """Those before the next step, for if it has to be given up."""
        self._statistics = [statistic.clone() for statistic in self._batch_statistics()]

    def _batch_statistics(self) -> list[Tensor]:
        return [b for name, b in self.objective.named_buffers() if ".running_" in name]

    # ----------------------------------------------------------- between steps

    def _log(self) -> None:
        recipe = self._recipe
        loss, codes = self._totals(self._summed(self._taken))
        self._taken = self._no_sums()
        elapsed = time.monotonic() - self._begin
        statistics = code_statistics(codes)
        seconds = len(self._norms) * recipe.batch_size * recipe.model.context_seconds
        finite = [norm for norm in self._norms if norm < math.inf]
        values = {
            "loss": loss.mean.item(),
            "accuracy": loss.accuracy.item(),
            **statistics._asdict(),
            "gradient_norm": sum(finite) / len(finite) if finite else None,
            "learning_rate": self.learning_rates(self.step - 1)[0],
            "skipped_steps": self._num_skipped,
            "audio_per_second": seconds / elapsed,
            "waiting": self.seconds_waited / elapsed,
            "memory_gb": _memory(self.fabric.device) / 1e9,
        }
        self._report(values)
        self._bar.show(
            f"loss {values['loss']:.3f}, accuracy {values['accuracy']:.3f}, "
            f"{values['audio_per_second']:.0f}x real time"
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

    def _validate(self) -> bool:
        """Measures on held-out clips; whether the loss is the lowest so far."""
        if not len(self._data.valid):
            return False
        sums = self._no_sums()
        with self.evaluating():
            for batch in self._data.valid_batches():
                sums += _flat(*self.objective(self.fabric.to_device(batch)))
        loss, codes = self._totals(self._summed(sums))
        accuracy, unigram = loss.accuracy.item(), code_statistics(codes).unigram_accuracy
        value = loss.mean.item()
        self._report(
            {"valid_loss": value, "valid_accuracy": accuracy, "valid_unigram_accuracy": unigram}
        )
        self._bar.say(
            f"step {self.step}: held-out loss {value:.4f}, accuracy {accuracy:.4f} (most frequent "
            f"token: {unigram:.4f})"
        )
        is_best = math.isfinite(value) and (self._best is None or value < self._best[0])
        if is_best:
            self._best = (value, self.step)
        self._reset_clock()
        return is_best

    def _save(self) -> None:
        folder, content = self._folder / "checkpoints", self.state_dict()
        if self.fabric.is_global_zero:
            save_checkpoint(content, checkpoint_path(folder, self.step))
            best = self._best[1] if self._best else None
            prune(folder, self.step, self._recipe.keep_checkpoints, best)

    def state_dict(self) -> dict[str, Any]:
        # From here on the first process has what all have counted.
        taken = self._summed(self._taken)
        self._taken = taken if self.fabric.is_global_zero else self._no_sums()
        facts = {
            "recipe": self._recipe.to_dict(),
            "window": taken.cpu(),
            "num_skipped": self._num_skipped,
            "best": self._best,
            "has_warned": self._has_warned,
        }
        return {**super().state_dict(), "musicfm": facts}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        super().load_state_dict(content)
        # Checkpoints of Lightning's Trainer have some of it at another place.
        facts = {**content["musicfm"], **content.get("callbacks", {}).get("Heartbeat", {})}
        if self.fabric.is_global_zero:
            self._taken = facts["window"].to(self.fabric.device)
        self._num_skipped, self._has_warned = facts["num_skipped"], facts["has_warned"]
        self._best = facts["best"] and tuple(facts["best"])

    def _report(self, values: Mapping[str, Any]) -> None:
        if self._events is None:  # which the first process writes
            return
        add_metrics(self._folder / METRICS, self.step, values)
        for name, value in values.items():
            if value is not None:
                self._events.add_scalar(name, value, self.step)

    def _no_sums(self) -> Tensor:
        """Of a loss, and of how often each code was hidden."""
        quantizer = self._recipe.model.quantizer
        size = 3 + quantizer.num_codebooks * quantizer.codebook_size
        return torch.zeros(size, device=self.fabric.device)

    def _summed(self, sums: Tensor) -> Tensor:
        """Over processes; the same in each, so that all decide alike."""
        sums = sums.clone().to(self.fabric.device)
        return cast(Tensor, self.fabric.all_reduce(sums, reduce_op="sum"))

    def _totals(self, sums: Tensor) -> tuple[MaskedLoss, Tensor]:
        """The loss, and counts (num_codebooks, codebook_size)."""
        loss, codes = MaskedLoss(*sums.cpu()[:3]), sums.cpu()[3:]
        return loss, codes.view(self._recipe.model.quantizer.num_codebooks, -1)

    def _reset_clock(self) -> None:
        self._begin, self.seconds_waited = time.monotonic(), 0.0
        self._norms: list[float] = []


def _flat(loss: MaskedLoss, codes: Tensor) -> Tensor:
    """Sums of a micro-batch as one tensor, which processes can add up."""
    sums = torch.stack([part.detach().float() for part in loss])
    return torch.cat([sums, codes.flatten().float()])


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
