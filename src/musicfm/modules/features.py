"""The mel spectrogram, as MusicFM's authors call it."""

import torch
from torch import Tensor, nn

from musicfm.model.config import MelConfig
from musicfm.model.mel import (
    Float32Buffers,
    check_waveform,
    decibels,
    mel_filters,
    power_spectrum,
)


class MelSTFT(nn.Module):
    """A mel spectrogram of power, or in dB; float32, whatever the type of the waveform.

    Args:
        sample_rate: in Hz.
        n_fft: samples of a frame.
        hop_length: samples between frames.
        n_mels: mel bands.
        is_db: whether it is in dB, -100 at the least.
    """

    def __init__(
        self,
        sample_rate: int = 24_000,
        n_fft: int = 2_048,
        hop_length: int = 240,
        n_mels: int = 128,
        is_db: bool = False,
    ) -> None:
        super().__init__()
        self.config = MelConfig(
            sample_rate=sample_rate, n_fft=n_fft, hop_length=hop_length, n_mels=n_mels
        )
        self.mel_stft = MelSpectrogram(self.config)
        self.is_db = is_db
        if is_db:
            self.amplitude_to_db = AmplitudeToDB()

    def forward(self, waveform: Tensor) -> Tensor:
        """(..., samples) to (..., n_mels, samples // hop_length + 1).

        The model leaves out the last frame. Raises AudioError for a waveform that is too short, not
        of floating-point numbers, or not finite.
        """
        clips = waveform.reshape(-1, waveform.shape[-1])
        check_waveform(clips, None, self.config)
        with torch.autocast(waveform.device.type, enabled=False):
            mel = self.mel_stft(clips)
            mel = self.amplitude_to_db(mel) if self.is_db else mel
        return mel.reshape(*waveform.shape[:-1], *mel.shape[1:])


class MelSpectrogram(nn.Module):
    """(batch, samples) to a mel spectrogram of power, (batch, n_mels, frames)."""

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.sample_rate, self.n_fft = config.sample_rate, config.n_fft
        self.hop_length, self.n_mels = config.hop_length, config.n_mels
        self.spectrogram = Spectrogram(config)
        self.mel_scale = MelScale(config)

    def forward(self, waveform: Tensor) -> Tensor:
        return self.mel_scale(self.spectrogram(waveform))


class Spectrogram(Float32Buffers):
    """(batch, samples) to the power spectrum, (batch, n_fft // 2 + 1, frames)."""

    window: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.hop_length = config.hop_length
        self.register_buffer("window", torch.hann_window(config.n_fft, device="cpu"))

    def forward(self, waveform: Tensor) -> Tensor:
        return power_spectrum(waveform, self.window, self.hop_length).mT


class MelScale(Float32Buffers):
    """(batch, bins, frames) to mel bands, (batch, n_mels, frames)."""

    fb: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.register_buffer("fb", mel_filters(config))

    def forward(self, spectrogram: Tensor) -> Tensor:
        return (spectrogram.mT @ self.fb).mT


class AmplitudeToDB(nn.Module):
    """Power in dB, -100 at the least."""

    def forward(self, power: Tensor) -> Tensor:
        return decibels(power)
