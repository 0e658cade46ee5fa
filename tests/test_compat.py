from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recipe
from conftest import Golden
from musicfm.errors import CheckpointError, ConfigError
from musicfm.model.config import KMeansConfig, RandomProjectionConfig, TransformerConfig
from musicfm.model.encoder import ConformerBlock
from musicfm.model.musicfm import MusicFM
from musicfm.model.musicfm_25hz import LEGACY_MODEL_PATH, MODEL_PATH, MusicFM25Hz

# The code of the authors' first README, but for the line that imports.
GET_EMBEDDINGS = """
import torch
from model.musicfm_25hz import MusicFM25Hz

# dummy audio
wav = (torch.rand(4, 24000 * 30) - 0.5) * 2

# load MusicFM
musicfm = MusicFM25Hz()

# to GPUs
wav = wav.cuda()
musicfm = musicfm.cuda()

# get embeddings
musicfm.eval()
emb = musicfm.get_latent(wav, layer_ix=6)
"""
MIXED_PRECISION = """
import torch
from model.musicfm_25hz import MusicFM25Hz

# dummy audio
wav = (torch.rand(4, 24000 * 30) - 0.5) * 2

# load MusicFM
musicfm = MusicFM25Hz(is_flash=True)

# to GPUs
wav = wav.cuda().half()
musicfm = musicfm.cuda().half()

# get embeddings
musicfm.eval()
emb = musicfm.get_latent(wav, layer_ix=6)
"""
DEEP = recipe.TINY.replace(encoder=recipe.TINY.encoder.replace(depth=6))
Build = Callable[..., MusicFM25Hz]


