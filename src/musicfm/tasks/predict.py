"""Heads at work: from folders that a probe or fine-tuning left, to JAMS files."""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal, Self

import numpy as np

import musicfm
from musicfm.audio.decoders import SILENT, decode_files
from musicfm.audio.processes import num_cores
from musicfm.datasets.annotations import Annotations, Spans
from musicfm.datasets.jams import document, observations
from musicfm.embedding.collection import (
    Run,
    Summary,
    Written,
    is_disk_error,
    running,
    written,
)
from musicfm.embedding.embedder import Embedder, WindowEncoder, usable
from musicfm.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    as_text,
    printable,
)
from musicfm.files import scratch, write_json
from musicfm.journal import Recording
from musicfm.model.musicfm import MusicFM
from musicfm.remote import Location
from musicfm.tasks import heads
from musicfm.tasks.base import Array, softmax
from musicfm.tasks.beat import read_tempo
from musicfm.tasks.features import FeatureFiles, Features, compute
from musicfm.tasks.heads import MODEL, Head, HeadConfig, check_model
from musicfm.tasks.key import with_chords
from musicfm.tasks.probe import run
from musicfm.tasks.rows import Row

_WAITING_RESULTS = 2
"""Recordings whose results may be on their way while the encoder goes on."""


@dataclass(frozen=True)
class Predictor:
    """Heads, and the encoder whose hidden states they see: one pass of it serves them all."""

    heads: tuple[Head, ...]
    encoder: WindowEncoder
    model: str
    """What the encoder is called."""

    @classmethod
    def load(
        cls, folders: Sequence[Path], model: str | None = None, device: str = "cpu"
    ) -> "Predictor":
        """Loads heads and their model.

        Args:
            folders: of the heads, at least one, or names such as "nano/beat"; if there are several,
                then of one model and of one context.
            model: where the model is now; None: beside the first head, or where it was.
            device: to compute on.

        Raises CheckpointError if any is not there, if the model is another one, or if the heads do
        not go together.
        """
        folders = [heads.locate(folder) for folder in folders]
        loaded = tuple(heads.load(folder) for folder in folders)
        configs = [head.config for head in loaded]
        clips = {
            head.task.clip_seconds if head.config.context == "paper" else None for head in loaded
        }
        if len(clips) > 1:
            raise CheckpointError(
                f"the heads in {', '.join(map(str, folders))} were trained on clips of different "
                "lengths; use heads of the context 'model'"
            )
        encoder, name = _encoder(folders[0], configs, model, clips.pop(), device)
        fingerprint = encoder.fingerprint()
        for head in loaded:
            check_model(head, fingerprint, name)
            if set(head.config.layers) - set(encoder.layers):
                raise CheckpointError(
                    f"'{name}' gives other layers than those that the {head.config.task} head wants"
                )
        return cls(loaded, encoder, name)

    def __call__(self, recording: Path) -> tuple[Annotations, float]:
        """What the heads find in a recording, and the recording's length in seconds.

        Raises AudioError if it cannot be used.
        """
        with tempfile.TemporaryDirectory() as folder:
            features, duration = self.encode(recording, Path(folder))
            return self.decode(features, duration), duration

    def at_tempo(self, tempo: str) -> "Predictor":
        """The same, which looks for beats at a tempo; see :func:`musicfm.tasks.beat.read_tempo`.

        Raises ConfigError if that says nothing, or there is no head for beats.
        """
        read_tempo(tempo)
        if not any(head.config.task == "beat" for head in self.heads):
            raise ConfigError("a tempo needs a head that finds beats; there is none")
        found = []
        for head in map(copy, self.heads):
            if head.config.task == "beat":
                decoding = {**head.config.decoding, "tempo": tempo}
                head.config = head.config.replace(decoding=decoding)
            found.append(head)
        return replace(self, heads=tuple(found))

    def encode(self, recording: Location, folder: Path) -> tuple[Features, float]:
        """The hidden states of a recording, in files in a folder, and its length in seconds.

        Raises AudioError if it cannot be used, OutputError if the files cannot be written.
        """
        files = self.files(folder, "0")
        events = compute(self.encoder, {recording: list(files.values())}, num_workers=1)
        (last,) = deque(usable(events), maxlen=1)
        assert isinstance(last, Written)
        return self.features(files), last.duration

    def listen(self, recording: Location, folder: Path) -> tuple[Features, float]:
        """The old name of :meth:`encode`."""
        message = "Predictor.listen is now encode; the old name will be removed in the next release"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        return self.encode(recording, folder)

    def files(self, folder: Path, name: str) -> dict[int, Path]:
        """Where the layers of a recording go."""
        return {layer: folder / f"{name}.{layer}.npy" for layer in self.encoder.layers}

    def features(self, files: Mapping[int, Path]) -> Features:
        """The hidden states that are there."""
        return Features(files, self.encoder.rate)

    def logits(self, features: Features) -> dict[str, Array]:
        """(outputs, num_logits) of each head, by its task."""
        return {head.task.name: run(head, features) for head in self.heads}

    def decode(
        self, features: Features, duration: float, logits: Mapping[str, Array] | None = None
    ) -> Annotations:
        """What the hidden states of a recording say. Where there are heads for keys and for
        chords, both tell the key.

        Args:
            features: of the recording.
            duration: of the recording, in seconds.
            logits: of the features, see :meth:`logits`; None: they are computed.
        """
        found, logits = Annotations(), logits or self.logits(features)
        for head in self.heads:
            times = features.times(head.task.output_rate)
            part = head.task.decode(logits[head.task.name], times, duration, head.decoding)
            known = {item.name: getattr(part, item.name) for item in fields(part)}
            found = replace(found, **{k: v for k, v in known.items() if v is not None})
        if {"key", "chord"} <= logits.keys():
            keys = with_chords(logits["key"], softmax(logits["chord"]), duration)
            found = replace(found, keys=keys)
        return found

    def fingerprint(self) -> str:
        """SHA-256 of all that the heads compute with, which tells their model too."""
        prints = [heads.fingerprint(head) for head in self.heads]
        return (
            prints[0] if len(prints) == 1 else hashlib.sha256("".join(prints).encode()).hexdigest()
        )

    def provenance(self) -> dict[str, Any]:
        """Who found something, for a JAMS sandbox."""
        return {
            "model": self.model,
            "heads": [
                {**head.config.to_dict(), "head_fingerprint": heads.fingerprint(head)}
                for head in self.heads
            ],
        }


