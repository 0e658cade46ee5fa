"""What is printed of names of files, tags and arguments, which may hold anything."""

import json
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import audio_files
import tones
from command_line import Run
from musicfm import errors
from musicfm.analysis.analyzer import Analysis
from musicfm.analysis.exports import label_tracks
from musicfm.analysis.index import write_index
from musicfm.analysis.page import render_page
from musicfm.analysis.sound import Sound
from musicfm.datasets.annotations import Annotations, Spans
from musicfm.errors import AudioError, MusicFMError, OutputError, printable
from musicfm.progress import AudioProgress

EVIL = "x\x1b]0;owned\x07\x1b[2J\x1b[31m\r\n\u202egpj.\u2066\x9b\u2028y"
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def test_what_is_safe_stays_as_it_is() -> None:
    for text in ("Zoë", "Zoe\u0308", "歌 🎵 👩\u200d🎤", "שיר\u200f", r"a\x1b", "", " "):
        assert printable(text) == text


def test_what_is_not_safe_becomes_escapes() -> None:
    assert printable("a\x1b[31m\r\n\x7f\x85\u202e\u2069\udce9") == (
        r"a\x1b[31m\r\n\x7f\x85\u202e\u2069\udce9"
    )
    assert printable(printable(EVIL)) == printable(EVIL)
    assert not UNSAFE.search(printable(EVIL))


def test_errors_of_all_kinds_are_safe_to_print() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    for kind in kinds:
        error = kind(f"{EVIL} is bad")
        if isinstance(error, MusicFMError):
            assert str(error) == f"{printable(EVIL)} is bad"
            assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert isinstance(OutputError("x"), OSError)
    assert isinstance(AudioError("x"), ValueError)


def test_lines_above_a_bar_are_safe_to_print(capsys: pytest.CaptureFixture[str]) -> None:
    AudioProgress("Scanning", 0, 0.0, False).say(f"failed: [bold]{EVIL}[/bold]")
    assert capsys.readouterr().err == f"failed: [bold]{printable(EVIL)}[/bold]\n"


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Recordings that have evil names: one in order, one damaged, one that is none."""
    folder = tmp_path / EVIL
    folder.mkdir()
    shutil.copy(audio_files.write(tmp_path, "tone.flac"), folder / f"{EVIL}.flac")
    damaged = audio_files.truncate(audio_files.write(tmp_path, "tone.mp3"))
    shutil.copy(damaged, folder / f"{EVIL}2.mp3")
    (folder / f"{EVIL}.wav").write_bytes(b"x" * 100)
    (folder / f"{EVIL}.jams").write_text("{}")
    return folder


def test_commands_print_nothing_that_a_terminal_obeys(
    run: Run, music: Path, tmp_path: Path, published_tiny: Path
) -> None:
    model, probe = ("--model", published_tiny), ("probe", "key", "--model", "mel")
    commands: list[tuple[object, ...]] = [
        ("scan", music, "--out", music / "songs.parquet", "--workers", 1),
        ("scan", music, "--out", music / "songs.txt"),
        ("embed", music, "--out", music / "out", *model, "--on-damage", "warn", "--workers", 1),
        ("embed", music, "--out", music / "out", *model, "--layer", 1),
        ("embed", music, "--list", music / "no.txt", *model),
        ("embed", music, "--model", music / "no.pt"),
        ("embed", music, "--layer", EVIL),
        (*probe, "--data", music / "songs.parquet", "--out", music / "probe"),
        (*probe, "--data", music / "none", "--out", music / "probe"),
        ("convert", music / "no", music / "there"),
        ("scan", f"--{EVIL}"),
        ("scan", music, "--workers", EVIL),
        ("probe", EVIL),
        (EVIL,),
    ]
    for command in commands:
        _, output, errors = run(*command)
        said = output + errors
        assert said
        assert not UNSAFE.search(said), (command[0], said)


def test_pages_are_safe_to_look_at(tmp_path: Path) -> None:
    analysis = Analysis(EVIL, 16.0, tones.annotations(0), np.eye(2, dtype=np.float32), {})
    analysis = replace(analysis, artist=EVIL, file=f"{EVIL}.wav")
    page = render_page(analysis, Sound(b"", np.zeros(2, np.float32)))
    assert f"<title>{printable(EVIL)}" in page
    for text in (printable(EVIL), f"{printable(EVIL)}.wav"):
        assert json.dumps(text) in page  # what its script shows
    for name in (EVIL, "b"):
        (tmp_path / f"{name}.jams").write_text(json.dumps(analysis.to_jams()))
    path = write_index(tmp_path, [{"name": EVIL}, {"name": "b"}])
    assert path is not None
    index = path.read_text()
    assert index.count(printable(EVIL)) == 5  # two titles and artists, and the name of one
    for text in (page, index):
        assert not UNSAFE.search(text.replace("\x7f", ""))  # minified scripts
    assert analysis.to_jams()["file_metadata"]["title"] == EVIL  # what is stored, stays


def test_label_tracks_keep_their_lines() -> None:
    spans = Spans(np.array([[0.0, 4.0]]), ("a\tb\nc",))
    analysis = Analysis("x", 4.0, Annotations(segments=spans), np.eye(1, dtype=np.float32), {})
    assert r"a\tb\nc" in label_tracks(analysis)[".sections.labels.txt"].splitlines()[0]
