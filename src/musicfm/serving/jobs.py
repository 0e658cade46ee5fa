"""What is done with an upload: embedding it, analysing it, or looking for tracks like it."""

import contextlib
import json
import os
import threading
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from musicfm.analysis.analyzer import Analysis, analyse
from musicfm.analysis.exports import EXPORTS, label_tracks
from musicfm.analysis.page import render_page
from musicfm.audio.decoders import Block, Event, Start
from musicfm.audio.folders import is_named_as_audio
from musicfm.embedding.embedder import Finished, Frames, usable
from musicfm.embedding.results import (
    FrameSpool,
    Pooling,
    RunningMean,
    arrays_of,
    write_npz,
)
from musicfm.library.library import Library
from musicfm.library.pooling import pooled
from musicfm.serving.decoder_pool import DecoderPool
from musicfm.serving.limits import Limits, RequestError
from musicfm.serving.sharing import SharedEncoder
from musicfm.serving.tracks import described
from musicfm.serving.uploads import told
from musicfm.tasks.features import FeatureWriter
from musicfm.tasks.predict import Predictor

Format = Literal["jams", "html", "csv", "midi", "labels"]

RESULTS: Mapping[Format, str] = {
    "jams": "result.jams",
    "html": "result.html",
    "csv": "result.csv",
    "midi": "result.mid",
    "labels": "result.zip",
}
"""Names of the files of results."""


class Cancelled(Exception):
    """Nobody waits for a job any more."""


@dataclass(frozen=True)
class Progress:
    """How far a job is."""

    stage: Literal["waiting", "encoding", "finishing"] = "waiting"
    seconds: float = 0.0
    """The seconds of sound that are done."""
    duration: float | None = None
    """The duration of the recording in seconds, if it says so."""


class Job(ABC):
    """An upload, and what is done with it. One thread runs it; others may look on, and cancel.

    Args:
        name: of the recording, by its client.
        upload: its file, in a folder that is free for others.
        encoder: gives the frames.
        layers: those that are kept.
        frames: keeps them.
    """

    future: Future[Path]
    """The file of the result; set when the job is submitted."""

    warnings: tuple[str, ...] = ()
    """What is unusual about the recording; known when it is decoded."""

    def __init__(
        self,
        name: str,
        upload: Path,
        encoder: SharedEncoder,
        layers: Sequence[int],
        frames: RunningMean | FrameSpool | FeatureWriter,
    ) -> None:
        self.name, self.upload, self.folder = name, upload, upload.parent
        self.progress = Progress()
        self._encoder, self._layers, self._frames = encoder, layers, frames
        self._is_cancelled = threading.Event()

    @abstractmethod
    def finish(self, duration: float, pool: DecoderPool) -> Path:
        """Makes the result of all frames; gives its file."""

    def cancel(self) -> None:
        """Makes the job end soon."""
        self._is_cancelled.set()
        self.future.cancel()

    @property
    def title(self) -> str:
        """The name, without what says that it is a recording."""
        name = Path(self.name)
        return name.stem if is_named_as_audio(name.name) else name.name

    @property
    def is_cancelled(self) -> bool:
        """Whether the job is to end, or has ended for that."""
        return self._is_cancelled.is_set()

    def check(self) -> None:
        """Raises Cancelled if the job was."""
        if self.is_cancelled:
            raise Cancelled

    def run(self, pool: DecoderPool, limits: Limits) -> Path:
        """Does it; gives the file of the result.

        Raises:
            AudioError: the recording cannot be used.
            RequestError: it is too long.
            Cancelled: nobody waits.
        """
        self.check()
        self.progress = Progress("encoding")
        encoder = self._encoder.encoder
        kept, duration = [encoder.layers.index(layer) for layer in self._layers], 0.0
        with (
            contextlib.closing(self._frames),
            contextlib.closing(pool.decode(self.upload)) as decoded,
            contextlib.closing(_within(limits, decoded, encoder.sample_rate)) as events,
            contextlib.closing(self._encoder.tracks(events, self.name, self.check)) as tracks,
        ):
            for event in usable(tracks):
                match event:
                    case Start(duration_seconds=declared):
                        self.progress = Progress("encoding", 0.0, declared)
                    case Frames(frames=frames):
                        self._frames.add(frames[kept])
                        self._advance(frames.shape[1] / encoder.rate)
                    case Finished(duration=duration, warnings=warnings):
                        self.progress = Progress("finishing", duration, duration)
                        self.warnings = tuple(
                            told(warning, self.upload, self.name) for warning in warnings
                        )
            return self.finish(duration, pool)

    def _advance(self, seconds: float) -> None:
        self.progress = replace(self.progress, seconds=self.progress.seconds + seconds)


