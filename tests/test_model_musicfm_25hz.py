import copy
import functools
import importlib
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recipe
from conftest import Golden
from musicfm.errors import AudioError, CheckpointError, ConfigError
from musicfm.model.config import KMeansConfig, RandomProjectionConfig, TransformerConfig
from musicfm.model.masking import masked_loss
from musicfm.model.musicfm import MusicFM
from musicfm.model.musicfm_25hz import LEGACY_MODEL_PATH, MODEL_PATH, MusicFM25Hz
from musicfm.modules.conformer import ConformerLayer
from musicfm.modules.features import MelSTFT

# The code of the authors' first README; its import gets the name of the package.
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
# Today's: the folder above the clone on the path, files in it, the default ones, and pooling.
FROM_A_FOLDER = """
HOME_PATH = "."

import os
import sys
import torch

sys.path.append(HOME_PATH)
from musicfm.model.musicfm_25hz import MusicFM25Hz

wav = (torch.rand(4, 24000 * 30) - 0.5) * 2
musicfm = MusicFM25Hz(
    is_flash=False,
    stat_path=os.path.join(HOME_PATH, "musicfm", "data", "msd_stats.json"),
    model_path=os.path.join(HOME_PATH, "musicfm", "data", "pretrained_msd.pt"),
)
wav = wav.cuda()
musicfm = musicfm.cuda()
musicfm.eval()
emb = musicfm.get_latent(wav, layer_ix=7)
assert (emb.shape, emb.dtype) == ((4, 750, 64), torch.float32)

wav = (torch.rand(4, 24000 * 30) - 0.5) * 2
musicfm = MusicFM25Hz(is_flash=True)
wav = wav.cuda().half()
musicfm = musicfm.cuda().half()
musicfm.eval()
emb = musicfm.get_latent(wav, layer_ix=7)

from torch import nn

seq_emb = emb.mean(-1)
n_frame = 300
token_emb = nn.AdaptiveAvgPool1d(n_frame)(emb)
assert seq_emb.shape == (4, 750) and token_emb.shape == (4, 750, 300)
"""
DEEP = recipe.TINY.replace(encoder=recipe.TINY.encoder.replace(depth=7))
Build = Callable[..., Any]


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
    ("code", "dtype"),
    [
        (GET_EMBEDDINGS, torch.float32),
        (MIXED_PRECISION, torch.float16),
        (FROM_A_FOLDER, torch.float16),
    ],
)
def test_the_authors_readme_runs(
    code: str, dtype: torch.dtype, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe.write_published(here / MODEL_PATH, DEEP)
    recipe.write_published(here / "musicfm" / "data" / "pretrained_msd.pt", DEEP)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setattr(nn.Module, "cuda", lambda self: self)
    scope: dict[str, Any] = {}
    exec(code.replace("from model", "from musicfm.model"), scope)
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


def test_a_latent_costs_no_more_than_its_layer(
    build: Build, music: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    musicfm, ran = build(), []
    forward = ConformerLayer.forward

    def count(*inputs: Any, **options: Any) -> Any:
        ran.append(inputs)
        return forward(*inputs, **options)

    monkeypatch.setattr(ConformerLayer, "forward", count)
    for layer, number in ((1, 1), (0, 0), (-2, 2), (3, 3)):
        ran.clear()
        musicfm.get_latent(music, layer_ix=layer)
        assert len(ran) == number
    with pytest.raises(ConfigError, match="no layer 12; this model has layers 0 to 3"):
        musicfm.get_latent(music)


def noted(seen: list[Any], function: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    def note(x: Tensor) -> Any:
        seen.append(1)
        return function(x)

    return note


def layer_hooked(musicfm: Any) -> list[Any]:
    seen: list[Any] = []
    musicfm.conformer.layers[2].register_forward_hook(lambda *_: seen.append(1))
    return seen


def part_patched(musicfm: Any) -> list[Any]:
    seen: list[Any] = []
    dense = musicfm.conformer.layers[2].ffn2.output_dense
    dense.forward = noted(seen, functools.partial(type(dense).forward, dense))
    return seen


def conformer_hooked(musicfm: Any) -> list[Any]:
    seen: list[Any] = []
    musicfm.conformer.register_forward_hook(lambda _, __, output: seen.append(1))
    return seen


def head_hooked(musicfm: Any) -> list[Any]:
    seen: list[Any] = []
    musicfm.linear.register_forward_pre_hook(lambda *_: seen.append(1))
    return seen


def encoder_replaced(musicfm: Any) -> list[Any]:
    seen: list[Any] = []
    musicfm.encoder = noted(seen, musicfm.encoder)
    return seen


def method_overridden(musicfm: Any) -> list[Any]:
    seen: list[Any] = []

    class Mine(MusicFM25Hz):
        def get_predictions(self, x: Tensor) -> Any:
            seen.append(1)
            return super().get_predictions(x)

    musicfm.__class__ = Mine
    return seen


@pytest.mark.parametrize(
    "change",
    [
        layer_hooked, part_patched, conformer_hooked, head_hooked, encoder_replaced,
        method_overridden,
    ],
)  # fmt: skip
def test_who_looks_beyond_a_latent_sees_all(change: Any, build: Build, music: Tensor) -> None:
    musicfm = build()
    expected = musicfm.get_latent(music, 1)
    seen = change(musicfm)
    assert torch.equal(musicfm.get_latent(music, 1), expected)
    assert seen == [1]


def test_stages_may_be_replaced(build: Build, music: Tensor) -> None:
    """As exporters do, which begin at the mel."""
    musicfm = build()
    expected, mel = musicfm.get_latent(music, 2), musicfm._mel(music)
    musicfm.preprocessing = lambda x, features: dict.fromkeys(features, x)
    musicfm.normalize = lambda x: x
    assert torch.equal(musicfm.get_latent(mel, 2), expected)
    musicfm = build()
    musicfm.get_predictions = musicfm.encoder
    assert torch.equal(musicfm.get_latent(mel, layer_ix=2), expected)


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


def test_a_seed_hides_what_it_hid_in_the_authors_code(build: Build, music: Tensor) -> None:
    torch.manual_seed(5)
    hidden = torch.rand(2, 10) < 0.6
    samples = torch.nonzero(hidden.repeat_interleave(9_600, dim=1))
    noise = torch.randn(len(samples)) * 0.1
    torch.manual_seed(5)
    masked, indices = build().masking(music)
    assert torch.equal(indices, torch.nonzero(hidden.repeat_interleave(10, dim=1)))
    assert torch.equal(masked[tuple(samples.T)], noise)


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
    losses, accuracies = musicfm.get_loss(
        logits=logits, target_tokens=targets, masked_indices=indices
    )
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


def test_no_file_of_the_authors_says_how_far_frames_are_apart(
    build: Build, music: Tensor, tiny: MusicFM, here: Path
) -> None:
    musicfm = build(hop_length=480)
    assert musicfm.preprocessing(music, [MELSPEC])[MELSPEC].shape == (2, 128, 200)
    assert musicfm.get_latent(music, layer_ix=3).shape == (2, 50, 64)
    assert musicfm.model.config.mel.hop_length == musicfm.hop_length == 480
    tiny.save_pretrained("folder")
    with pytest.raises(CheckpointError, match="hop_length is 480, and folder has 240"):
        MusicFM25Hz(model_path="folder", hop_length=480)


def test_arguments_may_say_what_the_file_says(build: Build) -> None:
    musicfm = build(codebook_size=256, conv_dim=16, encoder_dim=64, encoder_depth=3)
    assert musicfm.model.config == recipe.TINY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_codebooks": 4}, "num_codebooks is 4: .* use musicfm.MusicFM"),
        ({"features": []}, r"features are \[\]; the model takes \['melspec_2048'\]"),
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


def test_all_statistics_are_kept(build: Build, here: Path) -> None:
    stats = {f"{MELSPEC}_cnt": 7, f"{MELSPEC}_mean": 1.0, f"{MELSPEC}_std": 2.0, "chroma_std": 3.0}
    Path("s.json").write_text(json.dumps(stats))
    assert build(stat_path="s.json").stat == stats


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


# ------------------------------------------------------------------------------ its parts

MELSPEC = "melspec_2048"


def test_each_stage_is_the_published_one(build: Build, music: Tensor, golden: Golden) -> None:
    musicfm = build()
    features = musicfm.preprocessing(music, features=[MELSPEC])
    assert features[MELSPEC].shape == (2, 128, 400)
    near = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4)
    np.testing.assert_allclose(features[MELSPEC][:, :, ::8], golden["mel_db"], rtol=0, atol=1e-3)
    by_hand = musicfm.preprocessor_melspec_2048(music)[..., :-1]
    assert torch.equal(by_hand, features[MELSPEC])
    by_hand = (by_hand - musicfm.stat[f"{MELSPEC}_mean"]) / musicfm.stat[f"{MELSPEC}_std"]
    normalized = musicfm.normalize(features)
    assert normalized is features  # it is changed in place there, too
    assert torch.equal(normalized[MELSPEC], by_hand)

    x = musicfm.conv(normalized[MELSPEC])
    near(x.detach(), golden["hidden_0"])
    output = musicfm.conformer(x, output_hidden_states=True, return_dict=True)
    for layer, state in enumerate(output.hidden_states):
        near(state.detach(), golden[f"hidden_{layer}"])
    logits = musicfm.linear(output["last_hidden_state"])
    near(logits.detach()[:, ::5], golden["logits"])
    encoded, hidden_states = musicfm.encoder(normalized[MELSPEC])
    assert torch.equal(encoded[MELSPEC], logits)
    assert torch.equal(hidden_states[2], output.hidden_states[2])

    stacked = musicfm.rearrange({MELSPEC: normalized[MELSPEC].clone()})
    assert stacked[MELSPEC].shape == (2, 100, 512)
    assert torch.equal(stacked[MELSPEC][:, 3, 128:256], by_hand[:, :, 13])
    tokens = musicfm.tokenize(stacked)[MELSPEC]
    np.testing.assert_array_equal(tokens, golden["tokens"])
    assert torch.equal(musicfm.quantizer_melspec_2048_0(stacked[MELSPEC]), tokens)
    indices = torch.from_numpy(golden["token_mask"]).nonzero()
    rows = tuple(indices.T)
    loss = musicfm.loss(logits[rows], tokens[rows])
    assert musicfm.get_loss(encoded, {MELSPEC: tokens}, indices)[0][MELSPEC] == loss


def test_odd_lengths_are_published_ones(build: Build, odd_music: Tensor, golden: Golden) -> None:
    musicfm = build()
    logits, hidden_states = musicfm.get_predictions(odd_music)
    for layer in (0, 3):
        state = hidden_states[layer].detach()
        np.testing.assert_allclose(state, golden[f"odd_hidden_{layer}"], rtol=0, atol=1e-4)
    found = logits[MELSPEC].detach()[:, ::5]
    np.testing.assert_allclose(found, golden["odd_logits"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(musicfm.get_targets(odd_music)[MELSPEC], golden["odd_tokens"])


def test_layers_can_be_run_by_hand(build: Build, music: Tensor, golden: Golden) -> None:
    musicfm = build()
    x = musicfm.conv(musicfm.normalize(musicfm.preprocessing(music, [MELSPEC]))[MELSPEC])
    conformer = musicfm.conformer
    positions = conformer.embed_positions(x)
    assert positions.shape == (2, 100, 1, 1, 16)
    for i, layer in enumerate(conformer.layers[:2]):
        if i == 0:
            x = layer(x, attention_mask=None, relative_position_embeddings=positions)[0]
        else:
            x, attentions = layer(x)  # positions are found without them
            assert attentions is None
    np.testing.assert_allclose(x.detach(), golden["hidden_2"], rtol=0, atol=1e-4)
    assert torch.equal(musicfm.get_latent(music, layer_ix=2), x)


def test_a_training_step_is_the_published_one(build: Build, music: Tensor, golden: Golden) -> None:
    musicfm = build().train()
    for module in musicfm.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    masked = music.clone()
    hidden = torch.from_numpy(golden["span_mask"])
    masked.unflatten(1, (-1, 9_600))[hidden] = torch.from_numpy(golden["noise"])
    indices = torch.from_numpy(golden["token_mask"]).nonzero()
    logits, _ = musicfm.get_predictions(masked)
    losses, accuracies = musicfm.get_loss(logits, musicfm.get_targets(music), indices)
    losses[MELSPEC].backward()
    assert losses[MELSPEC].item() == pytest.approx(golden["train_loss"].item(), rel=1e-4)
    accuracy = golden["train_accuracy"].item()
    assert accuracies[MELSPEC].item() == pytest.approx(accuracy, abs=1e-6)
    gradients = {n: w.grad.clone() for n, w in musicfm.named_parameters() if w.grad is not None}
    assert {f"gradnorm/{name}" for name in gradients} == {n for n in golden if "gradnorm/" in n}
    for name, gradient in gradients.items():
        expected = golden[f"gradnorm/{name}"].item()
        assert gradient.norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-5), name
    for name in (name for name in golden if name.startswith("after_step/")):
        buffer = musicfm.get_buffer(name.removeprefix("after_step/"))
        np.testing.assert_allclose(buffer, golden[name], rtol=0, atol=1e-6)

    musicfm.zero_grad()
    model = musicfm.model  # its parameters are the same objects
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    output = model(masked, layers=[0], logits=True).logits
    mask = torch.from_numpy(golden["token_mask"])
    masked_loss(output, model.tokenize(music), mask).mean.backward()
    for name, gradient in gradients.items():
        found = musicfm.get_parameter(name).grad
        torch.testing.assert_close(found, gradient, rtol=1e-4, atol=1e-6)


# --------------------------------------------------------------------------- its weights


def test_weights_have_the_names_of_the_published_ones(build: Build) -> None:
    musicfm, state = build(), recipe.published_state()
    found = musicfm.state_dict()
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(found[name], tensor, check_dtype=False, rtol=0, atol=1e-6)
    pointers = [tensor.data_ptr() for tensor in found.values()]
    assert len(pointers) == len({*pointers})
    names = [name for name, _ in musicfm.named_parameters(remove_duplicate=False)]
    assert names == [name for name, _ in musicfm.named_parameters()]
    assert all(weight.requires_grad for weight in musicfm.parameters())
    layer = [  # by type, as LoRA and counters of operations find them
        (name, type(module))
        for name, module in musicfm.conformer.layers[0].named_modules()
        if type(module).__module__.startswith("torch.")
    ]
    feed_forward = [
        ("intermediate_dropout", nn.Dropout), ("intermediate_dense", nn.Linear),
        ("intermediate_act_fn", nn.SiLU), ("output_dense", nn.Linear),
        ("output_dropout", nn.Dropout),
    ]  # fmt: skip
    assert layer == [
        ("ffn1_layer_norm", nn.LayerNorm),
        *((f"ffn1.{name}", kind) for name, kind in feed_forward),
        ("self_attn_layer_norm", nn.LayerNorm),
        ("self_attn_dropout", nn.Dropout),
        *((f"self_attn.linear_{name}", nn.Linear) for name in ("q", "k", "v", "out")),
        ("self_attn.dropout", nn.Dropout),
        ("conv_module.layer_norm", nn.LayerNorm),
        ("conv_module.pointwise_conv1", nn.Conv1d),
        ("conv_module.glu", nn.GLU),
        ("conv_module.depthwise_conv", nn.Conv1d),
        ("conv_module.batch_norm", nn.BatchNorm1d),
        ("conv_module.activation", nn.SiLU),
        ("conv_module.pointwise_conv2", nn.Conv1d),
        ("conv_module.dropout", nn.Dropout),
        ("ffn2_layer_norm", nn.LayerNorm),
        *((f"ffn2.{name}", kind) for name, kind in feed_forward),
        ("final_layer_norm", nn.LayerNorm),
    ]
    assert [type(module) for module in musicfm.conv.conv[1].children()] == [
        nn.Conv2d, nn.BatchNorm2d, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d, nn.BatchNorm2d,
    ]  # fmt: skip
    assert "model" not in dir(musicfm)  # who looks at everything makes no second model


def test_the_published_size_has_as_many_weights() -> None:
    with torch.device("meta"):
        musicfm = MusicFM25Hz(model_path=None, stat_path=None)
    assert sum(weight.numel() for weight in musicfm.parameters()) == 328_932_480


@pytest.mark.parametrize("normed", ["weight_", "parametrizations.weight.original"])
def test_weights_load_strictly(normed: str, build: Build, music: Tensor) -> None:
    state = {name: tensor + 1.0 for name, tensor in recipe.published_state().items()}
    state["conformer.pos_conv_embed.conv.weight_g"] += 4.0
    for tensor, new in (("weight_g", "original0"), ("weight_v", "original1")):
        if "original" in normed:
            value = state.pop(f"conformer.pos_conv_embed.conv.{tensor}")
            state[f"conformer.pos_conv_embed.conv.parametrizations.weight.{new}"] = value
    names = set(state)
    musicfm = build()
    musicfm.load_state_dict(state, strict=True)
    assert set(state) == names
    assert torch.equal(musicfm.linear.bias, state["linear.bias"])
    assert musicfm.conformer.pos_conv_embed.conv.weight_g.eq(6.0).all()
    del state["conv.linear.bias"]
    with pytest.raises(RuntimeError, match=r"Missing key.*conv.linear.bias"):
        musicfm.load_state_dict(state)


@pytest.mark.parametrize("normed", ["weight_g", "parametrizations.weight.original0"])
def test_what_was_saved_here_loads_here(normed: str, build: Build, here: Path) -> None:
    musicfm = build()
    with torch.no_grad():
        musicfm.cls_token.fill_(7.0)
        musicfm.linear.bias.fill_(8.0)
    state = {f"model.{name}": tensor for name, tensor in musicfm.state_dict().items()}
    weight = state.pop("model.conformer.pos_conv_embed.conv.weight_g")
    state[f"model.conformer.pos_conv_embed.conv.{normed}"] = weight * 3.0
    torch.save({"state_dict": state}, "pretrained_mine.pt")
    Path("mine_stats.json").write_text(json.dumps(musicfm.stat))
    again: Any = MusicFM25Hz(model_path="pretrained_mine.pt")
    assert again.cls_token.eq(7.0).all()
    assert again.linear.bias.eq(8.0).all()
    assert again.conformer.pos_conv_embed.conv.weight_g.eq(3.0).all()
    assert again.stat == musicfm.stat
    assert again.model.head.bias is again.linear.bias


def test_a_file_in_use_may_be_written_over(published_tiny: Path, here: Path) -> None:
    path = Path(shutil.copy(published_tiny, "pretrained_mine.pt"))
    musicfm = MusicFM25Hz(model_path=path, stat_path=published_tiny.with_name("tiny_stats.json"))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, tensor in recipe.published_state().items():
        found = musicfm.state_dict()[name]
        torch.testing.assert_close(found, tensor, check_dtype=False, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["tuned.ckpt", "tuned.pth", "tuned"])
def test_a_file_of_half_precision_may_have_any_name(name: str, here: Path) -> None:
    state = {f"model.{key}": tensor.half() for key, tensor in recipe.published_state().items()}
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}, name)
    Path("s.json").write_text(json.dumps({f"{MELSPEC}_mean": 1.0, f"{MELSPEC}_std": 2.0}))
    musicfm = MusicFM25Hz(stat_path="s.json", model_path=name)
    assert {weight.dtype for weight in musicfm.parameters()} == {torch.float32}
    assert torch.equal(musicfm.linear.bias, state["model.linear.bias"].float())


def test_a_model_in_another_layout_has_all_parts(tiny: MusicFM, music: Tensor, here: Path) -> None:
    tiny.save_pretrained("folder")
    musicfm = MusicFM25Hz(model_path="folder").eval()
    assert musicfm.state_dict().keys() == recipe.published_state().keys()
    assert torch.equal(musicfm.get_latent(music, 3), tiny(music).hidden_states[3])


def test_a_copy_is_another_model(build: Build, music: Tensor) -> None:
    musicfm = build()
    copied = copy.deepcopy(musicfm)
    file = io.BytesIO()
    torch.save(musicfm, file)
    file.seek(0)
    for other in (copied, torch.load(file, weights_only=False)):
        assert torch.equal(other.get_latent(music, 3), musicfm.get_latent(music, 3))
        with torch.no_grad():
            other.conv.linear.bias += 1.0
        assert not torch.equal(other.get_latent(music, 3), musicfm.get_latent(music, 3))


# ------------------------------------------------------------- changing, training, running


def test_parts_that_are_not_needed_can_be_deleted(build: Build, music: Tensor) -> None:
    musicfm = build()
    expected = musicfm.get_latent(music, 2)
    assert musicfm.cls_token.shape == (64,)
    del musicfm.cls_token, musicfm.linear, musicfm.loss, musicfm.quantizer_melspec_2048_0
    del musicfm.conformer.pos_conv_embed, musicfm.conformer.layers[2]
    assert torch.equal(musicfm.get_latent(music, 1), build().get_latent(music, 1))
    x = musicfm.conv(musicfm._mel(music))
    assert torch.equal(
        musicfm.conformer(x, output_hidden_states=True)[1][1], musicfm.get_latent(music, 1)
    )
    assert musicfm.get_latent(music, 2).shape == expected.shape  # the last one now, and normed
    musicfm.conformer.layer_norm = nn.Identity()
    assert torch.equal(musicfm.get_latent(music, 2), expected)
    with pytest.raises(ConfigError, match="this model is no MusicFM any more"):
        _ = musicfm.model


def test_what_is_not_used_gets_no_gradient(build: Build, music: Tensor) -> None:
    musicfm = build().train()
    musicfm(music)[2][MELSPEC].backward()
    unused = [name for name, weight in musicfm.named_parameters() if weight.grad is None]
    convolution = "conformer.pos_conv_embed.conv."
    assert unused == ["cls_token", *(f"{convolution}{n}" for n in ("bias", "weight_g", "weight_v"))]


def test_it_is_made_on_the_default_device(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    def move(module: nn.Module, to: Any) -> nn.Module:
        devices.append(to)
        return module

    monkeypatch.setattr(nn.Module, "to", move)
    monkeypatch.setattr(torch, "get_default_device", lambda: torch.device("cuda"))
    build()
    assert devices[-1] == torch.device("cuda")


def test_it_is_made_without_memory_for_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """As accelerate does it, and transformers for models within theirs."""
    register = nn.Module.register_parameter

    def register_empty(module: nn.Module, name: str, weight: Any) -> None:
        register(module, name, None if weight is None else nn.Parameter(weight.to("meta")))

    monkeypatch.setattr(nn.Module, "register_parameter", register_empty)
    musicfm = MusicFM25Hz(
        model_path=None, stat_path=None, conv_dim=8, encoder_dim=32, encoder_depth=1
    )
    assert {weight.device.type for weight in musicfm.parameters()} == {"meta"}
    assert {buffer.device.type for buffer in musicfm.buffers()} == {"cpu"}


def test_replicas_of_data_parallel_work(build: Build, music: Tensor) -> None:
    """Their weights are no parameters."""
    musicfm = build(is_flash=True).half()
    expected = musicfm.get_latent(music.half(), 3)
    for module in musicfm.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            setattr(module, name, weight.detach())
    assert not list(musicfm.parameters())
    torch.testing.assert_close(musicfm.get_latent(music.half(), 3), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_gives_half_precision(
    dtype: torch.dtype, build: Build, music: Tensor, golden: Golden
) -> None:
    musicfm = build(is_flash=True).to(dtype)
    logits, hidden_states = musicfm.get_predictions(music.to(dtype))
    assert {logits[MELSPEC].dtype, *(state.dtype for state in hidden_states)} == {dtype}
    np.testing.assert_allclose(
        hidden_states[3].float().detach(), golden["hidden_3"], rtol=0, atol=0.15
    )
    features = musicfm.preprocessing(music.to(dtype), [MELSPEC])
    assert features[MELSPEC].dtype == dtype
    tokens = musicfm.get_targets(music)[MELSPEC]
    np.testing.assert_array_equal(tokens, golden["tokens"])
    losses = musicfm.train()(music.to(dtype))[2]
    losses[MELSPEC].backward()
    assert torch.isfinite(losses[MELSPEC])


def test_dropout_is_on_in_training_alone(published_tiny: Path, music: Tensor) -> None:
    musicfm = MusicFM25Hz(model_path=published_tiny)
    assert musicfm.training  # as every module that is new
    assert not torch.equal(musicfm.get_latent(music, 3), musicfm.get_latent(music, 3))
    musicfm.eval()
    assert torch.equal(musicfm.get_latent(music, 3), musicfm.get_latent(music, 3))


def test_masking_follows_attributes(build: Build, music: Tensor) -> None:
    musicfm = build()
    musicfm.mask_prob, musicfm.mask_hop = 1.0, 1.2
    assert len(musicfm.masking(music)[1]) == 2 * 90
    musicfm.stat = {f"{MELSPEC}_mean": 0.0, f"{MELSPEC}_std": 1.0}
    mel = musicfm.preprocessing(music, [MELSPEC])[MELSPEC]
    assert torch.equal(musicfm._mel(music), mel)


def test_hooks_are_called(build: Build, music: Tensor, golden: Golden) -> None:
    musicfm, seen = build(), {}
    for name in ("conv", "conv.linear", "conformer.layers.1", "conformer.layers.1.ffn1"):
        musicfm.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
    with torch.no_grad():
        musicfm.get_predictions(music)
    assert torch.equal(seen["conv"], seen["conv.linear"])
    np.testing.assert_allclose(seen["conv"], golden["hidden_0"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(seen["conformer.layers.1"][0], golden["hidden_2"], rtol=0, atol=1e-4)
    assert seen["conformer.layers.1.ffn1"].shape == (2, 100, 64)


def test_strides_may_be_set(build: Build, music: Tensor) -> None:
    musicfm = build()
    for convolution in (musicfm.conv.conv[1].conv1, musicfm.conv.conv[1].conv3):
        convolution.stride = (2, 1)
    plain = musicfm.get_latent(music, 3)
    assert plain.shape == (2, 200, 64)
    with torch.no_grad():
        torch.testing.assert_close(musicfm.get_latent(music, 3), plain, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="given other strides"):
        _ = musicfm.model


@pytest.mark.parametrize("samples", [1_025, 1_199, 1_201, 24_000])
def test_short_clips_are_heard(samples: int, build: Build) -> None:
    musicfm = build()
    _, hidden_states = musicfm.get_predictions(torch.rand(1, samples))
    assert hidden_states[3].shape == (1, -(-(samples // 240) // 4), 64)
    with pytest.raises(AudioError, match="shortest clip has 1025 samples"):
        musicfm.get_predictions(torch.rand(1, 1_024))
    with pytest.raises(AudioError, match="give a torch tensor"):
        musicfm.get_predictions(np.zeros((1, samples)))
    with pytest.raises(AudioError, match=r"give \(batch, samples\)"):
        musicfm.get_predictions(torch.rand(samples))
    clip, image = torch.rand(1, samples), (1, 1, 128, samples // 240)
    assert musicfm.preprocessing(clip[:, None], [MELSPEC])[MELSPEC].shape == image
    assert torch.equal(musicfm.get_latent(clip[:, None], 3), musicfm.get_latent(clip, 3))
    with pytest.raises(AudioError, match=r"give \(batch, samples\), mono"):
        musicfm.get_predictions(torch.rand(1, 2, samples))
    with pytest.raises(AudioError, match=r"give \(batch, samples\), mono"):
        musicfm.masking(clip[:, None])
    with pytest.raises(AudioError, match=r"mel has shape .*; give \(batch, bands, time\)"):
        musicfm.get_targets(clip[:, None])


def test_features_may_be_added(build: Build, music: Tensor) -> None:
    musicfm = build()
    with pytest.raises(ConfigError, match=r"no feature 'mel_50': there is no preprocessor_mel_50"):
        musicfm.preprocessing(music, [MELSPEC, "mel_50"])
    musicfm.preprocessor_mel_50 = MelSTFT(hop_length=480, is_db=True)
    assert musicfm.preprocessing(music, ["mel_50"])["mel_50"].shape == (2, 128, 200)


def test_no_gradient_reaches_the_waveform(build: Build, music: Tensor) -> None:
    """As in the authors' code: through MusicFM it does."""
    musicfm = build()
    heard = music.clone().requires_grad_()
    assert not musicfm.preprocessing(heard, [MELSPEC])[MELSPEC].requires_grad
    musicfm.get_latent(heard, 1).sum().backward()
    assert heard.grad is None
    assert musicfm.conv.linear.bias.grad is not None


@pytest.mark.compiles
@torch.no_grad()
def test_the_compiled_model_is_the_model(build: Build, music: Tensor) -> None:
    musicfm = build()
    compiled: Any = functools.partial(torch.compile, backend="eager")
    _, expected = musicfm.get_predictions(music)
    near = functools.partial(torch.testing.assert_close, rtol=0, atol=1e-4)
    mel = musicfm.normalize(musicfm.preprocessing(music, [MELSPEC]))[MELSPEC]
    x = compiled(musicfm.conv, fullgraph=True)(mel)
    near(x, expected[0])
    conformer = compiled(musicfm.conformer, fullgraph=True)
    near(conformer(x, output_hidden_states=True).hidden_states[3], expected[3])
    latent = compiled(musicfm.get_latent, fullgraph=True)
    near(latent(music, 2), expected[2])
    replaced = copy.deepcopy(musicfm)
    replaced.conformer = compiled(replaced.conformer)
    near(replaced.get_latent(music, 2), expected[2])
    losses = []
    for step in (musicfm, compiled(musicfm)):
        torch.manual_seed(0)
        losses.append(step(music)[2])
    near(*losses)
    torch.compiler.reset()


def test_it_trains_in_data_parallel(build: Build, music: Tensor, tmp_path: Path) -> None:
    def train(model: nn.Module) -> list[Tensor]:
        torch.manual_seed(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(3):  # the second would fail if a weight had no gradient in the first
            optimizer.zero_grad()
            model(music)[2][MELSPEC].backward()
            optimizer.step()
        return [
            w for name, w in model.named_parameters() if "cls" not in name and "pos" not in name
        ]

    alone, distributed = train(build().train()), torch.distributed
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        parallel = train(nn.parallel.DistributedDataParallel(build().train()))
    finally:
        distributed.destroy_process_group()
    torch.testing.assert_close(parallel, alone)


def test_it_is_found_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the authors' path, in the package, and, with a warning, where it was before 0.2."""
    from musicfm import MusicFM25Hz as public

    monkeypatch.delitem(sys.modules, "musicfm.compat", raising=False)
    with pytest.warns(
        DeprecationWarning, match=r"musicfm.compat is now musicfm.model.musicfm_25hz"
    ):
        before = importlib.import_module("musicfm.compat")
    assert public is MusicFM25Hz is before.MusicFM25Hz
