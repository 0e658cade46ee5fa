import errno
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import recipe
from musicfm.errors import CheckpointError, OutputError
from musicfm.model import checkpoint
from musicfm.model.checkpoint import CONFIG, WEIGHTS
from musicfm.model.config import (
    ConformerConfig,
    KMeansConfig,
    ModelConfig,
    RandomProjectionConfig,
    TransformerConfig,
    preset,
)
from musicfm.model.conversion import convert
from musicfm.model.musicfm import MusicFM


@pytest.fixture
def folder(tiny: MusicFM, tmp_path: Path) -> Path:
    """The golden model in our layout."""
    tiny.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def state_of(path: Path) -> dict[str, Tensor]:
    """The tensors of either layout."""
    if path.is_dir():
        return load_file(path / WEIGHTS)
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Bit for bit, dtypes included."""
    return left.keys() == right.keys() and all(
        left[name].dtype == right[name].dtype and torch.equal(left[name], right[name])
        for name in left
    )


# --------------------------------------------------------------------------- round trips


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_saved_model_comes_back_bit_for_bit(
    dtype: torch.dtype, tiny: MusicFM, music: Tensor, tmp_path: Path
) -> None:
    tiny.to(dtype).save_pretrained(tmp_path / "model")
    again = MusicFM.from_pretrained(tmp_path / "model")
    assert again.config == tiny.config
    assert again.dtype == dtype
    assert not again.training
    assert equal(again.state_dict(), tiny.state_dict())
    assert torch.equal(again(music).hidden_states[-1], tiny(music).hidden_states[-1])
    assert torch.equal(again.tokenize(music), tiny.tokenize(music))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {WEIGHTS, CONFIG}
    modes = {path.stat().st_mode for path in (tmp_path / "model").iterdir()}
    assert len(modes) == 1  # who may read one may read the other


@pytest.mark.parametrize(
    "changes",
    [
        {"encoder": TransformerConfig(dim=64, depth=2, num_heads=4, ffn_dim=32, dropout=0.25)},
        {"quantizer": RandomProjectionConfig(num_codebooks=2, codebook_size=9, seed=7)},
        {"context_seconds": 5.0},
    ],
)
def test_any_model_can_be_saved(changes: dict[str, Any], tmp_path: Path) -> None:
    model = MusicFM(recipe.TINY.replace(**changes))
    model.save_pretrained(tmp_path)
    again = MusicFM.from_pretrained(str(tmp_path))
    assert again.config == model.config
    assert equal(again.state_dict(), model.state_dict())


def test_a_subclass_loads_as_itself(folder: Path) -> None:
    class Mine(MusicFM):
        pass

    assert type(Mine.from_pretrained(folder)) is Mine


def test_a_loaded_model_can_be_trained(folder: Path, music: Tensor) -> None:
    model = MusicFM.from_pretrained(folder).train()
    assert all(weight.requires_grad for weight in model.parameters())
    before = (folder / WEIGHTS).read_bytes()
    model(music, logits=True).logits.sum().backward()
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    assert (folder / WEIGHTS).read_bytes() == before  # which is memory-mapped


def test_published_to_ours_and_back_loses_nothing_that_is_used(
    published_tiny: Path, tmp_path: Path
) -> None:
    convert(published_tiny, tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "pretrained_again.pt")
    again, original = state_of(tmp_path / "pretrained_again.pt"), state_of(published_tiny)
    assert again.keys() == original.keys()
    for name, tensor in original.items():
        if not name.startswith(("model.cls_token", "model.conformer.pos_conv", "model.pre")):
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-7 * ("inv_" in name))
    stats = "tiny_stats.json", "again_stats.json"
    assert (tmp_path / stats[1]).read_text() == published_tiny.with_name(stats[0]).read_text()


def test_ours_to_published_and_back_loses_nothing(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "there.pt")
    convert(tmp_path / "there.pt", tmp_path / "back")
    assert equal(state_of(folder), state_of(tmp_path / "back"))
    assert (folder / CONFIG).read_text() == (tmp_path / "back" / CONFIG).read_text()


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "model.ckpt"])
def test_there_are_no_other_layouts(name: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"give a folder, or a file in \.pt"):
        convert(folder, tmp_path / name)


def test_a_folder_may_have_a_dot(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "model-1.0")
    assert MusicFM.from_pretrained(tmp_path / "model-1.0").config == recipe.TINY


def test_half_weights_of_a_published_file_give_a_half_model(tmp_path: Path, music: Tensor) -> None:
    """All but the codes, whose tokens must not change with the type of the model."""
    half = {
        name: tensor.half()
        for name, tensor in recipe.published_state().items()
        if not name.endswith("num_batches_tracked")  # which overflow
    }
    recipe.write_published(tmp_path / "half.pt", changes=half)
    model = MusicFM.from_pretrained(tmp_path / "half.pt")
    assert model.dtype == torch.float16
    assert model.get_buffer("quantizer.codebooks.0.codebook").dtype == torch.float32
    assert model(music).hidden_states[0].dtype == torch.float16
    assert model.tokenize(music).shape == (2, 100, 1)


def test_weights_of_several_types_become_the_widest(
    folder: Path, music: Tensor, tiny: MusicFM
) -> None:
    state = state_of(folder)
    state["head.weight"] = state["head.weight"].half()
    save_file(state, folder / WEIGHTS)
    model = MusicFM.from_pretrained(folder)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(model(music).hidden_states[-1], tiny(music).hidden_states[-1])


# ------------------------------------------------------------------------------- damage


def change_tensor(folder: Path, name: str, tensor: Tensor | None) -> None:
    state = {**state_of(folder), name: tensor}
    save_file({key: value for key, value in state.items() if value is not None}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("head.bias", None, "'head.bias' is missing"),
        ("head.extra", torch.ones(1), "'head.extra' is unexpected"),
        ("head.bias", torch.ones(3), r"'head.bias' has shape \(3,\), expected \(256,\)"),
        ("head.bias", torch.full((256,), -torch.inf), "'head.bias' has NaN or infinite"),
        ("head.bias", torch.ones(256).bool(), "'head.bias' is torch.bool, expected torch.float32"),
        (
            "head.bias",
            torch.ones(256, dtype=torch.complex64),
            "'head.bias' is torch.complex64, expected torch.float32",
        ),
    ],
)
def test_a_tensor_that_is_wrong_is_named(
    name: str, tensor: Tensor | None, message: str, folder: Path
) -> None:
    change_tensor(folder, name, tensor)
    with pytest.raises(CheckpointError, match=rf"^{folder}: tensor {message}"):
        MusicFM.from_pretrained(folder)


def test_unexpected_tensors_are_counted(folder: Path) -> None:
    change_tensor(folder, "b", torch.ones(1))
    change_tensor(folder, "a", torch.ones(1))
    with pytest.raises(CheckpointError, match="tensor 'a' and 1 more is unexpected"):
        MusicFM.from_pretrained(folder)


OTHER = recipe.TINY.replace(encoder=ConformerConfig(dim=32, depth=3, num_heads=4, ffn_dim=128))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not readable as JSON"),
        ("\0\xff", "not readable as JSON"),
        ("[]", "ModelConfig: Input should be an object"),
        ('{"encoder": {"kind": "conformer", "dephts": 3}}', "no key 'dephts'.* 'depth'"),
        ('{"mel": {"hop_length": "240"}}', "'hop_length' in mel is '240'"),
        (json.dumps(OTHER.to_dict()), "is not the one that was saved with model.safetensors"),
        (
            json.dumps(recipe.TINY.replace(context_seconds=6.0).to_dict()),
            "is not the one that was saved with model.safetensors",
        ),
    ],
)
def test_a_configuration_that_is_wrong_is_named(text: str, message: str, folder: Path) -> None:
    (folder / CONFIG).write_text(text)
    with pytest.raises(CheckpointError, match=rf"^{folder / CONFIG}.*{message}"):
        MusicFM.from_pretrained(folder)


def test_a_configuration_of_other_sizes_is_refused(folder: Path) -> None:
    save_file(state_of(folder), folder / WEIGHTS)  # as others do: without our copy of it
    MusicFM.from_pretrained(folder)
    (folder / CONFIG).write_text(json.dumps(OTHER.to_dict()))
    with pytest.raises(CheckpointError, match=r"'front_end.linear.weight' has shape \(64, 512\)"):
        MusicFM.from_pretrained(folder)


@pytest.mark.parametrize("missing", [WEIGHTS, CONFIG])
def test_half_a_model_is_none(missing: str, folder: Path) -> None:
    (folder / missing).unlink()
    with pytest.raises(CheckpointError, match=f"{folder} is not a model: there is no {missing}"):
        MusicFM.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 7, 1_000, -1])
def test_truncated_weights_are_named(size: int, folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:size])
    with pytest.raises(CheckpointError, match=f"{folder / WEIGHTS} is damaged or incomplete"):
        MusicFM.from_pretrained(folder)


@pytest.mark.parametrize("source", ["nothing", "/no/such/folder", Path("msd2")])
def test_what_can_be_loaded_is_said_where_nothing_is(source: str | Path) -> None:
    aliases = "'nano', 'msd', 'fma'"
    message = f"no model '{source}'.*: give {aliases}, a folder with .* or .pt file, or a hub id"
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained(source)


@pytest.mark.parametrize("source", ["data/model.pt", Path("runs/step-00000005.ckpt")])
def test_a_file_that_is_missing_is_named(source: str | Path) -> None:
    with pytest.raises(CheckpointError, match=f"there is no file {source}; check the path"):
        MusicFM.from_pretrained(source)


def test_options_that_would_do_nothing_are_refused(folder: Path, published_tiny: Path) -> None:
    with pytest.raises(CheckpointError, match=r"stats= is for .pt files; .* in its config.json"):
        MusicFM.from_pretrained(folder, stats=(0.0, 1.0))
    for source in (folder, published_tiny):
        with pytest.raises(CheckpointError, match="revision='main' is for hub ids"):
            MusicFM.from_pretrained(source, revision="main")


# ------------------------------------------------------------------------ disks that fail


@contextmanager
def small_disk() -> Iterator[None]:
    """Files cannot grow beyond 100 kB: writing fails as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def other_model() -> MusicFM:
    return MusicFM(recipe.TINY.replace(context_seconds=6.0))


