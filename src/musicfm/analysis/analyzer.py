"""A song, analysed: all that the heads of a model find in it, from one pass of the encoder."""

import base64
import itertools
import math
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import musicfm
from musicfm.analysis.sections import sections
from musicfm.analysis.spelling import spell_chords
from musicfm.analysis.tempo import Tempo, main_tempo, tempi
from musicfm.datasets import jams
from musicfm.datasets.annotations import Annotations, Array, Beat, Beats, Span, Spans
from musicfm.embedding.embedder import Embedder, wanted_layers
from musicfm.errors import CheckpointError, ConfigError, DataError, printable
from musicfm.files import read_object
from musicfm.model.checkpoint import folder_of
from musicfm.model.musicfm import MusicFM
from musicfm.tasks.base import Decoding, calibrated, softmax
from musicfm.tasks.features import Features, mean_frame
from musicfm.tasks.heads import shipped
from musicfm.tasks.predict import Predictor, without_music
from musicfm.tasks.tagging import TaggingDecoding, said

_SILENCE = "neither beats nor chords were found, as in silence: no key, sections or tags are given"
_SIMILARITY = "self_similarity"
"""Key in the sandbox of a JAMS file, so that a page can be made of the file alone."""

SLOW, FAST = 80.0, 130.0
"""Tempi in beats per minute below and above which a recording gets these tags."""
SIMILARITY_SIZE = 240
"""The largest number of stretches that are compared with each other."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What a model's heads found in a recording."""

    title: str
    """The title by the recording's tags, or the file's name."""
    duration: float
    """The duration in seconds."""
    annotations: Annotations
    """The results of the heads, with confidences; None where there is no head."""
    similarity: npt.NDArray[np.float32]
    """(n, n) cosine similarities of equal stretches of the recording, by their hidden states less
    the mean of the recording."""
    provenance: dict[str, Any]
    """The model and the heads."""
    warnings: tuple[str, ...] = ()
    """Messages about damage."""
    artist: str = ""
    """The artist by the recording's tags, or empty."""
    file: str = ""
    """The name of the file without its folder; empty if there is none."""

    def printable(self) -> "Analysis":
        """With title, artist and file as :func:`musicfm.errors.printable` writes them."""
        return replace(
            self,
            title=printable(self.title),
            artist=printable(self.artist),
            file=printable(self.file),
        )

    @property
    def beats(self) -> list[Beat]:
        """Empty without a head for beats; likewise what follows."""
        return [*(self.annotations.beats or ())]

    @property
    def chords(self) -> list[Span]:
        """Chords in Harte's notation, spelled as fits the key; "N" is not a chord."""
        return [*(self.annotations.chords or ())]

    @property
    def sections(self) -> list[Span]:
        """Sections, named by letters, "A"; those that sound alike have the same one. Where the
        head is sure what they are, that follows, "B chorus".
        """
        return [*(self.annotations.segments or ())]

    @property
    def keys(self) -> list[Span]:
        """Keys in JAMS' spelling, such as "Eb:minor"."""
        return [*(self.annotations.keys or ())]

    @property
    def key(self) -> str | None:
        """The key that holds longest, as mir_eval spells it: "Eb minor"; None without one."""
        longest = max(self.keys, key=lambda span: span.end - span.start, default=None)
        return None if longest is None else longest.label.replace(":", " ")

    @property
    def tags(self) -> dict[str, float]:
        """Tags and their probabilities, the likeliest first."""
        tags = self.annotations.tags or {}
        return dict(sorted(tags.items(), key=lambda item: (-item[1], item[0])))

    @property
    def is_trial(self) -> bool:
        """Whether the model's card says that it is a trial model."""
        return bool(self.provenance.get("is_trial", False))

    @cached_property
    def tempi(self) -> tuple[Tempo, ...]:
        """See :func:`musicfm.analysis.tempo.tempi`; none without beats."""
        beats = self.annotations.beats
        return () if beats is None else tempi(beats, self.duration)

    @property
    def tempo(self) -> float | None:
        """Beats per minute of the tempo that holds longest; None without beats."""
        main = main_tempo(self.tempi)
        return None if main is None else main[0]

    @property
    def steadiness(self) -> float | None:
        """The part of the beats whose length is that of their tempo; None without beats."""
        main = main_tempo(self.tempi)
        return None if main is None else main[1]

    def to_jams(self) -> dict[str, Any]:
        """A JAMS object."""
        found = jams.observations(self.annotations, self.duration)
        if self.tempi:
            found["tempo"] = [
                jams.observation(t.start, t.end - t.start, round(t.bpm, 2), t.steadiness)
                for t in self.tempi
            ]
        return jams.document(
            found,
            self.duration,
            title=self.title,
            artist=self.artist,
            tool="musicfm analyze",
            version=musicfm.__version__,
            sandbox={
                **self.provenance,
                "file": self.file,
                "warnings": list(self.warnings),
                _SIMILARITY: _packed(self.similarity),
            },
        )

    @classmethod
    def from_jams(cls, content: Mapping[str, Any]) -> "Analysis":
        """The inverse of :meth:`to_jams`, but for rounding: times have microseconds, confidences
        four digits, similarities two.

        Raises DataError if the object is from another program or an older musicfm.
        """
        try:
            sandbox, about = dict(content["sandbox"]), content["file_metadata"]
            return cls(
                similarity=_unpacked(sandbox.pop(_SIMILARITY)),
                warnings=tuple(sandbox.pop("warnings")),
                file=str(sandbox.pop("file")),
                title=str(about["title"]),
                artist=str(about["artist"]),
                duration=float(about["duration"]),
                annotations=jams.parse(content),
                provenance=sandbox,
            )
        except (AttributeError, KeyError, TypeError, ValueError, zlib.error) as error:
            raise DataError("it is not an analysis of this version of musicfm") from error

    @classmethod
    def load(cls, path: Path) -> "Analysis":
        """Reads the JAMS file of an analysis. Raises DataError if it is not one."""
        advice = "analyse the recording again (--overwrite)"
        content = read_object(path, advice)
        try:
            return cls.from_jams(content)
        except DataError as error:
            raise DataError(f"{path}: {error}; {advice}") from error


