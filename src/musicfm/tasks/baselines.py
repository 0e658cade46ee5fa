"""Encoders that know nothing: what a model has to be better than.

The mel spectrogram that models see, and chroma, which says of harmony what can be said without
learning. Heads see them as fits (see :data:`musicfm.tasks.features.Inputs`): a single frame of a
spectrogram says little, while a frame of a model depends on what is around it.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from musicfm.embedding.embedder import WindowEncoder
from musicfm.embedding.windows import Samples, Windowing
from musicfm.model.config import MelConfig
from musicfm.model.mel import LogMel

_SECONDS = 30.0
"""Length of a window. Only a few frames, at the edges, depend on where it ends; in the overlap they
count for little."""
_OVERLAP_SECONDS = 1.0


class MelEncoder(WindowEncoder):
    """Log-mel frames in dB, 128 bands at 50 Hz: the means of two frames of a model's input."""

    def __init__(self) -> None:
        config = MelConfig()
        windowing = Windowing.seconds(_SECONDS, _OVERLAP_SECONDS, config.sample_rate, 50.0)
        super().__init__(windowing, config.sample_rate, config.min_samples, batch_size=1)
        self._mel = LogMel(config)

    @torch.inference_mode()
    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        """(1, time, 128) of each."""
        return [self._frames(torch.from_numpy(window)) for window in windows]

    def fingerprint(self) -> str:
        """There is but one."""
        return "mel 128 at 50 Hz"

    def _frames(self, samples: Tensor) -> Tensor:
        mel = self._mel(samples[None])
        if mel.shape[1] % 2:
            mel = torch.cat([mel, mel[:, -1:]], dim=1)
        return mel.unflatten(1, (-1, 2)).mean(dim=2)


class ChromaEncoder(WindowEncoder):
    """Chroma: how strong each pitch class is, 12 bins at 25 Hz, and the same below 250 Hz.

    Magnitudes of an STFT of a third of a second are summed into the pitch classes that they are
    nearest to, from 65 Hz to 2 kHz, compressed by a root, and scaled to unit length, after
    Müller and Ewert, "Chroma Toolbox" (ISMIR 2011), but for its filter bank.
    """

    _FFT = 8_192
    _BANDS = ((65.0, 2_000.0), (40.0, 250.0))  # Hz: all of the harmony, and its bass

    def __init__(self) -> None:
        windowing = Windowing.seconds(_SECONDS, _OVERLAP_SECONDS, 24_000, 25.0)
        super().__init__(windowing, 24_000, self._FFT // 2 + 1, batch_size=1)
        frequencies = torch.fft.rfftfreq(self._FFT, 1 / self.sample_rate)
        pitch = (12 * torch.log2(frequencies.clamp(min=1.0) / 440.0) + 9).round().long() % 12
        classes = torch.nn.functional.one_hot(pitch, 12).float()
        self._filters = torch.cat(
            [
                classes * ((frequencies > low) & (frequencies < high))[:, None]
                for low, high in self._BANDS
            ],
            dim=1,
        )
        self._window = torch.hann_window(self._FFT)

    @torch.inference_mode()
    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        """(1, time, 24) of each."""
        return [self._frames(torch.from_numpy(window))[None] for window in windows]

    def fingerprint(self) -> str:
        """There is but one."""
        return "chroma 24 at 25 Hz"

    def _frames(self, samples: Tensor) -> Tensor:
        spectrum = torch.stft(
            samples, self._FFT, self.windowing.frame, window=self._window, return_complex=True
        )
        count = math.ceil(len(samples) / self.windowing.frame)
        chroma = (spectrum.abs().T[:count] @ self._filters).sqrt().unflatten(1, (2, 12))
        return (chroma / chroma.norm(dim=2, keepdim=True).clamp(min=1e-3)).flatten(1)
