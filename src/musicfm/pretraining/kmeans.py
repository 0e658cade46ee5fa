"""K-means tokens: centroids of stacked mel frames, fitted before pretraining, as in MERT and FM1.

HuBERT (arXiv 2106.07447) and MERT (arXiv 2306.00107) fit theirs with scikit-learn's mini-batch
k-means too.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from musicfm.datasets.crops import Crops
from musicfm.datasets.tracks import Manifest
from musicfm.errors import CheckpointError, ConfigError
from musicfm.files import atomic_write
from musicfm.model.config import KMeansConfig, ModelConfig
from musicfm.model.musicfm import MusicFM
from musicfm.seeds import derive_seed

FRAMES_PER_CODE = 200
"""Frames that are looked at in a pass, for each centroid."""

_BATCH_FRAMES = 16_384


def fit_centroids(
    config: ModelConfig, manifest: Manifest, seed: int, *, progress: bool = False
) -> torch.Tensor:
    """Fits the centroids of a model's quantizer to random crops of a collection.

    Args:
        config: whose ``quantizer`` is of kind "kmeans".
        manifest: the music.
        seed: of the crops and of where centroids begin; each codebook has its own.
        progress: show a bar on standard error.

    Returns:
        (num_codebooks, codebook_size, token_dim) float32.

    Raises:
        ConfigError: the model has other tokens, or scikit-learn is missing.
        AudioError: too many files in a row cannot be read.
    """
    from sklearn.cluster import MiniBatchKMeans

    quantizer = config.quantizer
    if not isinstance(quantizer, KMeansConfig):
        raise ConfigError(
            "this model's tokens need no fitting; only k-means tokens, such as those of fm1, do"
        )
    size = quantizer.codebook_size
    fitted = []
    for codebook in range(quantizer.num_codebooks):
        purpose = derive_seed(seed, "k-means", codebook)
        kmeans = MiniBatchKMeans(size, random_state=purpose % 2**32, n_init=1)
        num_batches = -(-FRAMES_PER_CODE * size // _BATCH_FRAMES)
        batches = _frame_batches(config, manifest, purpose, max(size, _BATCH_FRAMES))
        for _ in track(
            range(num_batches),
            f"Fitting codebook {codebook + 1} of {quantizer.num_codebooks}",
            console=Console(stderr=True),
            disable=not progress,
        ):
            kmeans.partial_fit(next(batches))
        fitted.append(torch.from_numpy(kmeans.cluster_centers_).float())
    return torch.stack(fitted)


def _frame_batches(
    config: ModelConfig, manifest: Manifest, seed: int, num_frames: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Stacked, normalised mel frames of random crops, (num_frames, token_dim), without end."""
    with torch.device("meta"):
        model = MusicFM(config)
    crops = Crops(
        manifest, config.sample_rate, config.context_seconds, config.mel.min_samples, seed
    )
    collected: list[npt.NDArray[np.float32]] = []
    n = 0
    while True:
        while sum(map(len, collected)) < num_frames:
            waveform = torch.from_numpy(crops[n].samples)[None]
            collected.append(model.token_features(waveform)[0].numpy())
            n += 1
        frames = np.concatenate(collected)
        yield frames[:num_frames]
        collected = [frames[num_frames:]]


def save_centroids(centroids: torch.Tensor, config: ModelConfig, path: Path) -> None:
    """Writes a ``.safetensors`` file, with the mel settings that the centroids are for."""
    with atomic_write(path) as temporary:
        save_file({"centroids": centroids}, temporary, {"config": _facts(config)})


def load_centroids(model: MusicFM, path: Path) -> None:
    """Gives a model centroids that were fitted for it. Raises CheckpointError."""
    try:
        with safe_open(path, "pt") as file:
            facts = (file.metadata() or {}).get("config")
            centroids = file.get_tensor("centroids")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} holds no centroids ({error}); fit them with musicfm kmeans"
        ) from error
    if facts != _facts(model.config):
        raise CheckpointError(
            f"{path} was fitted for another model (mel, token rate, codebooks); fit it again for "
            "this one with musicfm kmeans"
        )
    wanted = model.quantizer.get_buffer("centroids")
    is_usable = centroids.shape == wanted.shape and centroids.is_floating_point()
    if not is_usable or not centroids.isfinite().all():
        raise CheckpointError(
            f"{path} is damaged: its centroids are {centroids.dtype} of shape "
            f"{tuple(centroids.shape)}, and finite floats of shape {tuple(wanted.shape)} are "
            "expected; fit them again with musicfm kmeans"
        )
    model.quantizer.load_state_dict({"centroids": centroids})


def _facts(config: ModelConfig) -> str:
    """What centroids hang on."""
    facts = {
        "mel": config.mel.to_dict(),
        "token_stack": config.token_stack,
        "quantizer": config.quantizer.to_dict(),
    }
    return json.dumps(facts)
