"""A model with a head for each task: what is trained together, and its folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.embedding.pooling import num_pooled
from musicfm.model import checkpoint
from musicfm.model.config import PitchConfig
from musicfm.model.musicfm import MusicFM
from musicfm.tasks import heads
from musicfm.tasks.heads import Head, HeadConfig, task_class
from musicfm.tasks.names import TASKS


class Joint(nn.Module):
    """A model, and a head for each task on all of its layers."""

    def __init__(self, model: MusicFM, task_heads: Sequence[Head]) -> None:
        super().__init__()
        self.model = model
        self.heads = nn.ModuleList(task_heads)

    def forward(
        self, waveform: Tensor, lengths: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The logits of each head, (batch, outputs, num_logits), for clips of the model's context,
        and the last hidden state. Clips of other lengths count as if they were stretched to it.
        """
        config = self.model.config
        output = self.model(waveform, lengths)
        states = torch.stack(output.hidden_states, dim=1).float()  # (batch, layers, time, dim)
        num_frames = config.num_frames(config.context_samples)
        found = []
        for head in self.heads:
            assert isinstance(head, Head)
            outputs = num_pooled(num_frames, config.frame_rate, head.task.output_rate)
            if output.num_frames is not None:
                clips = zip(states, output.num_frames.tolist(), strict=True)
                pooled = torch.stack([_pooled(clip[:, :count], outputs) for clip, count in clips])
                found.append(head(pooled))
            elif outputs % num_frames == 0:  # each frame is said several times
                found.append(head(states).repeat_interleave(outputs // num_frames, dim=1))
            else:
                found.append(head(_pooled(states, outputs)))
        return found, output.hidden_states[-1]


def _pooled(states: Tensor, outputs: int) -> Tensor:
    """(..., time, dim) to (..., outputs, dim), in the bins of musicfm.embedding.pooling."""
    flat = states.flatten(0, -3).mT
    return F.adaptive_avg_pool1d(flat, outputs).mT.unflatten(0, states.shape[:-2])


def build(model: MusicFM, name: str, vocabulary: tuple[str, ...], *, pitch: bool) -> Joint:
    """What a run begins with: a model, with pitch if it is to get it, and its heads where it has
    some, else new ones.
    """
    config = model.config
    if pitch and config.pitch is None:
        larger = MusicFM(config.replace(pitch=PitchConfig()))
        larger.load_state_dict(model.state_dict(), strict=False)
        model = larger
    shipped = heads.shipped(name)
    built = []
    for task in TASKS:
        words = vocabulary if task_class(task).has_vocabulary else ()
        head = Head(
            HeadConfig(
                task=task,
                vocabulary=words,
                model=name,
                fingerprint="",
                layers=tuple(range(model.num_layers)),
                dim=config.encoder.dim,
            )
        )
        if task in shipped:
            _begin_with(head, heads.load(shipped[task]))
        built.append(head)
    return Joint(model, built)


def _begin_with(head: Head, other: Head) -> None:
    """Gives a head what another one of its task knows; of tags, those that both know."""
    alike = ("layers", "dim", "inputs", "relative", "hidden")
    if any(getattr(head.config, name) != getattr(other.config, name) for name in alike):
        return
    new, old = head.config.vocabulary, other.config.vocabulary
    state = other.state_dict()
    if new:
        rows = [(new.index(tag), old.index(tag)) for tag in new if tag in old]
        for name in ("output.weight", "output.bias"):
            merged = head.state_dict()[name].clone()
            for to, source in rows:
                merged[to] = state[name][source]
            state[name] = merged
    head.load_state_dict(state)
    head.config = head.config.replace(decoding=other.config.decoding)


def write_model(joint: Joint, folder: Path, tracks: Sequence[str]) -> None:
    """Writes a model with its heads, and what they were trained on. Raises OutputError."""
    checkpoint.save(joint.model, folder)
    checkpoint.write_tracks(folder, tracks)
    fingerprint = checkpoint.fingerprint(joint.model)
    for head in joint.heads:
        assert isinstance(head, Head)
        head.config = head.config.replace(fingerprint=fingerprint)
        heads.save(head, folder / heads.HEADS / head.config.task)
        checkpoint.write_tracks(folder / heads.HEADS / head.config.task, tracks)