def load_predictor(
    model: str | None = None, heads: Sequence[Path] = (), device: str = "cpu", tempo: str = ""
) -> Predictor:
    """The heads of a model, ready for :func:`analyse`.

    Args:
        model: as --model of other commands takes it; None: that of the heads, or nano.
        heads: folders of the heads to use; none: those that come with the model.
        device: to compute on.
        tempo: what is known of it; see :func:`musicfm.tasks.beat.read_tempo`.

    Raises CheckpointError if there are none, ConfigError for a tempo that says nothing.
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
    predictor = Predictor.load(heads, model, device)
    return predictor.at_tempo(tempo) if tempo else predictor


def load_encoder(
    model: str,
    heads: Sequence[Path] = (),
    layer: int | Sequence[int] | Literal["all"] | None = "all",
    device: str = "cpu",
) -> tuple[Embedder, Predictor | None]:
    """A model for embeddings and for heads, from one pass over a recording.

    Args:
        model: as --model of other commands takes it.
        heads: folders of the heads to use; none: those that come with the model, if any do.
        layer: those of the embeddings, as :class:`musicfm.embedding.Embedder` takes them.
        device: to compute on.

    Returns:
        The embedder, whose layers are those and the heads'; and the heads, if there are any.

    Raises CheckpointError or ConfigError.
    """
    if not heads and not shipped(model):
        return Embedder(MusicFM.from_pretrained(model).to(device), layer), None
    predictor = load_predictor(model, heads, device)
    encoder = predictor.encoder
    if not isinstance(encoder, Embedder):
        raise ConfigError(f"'{model}' makes no embeddings; choose a model that does")
    layers = {*wanted_layers(encoder.model, layer), *encoder.layers}
    embedder = Embedder(encoder.model, sorted(layers))
    if embedder.windowing != encoder.windowing:
        raise ConfigError(
            "the heads were trained on other windows than embeddings are made of; use heads of "
            "the context 'model'"
        )
    return embedder, predictor


def analyse(
    predictor: Predictor,
    features: Features,
    duration: float,
    title: str,
    warnings: tuple[str, ...] = (),
    artist: str = "",
    file: str = "",
) -> Analysis:
    """What hidden states tell of a recording.

    Args:
        predictor: made them.
        features: of the recording.
        duration: of the recording, in seconds.
        title: what it is called.
        warnings: to be shown, of damage.
        artist: by its tags.
        file: its name, without a folder.
    """
    logits = predictor.logits(features)
    found = predictor.decode(features, duration, logits)
    if is_silent(found):
        found = without_music(found)
        warnings = (*warnings, _SILENCE)
    if found.segments is not None and found.segments.labels:
        found = replace(found, segments=sections_of(predictor, features, logits, found, duration))
    decodings = {head.task.name: head.decoding for head in predictor.heads}
    found = with_confidences(found, decodings)
    tagging = decodings.get("tagging")
    if found.tags and isinstance(tagging, TaggingDecoding):
        found = replace(found, tags=tags_said(found, tagging, duration))
    if found.chords is not None:
        found = replace(found, chords=spell_chords(found.chords, found.keys))
    return Analysis(
        title,
        duration,
        found,
        self_similarity(features.frames(max(predictor.encoder.layers))),
        {**predictor.provenance(), "is_trial": is_trial(predictor.model)},
        warnings,
        artist,
        file,
    )


def sections_of(
    predictor: Predictor,
    features: Features,
    logits: Mapping[str, Array],
    found: Annotations,
    duration: float,
) -> Spans:
    """See :func:`musicfm.analysis.sections.sections`; by the lowest layer, which tells most of how
    something sounds.
    """
    none = np.zeros((1, 0))
    return sections(
        features.frames(min(predictor.encoder.layers)),
        softmax(logits["chord"]) if "chord" in logits else none,
        softmax(logits["structure"][:, 1:]),
        np.empty(0) if found.beats is None else found.beats.times,
        duration,
    )


def with_confidences(found: Annotations, decodings: Mapping[str, Decoding]) -> Annotations:
    """With the confidences of beats, chords, sections and keys calibrated, by task; see
    :func:`musicfm.tasks.base.calibrated`.
    """
    changed: dict[str, Any] = {}
    for kind, task in (
        ("beats", "beat"),
        ("chords", "chord"),
        ("segments", "structure"),
        ("keys", "key"),
    ):
        part = getattr(found, kind)
        if part is not None and part.confidences is not None:
            sure = calibrated(part.confidences, decodings[task])
            changed[kind] = replace(part, confidences=sure)
    return replace(found, **changed)


def tags_said(found: Annotations, decoding: TaggingDecoding, duration: float) -> dict[str, float]:
    """The tags that the head can be relied on for; those that follow from beats are computed."""
    tags, computed = dict(found.tags or {}), {}
    if found.beats is not None:
        for tag, part in tags_of_beats(found.beats, duration).items():
            if tags.pop(tag, None) is not None and (decoding.thresholds is None or part > 0.5):
                computed[tag] = part
    return said(tags, decoding) | computed


def is_silent(found: Annotations) -> bool:
    """Whether neither beats nor chords nor a key were found by heads that looked for them."""
    if found.beats is None or found.chords is None:
        return False
    keys = () if found.keys is None else found.keys.labels
    return not len(found.beats.times) and not keys and set(found.chords.labels) <= {"N"}


def tags_of_beats(beats: Beats, duration: float) -> dict[str, float]:
    """Tags that follow from beats: "slow" and "fast", which part of the time has fewer than 80 or
    more than 130 beats a minute, and "waltz", which part of the bars has three beats.
    """
    found = tempi(beats, duration)
    total = sum(tempo.end - tempo.start for tempo in found)

    def part(holds: Callable[[float], bool]) -> float:
        """Of the time, by beats per minute."""
        return sum(t.end - t.start for t in found if holds(t.bpm)) / total if total else 0.0

    bars = np.diff(np.flatnonzero(beats.positions == 1))
    return {
        "slow": part(lambda bpm: bpm < SLOW),
        "fast": part(lambda bpm: bpm > FAST),
        "waltz": float((bars == 3).mean()) if len(bars) else 0.0,
    }


def is_trial(model: str) -> bool:
    """Whether a model's card, the README.md beside its weights, has the tag ``trial``."""
    folder = folder_of(model)
    card = None if folder is None else folder / "README.md"
    if card is None or not os.path.isfile(card):
        return False
    header = card.read_text(encoding="utf-8", errors="replace").split("\n---\n")[0]
    return header.startswith("---\n") and "\n  - trial" in header


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


def _packed(similarity: npt.NDArray[np.float32]) -> str:
    """Rows of a symmetric matrix from their diagonals on, a byte for each value, as text."""
    values = similarity[np.triu_indices(len(similarity))]
    levels = np.rint(127.0 * values.clip(-1.0, 1.0)).astype(np.int8)
    return base64.b64encode(zlib.compress(levels.tobytes())).decode("ascii")


def _unpacked(text: str) -> npt.NDArray[np.float32]:
    """The inverse of :func:`_packed`, but for rounding. Raises ValueError or zlib.error."""
    largest = SIMILARITY_SIZE * (SIMILARITY_SIZE + 1) // 2
    packed = zlib.decompressobj().decompress(base64.b64decode(text), largest)
    values = np.frombuffer(packed, np.int8)
    size = math.isqrt(2 * len(values))
    if size * (size + 1) // 2 != len(values) or not size:
        raise ValueError("no symmetric matrix")
    matrix = np.zeros((size, size), np.float32)
    rows, columns = np.triu_indices(size)
    matrix[rows, columns] = matrix[columns, rows] = values / np.float32(127.0)
    return matrix
