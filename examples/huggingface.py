"""A model from Hugging Face as a row of the table.

    musicfm table1 --models nano,examples/huggingface.py:wav2vec2 --out table

An encoder has to say how recordings are cut into windows, at which rate its frames come, and what
they are for some windows; decoding, resampling, windows, caching and heads are musicfm's. This one
has random weights, since it is built from a configuration; ``from_pretrained`` in its place gives
trained ones. It needs transformers: ``pip install 'musicfm[bench]'``.
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2Model

from musicfm.embedding.embedder import WindowEncoder
from musicfm.embedding.windows import Samples, Windowing

SAMPLE_RATE = 16_000
FRAME = 320  # samples; its convolutions have strides of 5, 2, 2, 2, 2, 2 and 2
CONTEXT_SECONDS = 10.0


class Wav2Vec2(WindowEncoder):
    """The hidden states of wav2vec 2.0 (Baevski et al., NeurIPS 2020): 50 frames per second."""

    def __init__(self, model: Wav2Vec2Model, context_seconds: float) -> None:
        windowing = Windowing.seconds(context_seconds, None, SAMPLE_RATE, SAMPLE_RATE / FRAME)
        layers = range(model.config.num_hidden_layers + 1)
        super().__init__(windowing, SAMPLE_RATE, 2 * FRAME, batch_size=1, layers=layers)
        self.model = model.eval()

    @torch.inference_mode()
    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        """(layers, time, dim) of each window, on the CPU."""
        return [self._frames(torch.from_numpy(window)) for window in windows]

    def fingerprint(self) -> str:
        """Of the weights, so that features of other weights are never taken for these."""
        digest = hashlib.sha256()
        for tensor in self.model.state_dict().values():
            digest.update(tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()

    def _frames(self, samples: Tensor) -> Tensor:
        # The convolutions have no padding: with this much there is a frame for every 320 samples.
        padded = torch.nn.functional.pad(samples, (40, 40 + -len(samples) % FRAME))
        states = self.model(padded[None], output_hidden_states=True).hidden_states
        return torch.cat(states)


def wav2vec2(context_seconds: float | None) -> WindowEncoder:
    """A small one; ``context_seconds`` is what it should hear at once, None its own context."""
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192
    )
    return Wav2Vec2(Wav2Vec2Model(config), context_seconds or CONTEXT_SECONDS)