@dataclass(frozen=True)
class EncodedRecording:
    """A recording of a collection, and its hidden states."""

    recording: Recording
    features: Features
    duration: float
    """Seconds."""
    warnings: tuple[str, ...] = ()
    """Messages about damage, with the name of the file."""

    @property
    def title(self) -> str:
        """The recording's name, without its folder."""
        return as_text(PurePath(self.recording.name).name)


@dataclass(frozen=True)
class Output:
    """The files that are written of encoded recordings."""

    write: Callable[[EncodedRecording, Path], str]
    """Takes it to files in a folder. Gives the name of the last one, without which the recording
    does not count as done."""
    suffixes: Sequence[str]
    """Suffixes of all these files, which have the recording's name."""
    complete: Callable[[Recording, Path], bool] | None = None
    """Writes what is missing of the files of a recording that an earlier run has done. Gives
    whether anything was."""


def predict_collection(
    predictor: Predictor,
    sources: Sequence[Path],
    out: Path,
    *,
    output: Output | None = None,
    conclude: Callable[[Iterable[Mapping[str, Any]]], object] | None = None,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    overwrite: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Summary:
    """Annotates recordings; what an earlier run has done is skipped.

    Args:
        predictor: the heads and their encoder.
        sources: recordings, and folders of them.
        out: the folder for the results, which are named as by
            :func:`musicfm.embedding.recordings.find_recordings`. It also gets
            ``journal.jsonl`` and ``report.json``.
        output: what to write; None: a JAMS file for each.
        conclude: told what is in the folder when the run ends; see :class:`Journal`'s entries.
        num_workers: processes that decode; None leaves one core for the encoder.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        overwrite: whether to do again what is done.
        progress: show a bar on standard error.
        options: noted in the folder, for :func:`musicfm.journal.read_options`.

    Returns:
        A summary; recordings that cannot be used are among its failures.

    Raises:
        ConfigError: no recordings.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    settings: dict[str, Any] = {"on_damage": on_damage}
    if output is None:  # other heads may come to those that a folder has
        settings["heads"] = {h.config.task: heads.fingerprint(h) for h in predictor.heads}
        output = Output(partial(write_jams, predictor), [".jams"])
    else:
        settings["head"] = predictor.fingerprint()
    with (
        running(
            "Analysing",
            sources,
            out,
            settings,
            suffixes=output.suffixes,
            conclude=conclude,
            overwrite=overwrite,
            progress=progress,
            options=options,
        ) as run,
        scratch(out / ".features") as folder,
    ):
        files = {
            recording: predictor.files(folder, str(number))
            for number, recording in enumerate(run.pending)
        }
        writer = FeatureFiles({key: list(layers.values()) for key, layers in files.items()})
        decoded = decode_files(
            ((recording, recording.path) for recording in run.pending),
            predictor.encoder.sample_rate,
            num_workers=num_cores(num_workers, spare=1),
            timeout_seconds=timeout_seconds,
            on_damage=on_damage,
        )
        with contextlib.closing(decoded), _Results(run, output, out) as results:
            events = written(predictor.encoder.tracks(decoded), writer)
            for done in run.follow(events, predictor.encoder.rate):
                results.add(done, predictor.features(files[done.key]))
        _complete(run, output, out)
    return run.summary


class _Results:
    """Results that are made in a thread while the encoder goes on: a page or a click track takes
    another pass over the sound.
    """

    def __init__(self, run: Run, output: Output, out: Path) -> None:
        self._run, self._output, self._out = run, output, out
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[Written[Recording], Features, Future[str]]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._pool:
            if kind is None:
                self._note(at_most=0)

    def add(self, done: Written[Recording], features: Features) -> None:
        """Makes the result of a recording soon. Raises OutputError if nothing can be written."""
        recording = done.key
        # Without the folder: results are passed on, and paths are private.
        named = tuple(
            warning.replace(printable(str(recording)), printable(PurePath(str(recording)).name))
            for warning in done.warnings
        )
        encoded = EncodedRecording(recording, features, done.duration, named)
        result = self._pool.submit(self._output.write, encoded, self._out)
        self._waiting.append((done, features, result))
        self._note(_WAITING_RESULTS)

    def _note(self, at_most: int) -> None:
        """Notes results that are there, and waits for others until so many are left."""
        while self._waiting and (len(self._waiting) > at_most or self._waiting[0][2].done()):
            done, features, result = self._waiting.popleft()
            try:
                found = result.result()
            except (AudioError, OutputError) as error:  # exports and pages read the file once more
                if is_disk_error(error):
                    raise
                self._run.on_error(done.key, str(error))
            else:
                self._run.on_done(replace(done, found={"output": found}))
            for path in features.paths.values():
                path.unlink()


def _complete(run: Run, output: Output, out: Path) -> None:
    """Writes what is missing of the recordings that were done before."""
    if output.complete is None:
        return
    for recording in run.skipped:
        try:
            run.summary.completed += output.complete(recording, out)
        except (AudioError, DataError) as error:
            run.summary.skipped -= 1
            run.summary.failures.append((str(recording), str(error)))


def without_music(found: Annotations) -> Annotations:
    """Without key, sections and tags, which heads name in silence, too."""
    none = Spans(np.empty((0, 2)), (), np.empty(0))
    return replace(
        found,
        keys=None if found.keys is None else none,
        segments=None if found.segments is None else none,
        tags=None if found.tags is None else {},
    )


def write_jams(predictor: Predictor, encoded: EncodedRecording, out: Path) -> str:
    """Writes what the heads find in a recording, as JAMS."""
    tasks = ", ".join(head.config.task for head in predictor.heads)
    found = predictor.decode(encoded.features, encoded.duration)
    if any(SILENT in warning for warning in encoded.warnings):
        found = without_music(found)
    jams = document(
        observations(found, encoded.duration),
        encoded.duration,
        title=encoded.title,
        tool=f"musicfm predict ({tasks})",
        version=musicfm.__version__,
        sandbox={**predictor.provenance(), "warnings": list(encoded.warnings)},
    )
    output = f"{encoded.recording.name}.jams"
    write_json(out / output, jams)
    return output


def _encoder(
    folder: Path,
    configs: Sequence[HeadConfig],
    model: str | None,
    clip_seconds: float | None,
    device: str,
) -> tuple[WindowEncoder, str]:
    """The encoder of the layers that some heads want, and what it is called."""
    layers = sorted({layer for config in configs for layer in config.layers})
    if model is None and os.path.isdir(folder / MODEL):
        name = str(folder / MODEL)
        tuned = MusicFM.from_pretrained(name).to(device)
        return Embedder(tuned, layers, context_seconds=clip_seconds), name
    name = model or configs[0].model
    try:
        return Row(name).encoder(clip_seconds, device, layers), name
    except CheckpointError as error:
        raise CheckpointError(
            f"the model of the head in {folder} cannot be loaded; say where it is now (--model): "
            f"{error}"
        ) from error
