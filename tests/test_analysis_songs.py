"""Many songs, analysed into a folder, by Python and by the command line."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import tones
from command_line import Run
from heads_of import write_heads
from musicfm.analysis.analyzer import load_predictor
from musicfm.analysis.exports import EXPORTS
from musicfm.analysis.html import asset
from musicfm.analysis.songs import analyse_collection
from musicfm.datasets.annotations import read_jams
from musicfm.errors import ConfigError
from musicfm.tasks.predict import Predictor


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"))


@pytest.fixture(scope="module")
def predictor(heads: list[Path]) -> Predictor:
    return load_predictor("nano", heads)


@pytest.fixture
def music(tmp_path: Path) -> Path:
    """Two songs in folders, and a file that is none."""
    tones.write_tones(tmp_path / "tones", 2)
    album = tmp_path / "music" / "album"
    album.mkdir(parents=True)
    shutil.copy(tmp_path / "tones" / "tone_0.wav", album / "a.b.wav")
    shutil.copy(tmp_path / "tones" / "tone_1.wav", tmp_path / "music" / "c.wav")
    (tmp_path / "music" / "bad.mp3").write_bytes(b"no sound" * 100)
    return tmp_path / "music"


def test_every_song_gets_its_files_and_bad_ones_are_passed_over(
    predictor: Predictor, music: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"exports": list(EXPORTS), "num_workers": 1}
    summary = analyse_collection(predictor, [music], out, **options)
    assert (summary.done, [Path(path).name for path, _ in summary.failures]) == (2, ["bad.mp3"])
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    exported = [suffix for export in EXPORTS.values() for suffix in export.suffixes]
    suffixes = (".jams", ".html", *exported)
    expected = {f"{name}{suffix}" for name in ("album/a.b", "c") for suffix in suffixes}
    assert {name for name in files if not name.startswith(".")} == {
        *expected,
        "index.html",
        "journal.jsonl",
        "report.json",
    }
    read = read_jams(out / "album" / "a.b.jams")
    assert read.duration == tones.SECONDS
    assert read.annotations.segments is not None
    assert json.loads((out / "c.jams").read_bytes())["sandbox"]["model"] == "nano"
    page = (out / "c.html").read_text(encoding="utf-8")
    for name in ("style.css", "page.css", "shared.js", "page.js", "wavesurfer.min.js"):
        assert asset(f"analysis/assets/{name}") in page, name
    assert "Redistribution and use in source and binary forms" in page

    before = (out / "c.html").stat().st_mtime_ns
    again = analyse_collection(predictor, [music], out, **options)
    assert (again.done, again.skipped) == (0, 2)
    assert (out / "c.html").stat().st_mtime_ns == before
    (out / "c.jams").unlink()
    assert analyse_collection(predictor, [music], out, **options).done == 1


def test_what_was_not_asked_for_before_is_made_of_the_jams_files(
    predictor: Predictor, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct, later = tmp_path / "direct", tmp_path / "later"
    kinds: Any = {"exports": ["csv", "labels", "midi"], "num_workers": 1}
    analyse_collection(predictor, [music], direct, **kinds)
    analyse_collection(predictor, [music], later, page=False, num_workers=1)
    assert not list(later.rglob("*.csv"))
    monkeypatch.setattr(Predictor, "decode", None)  # nothing is computed again
    summary = analyse_collection(predictor, [music], later, **kinds)
    assert (summary.done, summary.skipped, len(summary.failures)) == (0, 2, 1)
    for path in direct.rglob("*"):
        if path.suffix in (".txt", ".mid", ".html", ".csv"):
            made = (later / path.relative_to(direct)).read_bytes()
            assert made == path.read_bytes(), path


def test_titles_come_from_tags_and_an_index_lists_all(
    predictor: Predictor, tmp_path: Path, run: Run
) -> None:
    music, out = tmp_path / "music", tmp_path / "out"
    tones.write_tones(music, 2)
    samples, rate = soundfile.read(music / "tone_1.wav")
    (music / "tone_1.wav").unlink()
    with soundfile.SoundFile(music / "b & c.flac", "w", rate, 1) as file:
        file.title, file.artist = "Take <5>", "Zoë"
        file.write(samples)
    analyse_collection(predictor, [music], out, num_workers=1)
    about = json.loads((out / "b & c.jams").read_bytes())
    assert about["file_metadata"]["title"] == "Take <5>"
    assert about["file_metadata"]["artist"] == "Zoë"
    assert about["sandbox"]["file"] == "b & c.flac"
    index = (out / "index.html").read_text(encoding="utf-8")
    assert index.count("<tr><td>") == 2
    assert '<a href="b%20%26%20c.html">Take &lt;5&gt;</a><small>Zoë</small>' in index
    assert "0:16" in index

    # A page of somebody else stays.
    (out / "index.html").write_text("mine")
    analyse_collection(predictor, [music], out, num_workers=1)
    assert (out / "index.html").read_text() == "mine"


def test_into_the_library_itself(predictor: Predictor, music: Path, tmp_path: Path) -> None:
    """With a name that is not a text, and what a killed run left."""
    name = os.fsdecode(b"caf\xe9.wav")
    (music / "c.wav").rename(music / name)
    (music / ".features").mkdir()
    (music / ".features" / "0.npy").touch()
    for done in (2, 0):
        options: dict[str, Any] = {"exports": ["click"], "num_workers": 1}
        summary = analyse_collection(predictor, [music], music, **options)
        assert (summary.done, summary.skipped) == (done, 2 - done)
    assert len(list(music.rglob("*.click.wav"))) == 2
    assert not (music / ".features").exists()
    read = json.loads((music / os.fsdecode(b"caf\xe9.jams")).read_text(encoding="utf-8"))
    assert read["file_metadata"]["title"] == r"caf\udce9"


def test_what_cannot_be_exported_is_said_before_anything_is_done(
    predictor: Predictor, music: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"no export 'xml'; choose from csv, labels, midi, click"):
        analyse_collection(predictor, [music], tmp_path / "out", exports=["xml"])
    assert not (tmp_path / "out").exists()


def test_a_folder_without_recordings_is_no_success(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match=r"no recordings in .*none"):
        analyse_collection(predictor, [tmp_path / "none"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_damaged_song_is_refused_or_used_in_part(
    predictor: Predictor, heads: list[Path], tmp_path: Path, run: Run
) -> None:
    soundfile.write(
        tmp_path / "whole.ogg", np.random.default_rng(0).normal(0, 0.1, 480_000), 24_000
    )
    (tmp_path / "cut.ogg").write_bytes((tmp_path / "whole.ogg").read_bytes()[:40_000])
    ((_, reason),) = analyse_collection(
        predictor, [tmp_path / "cut.ogg"], tmp_path / "out"
    ).failures
    advice = re.search(r"(\w+), (\w+) and (\w+) take (--[\w-]+) warn", reason)
    assert advice, reason
    for verb in advice.groups()[:3]:
        assert advice[4] in run(verb, "--help")[1]

    out, named = tmp_path / "used", [part for head in heads for part in ("--head", str(head))]
    command = ("analyze", tmp_path / "cut.ogg", "--out", out, advice[4], "warn", *named)
    status, _, said = run(*command, "--export", "click")
    assert status == 0, said
    assert "1 with a warning" in said
    assert said.count("cut.ogg is damaged") == 1
    encoded = read_jams(out / "cut.jams").duration
    assert encoded is not None
    assert 1.0 < encoded < 19.0
    assert soundfile.info(out / "cut.click.wav").duration == pytest.approx(encoded, abs=0.01)
    sandbox = json.loads((out / "cut.jams").read_text(encoding="utf-8"))["sandbox"]
    (warning,) = sandbox["warnings"]
    assert warning.startswith("cut.ogg is damaged")
    assert warning in (out / "cut.html").read_text(encoding="utf-8")


def test_from_the_command_line(run: Run, heads: list[Path], music: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    named = [part for head in heads[:2] for part in ("--head", str(head))]
    status, _, said = run("analyze", str(music), "--out", str(out), "--no-page", *named)
    assert status == 1
    assert "2 analysed" in said
    assert "1 failed" in said
    assert said.count("bad.mp3") == 1
    assert not list(out.rglob("*.html"))
    found = read_jams(out / "c.jams").annotations
    assert found.beats is not None
    assert found.keys is None


def test_heads_for_several_tasks_share_a_folder(run: Run, music: Path, tmp_path: Path) -> None:
    out, song = tmp_path / "out", music / "c.wav"

    def predict(head: str, *options: object) -> tuple[int, str]:
        arguments = ("predict", head, song, "--out", out, "--workers", 1, *options)
        status, _, errors = run(*arguments)
        return status, errors

    assert predict("nano/key")[0] == 0
    assert read_jams(out / "c.jams").annotations.segments is None
    status, errors = predict("nano/structure")
    assert status == 0, errors
    assert f"each file in {out} gets what the heads for key, structure find" in errors
    found = read_jams(out / "c.jams").annotations
    assert found.keys is not None
    assert found.segments is not None
    status, errors = predict("nano/key")
    assert (status, "nothing new: 1 of 1 were done" in errors) == (0, True), errors
    assert read_jams(out / "c.jams").annotations.segments is not None


def test_heads_that_do_not_go_together_are_refused(
    run: Run, heads: list[Path], music: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (chord,) = (head for head in heads if head.name == "chord")
    arguments = ("--out", out, "--workers", 1)
    assert run("predict", "nano/chord", music / "c.wav", *arguments)[0] == 0
    status, _, errors = run("predict", chord, music / "c.wav", *arguments)
    assert status == 1
    assert f"{out} holds chord by another head, " in errors
    assert "use another folder (--out), or leave that out (--overwrite)" in errors


def test_a_tempo_is_part_of_a_result(
    run: Run, heads: list[Path], music: Path, tmp_path: Path
) -> None:
    options = ("--out", tmp_path / "out", "--no-page", "--workers", 1)
    song = music / "c.wav"
    status, _, errors = run("analyze", song, "--tempo", "quick", *options)
    assert status == 1
    assert "the tempo is 'quick'; give two numbers from 20 to 400 beats per minute" in errors
    assert run("analyze", song, "--tempo", "80-160", *options)[0] == 0
    found = json.loads((tmp_path / "out" / "c.jams").read_bytes())["sandbox"]["heads"]
    assert [head["decoding"].get("tempo") for head in found if head["task"] == "beat"] == ["80-160"]
    status, _, errors = run("analyze", song, *options)
    assert "--tempo 80-160" in errors
    assert "nothing new: 1 of 1 were done" in errors
