"""The model: log-mel, convolutional front end, encoder, and a head that predicts tokens.

    waveform (batch, samples) -> mel (100 Hz) -> front end (25 Hz) -> blocks -> tokens

A model may have a second input, pitches at the rate of the encoder, which is added to the front
end's output. Rates are those of the published model; the configuration decides. Source: "A
Foundation Model for Music Informatics", Won, Hung, Le, ICASSP 2024 (arXiv 2311.03318).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.errors import ConfigError
from musicfm.model import checkpoint
from musicfm.model.config import (
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    PitchConfig,
)
from musicfm.model.encoder import Conv2d, Encoder, run_block
from musicfm.model.mel import LogMel, check_waveform
from musicfm.model.pitch import LogPitch
from musicfm.model.quantizers import Quantizer, build_quantizer


class Output(NamedTuple):
    """What :meth:`MusicFM.forward` returns."""

    hidden_states: tuple[Tensor, ...]
    """(batch, time, dim) each, in the order asked for."""
    logits: Tensor | None
    """(batch, time, num_codebooks, codebook_size), if asked for."""
    num_frames: Tensor | None
    """(batch,) frames that belong to each clip, if ``lengths`` were given."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside one strided 3x3 convolution; halves the frequency axis."""

    def __init__(self, in_channels: int, channels: int, time_stride: int) -> None:
        super().__init__()
        stride = (2, time_stride)
        self.time_stride = time_stride
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv_skip = Conv2d(in_channels, channels, 3, stride, padding=1)
        self.norm_skip = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(batch, in_channels, frequency, time) to (batch, channels, frequency / 2, time').

        ``mask`` is (batch, time') of the output. The input must be zero outside its clips, and the
        output is.
        """
        y = zero_outside(F.relu(self.norm1(self.conv1(x))), mask)
        y = self.norm2(self.conv2(y))
        return zero_outside(F.relu(y + self.norm_skip(self.conv_skip(x))), mask)


class FrontEnd(nn.Module):
    """Mel frames to the first hidden state, at the frame rate of the encoder."""

    def __init__(self, config: FrontEndConfig, n_mels: int, dim: int) -> None:
        super().__init__()
        channels = (1, config.conv_dim, config.conv_dim)
        self.blocks = nn.ModuleList(
            ResidualBlock(channels[i], channels[i + 1], stride)
            for i, stride in enumerate(config.time_strides)
        )
        self.linear = nn.Linear(config.conv_dim * (n_mels // 4), dim)
        self.activation_checkpointing = False

    def forward(self, mel: Tensor, num_mel_frames: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Subsamples the mel.

        Args:
            mel: (batch, mel time, n_mels), normalised.
            num_mel_frames: (batch,) frames that belong to each clip, or None for all.

        Returns:
            (batch, time, dim), and the number of frames of each clip or None.
        """
        x = mel.transpose(1, 2)[:, None]
        count = num_mel_frames
        x = zero_outside(x, frame_mask(count, x.shape[-1]))
        for block in self.blocks:
            assert isinstance(block, ResidualBlock)
            stride = block.time_stride
            count = None if count is None else (count + stride - 1) // stride
            # Not -(-time // stride), which ONNX would round towards zero.
            mask = frame_mask(count, (x.shape[-1] + stride - 1) // stride)
            x = run_block(block, x, mask, recompute=self.activation_checkpointing)
        return self.linear(x.permute(0, 3, 1, 2).flatten(2)), count


class PitchFrontEnd(nn.Module):
    """Pitches to what is added to the front end's output, which at the start is nothing.

    Two convolutions, of which the first goes from bands to semitones, and a projection. As weights
    of that begin as zeros, a trained model that gets this computes what it did.
    """

    def __init__(self, config: PitchConfig, mel: MelConfig, hop_length: int, dim: int) -> None:
        super().__init__()
        self.config = config
        self.log_pitch = LogPitch(config, mel.sample_rate, hop_length)
        bands, channels = config.bands_per_semitone, config.conv_dim
        kernel = (2 * bands + 1, 3)
        self.conv1 = Conv2d(1, channels, kernel, (bands, 1), padding=(bands, 1))
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, 2 * channels, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(2 * channels)
        self.linear = nn.Linear(2 * channels * config.num_semitones, dim)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor | None,
        num_frames: int,
        count: Tensor | None,
    ) -> Tensor:
        """Reads the pitches of each clip as if it were alone.

        Args:
            waveform: (batch, samples).
            lengths: (batch,) true samples of each clip, or None for all.
            num_frames: of the front end's output.
            count: (batch,) frames of each clip, or None for all.

        Returns:
            (batch, num_frames, dim).
        """
        levels = self.log_pitch(waveform, num_frames, lengths)
        levels = (levels - self.config.mean) / self.config.std
        mask = frame_mask(count, num_frames)
        x = zero_outside(levels.to(self.linear.weight.dtype).transpose(1, 2)[:, None], mask)
        x = zero_outside(F.relu(self.norm1(self.conv1(x))), mask)
        x = F.relu(self.norm2(self.conv2(x)))
        return self.linear(x.permute(0, 3, 1, 2).flatten(2))


def frame_mask(count: Tensor | None, time: int) -> Tensor | None:
    """(batch, time) bool, True for the first ``count`` frames of each clip."""
    if count is None:
        return None
    return torch.arange(time, device=count.device)[None] < count[:, None]


def zero_outside(x: Tensor, mask: Tensor | None) -> Tensor:
    """Zeroes (batch, channels, frequency, time) where the (batch, time) mask is False.

    With it a clip in a padded batch ends as a clip alone does: in the zeros of the next
    convolution's padding.
    """
    return x if mask is None else x.masked_fill(~mask[:, None, None], 0.0)


class Parts(NamedTuple):
    """What a model is made of."""

    mel: LogMel
    front_end: FrontEnd
    pitch: PitchFrontEnd | None
    encoder: Encoder
    quantizer: Quantizer
    head: nn.Linear

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """With random weights."""
        mel, dim, tokens = config.mel, config.encoder.dim, config.quantizer
        return cls(
            LogMel(mel),
            FrontEnd(config.front_end, mel.n_mels, dim),
            None
            if config.pitch is None
            else PitchFrontEnd(config.pitch, mel, config.samples_per_frame, dim),
            Encoder(config.encoder),
            build_quantizer(tokens, config.token_stack, mel),
            nn.Linear(dim, tokens.num_codebooks * tokens.codebook_size),
        )


class MusicFM(nn.Module):
    """A music foundation model.

    Building one does no I/O and seeds nothing. Use :meth:`from_pretrained` for trained weights. In
    eval mode a clip's output does not depend on what else is in its batch.
    """

    def __init__(self, config: ModelConfig, parts: Parts | None = None) -> None:
        super().__init__()
        self.config, parts = config, parts or Parts.of(config)
        self.mel, self.front_end, self.pitch = parts.mel, parts.front_end, parts.pitch
        self.encoder, self.quantizer, self.head = parts.encoder, parts.quantizer, parts.head

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights; inputs and tokens are float32 regardless."""
        return self.head.weight.dtype

    @property
    def num_layers(self) -> int:
        """Number of hidden states: the front end's output and one per block."""
        return self.config.encoder.depth + 1

    def forward(
        self,
        waveform: Tensor,
        lengths: Tensor | None = None,
        layers: Sequence[int] | None = None,
        logits: bool = False,
    ) -> Output:
        """Computes hidden states, no deeper than the deepest one asked for.

        Args:
            waveform: (batch, samples) in [-1, 1] at ``config.sample_rate``, any float dtype.
            lengths: (batch,) true samples of each clip in a padded batch. Frames beyond a clip's
                end are undefined; those within are what the clip gives alone. (In training mode
                BatchNorm's statistics include the padding.)
            layers: hidden states wanted: 0 is the front end's output, i the output of block i,
                the last one follows the final LayerNorm; negative ones count from the end.
                None: all.
            logits: whether to run the head, which needs the full depth.

        Raises:
            AudioError: a waveform of the wrong shape or type, too short, or not finite.
            ConfigError: a layer that the model does not have.
        """
        check_waveform(waveform, lengths, self.config.mel)
        wanted = self.check_layers(range(self.num_layers) if layers is None else layers)
        last = self.num_layers - 1
        features = self.features(waveform, lengths).to(self.dtype)
        x, num_frames = self.front_end(features, self._num_mel_frames(lengths))
        if self.pitch is not None:
            x = x + self.pitch(waveform, lengths, x.shape[1], num_frames)
        mask = frame_mask(num_frames, x.shape[1])
        states = self.encoder(x, mask, [*wanted, last] if logits else wanted)
        predicted = self.head(states.pop()) if logits else None
        if predicted is not None:
            predicted = predicted.unflatten(-1, (self.config.quantizer.num_codebooks, -1))
        return Output(tuple(states), predicted, num_frames)

    def features(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalised mel frames, (batch, samples // hop_length, n_mels), float32."""
        mel = self.config.mel
        return (self.mel(waveform, lengths) - mel.mean) / mel.std

    @torch.no_grad()
    def tokenize(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The tokens of clean audio.

        Args:
            waveform: as in :meth:`forward`.
            lengths: as in :meth:`forward`; tokens beyond a clip's end are undefined.

        Returns:
            (batch, num_tokens, num_codebooks) int64. Token k stacks the mel frames that begin at
            k * token_stack; a last partial stack gives none.
        """
        check_waveform(waveform, lengths, self.config.mel)
        return self.quantizer(self.token_features(waveform, lengths))

    def token_features(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """What tokens are made of: stacked mel frames, (batch, num_tokens, token_dim), float32."""
        stack = self.config.token_stack
        mel = self.features(waveform, lengths)
        mel = mel[:, : mel.shape[1] // stack * stack]
        return mel.unflatten(1, (-1, stack)).flatten(2)

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """Layers as indices from 0. Raises ConfigError for one that does not exist."""
        count = self.num_layers
        if isinstance(layers, str) or not isinstance(layers, Sequence):
            raise ConfigError(f"layers is {layers!r}; give a list, such as [7]")
        for layer in layers:
            if layer not in range(-count, count):
                raise ConfigError(f"no layer {layer}; this model has layers 0 to {count - 1}")
        if not layers:
            raise ConfigError("no layer was asked for; give at least one")
        return [int(layer) % count for layer in layers]

    def set_activation_checkpointing(self, enabled: bool = True) -> None:
        """Trades computation for memory in training: activations are recomputed block by block."""
        self.front_end.activation_checkpointing = enabled
        self.encoder.activation_checkpointing = enabled

    def _num_mel_frames(self, lengths: Tensor | None) -> Tensor | None:
        return None if lengths is None else lengths // self.config.mel.hop_length

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """Loads trained weights; see :func:`musicfm.model.checkpoint.load` for the options."""
        return checkpoint.load(source, cls, **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes ``model.safetensors`` and ``config.json``, as :func:`.checkpoint.save` does."""
        checkpoint.save(self, folder)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Uploads the folder, as :func:`.checkpoint.push` does; returns the commit's address."""
        return checkpoint.push(self, repo_id, **options)


@contextmanager
def full_float32() -> Iterator[None]:
    """Turns TF32 off within the scope, for float32 results that agree across devices to 1e-5."""
    switches: tuple[Any, ...] = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "ieee"
    try:
        yield
    finally:
        for switch, precision in zip(switches, before, strict=True):
            switch.fp32_precision = precision
