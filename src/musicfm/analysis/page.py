"""An analysis as one HTML page that plays its song, and needs nothing else."""

import html
import json
from collections.abc import Iterable
from pathlib import PurePath
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

import musicfm
from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.exports import csv_table, label_tracks
from musicfm.analysis.html import asset, policy, render, scripts_of
from musicfm.analysis.sound import Sound
from musicfm.datasets.annotations import Beat, Span

ABOUT_TRIAL = (
    "This model is small and was trained mostly on rendered songs, so that everything can be tried "
    "without a download. It is often wrong about recordings, most of all about sections. "
    "Its card, the README in the model's folder, has figures. For serious work, train heads on a "
    "larger model."
)
_ASSETS = "analysis/assets"
_DIGITS = 3
"""Decimals of seconds and of confidences."""


def render_page(analysis: Analysis, sound: Sound) -> str:
    """The page of a song.

    Args:
        analysis: what is shown; kinds that are None are left out.
        sound: of the same recording.
    """
    scripts, analysis = page_scripts(), analysis.printable()
    body = Template(asset(f"{_ASSETS}/page.html")).substitute(
        title=html.escape(analysis.title),
        licence=html.escape(asset(f"{_ASSETS}/wavesurfer.LICENSE")),
        about=html.escape(ABOUT_TRIAL),
    )
    data = {
        "data": _data(analysis),
        "peaks": _bytes(sound.peaks, 0.0, float(sound.peaks.max(initial=0.0))),
        "matrix-data": _bytes(analysis.similarity, -1.0, 1.0),
        "sound": sound.mp3,
    }
    allowed = policy(scripts, "media-src blob:")
    return render(analysis.title, body, f"{_ASSETS}/page.css", scripts, allowed, data)


def page_scripts() -> list[str]:
    """The scripts of a song's page."""
    return scripts_of(f"{_ASSETS}/wavesurfer.min.js", f"{_ASSETS}/page.js")


def _bytes(values: npt.NDArray[np.float32], low: float, high: float) -> bytes:
    """Values as bytes: 0 is ``low``, 255 is ``high``."""
    unit = (values - low) / max(high - low, 1e-9)
    return np.rint(255.0 * unit.clip(0.0, 1.0)).astype(np.uint8).tobytes()


def _data(analysis: Analysis) -> dict[str, Any]:
    found = analysis.annotations
    return {
        "artist": analysis.artist,
        "file": analysis.file,
        "isTrial": analysis.is_trial,
        "stem": _stem(analysis),
        "downloads": _downloads(analysis),
        "duration": analysis.duration,
        "warnings": analysis.warnings,
        "tempo": analysis.tempo,
        "steadiness": analysis.steadiness,
        "tempi": [round(tempo.bpm, _DIGITS) for tempo in analysis.tempi],
        "beats": _rows(found.beats),
        "chords": _rows(found.chords),
        "sections": _rows(found.segments),
        "keys": _rows(found.keys),
        "tags": _rows(None if found.tags is None else analysis.tags.items()),
        "similaritySize": len(analysis.similarity),
        "model": analysis.provenance.get("model"),
        "version": musicfm.__version__,
    }


def _stem(analysis: Analysis) -> str:
    """Of the names of files that the page offers."""
    return PurePath(analysis.file).stem or analysis.title


def _downloads(analysis: Analysis) -> list[dict[str, str]]:
    """Files that the page offers."""
    stem = _stem(analysis)
    jams = json.dumps(analysis.to_jams(), allow_nan=False)
    return [
        {"name": f"{stem}.jams", "type": "application/json", "text": jams},
        {"name": f"{stem}.csv", "type": "text/csv", "text": csv_table(analysis)},
        *(
            {"name": f"{stem}{suffix}", "type": "text/plain", "text": text}
            for suffix, text in label_tracks(analysis).items()
        ),
    ]


def _rows(found: Iterable[Beat | Span | tuple[str, float]] | None) -> list[list[Any]] | None:
    """What was found, as the page takes it."""
    if found is None:
        return None
    return [
        [round(value, _DIGITS) if isinstance(value, float) else value for value in row]
        for row in found
    ]
