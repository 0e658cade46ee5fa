"""The frozen quantizer, as MusicFM's authors call it."""

import torch
from torch import Tensor

from musicfm.model.quantizers import FRAMES_AT_ONCE, RandomCodebook


class RandomProjectionQuantizer(RandomCodebook):
    """A random projection, and the nearest of random codes.

    The numbers are those that the authors' draws from the same seed; PyTorch's global generator
    stays as it is.

    Args:
        input_dim: features of a frame.
        codebook_dim: width of a code.
        codebook_size: number of codes.
        seed: of the projection and the codes.
    """

    def __init__(
        self, input_dim: int, codebook_dim: int, codebook_size: int, seed: int = 142
    ) -> None:
        super().__init__(input_dim, codebook_size, codebook_dim, seed)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """(batch, time, input_dim) to tokens, (batch, time) int64; in float32, whatever comes."""
        with torch.autocast(x.device.type, enabled=False):
            return self.codebook_lookup(x.float() @ self.random_projection)

    def codebook_lookup(self, x: Tensor) -> Tensor:
        """The nearest code of projected frames, (batch, time, codebook_dim) to (batch, time)."""
        chunks = x.float().flatten(0, 1).split(FRAMES_AT_ONCE)
        tokens = [self.projected_scores(chunk).argmax(dim=1) for chunk in chunks]
        return torch.cat(tokens).unflatten(0, x.shape[:2])
