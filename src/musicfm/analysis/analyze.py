"""One recording, analysed in this process: :func:`musicfm.analyze`."""

import io
import os
import tempfile
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Literal

from musicfm.analysis.analyzer import Analysis, analyse, load_predictor
from musicfm.analysis.page import render_page
from musicfm.analysis.sound import Sound
from musicfm.audio import reading
from musicfm.audio.sources import AudioFile
from musicfm.embedding.collection import Written, written
from musicfm.embedding.embedder import decode, usable
from musicfm.errors import AudioWarning
from musicfm.tasks.features import FeatureFiles
from musicfm.tasks.predict import Predictor


@dataclass(frozen=True, eq=False, kw_only=True)
class RecordingAnalysis(Analysis):
    """An analysis, and the recording that it is of."""

    recording: AudioFile
    """A path, or a binary file object."""

    def to_html(self) -> str:
        """The page of :mod:`musicfm.analysis.page`, with the sound in it.

        Raises AudioError if the recording cannot be read any more.
        """
        return render_page(self, Sound.of(self.recording))


def analyze(
    source: AudioFile | bytes,
    *,
    model: str | None = None,
    heads: Sequence[str | os.PathLike[str]] = (),
    device: str = "cpu",
    tempo: str | tuple[float, float] = "",
    on_damage: Literal["error", "warn"] = "error",
) -> RecordingAnalysis:
    """Finds beats, chords, sections, key and tags of a recording.

    The model stays loaded for the next call. For many recordings, see
    :func:`musicfm.analysis.songs.analyse_collection`, which decodes in processes of their own.

    Args:
        source: a path, a binary file object that can seek, or the bytes of a file.
        model: a model with heads, such as "nano"; None: that of the heads, or nano.
        heads: folders of heads; none: those that come with the model.
        device: to compute on.
        tempo: what is known of it: the lowest and the highest in beats per minute, such as
            (80, 160) or "80-160"; "half" or "double" of what would be found; or nothing.
        on_damage: for a damaged file, raise, or warn and use what comes before the damage.

    Raises:
        AudioError: the recording cannot be used.
        CheckpointError: there is no such model or head.
        ConfigError: the tempo says nothing.
    """
    known = tempo if isinstance(tempo, str) else "{:g}-{:g}".format(*tempo)
    predictor = _predictor(model, tuple(os.fspath(head) for head in heads), device)
    predictor = predictor.at_tempo(known) if known else predictor
    recording = io.BytesIO(source) if isinstance(source, bytes) else source
    name = str(recording) if isinstance(recording, str | os.PathLike) else ""
    with (
        # Windows removes no file that is mapped into memory.
        tempfile.TemporaryDirectory(prefix="musicfm-", ignore_cleanup_errors=True) as folder,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always", AudioWarning)
        files = predictor.files(Path(folder), "states")
        about = reading.labels(recording)
        decoded = decode(recording, predictor.encoder.sample_rate, on_damage)
        key = name or "The recording"
        writer = FeatureFiles({key: list(files.values())})
        (last,) = deque(usable(written(predictor.encoder.tracks(decoded), writer)), maxlen=1)
        assert isinstance(last, Written)
        found = analyse(
            predictor,
            predictor.features(files),
            last.duration,
            about["title"],
            tuple(str(one.message) for one in caught if one.category is AudioWarning),
            about["artist"],
            PurePath(name).name,
        )
    for one in caught:
        warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
    parts = {field.name: getattr(found, field.name) for field in fields(found)}
    return RecordingAnalysis(**parts, recording=recording)


@lru_cache(maxsize=1)
def _predictor(model: str | None, heads: tuple[str, ...], device: str) -> Predictor:
    return load_predictor(model, [Path(head) for head in heads], device)
