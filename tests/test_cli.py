import codecs
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

import audio_files
import musicfm
import npz
from command_line import Run
from musicfm import cli
from musicfm.embedding.embedder import Embedder
from musicfm.model.inference.optimized import multiplies_int8
from musicfm.model.musicfm import MusicFM
from songs import write_songs
from test_pretraining_run import MICRO, at_step, rows


@pytest.fixture(scope="module")
def song(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audio_files.write(tmp_path_factory.mktemp("music"), "tone.ogg", seconds=2.0)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "musicfm", *map(str, arguments)]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_is_downloaded_for_a_folder_without_recordings(
    name: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(MusicFM, "from_pretrained", None)  # would raise TypeError
    status, _, said = run("embed", tmp_path / name, "--model", "msd", "--out", tmp_path / "out")
    assert status == 1
    assert f"no recordings in {tmp_path / name}" in said
    assert not (tmp_path / "out").exists()


def test_names_that_are_nearly_right_are_suggested(run: Run, tmp_path: Path, song: Path) -> None:
    status, _, said = run("embed", song, "--model", "Nanno", "--out", tmp_path / "out")
    assert (status, "did you mean 'nano'?" in said) == (1, True)
    status, _, said = run("predict", "nano/beet", song, "--out", tmp_path / "out")
    assert (status, "did you mean 'nano/beat'?" in said) == (1, True)


def test_help_has_the_commands_in_groups_a_line_each(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, said, _ = run("--help")
    groups = re.findall(r"─ (\w+) ─", said)
    assert groups == ["Options", "Embed", "Analyse", "Library", "Train", "Data", "Serve"]
    commands = said[said.index("─ Embed") :]
    rows = [line for line in commands.splitlines() if line.startswith("│")]
    assert all(re.match(r"│ [a-z]", row) for row in rows), "a description takes a second line"
    assert len(rows) == len(cli.app.registered_commands) + len(cli.app.registered_groups)


def test_a_file_is_embedded(
    run: Run, song: Path, published_tiny: Path, tiny: MusicFM, tmp_path: Path
) -> None:
    status, _, errors = run(
        "embed", song, "--out", tmp_path, "--model", published_tiny, "--layer", 3
    )
    assert status == 0, errors
    assert "1 embedded" in errors
    found = npz.read(tmp_path / "tone.npz")
    np.testing.assert_allclose(found["frames"], Embedder(tiny, 3)(song).frames, atol=1e-5)


@pytest.mark.parametrize(("layer", "shape"), [("1,3", (2, 50, 64)), ("all", (4, 50, 64))])
def test_several_layers(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path, layer: str, shape: tuple[int, ...]
) -> None:
    run("embed", song, "--out", tmp_path, "--model", published_tiny, "--layer", layer)
    assert npz.read(tmp_path / "tone.npz")["frames"].shape == shape


@pytest.mark.parametrize(
    ("pool", "name", "shape"), [("mean", "mean", (64,)), ("8", "frames", (16, 64))]
)
def test_pooling(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path, pool: str, name: str,
    shape: tuple[int, ...],
) -> None:  # fmt: skip
    run("embed", song, "--out", tmp_path, "--model", published_tiny, "--pool", pool)
    assert npz.read(tmp_path / "tone.npz")[name].shape == shape


def test_half_precision_is_near(run: Run, song: Path, published_tiny: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        out = tmp_path / dtype
        status, _, _ = run("embed", song, "--out", out, "--model", published_tiny, "--dtype", dtype)
        assert status == 0
    exact, brain, half = (
        npz.read(tmp_path / dtype / "tone.npz")["frames"]
        for dtype in ("float32", "bfloat16", "float16")
    )
    assert exact.dtype == brain.dtype == half.dtype == np.float32
    assert 0 < np.abs(half - exact).max() < np.abs(brain - exact).max() < 0.3


@pytest.mark.skipif(not multiplies_int8(), reason="this CPU has no instructions for int8")
def test_int8_is_near(run: Run, song: Path, published_tiny: Path, tmp_path: Path) -> None:
    arguments = ["embed", song, "--model", published_tiny, "--out"]
    assert run(*arguments, tmp_path / "float32")[0] == 0
    assert run(*arguments, tmp_path / "int8", "--dtype", "int8")[0] == 0
    found, exact = (
        npz.read(tmp_path / dtype / "tone.npz")["frames"] for dtype in ("int8", "float32")
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.3
    status, _, said = run(*arguments, tmp_path / "int8", "--dtype", "float32")
    assert status == 1
    assert "dtype" in said


def test_int8_is_for_cpus(run: Run, song: Path, tmp_path: Path) -> None:
    status, _, said = run("embed", song, "--out", tmp_path, "--dtype", "int8", "--device", "cuda")
    assert status == 1
    assert "--dtype int8 is for CPUs, and --device is 'cuda'; give cpu" in said


def test_a_list_of_files(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text(f"{song}\n\n")
    arguments = ["--model", published_tiny]
    assert run("embed", "--list", listing, "--out", tmp_path / "a", *arguments)[0] == 0
    with listing.open() as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert run("embed", "--list", "-", "--out", tmp_path / "b", *arguments)[0] == 0
    assert (tmp_path / "a" / "tone.npz").exists()
    assert (tmp_path / "b" / "tone.npz").exists()
    monkeypatch.setattr(sys, "stdin", None)
    _, _, errors = run("embed", "--list", "-", "--out", tmp_path / "b", *arguments)
    assert errors == "error: standard input is closed; give --list a file\n"


def test_a_list_may_have_names_of_any_bytes(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    """Such as a character that ends a line of text, or bytes that are no text; and Windows' way."""
    music, listing = tmp_path / "music", tmp_path / "list.txt"
    music.mkdir()
    names = [b"caf\xe9.wav", "a\u2028b.wav".encode(), b"plain.wav"]
    for name in (*names, b"b.wav"):
        shutil.copy(song, music / os.fsdecode(name))
    lines = b"".join(os.path.join(os.fsencode(music), name) + b"\r\n" for name in names)
    listing.write_bytes(codecs.BOM_UTF8 + lines)
    options = ("--model", published_tiny, "--out", tmp_path / "out", "--workers", 1)
    status, _, errors = run("embed", "--list", listing, *options)
    assert (status, "3 embedded" in errors) == (0, True), errors


def test_a_manifest_stands_for_its_recordings(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    manifest, options = tmp_path / "m.jsonl", ["--out", tmp_path / "out", "--model", published_tiny]
    assert run("scan", song.parent, "--out", manifest, "--workers", 1)[0] == 0
    status, _, errors = run("embed", manifest, *options)
    assert (status, "1 embedded" in errors) == (0, True)
    assert (tmp_path / "out" / "tone.npz").exists()
    assert "nothing new: 1 of 1 were done; see" in run("embed", song.parent, *options)[2]


def test_a_song_in_two_formats_is_one_and_no_error(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    music, out = tmp_path / "music", tmp_path / "out"
    music.mkdir()
    for name in ("tone.flac", "tone.ogg", "tone.wav"):
        audio_files.write(music, name, seconds=2.0)
    arguments = ["embed", music, "--out", out, "--model", published_tiny]
    status, _, errors = run(*arguments)
    assert status == 0, errors
    assert "tone.ogg is left out: tone.flac has the same name; rename one" in errors
    assert "2 left out beside others of the same name" in errors
    (music / "tone.aiff").write_bytes((music / "tone.wav").read_bytes())
    status, _, errors = run(*arguments)
    assert status == 0, errors
    assert "tone.aiff is left out: tone.flac has the same name" in errors


def test_a_run_goes_on_without_its_options(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--model", published_tiny, "--layer", 1, "--pool", "mean")
    assert run("embed", song, "--out", out, *options)[0] == 0
    status, _, errors = run("embed", song, "--out", out)
    assert (status, "nothing new: 1 of 1 were done" in errors) == (0, True), errors
    said = f"--model {published_tiny} --layer 1 --pool mean"
    assert f"continuing with the options of the run in {out}: {said}" in errors
    status, _, errors = run("embed", song, "--out", out, "--layer", 2)
    assert status == 1
    assert "(layers differ); use another folder (--out), or do them again (--overwrite)" in errors
    status, _, errors = run("embed", song, "--out", out, "--layer", 2, "--overwrite")
    assert status == 0, errors
    assert np.load(out / "tone.npz")["frames"].shape[1] == 192  # nano's, as without options


def test_the_last_lines_name_the_table(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = ("--model", published_tiny, "--pool", "mean", "--format", "parquet", "--out", out)
    _, _, errors = run("embed", song, *options)
    table = out / "embeddings.parquet"
    assert f"the table, for pandas or pyarrow.parquet.read_table, is {table}\n" in errors
    assert parquet.read_table(table).num_rows == 1


def test_one_bad_file_is_status_1_and_the_rest_is_done(
    run: Run, song: Path, published_tiny: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.mp3"
    bad.write_text("no music")
    arguments = ["embed", bad, song, "--out", tmp_path / "out", "--model", published_tiny]
    status, _, errors = run(*arguments)
    assert status == 1
    assert "1 embedded" in errors
    assert "1 failed" in errors
    assert "bad.mp3 is not audio" in errors
    status, _, errors = run(*arguments)
    assert status == 1
    assert "nothing new: 1 of 2 were done, 1 failed; see" in errors
    assert "real time" not in errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to embed; give files or folders, or --list FILE"),
        (["x.wav", "--layer", "seven"], "--layer is 'seven'; give a number, several (3,7), or all"),
        (["x.wav", "--layer", "2,-2"], "of the layers 2, 2, one comes twice; give each once"),
        (["x.wav", "--layer", "9"], "no layer 9; this model has layers 0 to 3"),
        (["x.wav", "--pool", "max"], "--pool is 'max'; give none, mean, or a rate in Hz"),
        (["x.wav", "--pool", "-3"], "cannot pool to -3.0 Hz; give a rate above zero"),
        (["x.wav", "--format", "parquet"], "pool to the mean"),
        (["x.wav", "--format", "parquet", "--pool", "8"], "pool to the mean"),
        (["x.wav", "--overlap", "20"], "overlap_seconds is 20.0; choose between 0 and 15"),
        (["x.wav", "--device", "abacus"], "cannot compute on 'abacus'"),
        (["x.wav", "--actors", "2"], "--address and --actors are for --engine ray"),
        (["x.wav", "--engine", "ray", "--device", "mps"], "with --engine ray: auto, cpu or cuda"),
        (["x.wav", "--engine", "ray", "--compile"], "--compile is for --engine local"),
        (["gopher://x/y.wav"], "cannot read gopher://x/y.wav: Protocol not known"),
        (["x.wav", "--model", "no/such/model.pt"], "there is no file no/such/model.pt"),
        (["--list", "no/such/list"], "cannot read the list no/such/list"),
        (["x.wav", "--out", "/dev/null/out"], "cannot write /dev/null/out"),
    ],
)
def test_wrong_input_is_one_sentence(
    run: Run,
    published_tiny: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.wav").touch()
    defaults = ["--model", published_tiny, "--out", tmp_path / "out"]
    status, output, errors = run("embed", *defaults, *arguments)
    assert status == 1
    assert output == ""
    assert errors.startswith("error: ")
    assert message in errors
    assert len(errors.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_checkpoints_convert_both_ways(run: Run, published_tiny: Path, tmp_path: Path) -> None:
    assert run("convert", published_tiny, tmp_path / "ours")[0] == 0
    assert run("convert", tmp_path / "ours", tmp_path / "again.pt")[0] == 0
    assert run("convert", tmp_path / "again.pt", tmp_path / "third")[0] == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("ours", "third")]
    assert weights[0] == weights[1]
    # What a model was trained on goes along, and nothing stays of one that was there.
    heard = tmp_path / "third" / "training_tracks.txt"
    heard.write_text("0\n")
    assert run("convert", tmp_path / "third", tmp_path / "ours", "--overwrite")[0] == 0
    assert (tmp_path / "ours" / heard.name).read_text() == "0\n"
    assert run("convert", tmp_path / "again.pt", tmp_path / "ours", "--overwrite")[0] == 0
    assert not (tmp_path / "ours" / heard.name).exists()


@pytest.mark.parametrize("name", ["ours", "theirs.pt"])
def test_a_model_that_is_there_is_not_converted_over(
    run: Run, published_tiny: Path, tmp_path: Path, name: str
) -> None:
    assert run("convert", published_tiny, tmp_path / name)[0] == 0
    status, _, errors = run("convert", "nano", tmp_path / name)
    assert (status, len(errors.splitlines())) == (1, 1)
    assert "already exists; choose another name, or overwrite it" in errors
    there = MusicFM.from_pretrained(tmp_path / name)
    assert there.config == MusicFM.from_pretrained(published_tiny).config


def test_the_version_is_the_packages(run: Run) -> None:
    assert run("--version")[:2] == (0, f"musicfm {musicfm.__version__}\n")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    check = "import sys, musicfm.cli; print({'torch', 'av', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def library(folder: Path, count: int) -> Path:
    folder.mkdir()
    song = audio_files.write(folder, "tone.flac", seconds=20.0)
    for number in range(count):
        (folder / f"{number:02}.flac").write_bytes(song.read_bytes())
    song.unlink()
    return folder


def contents(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in out.iterdir() if p.suffix == ".npz"}


@pytest.mark.processes
def test_killed_runs_continue_and_end_as_if_undisturbed(
    run: Run, published_tiny: Path, tmp_path: Path
) -> None:
    source, out = library(tmp_path / "music", 24), tmp_path / "out"
    arguments = ["embed", source, "--model", published_tiny, "--layer", "all"]
    run(*arguments, "--out", tmp_path / "undisturbed")
    rng = random.Random(0)
    kills = 0
    for _ in range(8):
        process = subprocess.Popen(command(*arguments, "--out", out), stderr=subprocess.DEVNULL)
        while process.poll() is None and not (out / "journal.jsonl").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills > 0
    status, _, errors = run(*arguments, "--out", out)
    assert status == 0
    assert "failed" not in errors
    assert contents(out) == contents(tmp_path / "undisturbed")


@pytest.mark.processes
def test_ctrl_c_says_how_to_go_on(run: Run, published_tiny: Path, tmp_path: Path) -> None:
    source, out = library(tmp_path / "music", 24), tmp_path / "out"
    arguments = ["embed", source, "--model", published_tiny, "--layer", "all", "--out", out]
    process = subprocess.Popen(
        command(*arguments), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while len(list(out.glob("*.npz"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("interrupted; what is done is in")
    assert "Traceback" not in errors
    done = len(contents(out))
    assert 1 < done < 24
    found = re.search(r"(\d+) done before", run(*arguments)[2])
    assert found
    assert int(found[1]) in (done - 1, done)  # the last one may not have been noted


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings and a file that is none."""
    folder = tmp_path_factory.mktemp("album")
    for name in ("tone.ogg", "tone.flac"):
        audio_files.write(folder, name, seconds=2.0)
    (folder / "bad.mp3").write_bytes(b"bad")
    return folder


def test_music_is_scanned_measured_and_prepared(run: Run, album: Path, tmp_path: Path) -> None:
    manifest, stats, shards = tmp_path / "m.parquet", tmp_path / "stats.json", tmp_path / "shards"
    status, _, errors = run("scan", album, "--out", manifest, "--valid", 0.5, "--workers", 1)
    assert status == 1
    assert "failed: " in errors
    assert f"2 tracks (0.00 h) in {manifest}, 1 train and 1 valid" in errors
    assert "warning" not in errors
    _, _, errors = run("scan", album, "--out", manifest, "--valid", 0.5)
    assert "nothing new: 2 tracks (0.00 h) in" in errors
    _, _, errors = run("scan", album, "--out", manifest, "--valid", 0.1, "--test", 0.1)
    assert "warning: too few groups (--split-by artist): there is nothing for" in errors

    status, _, errors = run("stats", manifest, "--out", stats, "--sample", 1, "--workers", 1)
    assert status == 0, errors
    assert f"over 1 tracks (0.00 h), 0 failed; wrote {stats}" in errors
    assert set(json.loads(stats.read_text())) > {"melspec_2048_mean", "melspec_2048_std"}
    status, _, errors = run("stats", manifest, "--out", tmp_path)
    assert status == 1
    assert errors == f"error: cannot write {tmp_path}: it is a folder; name a file\n"

    status, _, errors = run("prepare", manifest, "--out", shards, "--workers", 1)
    assert status == 0, errors
    assert "2 pieces (0.00 h) in 1 shards, 0 of them done before, 0 tracks failed" in errors
    _, _, errors = run("prepare", manifest, "--out", shards, "--workers", 1)
    assert "nothing new: 2 pieces (0.00 h) in 1 shards, all done before" in errors
    status, _, errors = run("prepare", manifest, "--out", shards, "--piece-seconds", 1)
    assert status == 1
    assert "(piece_seconds differ); use another folder (--out), or do them again" in errors
    assert run("prepare", shards, "--out", tmp_path / "again", "--workers", 1)[0] == 0
    song = next(album.glob("*.flac"))
    song.rename(album / "away")
    away = ("prepare", manifest, "--out", tmp_path / "away", "--workers", 1)
    assert "1 tracks failed; see" in run(*away)[2]
    (album / "away").rename(song)
    assert "report.json; to try them again, add --overwrite" in run(*away)[2]
    assert run(*away, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give files or folders to scan, or --fma"),
        (["x", "--fma", "y"], "give files or folders to scan, or --fma"),
        (["--fma", "nowhere"], "download https://os.unil.cloud.switch.ch/fma/fma_metadata.zip"),
        (["--fma", "x", "--valid", 0.1], "official splits; leave out --valid"),
        (["x", "--test", 0.1], "--test goes with --valid"),
        (["x", "--valid", 1.5], "impossible"),
        (["x", "--out", "m.csv"], "m.csv is not a manifest"),
    ],
)
def test_impossible_scans_are_explained(
    run: Run, arguments: list[object], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, errors = run("scan", *arguments)
    assert status == 1
    assert message in errors.splitlines()[-1]


# --------------------------------------------------------------------- pretraining


@pytest.fixture
def pretrain_command(tmp_path: Path) -> list[object]:
    """Pretrains the smallest model on five songs, for four steps."""
    recipe = tmp_path / "micro.json"
    recipe.write_text(json.dumps(MICRO.replace(steps=4, validation_clips=2).to_dict()))
    write_songs(tmp_path / "songs", 5)
    options = ["--out", tmp_path / "run", "--device", "cpu", "--workers", 0]
    return ["pretrain", recipe, tmp_path / "songs", *options]


@pytest.mark.processes
def test_statistics_belong_to_a_mel(
    run: Run, pretrain_command: list[object], tmp_path: Path
) -> None:
    songs, stats, wide = tmp_path / "songs", tmp_path / "stats.json", "model.mel.n_fft=1024"
    measure = ("stats", songs, "--out", stats, "--workers", 1)
    assert run(*measure)[0] == 0
    train = (*pretrain_command, "--stats", stats, "--set", wide)
    status, _, errors = run(*train)
    assert status == 1
    assert "was measured on another mel" in errors
    assert not (tmp_path / "run").exists()
    status, _, errors = run(*measure, "--set", wide)
    assert (status, "--set goes with --recipe" in errors) == (1, True)
    status, _, errors = run(*measure, "--recipe", tmp_path / "micro.json", "--set", wide)
    assert status == 0, errors
    assert run(*train)[0] == 0


def test_a_model_is_pretrained_and_used(
    run: Run, pretrain_command: list[object], tmp_path: Path
) -> None:
    (tmp_path / "songs" / "bad.mp3").write_bytes(b"no music")
    stats = tmp_path / "stats.json"
    stats.write_text('{"melspec_2048_mean": 1.5, "melspec_2048_std": 20.0}')
    status, _, errors = run(*pretrain_command, "--stats", stats, "--set", "seed=3")
    assert status == 0, errors
    assert "trained 4 steps; the model is in" in errors
    model = MusicFM.from_pretrained(tmp_path / "run" / "model")
    assert (model.config.mel.mean, model.config.mel.std) == (1.5, 20.0)
    settings = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert settings["seed"] == 3
    song = tmp_path / "songs" / "song_0.wav"
    frames = []
    for source in ("model", "checkpoints/step-00000004.ckpt"):
        out = tmp_path / Path(source).stem
        status, _, errors = run("embed", song, "--out", out, "--model", tmp_path / "run" / source)
        assert status == 0, errors
        frames.append(npz.read(out / "song_0.npz")["frames"])
    np.testing.assert_array_equal(frames[0], frames[1])


def test_a_run_begins_with_a_model_and_says_so(
    run: Run, pretrain_command: list[object], tmp_path: Path
) -> None:
    model = tmp_path / "run" / "model"
    assert run(*pretrain_command)[0] == 0
    (tmp_path / "run" / "model" / "training_tracks.txt").write_text("before\n")
    again = [tmp_path / "again" if a == tmp_path / "run" else a for a in pretrain_command]
    status, _, errors = run(*again, "--init", model, "--set", "seed=9", "--set", "steps=2")
    assert status == 0, errors
    facts = json.loads((tmp_path / "again" / "model" / "training.json").read_bytes())
    assert facts["recipe"]["init"] == str(model)
    assert facts["begins_with"]["recipe"]["steps"] == 4
    tracks = (tmp_path / "again" / "model" / "training_tracks.txt").read_text().splitlines()
    assert (tracks[0], len(tracks)) == ("before", 5)
    first, second = (
        MusicFM.from_pretrained(model),
        MusicFM.from_pretrained(tmp_path / "again/model"),
    )
    for name, buffer in first.quantizer.state_dict().items():
        assert torch.equal(buffer, second.quantizer.state_dict()[name]), name
    other = [tmp_path / "other" if a == tmp_path / "run" else a for a in pretrain_command]
    for options, message in (
        (("--set", "model.encoder.depth=2"), "is not that of the recipe (encoder.depth differ)"),
        (("--stats", tmp_path / "stats.json"), "come with --init; leave out --stats"),
        (("--centroids", model), "leave out the centroids"),
    ):
        status, _, errors = run(*other, "--init", model, *options)
        assert (status, message in errors) == (1, True), errors


def test_a_stopped_run_says_how_to_go_on(
    run: Run,
    pretrain_command: list[object],
    tmp_path: Path,
    undisturbed_rows: list[object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 2, lambda _: os.kill(os.getpid(), signal.SIGINT))
        status, _, errors = run(*pretrain_command)
    assert status == 130
    going_on = f"to continue: musicfm pretrain --resume --out {tmp_path / 'run'}"
    assert f"stopped at step 2, which is saved; {going_on}" in errors
    assert "going on with" not in errors  # that is for a run that is resumed
    status, _, errors = run(*pretrain_command)
    assert (status, errors.count("holds a run; resume it (--resume)")) == (1, 1)
    # Neither the recipe nor the music nor what was set has to be said again.
    resume = ("pretrain", "--resume", "--out", tmp_path / "run", *pretrain_command[-4:])
    status, _, errors = run(*resume)
    assert errors.count("tracks that the run began with") == 1
    assert status == 0, errors
    assert rows(tmp_path / "run") == undisturbed_rows
    _, _, errors = run(*resume)
    assert f"nothing new: the run in {tmp_path / 'run'} is finished" in errors
    shutil.move(tmp_path / "songs", tmp_path / "moved")
    status, _, errors = run(*resume)
    assert (status, "the music of the run is not where it was; say where" in errors) == (1, True)


@pytest.mark.processes
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_run_saves_too(
    pretrain_command: list[object], tmp_path: Path, number: int
) -> None:
    """As Ctrl-C in a terminal, or the end of a job, sends it: to the workers as well."""
    metrics = tmp_path / "run" / "metrics.jsonl"
    given = command(*pretrain_command, "--workers", 2, "--set", "steps=100000")
    with subprocess.Popen(given, stderr=subprocess.PIPE, start_new_session=True) as child:
        while child.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.05)
        os.killpg(child.pid, number)
        errors = child.communicate(timeout=60)[1].decode()
    assert child.returncode == 128 + number, errors
    assert f"to continue: musicfm pretrain --resume --out {tmp_path / 'run'}" in errors
    assert list((tmp_path / "run" / "checkpoints").glob("*.ckpt"))


@pytest.fixture
def undisturbed_rows(run: Run, pretrain_command: list[object], tmp_path: Path) -> list[object]:
    run(*[tmp_path / "whole" if a == tmp_path / "run" else a for a in pretrain_command])
    return list(rows(tmp_path / "whole"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nanno", "{songs}"], "no recipe 'nanno'; did you mean 'nano'"),
        (["tiny", "{songs}", "--set", "stepz=1"], "no key 'stepz'; did you mean 'steps'"),
        (["tiny", "{tmp}/absent"], "absent"),
        (["tiny", "{tmp}/empty"], "no recordings"),
        (["tiny", "{songs}", "--stats", "{tmp}/absent.json"], "absent.json"),
        (["fm1", "{songs}"], "run musicfm kmeans"),
        (["tiny", "{songs}", "--set", "batch_size=3"], "batch_size 3 is not a multiple"),
        (["tiny", "{songs}", "--processes", "3"], "cannot be shared by 3 processes"),
    ],
)
def test_what_cannot_be_pretrained_is_one_sentence(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    write_songs(tmp_path / "songs", 2)
    (tmp_path / "empty").mkdir()
    given = [a.format(songs=tmp_path / "songs", tmp=tmp_path) for a in arguments]
    status, _, errors = run("pretrain", *given, "--out", tmp_path / "run", "--device", "cpu")
    assert status == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_kmeans_tokens_are_fitted(run: Run, tmp_path: Path) -> None:
    write_songs(tmp_path / "songs", 3)
    fields = MICRO.to_dict()
    fields["model"]["quantizer"] = {"kind": "kmeans", "codebook_size": 4, "num_codebooks": 1}
    recipe = tmp_path / "micro.json"
    recipe.write_text(json.dumps({**fields, "steps": 1}))
    out = tmp_path / "centroids.safetensors"
    status, _, errors = run("kmeans", recipe, tmp_path / "songs", "--out", out)
    assert status == 0, errors
    options = ["--device", "cpu", "--workers", 0, "--centroids", out]
    status, _, errors = run(
        "pretrain", recipe, tmp_path / "songs", "--out", tmp_path / "run", *options
    )
    assert status == 0, errors


def test_songs_are_rendered(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "songs"
    arguments = ["render", 1, "--seed", 101, "--format", "wav", "--out", out, "--workers", 1]
    status, _, errors = run(*arguments)
    assert status == 0, errors
    assert "1 rendered (0.03 h" in errors
    assert {path.suffix for path in out.glob("song_101.*")} == {".wav", ".jams"}
    assert f"nothing new: 1 of 1 were done; see {out}" in run(*arguments)[2]
    status, _, errors = run("render", 3, "--seed", 1_399_999_999, "--out", out)
    assert (status, errors.count("\n")) == (1, 1)
    assert errors.startswith("error: seed 1400000001 is not from 0 to 1399999999")