@pytest.mark.parametrize("layout", ["ours", "published"])
def test_a_full_disk_leaves_the_old_model(
    layout: str, published_tiny: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model" if layout == "ours" else tmp_path / "model.pt"
    convert(published_tiny, target)
    folder = target if layout == "ours" else tmp_path
    before = contents(folder)
    with small_disk(), pytest.raises(OutputError, match=f"cannot write {target}"):
        convert(published_tiny, target, overwrite=True)
    assert contents(folder) == before


@pytest.mark.parametrize("call", ["save_file", "replace"])
def test_a_failing_save_leaves_the_old_model(
    call: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(folder)
    monkeypatch.setattr(checkpoint if call == "save_file" else os, call, no_space)
    with pytest.raises(OutputError, match="No space left on device"):
        other_model().save_pretrained(folder)
    assert contents(folder) == before


def test_a_kill_between_the_two_renames_is_noticed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renames = iter([os.replace, no_space])
    monkeypatch.setattr(os, "replace", lambda *paths: next(renames)(*paths))
    with pytest.raises(OutputError):
        other_model().save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"a save was interrupted; save the model again"):
        MusicFM.from_pretrained(folder)


def test_a_model_that_is_not_finite_is_not_saved(folder: Path, tiny: MusicFM) -> None:
    before = contents(folder)
    with torch.no_grad():
        tiny.head.bias[3] = torch.nan
    with pytest.raises(CheckpointError, match=f"{folder}: tensor 'head.bias' has NaN"):
        tiny.save_pretrained(folder)
    assert contents(folder) == before


def test_an_unfitted_quantizer_is_not_loaded(folder: Path) -> None:
    config = recipe.TINY.replace(quantizer=KMeansConfig(codebook_size=4))
    save_file(MusicFM(config).state_dict(), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config.to_dict()))
    with pytest.raises(CheckpointError, match=r"'quantizer.centroids' has NaN"):
        MusicFM.from_pretrained(folder)


def test_nano_comes_with_the_package(music: Tensor) -> None:
    model = MusicFM.from_pretrained("nano")
    assert model.config == preset("nano")
    folder = Path(checkpoint.__file__).parents[1] / "nano"
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) < 24e6
    facts = json.loads((folder / "training.json").read_text())
    assert ModelConfig.from_dict(facts["recipe"]["model"]) == model.config
    names = (folder / "training_tracks.txt").read_text().splitlines()
    songs = {name for name in names if name.startswith("musicfm render, seed ")}
    files = len(names) - len(songs)  # of rendered songs, and of music without labels
    learnt = facts["data"]["labelled"], facts["data"]["unlabelled"]
    assert 0 < learnt[0] < len(songs)  # and what it had heard before
    assert files > sum(learnt)
    assert torch.isfinite(model(music).hidden_states[-1]).all()
