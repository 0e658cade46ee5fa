"""Log-frequency spectrogram: some bands to the semitone, once per frame of the encoder.

It stands beside the mel, whose short windows tell when something sounds, and not which note of a
bass it is. In float32 at the least, as the mel.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from musicfm.model.config import PitchConfig
from musicfm.model.mel import Float32Buffers


class LogPitch(Float32Buffers):
    """Waveform to the levels of pitches in dB.

    Window and filters follow from the arguments, so they are not part of a checkpoint.

    Args:
        config: which pitches, and how fine.
        sample_rate: of the waveform, in Hz.
        hop_length: samples per frame.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: PitchConfig, sample_rate: int, hop_length: int) -> None:
        super().__init__()
        self.n_fft, self.hop_length = config.n_fft, hop_length
        window = torch.hann_window(config.n_fft, device="cpu")
        self.register_buffer("window", window, persistent=False)
        self.register_buffer("filters", pitch_filters(config, sample_rate), persistent=False)

    def forward(self, waveform: Tensor, num_frames: int, lengths: Tensor | None = None) -> Tensor:
        """Computes the frames of each clip as if it were alone, between silence.

        Args:
            waveform: (batch, samples), any float dtype.
            num_frames: at most ``1 + samples // hop_length``.
            lengths: (batch,) true samples of each clip; what lies beyond is ignored. None: all.

        Returns:
            (batch, num_frames, num_bands) in dB, float32. Frame ``t`` is centred at sample
            ``t * hop_length``.
        """
        with torch.autocast(waveform.device.type, enabled=False):
            # As of the mel: CUDA would round differently in every batch.
            samples = waveform.double() if waveform.is_cuda else waveform.float()
            if lengths is not None:
                place = torch.arange(samples.shape[1], device=samples.device)
                samples = samples.masked_fill(place >= lengths[:, None], 0.0)
            spectrum = torch.stft(
                F.pad(samples, (self.n_fft // 2, self.n_fft // 2)),
                self.n_fft,
                self.hop_length,
                window=self.window.to(samples.dtype),
                center=False,
                return_complex=True,
            )
            spectrum = spectrum[:, : len(self.filters), :num_frames]
            power = spectrum.real.square() + spectrum.imag.square()
            bands = power.float().transpose(1, 2) @ self.filters
            return 10.0 * bands.clamp(min=1e-10).log10()


def pitch_filters(config: PitchConfig, sample_rate: int) -> Tensor:
    """Triangles around the pitches, (bins, num_bands), float32; without the bins above them all.

    Each reaches to the pitches beside it, or, where those lie closer than the bins of the STFT, to
    the next bin on either side, which is interpolation.
    """
    bins = torch.linspace(0.0, sample_rate / 2, config.n_fft // 2 + 1, device="cpu")
    step = 1.0 / (12 * config.bands_per_semitone)  # octaves
    pitches = config.lowest_hertz * 2.0 ** (step * torch.arange(config.num_bands, device="cpu"))
    widths = (pitches * (2.0**step - 1.0)).clamp(min=sample_rate / config.n_fft)
    filters = (1.0 - (bins[:, None] - pitches).abs() / widths).clamp(min=0.0)
    return filters[: int(filters.any(dim=1).nonzero().max()) + 1].contiguous()
