"""Frozen quantizers: stacked mel frames to the tokens that pretraining predicts.

One contract, :class:`Quantizer`. Tokens are always computed in float32, in chunks, so that the
distances to all codes are never in memory for all frames at once.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.model.config import KMeansConfig, MelConfig, RandomProjectionConfig
from musicfm.model.mel import Float32Buffers, mel_corners

FRAMES_AT_ONCE = 4_096
"""Frames whose scores against one codebook are held at once: 64 MB for 4096 codes."""

PITCH_NEIGHBOURS = 2
"""Mel bands on either side that a band is compared with, where a codebook measures pitch."""
PITCH_HERTZ = (120.0, 2_300.0)
PITCH_WIDTH = 0.6  # semitones


class Quantizer(nn.Module, ABC):
    """Maps (batch, time, features) to integer tokens (batch, time, num_codebooks)."""

    num_codebooks: int
    codebook_size: int

    @abstractmethod
    def scores(self, frames: Tensor, codebook: int) -> Tensor:
        """How near each frame lies to each code; (n, features) to (n, codebook_size)."""

    @torch.no_grad()
    def forward(self, frames: Tensor) -> Tensor:
        """Nearest code of each codebook, int64."""
        with torch.autocast(frames.device.type, enabled=False):
            chunks = frames.float().flatten(0, 1).split(FRAMES_AT_ONCE)
            tokens = [
                torch.cat([self.scores(chunk, codebook).argmax(dim=1) for chunk in chunks])
                for codebook in range(self.num_codebooks)
            ]
        return torch.stack(tokens, dim=-1).unflatten(0, frames.shape[:2])


def pitch_classes(mel: MelConfig) -> Tensor:
    """The (n_mels, 12) matrix from a log-mel frame to how much stands out at each pitch class.

    Each band less the mean of itself and its neighbours, which takes away what is alike in adjacent
    bands, level and timbre; then summed over octaves, from A on, as far as bands are narrow enough
    to tell semitones and high enough to have partials.
    """
    band = torch.arange(mel.n_mels, device="cpu")
    near = ((band[:, None] - band).abs() <= PITCH_NEIGHBOURS).float()
    standing_out = torch.eye(mel.n_mels, device="cpu") - near / near.sum(dim=1, keepdim=True)
    hertz = mel_corners(mel)[1:-1]
    semitones = 12.0 * (hertz / 440.0).log2()[:, None] - torch.arange(12, device="cpu")
    distance = torch.remainder(semitones + 6.0, 12.0) - 6.0
    in_range = (hertz >= PITCH_HERTZ[0]) & (hertz <= PITCH_HERTZ[1])
    return standing_out.T @ ((-0.5 * (distance / PITCH_WIDTH).square()).exp() * in_range[:, None])


class RandomCodebook(Float32Buffers):
    """One random projection and its random codes.

    Args:
        basis: (features, kept) what is projected of the features; None: all.
    """

    random_projection: Tensor
    codebook: Tensor

    def __init__(
        self, features: int, size: int, dim: int, seed: int, basis: Tensor | None = None
    ) -> None:
        super().__init__()
        # On the CPU, so that codes are the same everywhere; on the meta device nothing is drawn.
        device = "meta" if torch.empty(0).is_meta else "cpu"
        kept = features if basis is None else basis.shape[1]
        projection = torch.empty(kept, dim, device=device)
        codebook = torch.empty(size, dim, device=device)
        if device != "meta":
            generator = torch.Generator().manual_seed(seed)
            nn.init.xavier_normal_(projection, generator=generator)
            nn.init.normal_(codebook, generator=generator)
        if basis is not None:
            projection = basis.to(device) @ projection
        self.register_buffer("random_projection", projection)
        self.register_buffer("codebook", codebook)

    def scores(self, frames: Tensor) -> Tensor:
        """How near each frame lies to each code; (n, features) to (n, size)."""
        return self.projected_scores(frames @ self.random_projection)

    def projected_scores(self, projected: Tensor) -> Tensor:
        """The same of frames after the projection, (n, dim)."""
        return projected @ F.normalize(self.codebook, dim=1).T


class RandomProjectionQuantizer(Quantizer):
    """BEST-RQ (Chiu et al. 2022, arXiv 2202.01855): project, normalise, take the nearest code.

    Codes and projected frames have unit length, so the nearest code is the one with the largest
    inner product, and the length of the projected frame does not matter.
    """

    def __init__(self, config: RandomProjectionConfig, stack: int, mel: MelConfig) -> None:
        super().__init__()
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        num_levels = config.num_codebooks - config.pitch_codebooks
        pitch = pitch_classes(mel).repeat(stack, 1)  # alike in all of the stacked frames
        self.codebooks = nn.ModuleList(
            RandomCodebook(
                stack * mel.n_mels,
                config.codebook_size,
                config.codebook_dim,
                config.seed + i,
                None if i < num_levels else pitch,
            )
            for i in range(config.num_codebooks)
        )

    def scores(self, frames: Tensor, codebook: int) -> Tensor:
        book = self.codebooks[codebook]
        assert isinstance(book, RandomCodebook)
        return book.scores(frames)


class KMeansQuantizer(Float32Buffers, Quantizer):
    """The nearest of fitted centroids.

    Centroids start as NaN, so that a checkpoint of an unfitted quantizer is refused rather than
    trained against.
    """

    centroids: Tensor

    def __init__(self, config: KMeansConfig, features: int) -> None:
        super().__init__()
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        shape = (config.num_codebooks, config.codebook_size, features)
        self.register_buffer("centroids", torch.full(shape, torch.nan))

    def scores(self, frames: Tensor, codebook: int) -> Tensor:
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2, of which |x|^2 is the same for all codes.
        centroids = self.centroids[codebook]
        return frames @ centroids.T - 0.5 * centroids.square().sum(dim=1)


def build_quantizer(
    config: RandomProjectionConfig | KMeansConfig, stack: int, mel: MelConfig
) -> Quantizer:
    """The quantizer that a configuration describes, for ``stack`` mel frames in a row."""
    if isinstance(config, RandomProjectionConfig):
        return RandomProjectionQuantizer(config, stack, mel)
    return KMeansQuantizer(config, stack * mel.n_mels)