@pytest.fixture
def build(published_tiny: Path) -> Build:
    """The golden model by the authors' interface, with arguments."""

    def build(**arguments: Any) -> MusicFM25Hz:
        return MusicFM25Hz(**{"model_path": published_tiny, **arguments}).eval()

    return build


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "dtype"), [(GET_EMBEDDINGS, torch.float32), (MIXED_PRECISION, torch.float16)]
)
def test_the_authors_readme_runs(
    code: str, dtype: torch.dtype, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_published(here / MODEL_PATH, DEEP)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    scope: dict[str, Any] = {}
    exec(code.replace("model.musicfm_25hz", "musicfm.model.musicfm_25hz"), scope)
    emb = scope["emb"]
    assert (emb.shape, emb.dtype) == ((4, 750, 64), dtype)
    assert torch.isfinite(emb).all()


# ---------------------------------------------------------------------------------- methods


def test_predictions_and_targets_are_the_published_ones(
    build: Build, music: Tensor, golden: Golden
) -> None:
    musicfm = build()
    logits, hidden = musicfm.get_predictions(music)
    assert list(logits) == ["melspec_2048"]
    predicted = logits["melspec_2048"].detach().numpy()
    assert predicted.shape == (2, 100, 256)
    np.testing.assert_allclose(predicted[:, ::5], golden["logits"], rtol=0, atol=1e-4)
    assert len(hidden) == 4
    for layer, state in enumerate(hidden):
        np.testing.assert_allclose(
            state.detach().numpy(), golden[f"hidden_{layer}"], rtol=0, atol=1e-4
        )
        assert torch.equal(musicfm.get_latent(music, layer_ix=layer), state)
    targets = musicfm.get_targets(music)
    np.testing.assert_array_equal(targets["melspec_2048"], golden["tokens"])
    assert targets["melspec_2048"].dtype == torch.int64


def test_a_latent_costs_no_more_than_its_layer(build: Build, music: Tensor) -> None:
    musicfm = build()
    ran: list[nn.Module] = []
    for module in musicfm.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    musicfm.get_latent(music, layer_ix=1)
    assert sum(isinstance(module, ConformerBlock) for module in ran) == 1
    with pytest.raises(ConfigError, match="no layer 12; this model has layers 0 to 3"):
        musicfm.get_latent(music)


def test_masking_gives_the_indices_of_hidden_tokens(build: Build, music: Tensor) -> None:
    torch.manual_seed(0)
    clean = music.clone()
    masked, indices = build(mask_prob=0.5).masking(music)
    assert torch.equal(music, clean)
    hidden = torch.zeros(2, 100).bool()
    hidden[tuple(indices.T)] = True
    assert torch.equal(hidden.repeat_interleave(960, dim=1), masked != music)
    assert indices.shape == (int(hidden.sum()), 2)
    assert 0 < len(indices) < 200


@pytest.mark.parametrize(
    ("arguments", "tokens"), [({"mask_prob": 1.0}, 100), ({"mask_prob": 1.0, "mask_hop": 1.2}, 90)]
)
def test_masking_follows_its_arguments(
    arguments: dict[str, Any], tokens: int, build: Build, music: Tensor
) -> None:
    assert len(build(**arguments).masking(music)[1]) == 2 * tokens


def test_the_loss_is_the_published_one(build: Build, music: Tensor, golden: Golden) -> None:
    musicfm = build()
    logits, _ = musicfm.get_predictions(music)
    targets = musicfm.get_targets(music)
    indices = torch.from_numpy(golden["token_mask"]).nonzero()
    losses, accuracies = musicfm.get_loss(logits, targets, indices)
    rows = tuple(indices.T)
    scores, wanted = logits["melspec_2048"][rows], targets["melspec_2048"][rows]
    expected = nn.functional.cross_entropy(scores, wanted)
    torch.testing.assert_close(losses["melspec_2048"], expected)
    assert accuracies["melspec_2048"] == (scores.argmax(dim=1) == wanted).float().mean()


@pytest.mark.parametrize("samples", [1_025, 24_000, 72_333])
def test_one_step_works_for_clips_of_any_length(samples: int, build: Build) -> None:
    musicfm = build().train()
    logits, hidden, losses, accuracies = musicfm(torch.randn(2, samples))
    frames = recipe.TINY.num_frames(samples)
    assert logits["melspec_2048"].shape == (2, frames, 256)
    assert {state.shape for state in hidden} == {(2, frames, 64)}
    losses["melspec_2048"].backward()
    assert losses.keys() == accuracies.keys() == {"melspec_2048"}
    if samples < 9_600:  # nothing can be hidden
        assert losses["melspec_2048"] == accuracies["melspec_2048"] == 0


def test_the_global_generator_decides_what_is_hidden(build: Build, music: Tensor) -> None:
    musicfm = build()
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(musicfm(music)[2]["melspec_2048"].item())
    assert losses[0] == losses[1] != losses[2]


def test_flash_makes_no_difference(build: Build, music: Tensor) -> None:
    plain, flash = (build(is_flash=flash).get_latent(music, layer_ix=3) for flash in (False, True))
    assert torch.equal(plain, flash)


def test_the_feature_may_have_its_old_name(build: Build, music: Tensor) -> None:
    musicfm = build(features=["melspec"])
    assert list(musicfm.get_targets(music)) == ["melspec"]
    assert all(list(values) == ["melspec"] for values in musicfm(music)[2:])


# -------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("codebook_dim", 8, 16),
        ("codebook_size", 8_192, 256),
        ("hop_length", 320, 240),
        ("n_mels", 80, 128),
        ("conv_dim", 32, 16),
        ("encoder_dim", 512, 64),
        ("encoder_depth", 24, 3),
    ],
)
def test_an_argument_that_contradicts_the_file_is_named(
    name: str, value: int, found: int, build: Build
) -> None:
    message = f"^{name} is {value}, and .*pretrained_tiny.pt has {found}; leave the argument out"
    with pytest.raises(CheckpointError, match=message):
        build(**{name: value})


def test_arguments_may_say_what_the_file_says(build: Build) -> None:
    musicfm = build(codebook_size=256, conv_dim=16, encoder_dim=64, encoder_depth=3)
    assert musicfm.model.config == recipe.TINY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_codebooks": 4}, "num_codebooks is 4: .* use musicfm.MusicFM"),
        ({"features": []}, r"features are \[\]; the model hears \['melspec_2048'\]"),
        ({"features": ["chromagram"]}, r"features are \['chromagram'\]"),
        ({"features": ["melspec_2048", "chromagram"]}, "features are"),
        ({"mask_hop": 0.41}, "block_seconds 0.41 is 10.25 tokens"),
        ({"mask_prob": 1.1}, "'probability' is 1.1"),
    ],
)
def test_impossible_arguments_are_named(
    arguments: dict[str, Any], message: str, build: Build
) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**arguments)


