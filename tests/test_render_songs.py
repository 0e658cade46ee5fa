import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from filelock import FileLock

from musicfm.errors import ConfigError, OutputError, SoundFontError
from musicfm.render.composition import GENERATOR_VERSION, compose
from musicfm.render.labels import jams_text
from musicfm.render.songs import SAMPLE_RATE, RenderSummary, render_songs
from musicfm.render.soundfont import load_font
from musicfm.render.synthesis import synthesize

FIRST = 101  # this song and the next are short, and need no codec


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RenderSummary]:
    """A folder with two songs."""
    out = tmp_path_factory.mktemp("rendered") / "songs"
    return out, render_songs(2, out, seed=FIRST, num_workers=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_songs_and_labels_lie_side_by_side(rendered: tuple[Path, RenderSummary]) -> None:
    out, summary = rendered
    names = {f"song_{seed}.{suffix}" for seed in (FIRST, FIRST + 1) for suffix in ("flac", "jams")}
    assert set(contents(out)) == {*names, "journal.jsonl"}
    durations = 0.0
    for seed in (FIRST, FIRST + 1):
        song = compose(seed)
        samples, rate = soundfile.read(out / f"song_{seed}.flac", dtype="float32")
        assert rate == SAMPLE_RATE
        assert samples.shape == (round(song.duration * SAMPLE_RATE), 2)
        expected = synthesize(song, load_font(), SAMPLE_RATE)
        assert np.abs(samples - np.clip(expected, -1, 1)).max() < 2**-14
        assert (out / f"song_{seed}.jams").read_text() == jams_text(song, load_font())
        durations += song.duration
    assert (summary.done, summary.skipped) == (2, 0)
    assert summary.audio_seconds == pytest.approx(durations)


def test_the_journal_names_generator_and_font(rendered: tuple[Path, RenderSummary]) -> None:
    header = json.loads((rendered[0] / "journal.jsonl").read_text().splitlines()[0])
    font = load_font()
    assert header["settings"] == {
        "generator": "musicfm render",
        "generator_version": GENERATOR_VERSION,
        "sound_fonts": [font.sha256],
        "lead_sheets": None,
        "max_seconds": None,
        "format": "flac",
        "sample_rate": SAMPLE_RATE,
    }


def test_what_is_done_is_skipped_and_what_is_lost_is_done_again(
    rendered: tuple[Path, RenderSummary],
) -> None:
    out, _ = rendered
    before = contents(out)
    again = render_songs(2, out, seed=FIRST, num_workers=1)
    assert (again.done, again.skipped) == (0, 2)
    assert contents(out) == before
    (out / f"song_{FIRST}.flac").unlink()
    again = render_songs(2, out, seed=FIRST, num_workers=1)
    assert (again.done, again.skipped) == (1, 1)
    assert {n: c for n, c in contents(out).items() if n != "journal.jsonl"} == {
        n: c for n, c in before.items() if n != "journal.jsonl"
    }


@pytest.mark.parametrize(
    ("other", "differing"),
    [({"audio_format": "wav"}, "format"), ({"sample_rate": 16_000}, "sample_rate")],
)
def test_other_settings_are_refused(
    rendered: tuple[Path, RenderSummary], other: dict[str, Any], differing: str
) -> None:
    out, _ = rendered
    before = contents(out)
    with pytest.raises(OutputError, match=rf"other settings \({differing} differ\)"):
        render_songs(1, out, seed=FIRST, **other)
    assert contents(out) == before


def test_a_second_run_at_once_is_refused(rendered: tuple[Path, RenderSummary]) -> None:
    out, _ = rendered
    with (
        FileLock(out / ".journal.jsonl.lock"),
        pytest.raises(OutputError, match="another run is writing to"),
    ):
        render_songs(3, out, seed=FIRST)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "0 songs cannot be rendered; give 1 or more"),
        ({"count": 1, "num_workers": 0}, "num_workers is 0"),
        ({"count": 1, "seed": -1}, "seed -1 is not from 0"),
        ({"count": 2, "seed": 1_399_999_999}, "seed 1400000000 is not from 0"),
        ({"count": 1, "max_seconds": 2.0}, "songs of 2 s are too short"),
        ({"count": 5, "seed": 1_099_999_998}, "from train songs into test songs"),
        ({"count": 5, "seed": 1_199_999_998}, "from test songs into heldout songs"),
    ],
)
def test_impossible_requests(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render_songs(out=tmp_path / "songs", **arguments)
    assert not (tmp_path / "songs").exists()


def test_a_font_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(SoundFontError, match="there is no sound font at"):
        render_songs(1, tmp_path / "songs", soundfonts=[tmp_path / "none.sf2"])
    (tmp_path / "bad.sf2").write_text("no font")
    with pytest.raises(SoundFontError, match=r"bad\.sf2 cannot be used as a sound font"):
        render_songs(1, tmp_path / "songs", soundfonts=[tmp_path / "bad.sf2"])
    assert not (tmp_path / "songs").exists()


def test_a_full_disk_ends_the_run_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[:1000])
        raise OSError(errno.ENOSPC, "No space left on device")

    out = tmp_path / "songs"
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", fail, raising=True)
        with pytest.raises(OutputError, match="No space left on device"):
            render_songs(1, out, seed=FIRST, num_workers=1)
    assert not list(out.glob("*song_*"))


def start(out: Path, count: int) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "musicfm", "render", str(count), "--seed", str(FIRST),
         "--out", str(out), "--workers", "1"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def wait_for_song(out: Path, process: "subprocess.Popen[str]") -> None:
    while not list(out.glob("song_*.flac")):
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.processes
def test_killed_runs_continue_and_end_as_if_undisturbed(
    rendered: tuple[Path, RenderSummary], tmp_path: Path
) -> None:
    out = tmp_path / "songs"
    process = start(out, 2)
    wait_for_song(out, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    for path in out.glob("song_*"):
        assert path.read_bytes() == (rendered[0] / path.name).read_bytes()
    summary = render_songs(2, out, seed=FIRST, num_workers=1)
    assert summary.done >= 1
    for path in rendered[0].glob("song_*"):
        assert path.read_bytes() == (out / path.name).read_bytes()


@pytest.mark.processes
def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "songs"
    process = start(out, 50)
    wait_for_song(out, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted; what is done is in")
    assert "Traceback" not in errors
    assert not list(out.glob("*.partial")) + list(out.glob(".*.partial"))
