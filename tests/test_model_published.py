import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recipe
from conftest import Golden
from musicfm.errors import CheckpointError, OutputError
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    KMeansConfig,
    MelConfig,
    ModelConfig,
    RandomProjectionConfig,
    TransformerConfig,
)
from musicfm.model.musicfm import MusicFM
from musicfm.model.published import (
    KEYS,
    find_stats,
    ours,
    published,
    read_stats,
    stats_path,
    write,
)

NEWER = "prefer pretrained_msd.pt or pretrained_fma.pt"
LAYER = "conformer.layers.1."


def test_both_layouts_give_the_same_model(tmp_path: Path, tiny: MusicFM, music: Tensor) -> None:
    path = recipe.write_published(tmp_path / "old.pt", legacy=True)
    with pytest.warns(UserWarning, match=NEWER):
        old = MusicFM.from_pretrained(path)
    assert old.config == tiny.config == recipe.TINY
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(old.state_dict()[name], tensor)
    assert torch.equal(old(music).hidden_states[-1], tiny(music).hidden_states[-1])
    assert torch.equal(old.tokenize(music), tiny.tokenize(music))


def test_counters_are_whole_numbers_again(tiny: MusicFM) -> None:
    counters = [b for name, b in tiny.named_buffers() if name.endswith("num_batches_tracked")]
    assert {(counter.item(), counter.dtype) for counter in counters} == {(95_489, torch.int64)}


ODD = ModelConfig(
    mel=MelConfig(n_fft=1_024, n_mels=64, mean=1.5, std=2.5),
    front_end=FrontEndConfig(conv_dim=8),
    encoder=ConformerConfig(dim=32, depth=2, num_heads=4, ffn_dim=24, conv_kernel=7),
    quantizer=RandomProjectionConfig(codebook_size=33, codebook_dim=5),
)
DEEP = recipe.TINY.replace(encoder=recipe.TINY.encoder.replace(depth=11, num_heads=2))
SEVERAL = recipe.TINY.replace(quantizer=RandomProjectionConfig(num_codebooks=3, codebook_size=8))


@pytest.mark.parametrize(
    ("config", "legacy"),
    [(ODD, False), (ODD, True), (DEEP, False), (DEEP, True), (SEVERAL, False)],
    ids=["odd", "odd, legacy", "deep", "deep, legacy", "several codebooks"],
)
@pytest.mark.filterwarnings(f"ignore:.*{NEWER}")
def test_sizes_are_read_off_the_tensors(config: ModelConfig, legacy: bool, tmp_path: Path) -> None:
    path = recipe.write_published(tmp_path / "model.pt", config, legacy=legacy)
    assert MusicFM.from_pretrained(path).config == config


def test_every_tensor_has_one_name_in_either_layout(tiny: MusicFM, golden: Golden) -> None:
    names = set(tiny.state_dict())
    assert {ours(published(name)) for name in names} == names
    assert not names & {published(name) for name in names}
    assert {name.removeprefix("gradnorm/") for name in golden if "gradnorm/" in name} == {
        published(name) for name, _ in tiny.named_parameters()
    }
    assert len({row[0] for row in KEYS}) == len({row[1] for row in KEYS}) == len(KEYS)


# ------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        (f"{LAYER}ffn1.output_dense.bias", None, "'encoder.blocks.1.ffn1.down.bias' is missing"),
        ("conv.linear.weight", None, "'conv.linear.weight' is missing"),
        ("conformer.embed_positions.inv_freq", None, "inv_freq' is missing"),
        ("quantizer_melspec_2048_0.codebook", None, "_0.codebook' is missing"),
        (f"{recipe.MEL}spectrogram.window", None, "window' is missing"),
        ("extra.weight", torch.ones(1), "'extra.weight' is unexpected"),
        (f"{LAYER}self_attn.pos_bias_u", torch.ones(1), "pos_bias_u' is unexpected"),
        ("linear.bias", torch.ones(7), r"'head.bias' has shape \(7,\), expected \(256,\)"),
        ("conv.linear.weight", torch.ones(7), r"'conv.linear.weight' has shape \(7,\)"),
        ("conv.linear.weight", torch.ones(0, 7), r"has shape \(0, 7\)"),
        ("conv.linear.weight", torch.ones(63, 512), "impossible sizes: .* dim 63"),
        ("linear.bias", torch.full((256,), torch.nan), "'head.bias' has NaN or infinite"),
        ("linear.bias", torch.full((256,), torch.inf), "'head.bias' has NaN or infinite"),
        ("linear.bias", torch.ones(256, dtype=torch.int64), "'head.bias' is torch.int64"),
        (f"{recipe.MEL}mel_scale.fb", torch.ones(1_025, 128), "fb' is not that .* HTK mel"),
        ("conformer.embed_positions.inv_freq", torch.ones(8), "inv_freq' is not that"),
        ("linear.bias", "text", "holds something other than named tensors"),
    ],
)
def test_a_tensor_that_is_wrong_is_named(
    name: str, change: Any, message: str, tmp_path: Path
) -> None:
    path = recipe.write_published(tmp_path / "model.pt", changes={name: change})
    with pytest.raises(CheckpointError, match=rf"^{re.escape(str(path))}\b.*{message}"):
        MusicFM.from_pretrained(path)


