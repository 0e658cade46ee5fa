"""Agreement with other programs, on results made up for it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from musicfm.datasets.annotations import Annotations, Beats, Spans
from musicfm.datasets.jams import document, observations

SCRIPT = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "real_music.py"))


def write(
    path: Path, interval: float, chords: tuple[str, ...] = (), key: str | None = None
) -> None:
    times = np.arange(0.0, 60.0, interval)
    bounds = np.linspace(0.0, 60.0, len(chords) + 1)
    annotations = Annotations(
        beats=Beats(times, np.arange(len(times)) % 4 + 1),
        chords=Spans(np.stack([bounds[:-1], bounds[1:]], 1), chords) if chords else None,
        keys=Spans(np.array([[0.0, 60.0]]), (key,)) if key else None,
    )
    path.parent.mkdir(exist_ok=True)
    content = document(
        observations(annotations, 60.0), 60.0, title="a", tool="t", version="0", sandbox={}
    )
    path.write_text(json.dumps(content))


def test_programs_are_compared_where_they_can_be(tmp_path: Path) -> None:
    """Two clips: musicfm has half the tempo in one; two programs agree in the other alone."""
    for clip, ours, essentia in (("a", 1.0, 0.7), ("b", 0.5, 0.5)):
        for program, interval in (("musicfm", ours), ("madmom", 0.5), ("essentia", essentia)):
            chords = ("C:maj", "A:min7", "F:sus4") if program == "musicfm" else ("C", "A:min", "F")
            key = "C:major" if clip == "a" or program != "musicfm" else "A:minor"
            write(tmp_path / program / f"{clip}.jams", interval, chords, key)
        for program in ("crema", "chordino"):
            write(tmp_path / program / f"{clip}.jams", 0.5, ("C:maj", "A:min", "G:7"))
    lines = SCRIPT["compare"](tmp_path).splitlines()
    programs = [cell.strip() for cell in lines[0].strip("|").split("|")[1:]]
    cells: dict[str, dict[str, str]] = {}
    for line in lines[2:]:
        title, *values = (cell.strip() for cell in line.strip("|").split("|"))
        cells[title] = dict(zip(programs, values, strict=True))
    musicfm = {title: row["musicfm"].split(" ")[0] for title, row in cells.items()}
    assert musicfm["beats"] == f"{(2 / 3 + 1) / 2:.3f}"
    assert cells["beats, where two agree"]["musicfm"] == "1.000 [1.00, 1.00] (1)"
    assert (musicfm["tempo within 4 %"], musicfm["the same, octaves allowed"]) == ("0.500", "1.000")
    assert float(musicfm["chords"]) == pytest.approx(2 / 3, abs=0.002)
    assert float(cells["chords"]["crema"].split(" ")[0]) == pytest.approx(5 / 6, abs=0.002)
    assert musicfm["chords, where three agree"] == "1.000"
    assert musicfm["key, where two agree"] == "0.500"
    assert cells["beats"]["crema"]
    assert not cells["beats"]["madmom"]
