"""Many songs into a folder of analyses."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Literal

from musicfm.analysis.analyzer import Analysis, analyse
from musicfm.analysis.exports import EXPORTS, named
from musicfm.analysis.index import INDEX, write_index
from musicfm.analysis.page import render_page
from musicfm.analysis.sound import Sound
from musicfm.audio import reading
from musicfm.embedding.collection import Summary
from musicfm.errors import AudioWarning, ConfigError, as_text
from musicfm.files import write_file, write_json
from musicfm.journal import Recording
from musicfm.remote import Location
from musicfm.tasks.predict import EncodedRecording, Output, Predictor, predict_collection

PAGE = ".html"
JAMS = ".jams"


def analyse_collection(
    predictor: Predictor,
    sources: Sequence[Path],
    out: Path,
    *,
    page: bool = True,
    exports: Sequence[str] = (),
    num_workers: int | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    overwrite: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Summary:
    """Analyses recordings. ``musicfm analyze`` is this function.

    Pages and exports are made of the JAMS file, so that those which an earlier run into the same
    folder did not write are written without computing anything again.

    Args:
        predictor: the heads and their encoder.
        sources: recordings, and folders of them.
        out: the folder for the results; see
            :func:`musicfm.tasks.predict.predict_collection`, also for what follows.
        page: whether to write an HTML page beside the JAMS file, and an ``index.html`` of all
            pages in the folder if there are several.
        exports: kinds of further files, of :data:`musicfm.analysis.exports.EXPORTS`.
        num_workers: processes that decode; None leaves one core for the encoder.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        overwrite: whether to do again what is done.
        progress: show a bar on standard error.
        options: noted in the folder, for :func:`musicfm.journal.read_options`.

    Raises:
        ConfigError: no recordings, or no such kind of file.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    if unknown := sorted(set(exports) - set(EXPORTS)):
        raise ConfigError(f"there is no export '{unknown[0]}'; choose from {', '.join(EXPORTS)}")

    files = _Files(predictor, page, exports)
    return predict_collection(
        predictor,
        sources,
        out,
        output=Output(files.write, files.suffixes, files.complete),
        conclude=partial(write_index, out) if page else None,
        num_workers=num_workers,
        timeout_seconds=timeout_seconds,
        on_damage=on_damage,
        overwrite=overwrite,
        progress=progress,
        options=options,
    )


@dataclass(frozen=True)
class _Files:
    """What is written of each recording."""

    predictor: Predictor
    page: bool
    exports: Sequence[str]

    @property
    def suffixes(self) -> list[str]:
        """Of all files."""
        kinds = [suffix for kind in self.exports for suffix in EXPORTS[kind].suffixes]
        return [JAMS, *kinds, *([PAGE] if self.page else [])]

    def write(self, encoded: EncodedRecording, out: Path) -> str:
        """Writes the files of a recording, the JAMS file last."""
        recording = encoded.recording.path
        about = reading.labels(recording)
        analysis = analyse(
            self.predictor,
            encoded.features,
            encoded.duration,
            about["title"],
            encoded.warnings,
            about["artist"],
            as_text(PurePath(str(recording)).name),
        )
        stem, jams = out / encoded.recording.name, analysis.to_jams()
        _export(Analysis.from_jams(jams), recording, stem, self.page, self.exports)
        write_json(named(stem, JAMS), jams)
        return f"{encoded.recording.name}{JAMS}"

    def complete(self, recording: Recording, out: Path) -> bool:
        """Writes what an earlier run was not asked for, if anything."""
        stem = out / recording.name
        missing = [kind for kind in self.exports if not _is_there(stem, EXPORTS[kind].suffixes)]
        lacks_page = self.page and not _is_there(stem, [PAGE])
        if missing or lacks_page:
            analysis = Analysis.load(named(stem, JAMS))
            _export(analysis, recording.path, stem, lacks_page, missing)
        return bool(missing or lacks_page)


def _export(
    analysis: Analysis, recording: Location, stem: Path, page: bool, exports: Iterable[str]
) -> None:
    """Writes a page and other files of a recording."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # damage was told of by the model's decoder
        for kind in exports:
            EXPORTS[kind].write(analysis, recording, stem)
        if page:
            write_file(named(stem, PAGE), render_page(analysis, Sound.of(recording)))


def _is_there(stem: Path, suffixes: Iterable[str]) -> bool:
    """Of label tracks, only those of some kinds are written."""
    return any(os.path.isfile(named(stem, suffix)) for suffix in suffixes)


def first_page(out: Path) -> Path | None:
    """What to open after a run: the index of a folder of analyses, or its only page."""
    if os.path.isfile(out / INDEX):
        return out / INDEX
    return next(iter(sorted(out.rglob(f"*{PAGE}"))), None)