class EmbedJob(Job):
    """An upload to an ``.npz``, as ``musicfm embed`` writes it.

    Args:
        name, upload, encoder, layers: see :class:`Job`.
        pooling: over time.
    """

    def __init__(
        self,
        name: str,
        upload: Path,
        encoder: SharedEncoder,
        layers: Sequence[int],
        pooling: Pooling,
    ) -> None:
        rate = None if isinstance(pooling, str) else pooling
        self._collected: FrameSpool | RunningMean = (
            RunningMean()
            if pooling == "mean"
            else FrameSpool(encoder.encoder.rate, rate, upload.parent)
        )
        super().__init__(name, upload, encoder, layers, self._collected)

    def finish(self, duration: float, pool: DecoderPool) -> Path:
        """The ``.npz``."""
        is_single = len(self._layers) == 1
        result = self.folder / "result.npz"
        write_npz(result, arrays_of(self._collected, self._layers, is_single, duration, self.name))
        return result


class SimilarJob(Job):
    """An upload to a list of tracks that sound like it, as JSON.

    Args:
        name, upload, encoder: see :class:`Job`.
        library: whose tracks are compared with it.
        limit: how many tracks at most.
    """

    def __init__(
        self, name: str, upload: Path, encoder: SharedEncoder, library: Library, limit: int
    ) -> None:
        self._library, self._limit = library, limit
        self._states = upload.with_name("states.npy")
        self._writer = FeatureWriter(name, [self._states])
        super().__init__(name, upload, encoder, [library.settings.layer], self._writer)

    def finish(self, duration: float, pool: DecoderPool) -> Path:
        """The list."""
        self._writer.finish()
        frames = np.load(self._states, mmap_mode="r")
        vector = pooled(frames, self._encoder.encoder.rate).track
        found = self._library.similar_to(vector, limit=self._limit)
        tracks = [
            {"similarity": round(each.similarity, 4), **described(each.track)} for each in found
        ]
        result = self.folder / "result.json"
        result.write_text(json.dumps({"tracks": tracks}), encoding="utf-8")
        return result


class AnalyzeJob(Job):
    """An upload to JAMS, a page or an export, as ``musicfm analyze`` writes them.

    Args:
        name, upload, encoder: see :class:`Job`.
        predictor: has the heads.
        formats: of the results; the last one is what it gives.
    """

    def __init__(
        self,
        name: str,
        upload: Path,
        encoder: SharedEncoder,
        predictor: Predictor,
        formats: Sequence[Format],
    ) -> None:
        self._predictor, self._formats = predictor, formats
        self._files = predictor.files(upload.parent, "states")
        self._writer = FeatureWriter(name, list(self._files.values()))
        super().__init__(name, upload, encoder, list(self._files), self._writer)

    def finish(self, duration: float, pool: DecoderPool) -> Path:
        """The file of the last format."""

        def note(seconds: float) -> None:
            self.check()
            self.progress = Progress("finishing", seconds, duration)

        self._writer.finish()
        features = self._predictor.features(self._files)
        analysis = analyse(
            self._predictor, features, duration, self.title, self.warnings, file=self.name
        )
        analysis = replace(analysis, provenance=_without_paths(analysis.provenance))
        note(0.0)
        for format in self._formats:
            if format == "html":
                result = self.folder / RESULTS[format]
                page = render_page(analysis, pool.sound_of(self.upload, note))
                result.write_text(page, encoding="utf-8")
            else:
                result = write_result(analysis, format, self.title, self.folder)
        return result


def write_result(
    analysis: Analysis, format: Literal["jams", "csv", "midi", "labels"], title: str, folder: Path
) -> Path:
    """Writes an analysis into a folder, in a format that needs no recording; gives the file.

    Args:
        analysis: what to write.
        format: how.
        title: what label tracks are called.
        folder: where; the file's name is that of :data:`RESULTS`.
    """
    result = folder / RESULTS[format]
    if format == "jams":
        result.write_text(json.dumps(analysis.to_jams()), encoding="utf-8")
    elif format == "labels":
        with zipfile.ZipFile(result, "w") as file:
            for suffix, text in label_tracks(analysis).items():
                file.writestr(f"{title}{suffix}", text)
    else:
        EXPORTS[format].write(analysis, folder, result.with_suffix(""))
    return result


def _within(
    limits: Limits, events: Iterator[Event[Any]], sample_rate: int
) -> Generator[Event[Any], None, None]:
    """The events of a recording; raises RequestError if it is too long, or says so."""
    seconds = 0.0
    for event in events:
        match event:
            case Start(duration_seconds=declared):
                _check_length(declared, limits)
            case Block(samples=samples):
                seconds += len(samples) / sample_rate
                _check_length(seconds, limits)
        yield event


def _check_length(seconds: float, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        raise RequestError(
            413,
            f"the recording is longer than {limits.max_seconds / 60:.3g} min; send a part of it",
        )


def _without_paths(provenance: dict[str, Any]) -> dict[str, Any]:
    """Who found something, for others than those who run the server: models are folders here."""

    def public(found: dict[str, Any]) -> dict[str, Any]:
        model = Path(found["model"])
        return (
            {**found, "model": model.name}
            if os.path.exists(model) or model.is_absolute()
            else found
        )

    return {**public(provenance), "heads": [public(head) for head in provenance["heads"]]}
