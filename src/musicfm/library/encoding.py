"""The vectors of a recording, and what heads say of it, from one pass of the encoder."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from musicfm.analysis.analyzer import load_encoder
from musicfm.embedding.embedder import Embedder, wanted_layers
from musicfm.library.database import Settings
from musicfm.library.pooling import Vectors, pooled
from musicfm.remote import Location
from musicfm.tasks.features import Features
from musicfm.tasks.predict import Predictor


@dataclass(frozen=True)
class TrackEncoder:
    """A model and the heads of a library."""

    predictor: Predictor
    """The encoder and the heads, of which there may be none."""
    layer: int
    """The layer whose hidden states become vectors."""

    heads: tuple[str, ...]
    """The folders of the heads; none if the heads are those that come with the model."""

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
        embedder, predictor = load_encoder(model, [Path(head) for head in heads], None, device)
        (layer,) = wanted_layers(embedder.model, None)
        predictor = Predictor((), embedder, model) if predictor is None else predictor
        return cls(replace(predictor, encoder=embedder), layer, heads)

    def settings(self) -> Settings:
        """The settings of a library that is made with it."""
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
        """The vectors of a recording, from its hidden states."""
        return pooled(features.frames(self.layer), features.rate)

    def encode(self, recording: Location) -> Vectors:
        """The vectors of a recording. Raises AudioError."""
        path = recording if isinstance(recording, str) else Path(recording)
        with tempfile.TemporaryDirectory(prefix="musicfm-", ignore_cleanup_errors=True) as folder:
            features, _ = self.predictor.encode(path, Path(folder))
            return self.vectors(features)