@pytest.mark.parametrize(
    "quantizer", [KMeansConfig(codebook_size=4), RandomProjectionConfig(num_codebooks=2)]
)
def test_a_model_with_other_tokens_is_refused(quantizer: Any, tmp_path: Path) -> None:
    model = MusicFM(
        recipe.TINY.replace(
            quantizer=quantizer, encoder=TransformerConfig(dim=64, depth=1, num_heads=4)
        )
    )
    for name, buffer in model.quantizer.named_buffers():
        if name == "centroids":
            buffer.zero_()
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"codebooks of kind '{quantizer.kind}'; .* use"):
        MusicFM25Hz(model_path=tmp_path)


def test_without_a_checkpoint_the_weights_are_random(here: Path) -> None:
    sizes: dict[str, Any] = {
        "conv_dim": 8,
        "encoder_dim": 32,
        "encoder_depth": 2,
        "codebook_size": 9,
    }
    musicfm = MusicFM25Hz(model_path=None, stat_path=None, codebook_dim=4, n_mels=64, **sizes)
    config = musicfm.model.config
    assert (config.front_end.conv_dim, config.encoder.dim, config.encoder.depth) == (8, 32, 2)
    assert config.quantizer == RandomProjectionConfig(codebook_size=9, codebook_dim=4)
    assert config.mel == type(config.mel)(n_mels=64)
    (here / "s.json").write_text('{"melspec_2048_mean": 1.0, "melspec_2048_std": 2.0}')
    musicfm = MusicFM25Hz(model_path=None, stat_path="s.json", **sizes)
    assert (musicfm.model.config.mel.mean, musicfm.model.config.mel.std) == (1.0, 2.0)


# ------------------------------------------------------------------------------------ files


def test_todays_files_come_before_the_old_ones(here: Path) -> None:
    recipe.write_published(here / MODEL_PATH, recipe.TINY)
    recipe.write_published(here / LEGACY_MODEL_PATH, DEEP, legacy=True)
    assert MusicFM25Hz().model.config == recipe.TINY


def test_the_old_files_are_used_where_there_are_no_others(here: Path) -> None:
    path = recipe.write_published(here / LEGACY_MODEL_PATH, recipe.TINY, legacy=True)
    stats = path.with_name(f"{path.stem}_stats.json")
    stats.rename(path.with_name("fma_classic_stats.json"))
    with pytest.warns(UserWarning, match="layout of November 2023"):
        musicfm = MusicFM25Hz()
    assert musicfm.model.config == recipe.TINY
    with (
        pytest.warns(UserWarning, match="layout of November 2023"),
        pytest.raises(CheckpointError, match=r"cannot read statistics .*other.json"),
    ):
        MusicFM25Hz(stat_path="other.json")


def test_without_files_it_is_said_what_to_download(here: Path) -> None:
    message = (
        rf"there is no {MODEL_PATH}: download https://.*/pretrained_fma.pt and "
        r"https://.*/fma_stats.json into one folder, say data/, .* or load model_path='fma'"
    )
    with pytest.raises(CheckpointError, match=message):
        MusicFM25Hz()
    with pytest.raises(CheckpointError, match=r"there is no file data/other.pt"):
        MusicFM25Hz(model_path="./data/other.pt")


def test_default_statistics_do_not_serve_another_checkpoint(here: Path) -> None:
    other = recipe.TINY.replace(mel=recipe.TINY.mel.replace(mean=1.0))
    recipe.write_published(here / MODEL_PATH)
    msd = recipe.write_published(here / "data" / "pretrained_msd.pt", other)
    assert MusicFM25Hz(model_path=str(msd)).model.config == other
    fma = MusicFM25Hz(model_path=str(msd), stat_path=here / "data" / "fma_stats.json")
    assert fma.model.config == recipe.TINY
