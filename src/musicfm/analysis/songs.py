"""Many songs into a folder of analyses."""

import json
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from musicfm.analysis.analyzer import analyse
from musicfm.analysis.exports import EXPORTS
from musicfm.analysis.page import render_page
from musicfm.analysis.sound import Sound
from musicfm.collection import Summary
from musicfm.errors import AudioWarning, ConfigError
from musicfm.files import atomic_write
from musicfm.tasks.predict import Heard, Output, Predictor, predict_collection


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
) -> Summary:
    """Analyses recordings. ``musicfm analyze`` is this function.

    Args:
        predictor: the heads and their encoder.
        sources: recordings, and folders of them.
        out: the folder for the results; see
            :func:`musicfm.tasks.predict.predict_collection`, also for what follows.
        page: whether to write an HTML page beside the JAMS file.
        exports: kinds of further files, of :data:`musicfm.analysis.exports.EXPORTS`.
        num_workers: processes that decode; None leaves one core for the encoder.
        timeout_seconds: after which a decoder without progress is given up.
        on_damage: refuse damaged recordings, or use what comes before the damage.
        overwrite: whether to do again what is done.
        progress: show a bar on standard error.

    Raises:
        ConfigError: no recordings, or no such kind of file.
        OutputError: the folder cannot be written, or holds results of other settings.
    """
    if unknown := sorted(set(exports) - set(EXPORTS)):
        raise ConfigError(f"there is no export '{unknown[0]}'; choose from {', '.join(EXPORTS)}")
    output = Output(
        partial(_write, predictor, page, exports),
        [".jams", *(EXPORTS[kind].suffix for kind in exports), *([".html"] if page else [])],
        {"page": page, "exports": sorted(exports)},
    )
    return predict_collection(
        predictor,
        sources,
        out,
        output=output,
        num_workers=num_workers,
        timeout_seconds=timeout_seconds,
        on_damage=on_damage,
        overwrite=overwrite,
        progress=progress,
    )


def _write(
    predictor: Predictor, page: bool, exports: Sequence[str], heard: Heard, out: Path
) -> str:
    """Writes the files of a recording, the JAMS file last."""
    recording, name = heard.recording.path, heard.recording.name
    analysis = analyse(predictor, heard.features, heard.duration, heard.title, heard.warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AudioWarning)  # of damage is told where it is heard
        for kind in exports:
            EXPORTS[kind].write(analysis, recording, out / f"{name}{EXPORTS[kind].suffix}")
        if page:
            content = render_page(analysis, Sound.of(recording))
            with atomic_write(out / f"{name}.html") as temporary:
                temporary.write_text(content, encoding="utf-8")
    output = f"{name}.jams"
    with atomic_write(out / output) as temporary:
        temporary.write_text(json.dumps(analysis.to_jams(), indent=1) + "\n", encoding="utf-8")
    return output
