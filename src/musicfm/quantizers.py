"""Frozen quantizers: stacked mel frames to the tokens that pretraining predicts.

One contract, :class:`Quantizer`. Tokens are always computed in float32, in chunks, so that the
distances to all codes are never in memory for all frames at once.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.config import KMeansConfig, RandomProjectionConfig
from musicfm.mel import Float32Buffers

FRAMES_AT_ONCE = 4_096
"""Frames whose scores against one codebook are held at once: 64 MB for 4096 codes."""

CONTRAST_NEIGHBOURS = 2
"""Mel bands on either side that a band is compared with, where a codebook hears contrast."""


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


def contrast(n_mels: int) -> Tensor:
    """The (n_mels, n_mels) matrix that keeps of a log-mel frame where its partials lie.

    Each band of the lower half (below 2.3 kHz at 24 kHz) less the mean of itself and its
    neighbours; nothing of the upper half. What is alike in adjacent bands, level and timbre, goes.
    """
    band = torch.arange(n_mels)
    near = ((band[:, None] - band).abs() <= CONTRAST_NEIGHBOURS).float()
    kept = torch.eye(n_mels) - near / near.sum(dim=1, keepdim=True)
    return kept * (band < n_mels // 2)[:, None]


class RandomCodebook(Float32Buffers):
    """One random projection and its random codes."""

    random_projection: Tensor
    codebook: Tensor

    def __init__(self, features: int, size: int, dim: int, seed: int) -> None:
        super().__init__()
        # On the CPU, so that codes are the same everywhere; on the meta device nothing is drawn.
        device = "meta" if torch.empty(0).is_meta else "cpu"
        projection = torch.empty(features, dim, device=device)
        codebook = torch.empty(size, dim, device=device)
        if device != "meta":
            generator = torch.Generator().manual_seed(seed)
            nn.init.xavier_normal_(projection, generator=generator)
            nn.init.normal_(codebook, generator=generator)
        self.register_buffer("random_projection", projection)
        self.register_buffer("codebook", codebook)


class RandomProjectionQuantizer(Quantizer):
    """BEST-RQ (Chiu et al. 2022, arXiv 2202.01855): project, normalise, take the nearest code.

    Codes and projected frames have unit length, so the nearest code is the one with the largest
    inner product, and the length of the projected frame does not matter.
    """

    def __init__(self, config: RandomProjectionConfig, stack: int, n_mels: int) -> None:
        super().__init__()
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.codebooks = nn.ModuleList(
            RandomCodebook(
                stack * n_mels, config.codebook_size, config.codebook_dim, config.seed + i
            )
            for i in range(config.num_codebooks)
        )
        # To project a frame's contrast is to project the frame, by another matrix.
        for book in self.codebooks[config.num_codebooks - config.contrast_codebooks :]:
            projection = book.get_buffer("random_projection")
            with torch.no_grad():
                projection.view(stack, n_mels, -1).copy_(
                    contrast(n_mels).T @ projection.view(stack, n_mels, -1)
                )

    def scores(self, frames: Tensor, codebook: int) -> Tensor:
        book = self.codebooks[codebook]
        assert isinstance(book, RandomCodebook)
        return frames @ book.random_projection @ F.normalize(book.codebook, dim=1).T


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
    config: RandomProjectionConfig | KMeansConfig, stack: int, n_mels: int
) -> Quantizer:
    """The quantizer that a configuration describes, for ``stack`` mel frames in a row."""
    if isinstance(config, RandomProjectionConfig):
        return RandomProjectionQuantizer(config, stack, n_mels)
    return KMeansQuantizer(config, stack * n_mels)
