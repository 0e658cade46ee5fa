"""Heads that have learnt nothing, for what is to be tested of heads but for what they hear."""

from pathlib import Path

import torch

from musicfm.model import checkpoint
from musicfm.model.musicfm import MusicFM
from musicfm.tasks import heads
from musicfm.tasks.heads import Head, HeadConfig
from musicfm.tasks.names import TASKS

TAGS = ("guitar", "piano", "drums", "slow")


def write_heads(folder: Path, model: str = "nano") -> list[Path]:
    """A head for each task on the last layer of a model, in ``folder/TASK``; always the same."""
    loaded = MusicFM.from_pretrained(model)
    written = []
    for number, task in enumerate(TASKS):
        config = HeadConfig(
            task=task,
            vocabulary=TAGS if task == "tagging" else (),
            model=model,
            fingerprint=checkpoint.fingerprint(loaded),
            layers=(loaded.num_layers - 1,),
            dim=loaded.config.encoder.dim,
            hidden=16,
        )
        with torch.random.fork_rng():
            torch.manual_seed(number)
            head = Head(config)
        heads.save(head, folder / task)
        written.append(folder / task)
    return written
