"""The commands of the tasks, on tones, as a user runs them."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import tones
from command_line import Run
from musicfm.datasets.annotations import read_jams
from musicfm.datasets.labelled import read_labelled
from musicfm.model.config import preset
from musicfm.model.musicfm import MusicFM
from musicfm.render.benchmark import TEST_SETS
from musicfm.tasks.corpus import SPLITTING
from musicfm.tasks.report import COLUMNS


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tones.write_tones(tmp_path_factory.mktemp("cli") / "music", 16)


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.statistics
def test_from_labels_to_a_head_to_annotations_to_scores(run: Run, music: Path, there: Path) -> None:
    options = ("--seeds", 2, "--workers", 1)
    status, out, errors = run(
        "probe", "chord", "--model", "chroma", "--data", music, "--out", "probes", *options
    )
    assert status == 0, errors
    assert "| chroma" in out
    assert "FM7" not in out  # the paper is for table1
    assert (there / "probes" / "table.md").read_text() == out.removesuffix("\n")
    head = (there / "probes" / "head" / "head.json").read_bytes()
    for other in (("key", "--model", "chroma"), ("chord", "--model", "mel")):
        status, _, errors = run("probe", *other, "--data", music, "--out", "probes", *options)
        assert status == 1
        assert "probes holds a chord head for 'chroma'; choose another folder" in errors
    assert (there / "probes" / "head" / "head.json").read_bytes() == head
    status, _, errors = run("predict", "probes/head", music / "tone_3.wav", "--workers", 1)
    assert status == 0, errors
    assert "1 annotated" in errors
    read = read_jams(there / "predictions" / "tone_3.jams")
    assert read.annotations.chords is not None
    assert set(read.annotations.chords.labels) == {"A:min", "C:maj"}
    status, out, errors = run(
        "evaluate",
        "probes/head",
        "--data",
        music,
        "--split",
        "all",
        "--out",
        "scores.json",
        "--workers",
        1,
    )
    assert status == 0, errors
    assert "| all | 16 |" in out
    content = json.loads((there / "scores.json").read_bytes())
    assert content["tests"]["all"]["summary"]["chord"] > 0.8
    learnt = [i for i in read_labelled([music], SPLITTING).tracks if i.track.split != "test"]
    assert f"probes/head: {len(learnt)} test recordings are among those that it" in errors
    _, _, errors = run("evaluate", "probes/head", "--data", music, "--workers", 1)
    assert "probes/head: " not in errors


@pytest.mark.statistics
def test_the_table_of_a_folder(run: Run, music: Path, there: Path) -> None:
    command = ("table1", "--models", "chroma,trivial,oracle", "--tasks", "chord,key")
    options = ("--data", music, "--out", "table", "--seeds", 1, "--workers", 1)
    status, out, errors = run(*command, *options)
    assert status == 0, errors
    for word in ("chroma", "trivial", "oracle", "| FM7 | .714 | .674 |", "## test"):
        assert word in out
    assert {path.name for path in (there / "table").iterdir()} >= {
        "table.md",
        "table.csv",
        "table.png",
        "report.json",
    }
    assert run(*command, *options)[1] == out


@pytest.mark.statistics
def test_finetuning_a_tiny_model(run: Run, music: Path, there: Path, published_tiny: Path) -> None:
    mine = shutil.copytree(music, there / "mine")
    command = ("finetune", "key", "--model", published_tiny, "--data", mine, "--out", "tuned")
    options = ("--epochs", 1, "--epoch-clips", 8, "--workers", 1, "--device", "cpu")
    status, out, errors = run(*command, *options)
    assert status == 0, errors
    assert "| test |" in out
    status, _, errors = run("predict", "tuned", music / "tone_0.wav", "--workers", 1)
    assert status == 0, errors
    assert (there / "predictions" / "tone_0.jams").is_file()
    status, again, errors = run(*command, *options)
    assert (status, again) == (0, out)
    # Where the labels of the test set are others, it is tested again: with what it says itself.
    tested = [item.audio for item in read_labelled([mine], SPLITTING).of_split("test")]
    assert run("predict", "tuned", *tested, "--workers", 1)[0] == 0
    for audio in tested:
        shutil.copy(there / "predictions" / f"{audio.stem}.jams", audio.with_suffix(".jams"))
    status, again, errors = run(*command, *options)
    assert status == 0, errors
    assert f"| test | {len(tested)} | 1.000 " in again
    probe = ("probe", "key", "--model", "mel", "--data", music, "--out", "tuned", "--workers", 1)
    status, _, errors = run(*probe)
    assert status == 1
    assert "tuned holds a fine-tuned model" in errors


def test_what_is_wrong_is_said_in_a_sentence(run: Run, music: Path, there: Path) -> None:
    def error(*arguments: object) -> str:
        status, _, errors = run(*arguments)
        assert status == 1
        assert "Traceback" not in errors
        return errors

    (there / "empty").mkdir()
    probe = ("probe", "chord", "--out", "out", "--workers", 1)
    assert "there is no collection 'nowhere'" in error(*probe, "--data", "nowhere")
    assert "no recordings" in error(*probe, "--data", there / "empty").lower()
    assert "no model 'nowhere'" in error(*probe, "--data", music, "--model", "nowhere")
    assert "layer 9" in error(*probe, "--data", music, "--model", "nano", "--layer", 9)
    mel = (*probe, "--data", music, "--model", "mel")
    assert "'mel' has no layer 3" in error(*mel, "--layer", 3)
    assert "there is no task 'beets'" in error(
        "table1", "--tasks", "beets", "--data", music, "--out", "out"
    )
    table = ("table1", "--data", music, "--out", "out")
    assert "a row has no name" in error(*table, "--models", "mel,")
    for rates in ("1e-4", "a,b", "1,2,3"):
        assert f"--learning-rates {rates} is not two numbers" in error(
            *table, "--learning-rates", rates
        )
    assert "nowhere" in error("predict", "nowhere", music)
    assert "cannot compute on 'gpu'" in error(*probe, "--data", music, "--device", "gpu")
    assert "nowhere" in error("evaluate", "nowhere", "--data", music)
    assert "it is a folder; name a file" in error(
        "evaluate", "nowhere", "--data", music, "--out", there
    )
    bad = there / "bad"
    bad.mkdir()
    (bad / "a.jams").write_text("{")
    (bad / "a.wav").write_bytes((music / "tone_0.wav").read_bytes())
    assert "is not JSON" in error(*probe, "--data", bad)
    few = there / "few"  # too few to be split in three
    few.mkdir()
    for name in ("tone_0.wav", "tone_0.jams", "tone_1.wav", "tone_1.jams"):
        shutil.copy(music / name, few)
    tune = ("finetune", "chord", "--model", "nano", "--data", few, "--out", "tuned")
    said = error(*tune, "--workers", 1)
    assert "none of the 0 recordings for the test set 'test'" in said
    assert "few has 2 recordings for training, 0 for validation and 0 for testing" in said
    scored = ("evaluate", "nano/chord", "--data", few, "--split", "all", "--workers", 1)
    status, _, errors = run(*scored)
    assert (status, "for another split" in errors) == (0, False), errors
    assert not (there / "tuned").exists()


@pytest.mark.parametrize("option", ["--fraction", "--part"])
def test_a_fraction_of_the_songs_may_be_asked_for_by_its_old_name(
    run: Run, tmp_path: Path, option: str
) -> None:
    head = ("probe", "key", "--data", "rendered-v1", "--out", tmp_path / "out")
    status, _, errors = run(*head, option, 2)
    assert status == 1
    assert "a fraction of 2 of the songs is impossible" in errors


@pytest.mark.statistics
@pytest.mark.timeout(1_200)
def test_the_table_of_the_readme_on_a_few_songs(run: Run, there: Path) -> None:
    """All eight columns, for the shipped model and baselines, from songs that are rendered here."""
    command = ("table1", "--models", "nano,chroma,trivial,oracle", "--fraction", 0.02, "--seeds", 1)
    status, out, errors = run(*command, "--out", "table")
    assert status == 0, errors
    rows = list(csv.DictReader((there / "table" / "table.csv").read_text().splitlines()))
    columns = [column.label for column in COLUMNS]
    for test in TEST_SETS:
        found = {(row["row"], row["column"]) for row in rows if row["test"] == test}
        assert found >= {
            (name, label) for name in ("nano", "trivial", "oracle") for label in columns
        }
        best = {
            row["column"]: float(row["score"])
            for row in rows
            if row["test"] == test and row["row"] == "oracle"
        }
        assert all(best[label] >= 0.97 for label in columns)
    assert "They do not predict those on" in out
    assert (there / "table" / "layers.png").is_file()


@pytest.mark.statistics
def test_all_heads_are_trained_together_and_used(run: Run, there: Path) -> None:
    tones.write_tones(there / "labelled", 4)
    shutil.copytree(there / "labelled", there / "music", ignore=shutil.ignore_patterns("*.jams"))
    shutil.copy(there / "labelled" / "tone_0.wav", there / "labelled" / "alone.wav")
    torch.manual_seed(0)
    MusicFM(preset("tiny").replace(context_seconds=4.0)).save_pretrained(there / "small")
    command = ("train", "labelled", "--unlabelled", "music", "--out", "run", "--model", "small")
    steps = ("--steps", 1, "--batch-size", 2, "--workers", 1)
    status, _, errors = run(*command, *steps)
    assert status == 0, errors
    assert "the model is run/model" in errors
    status, _, errors = run(*command, *steps[:2], "--batch-size", 3)
    assert status == 1
    assert "run" in errors
    assert "another batch_size" in errors
    status, _, errors = run("analyze", "music", "--model", "run/model", "--out", "out", "--no-page")
    assert status == 0, errors
    assert len(list((there / "out").rglob("*.jams"))) == 4
