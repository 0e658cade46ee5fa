"""One optimizer step, as Lightning runs it: seeding, accumulating, normalising, clipping.

The loss of a step is the sum over the hidden tokens of the whole batch, divided by their number in
all processes and micro-batches. That number is known only when all have been computed, so each
micro-batch is divided by what is expected, and gradients are corrected before they are clipped.
"""

from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from musicfm.errors import TrainingError
from musicfm.model.masking import MaskedLoss
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.batches import Loaded
from musicfm.pretraining.objective import Objective, use_global_batch_norm
from musicfm.pretraining.recipe import Recipe
from musicfm.seeds import derive_seed

MAX_SKIPPED = 20
"""Steps without a finite gradient, one after another, until a run is given up. In float16 the
first few are how the scale of the loss is found."""


def build_model(recipe: Recipe) -> MusicFM:
    """The model before the first step, the same wherever it is built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(recipe.seed, "weights"))
        return MusicFM(recipe.model)


class Window:
    """Sums over the steps since the last log line; a step counts once it has been taken."""

    def __init__(self, num_codebooks: int, codebook_size: int) -> None:
        self.num_codes = (num_codebooks, codebook_size)
        self._taken = self._zeros()
        self._step = self._zeros()

    def add(self, loss: MaskedLoss, codes: Tensor) -> None:
        """Adds a micro-batch to the step under way."""
        sums = torch.stack([part.detach().float() for part in loss])
        flat = torch.cat([sums, codes.flatten().float()])
        self._step = self._step.to(flat.device) + flat

    def take_step(self) -> None:
        """Counts the step under way."""
        self._taken = self._taken.to(self._step.device) + self._step
        self._step = self._zeros()

    def drop_step(self) -> None:
        """Forgets the step under way."""
        self._step = self._zeros()

    def num_hidden(self) -> Tensor:
        """Hidden tokens of the step under way."""
        return self._step[2]

    def gather(self) -> None:
        """Brings what all processes have counted to the first one. All must call it."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self._taken)
            if distributed.get_rank() > 0:
                self._taken = self._zeros()

    def totals(self) -> tuple[MaskedLoss, Tensor]:
        """The sums in this process: the loss, and counts (num_codebooks, codebook_size)."""
        taken = self._taken.cpu()
        total, num_correct, num_hidden = taken[:3]
        return MaskedLoss(total, num_correct, num_hidden), taken[3:].reshape(self.num_codes)

    def clear(self) -> None:
        """Begins a new window."""
        self._taken = self._zeros()

    def state(self) -> Tensor:
        """For a checkpoint, after :meth:`gather`."""
        return self._taken.cpu()

    def restore(self, state: Tensor) -> None:
        """Continues a window from a checkpoint, in the first process."""
        first = not (distributed.is_available() and distributed.is_initialized())
        if first or distributed.get_rank() == 0:
            self._taken = state

    def _zeros(self) -> Tensor:
        return torch.zeros(3 + self.num_codes[0] * self.num_codes[1])


