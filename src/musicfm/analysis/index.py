"""A page that lists the analyses of a folder."""

import html
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.html import asset, policy, render, scripts_of
from musicfm.errors import DataError, printable
from musicfm.files import atomic_write

INDEX = "index.html"
_GENERATOR = "musicfm index"

_COLOURS = ("blue", "orange", "green", "purple", "sky", "red", "yellow")
"""The colours of sections, in the order in which they first occur, as on the page of a song."""


def write_index(folder: Path, entries: Iterable[Mapping[str, Any]]) -> Path | None:
    """Writes ``index.html``: title, artist, length, tempo, key and sections of every recording,
    each with a link to its page.

    Args:
        folder: of the analyses.
        entries: what is in it, each with the ``name`` of its files, without suffix.

    Returns:
        Where the index is; None if there is at most one analysis, or if a recording's page, or a
        page of somebody else, has that name.
    """
    names = sorted(str(entry["name"]) for entry in entries)
    path = folder / INDEX
    if len(names) < 2 or "index" in names or _is_foreign(path):
        return None
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        scripts, body = scripts_of(), asset("analysis/assets/index.html")
        body = body.replace("$count", str(len(names)))
        style, allowed = "analysis/assets/index.css", policy(scripts)
        page = render("Analyses", body, style, scripts, allowed, generator=_GENERATOR)
        head, tail = page.split("$rows")
        file.write(head)
        for name in names:
            file.writelines(_row(folder, name))
        file.write(tail)
    return path


def _is_foreign(path: Path) -> bool:
    """Whether a file is there that :func:`write_index` has not written."""
    if not os.path.isfile(path):
        return False
    with path.open("rb") as file:
        return f'content="{_GENERATOR}"'.encode() not in file.read(1_000)


def _row(folder: Path, name: str) -> Iterator[str]:
    """A recording as a row of the table; nothing for one whose JAMS file cannot be read."""
    try:
        analysis = Analysis.load(folder / f"{name}.jams").printable()
    except DataError:
        return
    title = html.escape(analysis.title)
    if os.path.isfile(folder / f"{name}.html"):
        address = html.escape(quote(f"{name}.html", errors="surrogateescape"))
        title = f'<a href="{address}">{title}</a>'
    tempo = "" if analysis.tempo is None else f"{analysis.tempo:.1f}"
    minutes, seconds = divmod(round(analysis.duration), 60)
    cells = (
        f"<td>{title}<small>{html.escape(analysis.artist)}</small></td>",
        f"<td>{html.escape(printable(name))}</td>",
        f'<td class="number">{minutes}:{seconds:02d}</td>',
        f'<td class="number">{tempo}</td>',
        f'<td class="key">{html.escape(analysis.key or "")}</td>',
        f"<td>{_strip(analysis)}</td>",
    )
    yield f"<tr>{''.join(cells)}</tr>\n"


def _strip(analysis: Analysis) -> str:
    """The sections, side by side, as wide as they are long."""
    sections = analysis.annotations.segments
    if sections is None or not sections.labels:
        return ""
    labels = [label for label in dict.fromkeys(sections.labels) if label != "silence"]
    parts = []
    for start, end, label, _ in sections:
        place = None if label == "silence" else labels.index(label)
        colour = "grey" if place is None else _COLOURS[place % len(_COLOURS)]
        width = 100.0 * (end - start) / analysis.duration
        parts.append(
            f'<span style="width:{width:.2f}%;background:var(--{colour})" '
            f'title="{html.escape(label)}"></span>'
        )
    names = html.escape(json.dumps(" ".join(sections.labels), ensure_ascii=False)[1:-1])
    return f'<div class="strip" role="img" aria-label="Sections: {names}">{"".join(parts)}</div>'
