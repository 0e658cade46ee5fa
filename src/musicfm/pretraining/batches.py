"""Crops to batches: masked in the workers, clip by clip, so that no device changes what is hidden.

Example n is a pure function of (seed, n), as its crop is.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from musicfm.datasets.crops import Crops
from musicfm.model.config import ModelConfig
from musicfm.model.masking import MaskingConfig, mask_waveform
from musicfm.pretraining.objective import Batch
from musicfm.seeds import derive_seed
from musicfm.training import begin_loading


class Example(NamedTuple):
    """One clip, padded to the model's context."""

    clean: Tensor
    """(samples,)."""
    masked: Tensor
    hidden: Tensor
    """(num_tokens,) bool."""
    length: int
    broken: tuple[tuple[str, str], ...]
    """Tracks that failed in its place: path and reason."""


class Examples(Dataset[Example]):
    """Masked crops by number."""

    def __init__(self, crops: Crops, model: ModelConfig, masking: MaskingConfig, seed: int) -> None:
        self._crops, self._model, self._masking, self._seed = crops, model, masking, seed

    def __getitem__(self, n: int) -> Example:
        crop = self._crops[n]
        size = self._model.context_samples
        clean = F.pad(torch.from_numpy(crop.samples), (0, size - len(crop.samples)))
        generator = torch.Generator().manual_seed(derive_seed(self._seed, "mask", n))
        lengths = torch.tensor([len(crop.samples)])
        masked, hidden = mask_waveform(clean[None], self._model, self._masking, generator, lengths)
        return Example(clean, masked[0], hidden[0], len(crop.samples), crop.broken)


def collate(examples: list[Example]) -> tuple[Batch, list[tuple[str, str]]]:
    """Stacks examples, and lists the tracks that failed; lengths are kept only where a clip is
    shorter than the context.
    """
    lengths = torch.tensor([example.length for example in examples])
    clean = torch.stack([example.clean for example in examples])
    batch = Batch(
        clean,
        torch.stack([example.masked for example in examples]),
        torch.stack([example.hidden for example in examples]),
        None if bool((lengths == clean.shape[1]).all()) else lengths,
    )
    return batch, [found for example in examples for found in example.broken]


def example_loader(
    examples: Examples, batches: Sampler[list[int]] | list[list[int]], num_workers: int
) -> DataLoader[Example]:
    """Loads batches of examples by number, in order, in so many processes (0: in this one)."""
    return DataLoader(
        examples,
        batch_sampler=batches,
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=begin_loading,
        prefetch_factor=4 if num_workers else None,
    )
