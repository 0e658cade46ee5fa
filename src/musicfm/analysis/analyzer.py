"""A song, analysed: all that the heads of a model hear in it, from one pass of the encoder."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import musicfm
from musicfm.checkpoint import folder_of
from musicfm.datasets.annotations import Annotations, Beats
from musicfm.datasets.jams import document, observation, observations
from musicfm.errors import CheckpointError
from musicfm.tasks.features import Features, mean_frame
from musicfm.tasks.heads import shipped
from musicfm.tasks.predict import Predictor

SIMILARITY_SIZE = 240
"""Stretches at most that are compared with each other."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What was heard in a recording."""

    title: str
    duration: float
    """In seconds."""
    annotations: Annotations
    """What there was a head for, with confidences."""
    similarity: npt.NDArray[np.float32]
    """(n, n) cosine similarities of equal stretches of the recording, by their hidden states less
    the mean of the recording."""
    provenance: dict[str, Any]
    """The model and the heads."""
    warnings: tuple[str, ...] = ()
    """Of damage, for people."""

    @property
    def tempo(self) -> tuple[float, float] | None:
        """See :func:`tempo`; None without beats."""
        return None if self.annotations.beats is None else tempo(self.annotations.beats)

    def to_jams(self) -> dict[str, Any]:
        """A JAMS object."""
        found = observations(self.annotations, self.duration)
        if self.tempo is not None:
            bpm, steadiness = self.tempo
            found["tempo"] = [observation(0.0, self.duration, round(bpm, 2), round(steadiness, 4))]
        return document(
            found,
            self.duration,
            title=self.title,
            tool="musicfm analyze",
            version=musicfm.__version__,
            sandbox={**self.provenance, "warnings": list(self.warnings)},
        )


def load_predictor(
    model: str | None = None, heads: Sequence[Path] = (), device: str = "cpu"
) -> Predictor:
    """The heads of a model, ready for :func:`analyse`.

    Args:
        model: as --model of other commands takes it; None: that of the heads, or nano.
        heads: folders of the heads to use; none: those that come with the model.
        device: to compute on.

    Raises CheckpointError if there are none.
    """
    if not heads:
        model = model or "nano"
        heads = list(shipped(model).values())
        if not heads:
            where = "" if folder_of(model) else " (there is no folder of that name)"
            raise CheckpointError(
                f"no heads come with '{model}'{where}; train some (musicfm probe TASK --model "
                f"{model}) and name their folders (--head), or use nano"
            )
    return Predictor.load(heads, model, device)


def analyse(
    predictor: Predictor,
    features: Features,
    duration: float,
    title: str,
    warnings: tuple[str, ...] = (),
) -> Analysis:
    """What hidden states tell of a recording.

    Args:
        predictor: made them.
        features: of the recording.
        duration: of the recording, in seconds.
        title: what it is called.
        warnings: of damage, to be shown.
    """
    return Analysis(
        title,
        duration,
        predictor.decode(features, duration),
        self_similarity(features.frames(max(predictor.encoder.layers))),
        predictor.provenance(),
        warnings,
    )


def tempo(beats: Beats) -> tuple[float, float] | None:
    """Beats per minute, by the median distance of beats, and the part of the distances that are
    within a tenth of it; None without two beats.
    """
    if len(beats.times) < 2:
        return None
    distances = np.diff(beats.times)
    median = float(np.median(distances))
    return 60.0 / median, float((np.abs(distances - median) <= 0.1 * median).mean())


def self_similarity(
    frames: npt.NDArray[np.float16], size: int = SIMILARITY_SIZE
) -> npt.NDArray[np.float32]:
    """Cosine similarities of equal stretches, (n, n) with n no more than ``size``.

    Args:
        frames: (time, dim), at least one; may be mapped into memory, of which little is read at
            once.
        size: stretches at most.
    """
    bounds = np.linspace(0, len(frames), min(size, len(frames)) + 1).round().astype(int)
    parts = [frames[start:stop] for start, stop in itertools.pairwise(bounds)]
    means = np.stack([mean_frame(part) for part in parts])
    means -= means.mean(axis=0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
    found: npt.NDArray[np.float32] = (means @ means.T).astype(np.float32)
    return found
