"""Runs as users make them: whole, interrupted in every way, resumed, and in two processes."""

import io
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    DataError,
    OutputError,
    TrainingError,
)
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    ModelConfig,
    RandomProjectionConfig,
)
from musicfm.model.masking import MaskingConfig
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining import checkpoints, run
from musicfm.pretraining.loop import Pretraining
from musicfm.pretraining.metrics import draw_curves, read_metrics
from musicfm.pretraining.recipe import OptimizerConfig, Recipe
from musicfm.training import Outcome
from songs import write_songs

MICRO = Recipe(
    model=ModelConfig(
        front_end=FrontEndConfig(conv_dim=4),
        encoder=ConformerConfig(dim=16, depth=1, num_heads=2, ffn_dim=16),
        quantizer=RandomProjectionConfig(codebook_size=32, num_codebooks=2),
        context_seconds=1.2,
    ),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=3),
    steps=8,
    batch_size=4,
    micro_batch_size=2,
    precision="float32",
    log_every=1,
    validate_every=4,
    validation_clips=6,
    checkpoint_every=3,
    keep_checkpoints=2,
)
TIMINGS = {"audio_per_second", "waiting", "memory_gb"}

# Forks from a process that has imported Fabric once: that takes longer than a run here.
CONTEXT = multiprocessing.get_context("forkserver")


@pytest.fixture(scope="session")
def songs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("songs")
    write_songs(folder, 7)
    return folder


def pretrain(recipe: Recipe, songs: Path, out: Path, **options: Any) -> Outcome:
    manifest = write_songs(songs, 7)

    def collect() -> tuple[Manifest, Manifest]:
        return Manifest(songs, list(manifest)[:5]), Manifest(songs, list(manifest)[5:])

    return run.pretrain(recipe, collect, out, device="cpu", num_workers=0, **options)


