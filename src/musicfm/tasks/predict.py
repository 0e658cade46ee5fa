"""Heads at work: from a folder that a probe or fine-tuning left, to JAMS files."""

import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import musicfm
from musicfm.collection import Summary, find_recordings
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.jams import document, observations
from musicfm.decoders import Failure
from musicfm.embedding import Embedder, WindowEncoder
from musicfm.errors import AudioError, CheckpointError
from musicfm.files import atomic_write
from musicfm.journal import Journal, Recording
from musicfm.model import MusicFM
from musicfm.progress import AudioProgress
from musicfm.tasks import heads
from musicfm.tasks.features import Features, compute
from musicfm.tasks.heads import MODEL, Head, check_model
from musicfm.tasks.probe import run
from musicfm.tasks.rows import Row


@dataclass(frozen=True)
class Predictor:
    """A head, and the encoder whose hidden states it sees."""

    head: Head
    encoder: WindowEncoder
    model: str
    """What the encoder is called."""

    @classmethod
    def load(cls, folder: Path, model: str | None = None, device: str = "cpu") -> "Predictor":
        """Loads a head and its model.

        Args:
            folder: of the head.
            model: where the model is now; None: beside the head, or where it was.
            device: to compute on.

        Raises CheckpointError if either is not there, or if the model is another one.
        """
        head = heads.load(folder)
        config = head.config
        clip = head.task.clip_seconds if config.context == "paper" else None
        encoder: WindowEncoder
        if model is None and (folder / MODEL).is_dir():
            name = str(folder / MODEL)
            tuned = MusicFM.from_pretrained(name).to(device)
            encoder = Embedder(tuned, config.layers, context_seconds=clip)
        else:
            name = model or config.model
            try:
                encoder = Row(name).encoder(clip, device, config.layers)
            except CheckpointError as error:
                raise CheckpointError(
                    f"the model of the head in {folder} cannot be loaded; say where it is now "
                    f"(--model): {error}"
                ) from error
        check_model(head, encoder.fingerprint(), name)
        if set(config.layers) - set(encoder.layers):
            raise CheckpointError(f"'{name}' gives other layers than the head in {folder} wants")
        return cls(head, encoder, name)

    def __call__(self, recording: Path) -> tuple[Annotations, float]:
        """What the head hears in a recording, and the recording's length in seconds.

        Raises AudioError if it cannot be used.
        """
        with tempfile.TemporaryDirectory() as folder:
            files = self.files(Path(folder), "0")
            (event,) = compute(self.encoder, {recording: list(files.values())}, num_workers=1)
            if isinstance(event, Failure):
                raise AudioError(event.reason)
            return self.decode(files, event.duration), event.duration

    def files(self, folder: Path, name: str) -> dict[int, Path]:
        """Where the layers of a recording go."""
        return {layer: folder / f"{name}.{layer}.npy" for layer in self.encoder.layers}

    def decode(self, files: dict[int, Path], duration: float) -> Annotations:
        """What the hidden states of a recording say."""
        features, task = Features(files, self.encoder.rate), self.head.task
        logits = run(self.head, features)
        times = features.times(task.output_rate)
        return task.decode(logits, times, duration, self.head.decoding)

    def to_jams(self, annotations: Annotations, duration: float, title: str) -> dict[str, Any]:
        """A JAMS object that says who found this."""
        task = self.head.config.task
        return document(
            observations(annotations, duration),
            duration,
            title=title,
            tool=f"musicfm predict ({task})",
            version=musicfm.__version__,
            sandbox={
                "head": self.head.config.to_dict(),
                "head_fingerprint": heads.fingerprint(self.head),
                "model": self.model,
            },
        )


def predict_collection(
    predictor: Predictor,
    sources: Sequence[Path],
    out: Path,
    *,
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    overwrite: bool = False,
    progress: bool = False,
) -> Summary:
    """Writes a JAMS file for each recording; what an earlier run has done is skipped.

    Args:
        predictor: the head and its encoder.
        sources: recordings, and folders of them.
        out: the folder for the results, named as :func:`musicfm.collection.find_recordings` does.
        num_workers: processes that decode; None leaves one core for the encoder.
        timeout_seconds: after which a decoder without progress is given up.
        overwrite: whether to do again what is done.
        progress: show a bar on standard error.

    Returns:
        What became of all; a recording that cannot be used is among the failures.

    Raises OutputError if the folder cannot be written, or holds results of another head.
    """
    begin, summary = time.monotonic(), Summary()
    recordings = find_recordings(sources, summary.failures)
    with (
        Journal(out, {"head": heads.fingerprint(predictor.head)}, recordings, overwrite) as journal,
        tempfile.TemporaryDirectory(dir=out, prefix=".") as folder,
    ):
        pending = {
            recording.path: recording
            for recording in recordings
            if overwrite or not journal.has(recording)
        }
        summary.skipped = len(recordings) - len(pending)
        files = {
            path: predictor.files(Path(folder), str(number)) for number, path in enumerate(pending)
        }
        computed = compute(
            predictor.encoder,
            {path: list(layers.values()) for path, layers in files.items()},
            num_workers=num_workers,
            timeout_seconds=timeout_seconds,
        )
        work = sum(recording.size for recording in pending.values())
        with (
            contextlib.closing(computed),
            AudioProgress("Predicting", len(pending), work, progress) as bar,
        ):
            for event in computed:
                recording = pending[event.key]
                if isinstance(event, Failure):
                    summary.failures.append((str(event.key), event.reason))
                    bar.say(f"failed: {event.reason}")
                    bar.advance(files=1, work=recording.size)
                    continue
                annotations = predictor.decode(files[event.key], event.duration)
                for path in files[event.key].values():
                    path.unlink()
                _write(predictor, recording, annotations, event.duration, out)
                journal.add(recording, output=f"{recording.name}.jams", duration=event.duration)
                summary.done += 1
                summary.audio_seconds += event.duration
                bar.advance(files=1, seconds=event.duration, work=recording.size)
    summary.wall_seconds = time.monotonic() - begin
    return summary


def _write(
    predictor: Predictor, recording: Recording, annotations: Annotations, duration: float, out: Path
) -> None:
    jams = predictor.to_jams(annotations, duration, recording.path.stem)
    with atomic_write(out / f"{recording.name}.jams") as temporary:
        temporary.write_text(json.dumps(jams, indent=1) + "\n", encoding="utf-8")