class PretrainingModule(LightningModule):
    """A recipe's optimizer step.

    Args:
        recipe: what to do.
        model: to train; see :func:`build_model`.
    """

    def __init__(self, recipe: Recipe, model: MusicFM) -> None:
        super().__init__()
        self.recipe = recipe
        if recipe.global_batch_norm:
            use_global_batch_norm(model)
        model.set_activation_checkpointing(recipe.activation_checkpointing)
        if recipe.compile:
            # Block by block: they share what is compiled, and the convolutions gain nothing.
            for block in model.encoder.blocks:
                block.compile()
        self.objective = Objective(model)
        quantizer = recipe.model.quantizer
        self.window = Window(quantizer.num_codebooks, quantizer.codebook_size)
        self.gradient_norm = 0.0
        self.num_skipped = 0
        self.stop_requested = False
        """Set in any process, for all to stop after the step."""
        self.stop_agreed = False
        self._skipped_in_a_row = 0
        self._statistics: list[Tensor] = []
        # Keeps the loss near 1 while the number of hidden tokens is not known yet.
        tokens = recipe.model.num_tokens(recipe.model.context_samples) * quantizer.num_codebooks
        self._expected = max(1.0, recipe.micro_batch_size * tokens * recipe.masking.probability)

    @property
    def model(self) -> MusicFM:
        """What is being trained."""
        return self.objective.model

    def configure_model(self) -> None:
        """Divides the weights among processes, block by block, where the strategy is sharded."""
        if self.device_mesh is None:
            return
        mesh = self.device_mesh["data_parallel"]
        for block in [*self.model.front_end.blocks, *self.model.encoder.blocks]:
            fully_shard(block, mesh=mesh)
        fully_shard(self.objective, mesh=mesh)

    def on_train_start(self) -> None:
        self._keep_statistics()

    def training_step(self, loaded: Loaded, batch_idx: int) -> Tensor:
        micro_step = batch_idx % self.trainer.accumulate_grad_batches
        purpose = ("dropout", self.global_step, micro_step, self.global_rank)
        torch.manual_seed(derive_seed(self.recipe.seed, *purpose))
        loss, codes = self.objective(loaded.batch)
        self.window.add(loss, codes)
        return loss.total / self._expected

    def configure_optimizers(self) -> Any:
        config = self.recipe.optimizer
        optimizer = torch.optim.AdamW(
            self.parameters(),
            lr=config.learning_rate,
            betas=config.betas,
            eps=config.epsilon,
            weight_decay=config.weight_decay,
            # A fused one would unscale float16 gradients itself, after they are clipped.
            fused=self.recipe.precision != "float16",
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: config.factor(step, self.recipe.steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self, optimizer: torch.optim.Optimizer, *_: object, **__: object
    ) -> None:
        """Normalises and clips the gradients, or gives the step up if they are not finite."""
        num_hidden, num_stops = self._over_processes(
            self.window.num_hidden(), float(self.stop_requested)
        )
        self.stop_agreed = num_stops > 0
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        # Gradients are means over micro-batches and processes of sums over hidden tokens.
        num_micro_batches = self.trainer.accumulate_grad_batches * self.trainer.world_size
        factor = self._expected * num_micro_batches / max(num_hidden, 1.0)
        torch._foreach_mul_(gradients, factor)
        norm = get_total_norm(gradients)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        self.gradient_norm = float(norm)
        if torch.isfinite(norm):
            clip_grads_with_norm_(parameters, self.recipe.optimizer.clip_norm, norm)
            self._take_step()
        else:
            self._skip_step(parameters)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["musicfm"] = {
            "recipe": self.recipe.to_dict(),
            "window": self.window.state(),
            "num_skipped": self.num_skipped,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.window.restore(checkpoint["musicfm"]["window"])
        self.num_skipped = checkpoint["musicfm"]["num_skipped"]

    def _over_processes(self, *numbers: Tensor | float) -> list[float]:
        """Sums over processes; the same in each, so that all decide alike."""
        values = torch.tensor([float(n) for n in numbers], dtype=torch.float32, device=self.device)
        if self.trainer.world_size > 1:
            distributed.all_reduce(values)
        return values.tolist()

    def _take_step(self) -> None:
        self._skipped_in_a_row = 0
        self._keep_statistics()
        self.window.take_step()

    def _skip_step(self, parameters: list[nn.Parameter]) -> None:
        """Leaves weights, optimizer and BatchNorm as they were before the step."""
        self.num_skipped += 1
        self._skipped_in_a_row += 1
        self.window.drop_step()
        for parameter in parameters:
            parameter.grad = None  # the optimizer passes over it, and over its moments
        for statistic, before in zip(self._batch_statistics(), self._statistics, strict=True):
            statistic.copy_(before)
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the gradient was not finite for {MAX_SKIPPED} steps up to step "
                f"{self.global_step}; lower optimizer.learning_rate, or use precision=float32, "
                "and resume from the last checkpoint or begin again"
            )

    def _keep_statistics(self) -> None:
        """Those before the next step, for if it has to be given up."""
        self._statistics = [statistic.clone() for statistic in self._batch_statistics()]

    def _batch_statistics(self) -> list[Tensor]:
        return [b for name, b in self.named_buffers() if ".running_" in name]
