"""The scripts in runs/ for free music: what is fetched, and what beats become labels."""

import csv
import importlib.util
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RUNS = Path(__file__).parents[1] / "runs"

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2006 Somebody
License: GPL-3+

Files: ./dat/snd/music/one.ogg
 ./dat/snd/music/t*.ogg
Copyright: Another
License: GPL-3 or CC-BY-3.0

Files: dat/snd/music/three.ogg
Copyright: Third
License: CC-BY-NC-3.0
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("game_music", RUNS / "game_music.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("file", "licence"),
    [
        ("one", "GPL-3 or CC-BY-3.0"),
        ("two", "GPL-3 or CC-BY-3.0"),
        ("three", "CC-BY-NC-3.0"),  # the last paragraph counts
        ("four", "GPL-3+"),
    ],
)
def test_a_file_is_under_the_licence_that_its_package_states(
    file: str, licence: str, script: Any
) -> None:
    found = script.stanzas(COPYRIGHT)
    assert script.licence_of(f"usr/share/game/dat/snd/music/{file}.ogg", found) == licence
    assert script.licence_of(f"usr/share/game/dat/snd/music/{file}.ogg", found[1:2]) != "GPL-3+"


@pytest.mark.parametrize(
    ("licence", "free"),
    [
        ("CC-BY-SA-3.0", True),
        ("GPL-2+", True),
        ("GPL-3 or CC-BY-NC-3.0", True),
        ("CC-BY-NC-3.0", False),
        ("CC-BY-ND-4.0", False),
        ("CC-BY-4.0 and CC-BY-NC-3.0", False),
        ("Sampling-Plus-1.0", False),
    ],
)
def test_what_forbids_some_use_is_left_out(licence: str, free: bool, script: Any) -> None:
    assert script.is_free(licence) == free


def test_a_recording_is_known_again_cut_and_louder_and_no_other_is(script: Any) -> None:
    rng = np.random.default_rng(0)

    def melody() -> Any:
        time = np.arange(script.RATE // 2) / script.RATE
        notes = 220.0 * 2 ** (rng.integers(0, 24, 120) / 12)
        return np.concatenate([np.sin(2 * np.pi * hertz * time) for hertz in notes])

    one, other = melody().astype(np.float32), melody().astype(np.float32)
    cut = script.chroma(0.2 * one[7 * script.RATE : 47 * script.RATE])
    assert script.likeness(cut, script.chroma(one)) > 0.9
    assert script.likeness(cut, script.chroma(other)) < script.MATCH


def test_nothing_of_the_reserved_packages_was_used(script: Any) -> None:
    with (RUNS / "game_music.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert tuple(rows[0]) == script.FIELDS
    for row in rows:
        assert row["package"] in script.PACKAGES
        assert row["package"] not in script.RESERVED
        assert script.is_free(row["licence"])
        assert len(row["sha256"]) == 64


def beats(interval: float, confidence: float) -> list[dict[str, float]]:
    return [{"time": i * interval, "confidence": confidence} for i in range(40)]


def test_labels_are_made_of_steady_beats_that_a_model_is_sure_of(tmp_path: Path) -> None:
    script = runpy.run_path(str(RUNS / "sure_beats.py"))
    assert script["is_sure"](beats(0.5, 0.95))
    assert not script["is_sure"](beats(0.5, 0.8))
    assert not script["is_sure"](beats(0.25, 0.95))  # 240 bpm
    assert not script["is_sure"](beats(0.5, 0.95)[:7])
    ragged = beats(0.5, 0.95)
    for i in range(0, 40, 3):
        ragged[i]["time"] += 0.1
    assert not script["is_sure"](ragged)
    music, analysed, out = tmp_path / "music", tmp_path / "analysed", tmp_path / "out"
    (music / "game").mkdir(parents=True)
    (music / "game" / "sure.flac").write_bytes(b"sound")
    (analysed / "game").mkdir(parents=True)
    for name, confidence in (("sure", 0.95), ("unsure", 0.1)):
        found = [
            {"namespace": "beat", "data": beats(0.5, confidence)},
            {"namespace": "key_mode", "data": []},
        ]
        (analysed / "game" / f"{name}.jams").write_text(json.dumps({"annotations": found}))
    script["main"](music, analysed, out)
    assert sorted(path.name for path in out.iterdir()) == ["game_sure.flac", "game_sure.jams"]
    assert (out / "game_sure.flac").read_bytes() == b"sound"
    (annotation,) = json.loads((out / "game_sure.jams").read_text())["annotations"]
    assert annotation["namespace"] == "beat"