class Malicious:
    """Runs a command when it is unpickled, if one lets it."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


@pytest.mark.parametrize("plain_pickle", [False, True])
def test_code_in_a_checkpoint_does_not_run(plain_pickle: bool, tmp_path: Path) -> None:
    path, witness = tmp_path / "model.pt", tmp_path / "witness"
    content = {"state_dict": {"model.weight": Malicious(witness)}}
    if plain_pickle:
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"{path} is not a "):
        MusicFM.from_pretrained(path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(content))  # it would have
    assert witness.exists()


def damaged(kind: str, whole: bytes) -> bytes:
    position = whole.index(b"data.pkl") + 100
    return {
        "empty": b"",
        "text": b"404: Not Found",
        "truncated": whole[: len(whole) // 2],
        "without its end": whole[:-10],
        "garbled": whole[:position] + bytes(range(256)) + whole[position + 256 :],
    }[kind]


@pytest.mark.parametrize("kind", ["empty", "text", "truncated", "without its end", "garbled"])
def test_a_damaged_file_is_named(kind: str, published_tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(damaged(kind, published_tiny.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"{path} is not a .*download it again"):
        MusicFM.from_pretrained(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "holds something other than named tensors"),
        ({}, r"is not a MusicFM checkpoint: its keys do not all begin with 'model\.'"),
        ({"state_dict": {"weight": torch.ones(1)}}, "do not all begin with"),
        ({"state_dict": {"model.weight": torch.ones(1)}}, "'conv.linear.weight' is missing"),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(
    content: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained(path, stats=(0.0, 1.0))


# ---------------------------------------------------------------------------- statistics


def statistics(path: Path, mean: float = 1.0, feature: str = "melspec_2048") -> Path:
    path.write_text(json.dumps({f"{feature}_mean": mean, f"{feature}_std": 2.0}))
    return path


@pytest.mark.parametrize(
    ("checkpoint", "beside", "expected"),
    [
        ("pretrained_msd.pt", ["msd_stats.json", "fma_stats.json"], "msd_stats.json"),
        ("pretrained_fma.pt", ["msd_stats.json", "fma_stats.json"], "fma_stats.json"),
        ("mine.pt", ["mine_stats.json", "fma_stats.json"], "mine_stats.json"),
        ("musicfm_25hz_FMA_330m_500k.pt", ["fma_classic_stats.json"], "fma_classic_stats.json"),
        ("mine.pt", ["stats.json", "config.json"], "stats.json"),
    ],
)
def test_statistics_are_named_after_the_checkpoint_or_the_only_ones(
    checkpoint: str, beside: list[str], expected: str, tmp_path: Path
) -> None:
    for name in beside:
        statistics(tmp_path / name)
    assert find_stats(tmp_path / checkpoint).name == expected


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        ([], r"there is no msd_stats.json beside it; put it there, or .* stats="),
        (["a_stats.json", "b_stats.json"], r"several others \(a_stats.json, b_stats.json\)"),
    ],
)
def test_statistics_are_not_guessed(beside: list[str], message: str, tmp_path: Path) -> None:
    for name in beside:
        statistics(tmp_path / name)
    recipe.write_published(tmp_path / "pretrained_msd.pt")
    (tmp_path / "msd_stats.json").unlink()
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained(tmp_path / "pretrained_msd.pt")


def test_statistics_may_be_given(published_tiny: Path, tmp_path: Path) -> None:
    for stats in (statistics(tmp_path / "x.json"), str(tmp_path / "x.json"), (1.0, 2.0), (1, 2)):
        mel = MusicFM.from_pretrained(published_tiny, stats=stats).config.mel
        assert (mel.mean, mel.std) == (1.0, 2.0)


def test_the_layout_says_which_feature_is_meant(tmp_path: Path) -> None:
    both = {"melspec_mean": 1, "melspec_std": 2, "melspec_2048_mean": 3, "melspec_2048_std": 4}
    path = tmp_path / "stats.json"
    path.write_text(json.dumps(both))
    assert read_stats(path) == (3, 4)
    assert read_stats(path, legacy=True) == (1, 2)
    assert read_stats(statistics(path, 5.0, "melspec")) == (5.0, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no 'melspec_2048_mean' and 'melspec_2048_std'"),
        ('{"melspec_2048_mean": 1}', "has no 'melspec_2048_mean' and"),
        ('{"melspec_2048_mean": NaN, "melspec_2048_std": 1}', "mean of nan .* impossible"),
        ('{"melspec_2048_mean": 1, "melspec_2048_std": 0}', "deviation of 0.0 are impossible"),
        ('{"melspec_2048_mean": 1, "melspec_2048_std": 1e999}', "deviation of inf are impossible"),
        ('{"melspec_2048_mean": "1", "melspec_2048_std": 1}', "must be numbers"),
        ('{"melspec_2048_mean": true, "melspec_2048_std": 1}', "must be numbers"),
    ],
)
def test_statistics_that_cannot_be_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "stats.json"
    path.write_text(text)
    with pytest.raises(CheckpointError, match=rf"{path}.*{message}"):
        read_stats(path)


def test_statistics_of_another_checkpoint_are_not_replaced(tiny: MusicFM, tmp_path: Path) -> None:
    config, tensors = tiny.config, tiny.state_dict()
    other = config.replace(mel=config.mel.replace(mean=1.0))
    write(config, tensors, tmp_path / "pretrained_a.pt")
    before = (tmp_path / "a_stats.json").read_bytes()
    with pytest.raises(OutputError, match=r"has those of .*pretrained_a\.pt; choose another name"):
        write(other, tensors, tmp_path / "a.pt")
    assert (tmp_path / "a_stats.json").read_bytes() == before
    assert not (tmp_path / "a.pt").exists()
    write(config, tensors, tmp_path / "a.pt")  # of the same statistics
    (tmp_path / "a.pt").unlink()
    write(other, tensors, tmp_path / "pretrained_a.pt")  # its own


def test_missing_statistics_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot read statistics .*nowhere.json: No such"):
        read_stats(tmp_path / "nowhere.json")
    with pytest.raises(CheckpointError, match=r"the given statistics: .* impossible"):
        read_stats((0.0, -1.0))


# ------------------------------------------------------------------------------- writing


def test_what_is_written_has_all_that_the_authors_code_expects(
    tiny: MusicFM, tmp_path: Path
) -> None:
    path = tmp_path / "pretrained_new.pt"
    write(tiny.config, tiny.state_dict(), path)
    written = torch.load(path, weights_only=True)["state_dict"]
    expected = recipe.published_state()
    assert {name.removeprefix("model.") for name in written} == set(expected)
    for name, tensor in expected.items():
        found = written[f"model.{name}"]
        assert (found.shape, found.dtype) == (tensor.shape, torch.float32)
        if not name.startswith(("cls_token", "conformer.pos_conv_embed")):  # never used
            torch.testing.assert_close(found, tensor, rtol=0, atol=1e-7)
    assert stats_path(path).name == "new_stats.json"
    assert read_stats(stats_path(path)) == (tiny.config.mel.mean, tiny.config.mel.std)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"encoder": TransformerConfig(dim=64, depth=1, num_heads=4)}, "has a transformer"),
        ({"quantizer": KMeansConfig(codebook_size=4)}, "kmeans"),
        ({"context_seconds": 5.0}, "has no place for context_seconds=5.0$"),
        ({"front_end": FrontEndConfig(conv_dim=4, time_strides=(2, 1))}, "front_end.time_strides"),
        ({"mel": MelConfig(hop_length=120)}, "has no place for mel.hop_length=120$"),
        (
            {"quantizer": RandomProjectionConfig(codebook_size=4, seed=3), "context_seconds": 6.0},
            "no place for quantizer.seed=3, context_seconds=6.0$",
        ),
        ({"encoder": recipe.TINY.encoder.replace(dropout=0.0)}, "encoder.dropout=0.0$"),
    ],
)
def test_what_the_layout_cannot_express_is_named(
    changes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    config = recipe.TINY.replace(**changes)
    path = tmp_path / "model.pt"
    with pytest.raises(CheckpointError, match=rf"cannot write {path}: .*{named}"):
        write(config, MusicFM(config).state_dict(), path)
    assert not list(tmp_path.iterdir())
