"""What a library keeps of a recording, from one pass of the encoder: vectors and analyses."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from musicfm.analysis.analyzer import load_predictor
from musicfm.embedding.embedder import Embedder, wanted_layers
from musicfm.errors import ConfigError
from musicfm.library.database import SEGMENT_SECONDS, Settings
from musicfm.library.matrices import Matrix
from musicfm.model.musicfm import MusicFM
from musicfm.tasks.features import Features
from musicfm.tasks.heads import shipped
from musicfm.tasks.predict import Predictor


@dataclass(frozen=True)
class Vectors:
    """Means and then standard deviations over time of the frames of a recording."""

    track: Matrix
    """(2 * dim,) of all of it."""
    segments: Matrix
    """(segments, 2 * dim) of stretches of :data:`SEGMENT_SECONDS`."""


@dataclass(frozen=True)
class Listener:
    """A model, with the heads that a library has."""

    predictor: Predictor
    """There may be no heads in it."""
    layer: int
    """Whose hidden states become vectors."""

    heads: tuple[str, ...]
    """Folders that were named; none if the heads are those that come with the model."""

    @classmethod
    def load(cls, model: str = "nano", heads: Sequence[str] = (), device: str = "cpu") -> Self:
        """Loads a model and heads.

        Args:
            model: as --model of other commands takes it.
            heads: folders of heads; none: those that come with the model, if any do.
            device: to compute on.

        Raises CheckpointError or ConfigError.
        """
        model = os.path.abspath(model) if os.path.exists(model) else model
        heads = tuple(os.path.abspath(head) if os.path.exists(head) else head for head in heads)
        if not heads and not shipped(model):
            loaded = MusicFM.from_pretrained(model).to(device)
            (layer,) = wanted_layers(loaded, None)
            return cls(Predictor((), Embedder(loaded, [layer]), model), layer, heads)
        predictor = load_predictor(model, [Path(head) for head in heads], device)
        encoder = predictor.encoder
        if not isinstance(encoder, Embedder):
            raise ConfigError(f"'{model}' is no model to make vectors with; choose one")
        (layer,) = wanted_layers(encoder.model, None)
        embedder = Embedder(encoder.model, sorted({layer, *encoder.layers}))
        if embedder.windowing != encoder.windowing:
            raise ConfigError(
                "the heads take other windows than vectors are made of; use heads of the context "
                "'model'"
            )
        return cls(replace(predictor, encoder=embedder), layer, heads)

    def settings(self) -> Settings:
        """Of a library that is made with it."""
        encoder = self.predictor.encoder
        assert isinstance(encoder, Embedder)
        return Settings(
            model=self.predictor.model,
            fingerprint=encoder.fingerprint(),
            layer=self.layer,
            dim=encoder.config.encoder.dim,
            heads=self.heads,
            heads_fingerprint=self.predictor.fingerprint() if self.predictor.heads else "",
        )

    def vectors(self, features: Features) -> Vectors:
        """Of a recording."""
        return pooled(features.frames(self.layer), features.rate)

    def listen(self, recording: Path) -> Vectors:
        """Of a recording that is heard for it. Raises AudioError."""
        with tempfile.TemporaryDirectory(prefix="musicfm-", ignore_cleanup_errors=True) as folder:
            features, _ = self.predictor.listen(recording, Path(folder))
            return self.vectors(features)


def pooled(frames: npt.NDArray[np.float16], rate: float) -> Vectors:
    """Means and standard deviations over time.

    Args:
        frames: (time, dim), at least one; may be mapped into memory, of which little is read at
            once.
        rate: frames per second.
    """
    size = round(SEGMENT_SECONDS * rate)
    # Half of what a segment is long or more at the end is one of its own.
    starts = range(0, max(1, len(frames) - size // 2 + 1), size)
    stops = [*starts[1:], len(frames)]
    counts = np.diff([*starts, len(frames)])
    moments = []
    for start, stop in zip(starts, stops, strict=True):
        part = np.asarray(frames[start:stop], np.float64)
        moments.append(np.stack([part.mean(axis=0), (part**2).mean(axis=0)]))
    segments = np.stack(moments)
    return Vectors(_vector(combined(segments, counts)), _vector(segments))


def combined(
    moments: npt.NDArray[np.float64], weights: Sequence[float] | npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """(2, dim) means and mean squares of the whole, from (parts, 2, dim) of its parts."""
    return np.average(moments, axis=0, weights=weights)


def _vector(moments: npt.NDArray[np.float64]) -> Matrix:
    """(..., 2 * dim) means and standard deviations, from (..., 2, dim) means and mean squares."""
    mean, square = moments[..., 0, :], moments[..., 1, :]
    deviation = np.sqrt(np.maximum(square - mean**2, 0.0))
    return np.concatenate([mean, deviation], axis=-1).astype(np.float32)
