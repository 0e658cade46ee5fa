"""Log-mel spectrogram: the input of the model and the matter of its tokens.

In float32 at the least, whatever the model's dtype: a bfloat16 round trip of the filterbank alone
costs half a decibel. Numerically it is torchaudio's ``MelSpectrogram`` and ``AmplitudeToDB`` as the
published model uses them (HTK scale, no area normalisation, power 2, no ``top_db``).
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.errors import AudioError
from musicfm.model.config import MelConfig


class Float32Buffers(nn.Module):
    """A module whose own buffers move between devices but stay float32 through ``.half()``."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in before.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None and moved.dtype != torch.float32:
                self._buffers[name] = buffer.to(moved.device, torch.float32)
        return self


class LogMel(Float32Buffers):
    """Waveform to log-mel frames in dB.

    The window and the filterbank follow from the configuration, so they are not part of a
    checkpoint, and are computed on the CPU even while a model is built on the meta device.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer(
            "window", torch.hann_window(config.n_fft, device="cpu"), persistent=False
        )
        self.register_buffer("filters", mel_filters(config), persistent=False)

    def forward(self, waveform: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Computes the frames of each clip as if it were alone.

        Args:
            waveform: (batch, samples), any float dtype.
            lengths: (batch,) true samples of each clip; what lies beyond is ignored. None: all.

        Returns:
            (batch, samples // hop_length, n_mels) in dB, float32. Frame ``t`` is centred at sample
            ``t * hop_length``. Frames from ``length // hop_length`` on belong to no clip.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            power = power_spectrum(waveform, self.window, self.config.hop_length, lengths)
            # The published model drops the last frame of the centred STFT.
            frames = waveform.shape[-1] // self.config.hop_length
            return decibels((power @ self.filters)[:, :frames])


def power_spectrum(
    waveform: Tensor, window: Tensor, hop_length: int, lengths: Tensor | None = None
) -> Tensor:
    """The centred STFT's squared magnitude, (batch, samples // hop_length + 1, bins), float32."""
    # CUDA chooses the algorithm of a transform by how many there are. Bands a hundred dB below the
    # loudest would show its rounding, by 0.004 dB in float32, and hidden states by 1e-4: a clip
    # would not be the same in every batch.
    samples = waveform.double() if waveform.is_cuda else waveform.float()
    n_fft = len(window)
    padded = reflect_pad(samples, n_fft // 2, lengths)
    spectrum = torch.stft(
        padded,
        n_fft,
        hop_length,
        window=window.to(samples.dtype),
        center=False,
        return_complex=True,
    )
    # Not abs().square(): the root costs as much as the transform itself on a CPU.
    power = spectrum.real.square() + spectrum.imag.square()
    return power.float().transpose(1, 2)


def decibels(power: Tensor) -> Tensor:
    """Power in dB, -100 at the least."""
    return 10.0 * power.clamp(min=1e-10).log10()


def stream_mel(blocks: Iterable[Tensor], log_mel: LogMel) -> Iterator[Tensor]:
    """Computes the frames of a long waveform block by block, as if it were whole.

    Args:
        blocks: consecutive parts, (samples,), of any lengths.
        log_mel: on their device.

    Yields:
        (frames, n_mels) in dB, float32; together ``samples // hop_length`` frames, or none of a
        waveform that is shorter than ``min_samples``.
    """
    hop, half = log_mel.config.hop_length, log_mel.config.n_fft // 2
    context = -(-half // hop)  # frames at the head of what is kept that only their right side needs
    kept: Tensor | None = None
    done = 0  # frames of what is kept that have been given already
    for block in blocks:
        kept = block if kept is None else torch.cat([kept, block])
        whole = (len(kept) - half) // hop + 1  # frames that no later sample changes
        if whole > max(done, context) and len(kept) >= log_mel.config.min_samples:
            yield log_mel(kept[None])[0, done:whole]
            kept, done = kept[(whole - context) * hop :], context
    if kept is not None and len(kept) >= log_mel.config.min_samples:
        yield log_mel(kept[None])[0, done:]


def reflect_pad(waveform: Tensor, pad: int, lengths: Tensor | None) -> Tensor:
    """Reflects each clip about its own first and last sample.

    Args:
        waveform: (batch, samples).
        pad: samples to add on either side, fewer than a clip has.
        lengths: (batch,) true samples of each clip, or None.

    Returns:
        (batch, samples + 2 * pad); zero where a clip and its reflection have ended.
    """
    if lengths is None:
        return F.pad(waveform, (pad, pad), mode="reflect")
    last = (lengths - 1)[:, None]
    position = torch.arange(-pad, waveform.shape[1] + pad, device=waveform.device)[None]
    source = last - (last - position.abs()).abs()
    return waveform.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0.0)


def mel_filters(config: MelConfig) -> Tensor:
    """Triangular filters on the HTK mel scale, (n_fft // 2 + 1, n_mels), float32.

    Source: ``torchaudio.functional.melscale_fbanks(norm=None, mel_scale="htk")``, to the bit.
    """
    top = config.sample_rate // 2
    frequencies = torch.linspace(0, top, config.n_fft // 2 + 1, device="cpu")
    corners = mel_corners(config)
    widths = corners.diff()
    slopes = corners[None] - frequencies[:, None]
    rising = -slopes[:, :-2] / widths[:-1]
    falling = slopes[:, 2:] / widths[1:]
    return torch.minimum(rising, falling).clamp(min=0.0)


def mel_corners(config: MelConfig) -> Tensor:
    """(n_mels + 2,) Hz: band i begins at corner i, peaks at the next and ends at the one after."""
    mel_top = 2595.0 * math.log10(1.0 + config.sample_rate // 2 / 700.0)
    mels = torch.linspace(0.0, mel_top, config.n_mels + 2, device="cpu")
    return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)


def check_waveform(waveform: Tensor, lengths: Tensor | None, config: MelConfig) -> None:
    """Raises AudioError unless the waveform is one that the model can take, and says why not.

    Shapes and types are always checked. Values are not while compiling, where a look at them would
    break the graph.
    """
    for name, given in (("waveform", waveform), ("lengths", lengths)):
        if given is not None and not isinstance(given, Tensor):
            raise AudioError(f"{name} is of type {type(given).__name__}; give a torch tensor")
    if waveform.dim() != 2:
        raise AudioError(
            f"waveform has shape {tuple(waveform.shape)}; give (batch, samples), mono: "
            "unsqueeze a single clip, average the channels of a stereo one"
        )
    if not waveform.is_floating_point():
        raise AudioError(
            f"waveform is {waveform.dtype}; give floating-point samples in [-1, 1] "
            "(16-bit integers: divide by 32768)"
        )
    batch, samples = waveform.shape
    if batch == 0 or samples < config.min_samples:
        raise AudioError(
            f"waveform has shape {tuple(waveform.shape)}; the shortest clip has "
            f"{config.min_samples} samples ({config.min_samples / config.sample_rate:.3f} s)"
        )
    if lengths is not None and (
        lengths.shape != (batch,)
        or lengths.dtype not in (torch.int32, torch.int64)
        or lengths.device != waveform.device
    ):
        raise AudioError(
            f"lengths has shape {tuple(lengths.shape)} and is {lengths.dtype} on {lengths.device}; "
            f"give {batch} whole numbers of samples on {waveform.device}"
        )
    if torch.compiler.is_compiling():
        return
    checks = [torch.isfinite(waveform).all()]
    if lengths is not None:
        checks.append(((lengths >= config.min_samples) & (lengths <= samples)).all())
    is_finite, *is_inside = torch.stack(checks).tolist()  # a GPU is waited for once
    if lengths is not None and not all(is_inside):
        raise AudioError(
            f"lengths are {lengths.tolist()}; each must lie between {config.min_samples} "
            f"and the waveform's {samples} samples"
        )
    if not is_finite:
        bad = (~torch.isfinite(waveform)).any(dim=1).nonzero()[:, 0].tolist()
        raise AudioError(
            f"waveform has NaN or infinite samples in clips {bad}; repair or drop them"
        )