@pytest.fixture(scope="session")
def undisturbed(songs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MICRO from its first step to its last. Do not change it."""
    out = tmp_path_factory.mktemp("undisturbed")
    pretrain(MICRO, songs, out)
    return out


def rows(out: Path) -> list[dict[str, Any]]:
    """What a run reported, without the times that it took."""
    found = read_metrics(out / "metrics.jsonl")
    return [{key: row[key] for key in row if key not in TIMINGS} for row in found]


def weights(out: Path) -> bytes:
    return (out / "model" / "model.safetensors").read_bytes()


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than a run here; `undisturbed` is drawn all the same."""
    monkeypatch.setattr(run, "draw_curves", lambda *_: None)


# --------------------------------------------------------------------- a run


def test_a_run_leaves_a_model_and_how_it_came_about(undisturbed: Path) -> None:
    model = MusicFM.from_pretrained(undisturbed / "model")
    assert model.config == MICRO.model
    facts = json.loads((undisturbed / "model" / "training.json").read_text())
    assert Recipe.from_dict(facts["recipe"]) == MICRO
    assert facts["hours_heard"] == pytest.approx(8 * 4 * 1.2 / 3600)
    train = Manifest.load(undisturbed / "train.parquet")
    assert facts["data"]["digest"] == train.digest()
    hashes = (undisturbed / "model" / "training_tracks.txt").read_text().split()
    assert hashes == [f"{seed:064x}" for seed in range(5)]
    assert (undisturbed / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert list((undisturbed / "tensorboard").glob("events.*"))
    assert Recipe.from_dict(json.loads((undisturbed / "recipe.json").read_text())) == MICRO


def test_a_run_reports_every_step(undisturbed: Path) -> None:
    found = rows(undisturbed)
    training = [row for row in found if "loss" in row]
    assert [row["step"] for row in training] == list(range(1, 9))
    assert [row["step"] for row in found if "valid_loss" in row] == [4, 8]
    assert training[0]["loss"] == pytest.approx(np.log(32), abs=0.5)
    assert training[-1]["loss"] < training[0]["loss"]
    assert training[1]["learning_rate"] == pytest.approx(1e-3 * 2 / 3)
    for row in training:
        assert 1 / 32 < row["unigram_accuracy"] < 1
        assert 1 < row["code_perplexity"] <= 32
        assert row["gradient_norm"] > 0
        assert row["skipped_steps"] == 0


def test_curves_are_drawn_where_there_is_nothing_to_draw(tmp_path: Path) -> None:
    draw_curves([{"step": 1, "loss": None}], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_checkpoints_and_the_best_are_kept(undisturbed: Path) -> None:
    valid = {row["step"]: row["valid_loss"] for row in rows(undisturbed) if "valid_loss" in row}
    best = min(valid, key=lambda step: valid[step])
    kept = checkpoints.checkpoint_steps(undisturbed / "checkpoints")
    assert kept == sorted({6, 8, best})


def test_codebooks_are_saved_and_not_trained(undisturbed: Path) -> None:
    trained, fresh = MusicFM.from_pretrained(undisturbed / "model"), MusicFM(MICRO.model)
    for name, buffer in fresh.quantizer.state_dict().items():
        assert torch.equal(buffer, trained.quantizer.state_dict()[name])
    first = run.build_model(MICRO).state_dict()
    moved = [n for n, p in trained.named_parameters() if not torch.equal(p, first[n])]
    assert len(moved) == len(list(trained.parameters()))


def test_a_run_can_be_repeated_to_the_bit(undisturbed: Path, songs: Path, tmp_path: Path) -> None:
    outcome = pretrain(MICRO, songs, tmp_path)
    assert outcome == Outcome(8, tmp_path / "model", None)
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.processes
def test_workers_do_not_change_a_run(undisturbed: Path, songs: Path, tmp_path: Path) -> None:
    manifest = write_songs(songs, 7)
    tracks = list(manifest)

    def collect() -> tuple[Manifest, Manifest]:
        return Manifest(songs, tracks[:5]), Manifest(songs, tracks[5:])

    run.pretrain(MICRO, collect, tmp_path, device="cpu", num_workers=2)
    assert rows(tmp_path) == rows(undisturbed)


@pytest.mark.filterwarnings("ignore:this CPU has no instructions")
@pytest.mark.parametrize("setting", ["precision", "activation_checkpointing"])
def test_other_ways_to_compute_come_close(
    undisturbed: Path, songs: Path, tmp_path: Path, setting: str
) -> None:
    value = "bfloat16" if setting == "precision" else True
    pretrain(MICRO.replace(**{setting: value}, steps=3), songs, tmp_path)
    losses = [row["loss"] for row in rows(tmp_path) if "loss" in row]
    expected = [row["loss"] for row in rows(undisturbed) if "loss" in row][:2]
    tolerance = 0.02 if setting == "precision" else 1e-5
    assert losses[:2] == pytest.approx(expected, rel=tolerance)


# --------------------------------------------------------------------- interruptions


def at_step(
    monkeypatch: pytest.MonkeyPatch, step: int, action: Callable[[Pretraining], None]
) -> None:
    """Does something while a step's gradients are at hand."""
    before_step = Pretraining.before_step

    def disturbed(training: Pretraining) -> None:
        if training.step == step - 1:
            action(training)
        before_step(training)

    monkeypatch.setattr(Pretraining, "before_step", disturbed)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_exactly(
    undisturbed: Path, songs: Path, tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda _: os.kill(os.getpid(), number))
        outcome = pretrain(MICRO, songs, tmp_path)
    assert outcome == Outcome(5, None, number)
    assert signal.getsignal(number) == before
    assert checkpoints.checkpoint_steps(tmp_path / "checkpoints")[-1] == 5
    assert not (tmp_path / "model").exists()
    assert pretrain(MICRO, songs, tmp_path, resume=True).step == 8
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


def train_in_process(
    recipe: Recipe,
    songs: Path,
    out: Path,
    environment: dict[str, str],
    fault: str,
    sharded: bool,
) -> None:
    """A child's life: to train, and perhaps to meet with a fault."""
    torch.set_num_threads(1)
    os.environ.update(environment)
    kind, _, step = fault.partition("@")
    save = torch.save

    def fail(checkpoint: dict[str, Any], path: Path) -> None:
        if f"step-{int(step):08d}" not in path.name:
            save(checkpoint, path)
        elif kind == "killed_while_saving":
            buffer = io.BytesIO()
            save(checkpoint, buffer)
            path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind == "full_disk":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            save(checkpoint, path)

    if kind in ("killed_while_saving", "full_disk"):
        torch.save = fail  # type: ignore[assignment]
    before_step = Pretraining.before_step

    def disturbed(training: Pretraining) -> None:
        if kind == "killed" and training.step == int(step) - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        assert sharded == isinstance(next(training.objective.parameters()), DTensor)
        before_step(training)

    setattr(Pretraining, before_step.__name__, disturbed)
    try:
        pretrain(recipe, songs, out, resume=True, sharded=sharded)
    except OutputError as error:
        (out / "error.txt").write_text(str(error)[:200])


def start(
    recipe: Recipe,
    songs: Path,
    out: Path,
    world_size: int = 1,
    fault: str = "",
    sharded: bool = False,
) -> list[int | None]:
    """Trains in processes; their exit codes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world_size):
        environment = {} if world_size == 1 else torchrun_environment(rank, world_size, port)
        child = CONTEXT.Process(
            target=train_in_process, args=(recipe, songs, out, environment, fault, sharded)
        )
        child.start()
        children.append(child)
    for child in children:
        child.join(120)
        if child.is_alive():  # a rank waits for one that was killed; torchrun would end it
            child.kill()
            child.join()
    return [child.exitcode for child in children]


def torchrun_environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "GROUP_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": "test",
    }


@pytest.mark.processes
@pytest.mark.parametrize("fault", ["killed@2", "killed@5", "killed_while_saving@6"])
def test_a_killed_run_goes_on_exactly(
    undisturbed: Path, songs: Path, tmp_path: Path, fault: str
) -> None:
    assert start(MICRO, songs, tmp_path, fault=fault) == [-signal.SIGKILL]
    assert start(MICRO, songs, tmp_path) == [0]
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


@pytest.mark.processes
def test_a_full_disk_ends_a_run_and_loses_nothing(
    undisturbed: Path, songs: Path, tmp_path: Path
) -> None:
    assert start(MICRO, songs, tmp_path, fault="full_disk@6") == [0]
    message = (tmp_path / "error.txt").read_text()
    assert message.startswith("cannot write ")
    assert "step-00000006.ckpt" in message
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000003.ckpt", "step-00000004.ckpt"]
    assert start(MICRO, songs, tmp_path) == [0]
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


def test_a_run_goes_on_where_its_music_is_now(
    undisturbed: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, old, new = (tmp_path / name for name in ("out", "old", "new"))
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda training: setattr(training.stop, "by", signal.SIGTERM))
        pretrain(MICRO, old, out)
    new.mkdir()
    old.rename(new / "music")
    everything = [replace(t, path=f"music/{t.path}") for t in write_songs(songs, 7)]

    def go_on(*tracks: Track) -> Outcome:
        def given() -> tuple[Manifest, Manifest]:
            return Manifest(new, tracks[::2]), Manifest(new, tracks[1::2])

        return run.pretrain(MICRO, given, out, resume=True, device="cpu", num_workers=0)

    with pytest.raises(DataError, match=r"2 of the 5 tracks .* such as song_3\.wav; give"):
        go_on(*everything[:3], *everything[5:])
    there = (out / "valid.parquet").read_bytes()
    with monkeypatch.context() as patch:
        at_step(patch, 6, lambda training: setattr(training.stop, "by", signal.SIGTERM))
        assert go_on(*reversed(everything)).step == 6
    (out / "valid.parquet").write_bytes(there)  # as a kill between the two leaves it
    assert go_on(*reversed(everything)).step == 8
    assert Manifest.load(out / "valid.parquet").root == new
    assert rows(out) == rows(undisturbed)
    assert weights(out) == weights(undisturbed)


def test_a_damaged_checkpoint_is_passed_over(
    undisturbed: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 7, lambda training: setattr(training.stop, "by", signal.SIGTERM))
        pretrain(MICRO, songs, tmp_path)
    last = checkpoints.checkpoint_path(tmp_path / "checkpoints", 7)
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 0xFF
    last.write_bytes(content)
    with pytest.warns(UserWarning, match=r"step-00000007.ckpt is damaged .* falling back"):
        pretrain(MICRO, songs, tmp_path, resume=True)
    assert rows(tmp_path) == rows(undisturbed)


def test_a_run_that_lightnings_trainer_began_goes_on(
    undisturbed: Path, songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda training: setattr(training.stop, "by", signal.SIGTERM))
        pretrain(MICRO, songs, tmp_path)
    path = checkpoints.checkpoint_path(tmp_path / "checkpoints", 5)
    content = torch.load(path, weights_only=True)
    # As the Trainer laid it out, without what it kept for itself.
    facts = content["musicfm"]
    content["callbacks"] = {"Heartbeat": {key: facts.pop(key) for key in ("best", "has_warned")}}
    del content["MixedPrecision"]
    torch.save(content, path)
    assert pretrain(MICRO, songs, tmp_path, resume=True).step == 8
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)
    left = [checkpoints.checkpoint_steps(out / "checkpoints") for out in (tmp_path, undisturbed)]
    assert left[0] == left[1]


def test_a_finished_run_can_be_resumed_and_stays(
    undisturbed: Path, songs: Path, tmp_path: Path
) -> None:
    pretrain(MICRO, songs, tmp_path)
    outcome = pretrain(MICRO, songs, tmp_path, resume=True)
    assert outcome.step == 8
    assert rows(tmp_path) == rows(undisturbed)
    assert weights(tmp_path) == weights(undisturbed)


# --------------------------------------------------------------------- what goes wrong


def test_a_gradient_that_is_not_finite_is_skipped_visibly(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights: list[list[torch.Tensor]] = []

    def note(training: Pretraining) -> None:
        parameters = training.objective.parameters()
        weights.append([parameter.detach().clone() for parameter in parameters])

    def spoil(training: Pretraining) -> None:
        note(training)
        for parameter in training.objective.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(torch.nan)
        for name, buffer in training.objective.named_buffers():
            if ".running_" in name:
                buffer.fill_(torch.nan)

    at_step(monkeypatch, 4, spoil)
    at_step(monkeypatch, 5, note)
    at_step(monkeypatch, 6, note)
    pretrain(MICRO, songs, tmp_path)
    same = [
        [torch.equal(a, b) for a, b in zip(*pair, strict=True)]
        for pair in itertools.pairwise(weights)
    ]
    assert all(same[0])
    assert not any(same[1])
    training = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["skipped_steps"] for row in training] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert [row["gradient_norm"] is None for row in training] == [i == 3 for i in range(8)]
    assert np.isfinite([row["loss"] for row in training]).all()
    MusicFM.from_pretrained(tmp_path / "model")  # refuses what is not finite


def test_a_first_step_that_is_not_finite_leaves_no_trace(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(training: Pretraining) -> None:
        module = training.objective
        for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
            if ".running_" in name:
                tensor.fill_(torch.nan)
            elif tensor.grad is not None:
                tensor.grad.fill_(torch.nan)

    def stop(training: Pretraining) -> None:
        training.stop.by = signal.SIGTERM

    at_step(monkeypatch, 1, spoil)
    at_step(monkeypatch, 2, stop)
    at_step(monkeypatch, 3, spoil)  # the first one of a run that goes on
    assert pretrain(MICRO, songs, tmp_path).step == 2
    assert pretrain(MICRO, songs, tmp_path, resume=True).model is not None
    MusicFM.from_pretrained(tmp_path / "model")  # refuses what is not finite


def test_a_run_that_diverges_is_stopped(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicfm.pretraining.loop.MAX_SKIPPED", 2)

    def spoil(training: Pretraining) -> None:
        gradient = next(training.objective.parameters()).grad
        assert gradient is not None
        gradient[0] = torch.inf

    at_step(monkeypatch, 4, spoil)
    at_step(monkeypatch, 5, spoil)
    with pytest.raises(TrainingError, match="NaN or infinite for 2 steps up to step 4"):
        pretrain(MICRO, songs, tmp_path)
    assert checkpoints.checkpoint_steps(tmp_path / "checkpoints") == [3, 4]


def test_nothing_hidden_is_no_step_and_no_nan(songs: Path, tmp_path: Path) -> None:
    recipe = MICRO.replace(masking=MaskingConfig(probability=1e-12), steps=2)
    pretrain(recipe, songs, tmp_path)
    training = [row for row in rows(tmp_path) if "loss" in row]
    assert [row["loss"] for row in training] == [0.0, 0.0]
    assert [row["gradient_norm"] for row in training] == [0.0, 0.0]


def test_tracks_that_break_are_listed_and_replaced(songs: Path, tmp_path: Path) -> None:
    own = tmp_path / "songs"
    manifest = write_songs(own, 5)
    (own / "song_1.wav").write_bytes(b"no longer music")
    out = tmp_path / "out"
    run.pretrain(MICRO, lambda: (manifest, Manifest(own, [])), out, device="cpu", num_workers=0)
    (line,) = (out / "broken.0.jsonl").read_text().splitlines()
    assert json.loads(line)["path"] == "song_1.wav"
    assert "valid_loss" not in {key for row in rows(out) for key in row}


def test_too_many_broken_tracks_stop_a_run(
    songs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "songs"
    manifest = write_songs(own, 24)
    for seed in range(12):
        (own / f"song_{seed}.wav").unlink()
    with pytest.raises(TrainingError, match=r"11 of 24 tracks cannot be read .*broken\.0\.jsonl"):
        run.pretrain(
            MICRO.replace(steps=30),
            lambda: (manifest, Manifest(own, [])),
            tmp_path / "out",
            device="cpu",
            num_workers=0,
        )


def test_a_collection_that_is_away_is_one_sentence(tmp_path: Path) -> None:
    own = tmp_path / "songs"
    manifest = write_songs(own, 5)
    own.rename(tmp_path / "elsewhere")
    collect = lambda: (manifest, Manifest(own, []))  # noqa: E731
    with pytest.raises(AudioError, match=r"^\d+ recordings in a row cannot be read: .*song_") as it:
        run.pretrain(MICRO, collect, tmp_path / "out", device="cpu", num_workers=1)
    assert "\n" not in str(it.value)


def test_statistics_are_not_for_a_checkpoint_of_a_run(undisturbed: Path) -> None:
    path = next((undisturbed / "checkpoints").glob("*.ckpt"))
    with pytest.raises(CheckpointError, match=r"stats= is for \.pt files; .* holds its own"):
        MusicFM.from_pretrained(path, stats=(0.0, 1.0))


def test_reserved_tracks_are_refused(songs: Path, tmp_path: Path) -> None:
    tracks = list(write_songs(songs, 7))
    tracks[2] = replace(tracks[2], reserved="a rendered test song, seed 1100000003")
    reserved, none = Manifest(songs, tracks), Manifest(songs, [])
    message = r"1 tracks are reserved for testing, such as song_2\.wav \(a rendered"
    with pytest.raises(DataError, match=message):
        run.pretrain(MICRO, lambda: (reserved, none), tmp_path, device="cpu")
    with pytest.raises(DataError, match=message):
        run.pretrain(MICRO, lambda: (none, reserved), tmp_path, device="cpu")
    assert not (tmp_path / "recipe.json").exists()


def test_a_folder_holds_one_run(undisturbed: Path, songs: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="holds a run; resume it"):
        pretrain(MICRO, songs, undisturbed)
    other = MICRO.replace(steps=9, optimizer=MICRO.optimizer.replace(clip_norm=1.0))
    with pytest.raises(ConfigError, match=r"\(optimizer.clip_norm, steps differ\)"):
        pretrain(other, songs, undisturbed, resume=True)


@pytest.mark.parametrize("what", ["another recipe", "another file"])
def test_a_checkpoint_of_another_run_is_refused(
    undisturbed: Path, songs: Path, tmp_path: Path, what: str
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    path = checkpoints.checkpoint_path(out / "checkpoints", 8)
    content = torch.load(path, weights_only=True)
    if what == "another recipe":
        content["musicfm"]["recipe"]["model"]["encoder"]["dim"] = 32
        message = r"8\.ckpt is of another recipe \(model\.encoder\.dim differ\); remove it"
    else:
        content = {"state_dict": {}}
        message = r"8\.ckpt is not a checkpoint of a pretraining run; remove it"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        pretrain(MICRO, songs, out, resume=True)
    path.unlink()
    pretrain(MICRO, songs, out, resume=True)
    assert rows(out) == rows(undisturbed)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("recipe.json", r"recipe\.json .*damaged; begin again"),
        ("metrics.jsonl", r"metrics\.jsonl, line 1 is damaged; delete that line"),
    ],
)
def test_damaged_files_of_a_run_are_named(
    undisturbed: Path, songs: Path, tmp_path: Path, name: str, message: str
) -> None:
    out = shutil.copytree(undisturbed, tmp_path / "run")
    (out / name).write_text("[1]\n" + (out / name).read_text())
    with pytest.raises(DataError, match=message):
        pretrain(MICRO, songs, out, resume=True)


def test_another_run_in_the_folder_is_refused(songs: Path, tmp_path: Path) -> None:
    from musicfm.files import exclusive

    with (
        exclusive(tmp_path, ".lock"),
        pytest.raises(OutputError, match="another run is writing to"),
    ):
        pretrain(MICRO, songs, tmp_path)


# --------------------------------------------------------------------- two processes

PLAIN = MICRO.replace(
    model=MICRO.model.replace(encoder=MICRO.model.encoder.replace(dropout=0.0)), steps=3
)


def losses(out: Path) -> list[float]:
    return [row["loss"] for row in rows(out) if "loss" in row]


def tensors(out: Path) -> Iterator[tuple[str, torch.Tensor]]:
    yield from MusicFM.from_pretrained(out / "model").named_parameters()


@pytest.mark.processes
def test_two_processes_equal_one_that_accumulates(songs: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(PLAIN, songs, one)
    assert start(PLAIN, songs, two, world_size=2) == [0, 0]
    assert losses(two) == pytest.approx(losses(one), rel=1e-6)
    for (name, a), (_, b) in zip(tensors(one), tensors(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-6, msg=name)


@pytest.mark.processes
def test_with_global_batch_norm_two_processes_equal_one_batch(songs: Path, tmp_path: Path) -> None:
    recipe = PLAIN.replace(global_batch_norm=True)
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(recipe.replace(micro_batch_size=4), songs, one)
    assert start(recipe, songs, two, world_size=2) == [0, 0]
    assert losses(two)[0] == pytest.approx(losses(one)[0], rel=1e-6)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)


@pytest.mark.processes
@pytest.mark.parametrize("fault", ["killed@5", "killed_while_saving@6"])
def test_two_killed_processes_go_on_exactly(songs: Path, tmp_path: Path, fault: str) -> None:
    recipe = MICRO.replace(micro_batch_size=1)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(recipe, songs, whole, world_size=2) == [0, 0]
    assert -signal.SIGKILL in start(recipe, songs, broken, world_size=2, fault=fault)
    assert start(recipe, songs, broken, world_size=2) == [0, 0]
    assert rows(broken) == rows(whole)
    assert weights(broken) == weights(whole)


@pytest.mark.processes
def test_a_model_divided_among_processes_learns_the_same(songs: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    recipe = PLAIN.replace(checkpoint_every=2)
    pretrain(recipe, songs, one)
    assert start(recipe, songs, two, world_size=2, sharded=True) == [0, 0]
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    for (name, a), (_, b) in zip(tensors(one), tensors(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5, msg=name)
    # Its checkpoints are those of any run: one process can go on from them.
    checkpoints.checkpoint_path(two / "checkpoints", 3).unlink()
    pretrain(recipe, songs, two, resume=True)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
