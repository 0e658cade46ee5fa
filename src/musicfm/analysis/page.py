"""An analysis as one HTML page that plays its song, and needs nothing else.

The page is made of the files in ``assets``. What differs from song to song is data: JSON and
base64, in elements that the browser does not run. Scripts are allowed by their hashes alone, and
nothing may be fetched, so that a title is shown and never obeyed.
"""

import base64
import hashlib
import html
import json
from importlib.resources import files
from pathlib import PurePath
from string import Template
from typing import Any

import numpy as np
import numpy.typing as npt

import musicfm
from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.exports import csv_table, label_tracks
from musicfm.analysis.sound import PEAK_RATE, Sound
from musicfm.datasets.annotations import Beats, Spans

_SCRIPTS = ("wavesurfer.min.js", "page.js")
ABOUT_TRIAL = (
    "This model is small and was trained mostly on rendered songs, so that everything can be tried "
    "without a download. It is often wrong about recordings, most of all about sections. "
    "Its card, the README in the model's folder, has figures. For serious work, train heads on a "
    "larger model."
)
_DIGITS = 3
"""Milliseconds, and thousandths of a confidence."""


def render_page(analysis: Analysis, sound: Sound) -> str:
    """The page of a song.

    Args:
        analysis: what is shown; kinds that are None are left out.
        sound: of the same recording.
    """
    scripts, analysis = [asset(name) for name in _SCRIPTS], analysis.printable()
    return Template(asset("page.html")).substitute(
        title=html.escape(analysis.title),
        policy="; ".join(
            [
                "default-src 'none'",
                f"script-src {' '.join(script_hashes())}",
                "style-src 'unsafe-inline'",
                "media-src blob:",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
        style=asset("page.css"),
        licence=asset("wavesurfer.LICENSE"),
        about=html.escape(ABOUT_TRIAL),
        player=scripts[0],
        script=scripts[1],
        data=as_json(_data(analysis)),
        peaks=_base64(_bytes(sound.peaks, 0.0, float(sound.peaks.max(initial=0.0)))),
        similarity=_base64(_bytes(analysis.similarity, -1.0, 1.0)),
        sound=_base64(sound.mp3),
    )


def script_hashes() -> list[str]:
    """The page's scripts, for a content security policy that lets them pass."""
    return [hash_of(asset(name)) for name in _SCRIPTS]


def asset(name: str) -> str:
    """A file of ``assets``."""
    return (files("musicfm.analysis") / "assets" / name).read_text(encoding="utf-8")


def hash_of(script: str) -> str:
    """As a content security policy names a script."""
    return f"'sha256-{_base64(hashlib.sha256(script.encode()).digest())}'"


def as_json(value: object) -> str:
    """JSON that ends no element of HTML, whatever texts are in it."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _bytes(values: npt.NDArray[np.float32], low: float, high: float) -> bytes:
    """Values as bytes: 0 is ``low``, 255 is ``high``."""
    unit = (values - low) / max(high - low, 1e-9)
    return np.rint(255.0 * unit.clip(0.0, 1.0)).astype(np.uint8).tobytes()


def _data(analysis: Analysis) -> dict[str, Any]:
    found = analysis.annotations
    tags = None if found.tags is None else sorted(found.tags.items(), key=lambda tag: -tag[1])
    return {
        "title": analysis.title,
        "artist": analysis.artist,
        "file": analysis.file,
        "isTrial": analysis.is_trial,
        "stem": _stem(analysis),
        "downloads": _downloads(analysis),
        "duration": analysis.duration,
        "warnings": analysis.warnings,
        "peakRate": PEAK_RATE,
        "tempo": analysis.tempo,
        "steadiness": analysis.steadiness,
        "tempi": [round(tempo.bpm, _DIGITS) for tempo in analysis.tempi],
        "beats": None if found.beats is None else _beats(found.beats),
        "chords": None if found.chords is None else _spans(found.chords),
        "sections": None if found.segments is None else _spans(found.segments),
        "keys": None if found.keys is None else _spans(found.keys),
        "tags": None if tags is None else [[tag, round(sure, _DIGITS)] for tag, sure in tags],
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


def _beats(beats: Beats) -> dict[str, Any]:
    return {
        "times": _rounded(beats.times),
        "positions": beats.positions.tolist(),
        "confidences": _rounded(beats.confidences),
    }


def _spans(spans: Spans) -> dict[str, Any]:
    return {
        "starts": _rounded(spans.intervals[:, 0]),
        "ends": _rounded(spans.intervals[:, 1]),
        "labels": spans.labels,
        "confidences": _rounded(spans.confidences),
    }


def _rounded(values: npt.NDArray[np.float64] | None) -> list[float] | None:
    return None if values is None else np.round(values, _DIGITS).tolist()
