"""The script in runs/ that fetches free music: what is used, under which licence, and what not."""

import csv
import importlib.util
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
