import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import recipe
from musicfm.audio import reading
from musicfm.embedding.embedder import Embedder
from musicfm.errors import ConfigError
from musicfm.model import checkpoint
from musicfm.model.config import (
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    TransformerConfig,
)
from musicfm.model.encoder import over_taps, padded_taps, patches
from musicfm.model.inference import convolutions, front_end, int8
from musicfm.model.inference import optimized as form_module
from musicfm.model.inference.convolutions import Winograd, Workspace, bilinear
from musicfm.model.inference.cuda import CudaFrontEnd
from musicfm.model.inference.optimized import optimize
from musicfm.model.musicfm import MusicFM

DEMO_SONG = Path(__file__).parents[1] / "examples" / "demo_song.ogg"
VARIANTS = {
    f"{encoder.kind}-{rate}": recipe.TINY.replace(
        mel=MelConfig(hop_length=hop),
        front_end=front_end,
        encoder=encoder,
    )
    for encoder in (
        recipe.TINY.encoder,
        TransformerConfig(dim=64, depth=3, num_heads=4, ffn_dim=128),
    )
    for rate, hop, front_end in (
        (25, 240, FrontEndConfig(conv_dim=8)),
        (50, 240, FrontEndConfig(conv_dim=8, time_strides=(2, 1))),
        (75, 320, FrontEndConfig(conv_dim=8, time_strides=(1, 1))),
    )
}
# Bands that fill no tile.
VARIANTS["conformer-20 bands"] = VARIANTS["conformer-25"].replace(mel=MelConfig(n_mels=20))
VARIANTS["conformer-25 with pitch"] = VARIANTS["conformer-25"].replace(pitch=recipe.PITCH)
# The shortest, multiples of neither a hop nor a frame, just off whole frames, and a full one.
LENGTHS = [1_025, 1_199, 5_003, 9_599, 9_600, 9_601, 17_281, 30_000]


@pytest.fixture(params=[False, True], ids=["direct", "winograd"])
def winograd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Small models, too, use Winograd's arithmetic; and they compute in several parts."""
    monkeypatch.setattr(convolutions, "_WIDE", 8)
    monkeypatch.setattr(front_end, "VALUES", 2**11)
    return bool(request.param)


def trained(config: ModelConfig) -> MusicFM:
    """A model whose parts have all learnt something."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = MusicFM(config).eval()
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            for tensor in (norm.weight.data, norm.running_var):
                tensor.uniform_(0.5, 2.0, generator=generator)
            for tensor in (norm.bias.data, norm.running_mean):
                tensor.normal_(0.0, 0.3, generator=generator)
    if model.pitch is not None:  # begins as nothing
        model.pitch.linear.weight.data.normal_(0.0, 0.1, generator=generator)
    return model


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return (found - expected).abs().max().item()


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_form_gives_what_the_model_gives(config: ModelConfig, winograd: bool) -> None:
    """At every layer and frame of a padded batch, whatever lies in the padding."""
    model = trained(config)
    form = optimize(model, winograd=winograd)
    clips = torch.from_numpy(recipe.waveform(3, len(LENGTHS), max(LENGTHS)))
    lengths = torch.tensor(LENGTHS)
    with torch.no_grad():
        found, expected = form(clips, lengths, logits=True), model(clips, lengths, logits=True)
        assert torch.equal(found.num_frames, expected.num_frames)
        for index, (length, frames) in enumerate(zip(LENGTHS, found.num_frames, strict=True)):
            alone = form(clips[index : index + 1, :length])
            for layer, state in enumerate(found.hidden_states):
                inside = state[index, :frames]
                reference = expected.hidden_states[layer][index, :frames]
                assert largest_difference(inside, reference) <= 1e-5
                assert largest_difference(inside, alone.hidden_states[layer][0]) <= 1e-5
            logits = found.logits[index, :frames], expected.logits[index, :frames]
            assert largest_difference(*logits) <= 1e-5


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_the_front_end_for_cuda_gives_what_the_model_gives(config: ModelConfig) -> None:
    """Here without cuDNN's kernels; test_cuda.py has them."""
    model = trained(config)
    form = CudaFrontEnd(model.front_end, torch.float32)
    mel = torch.randn(3, 101, config.mel.n_mels)
    for lengths in (None, torch.tensor([101, 42, 4])):
        with torch.no_grad():
            found, counts = form(mel, lengths)
            expected, expected_counts = model.front_end(mel, lengths)
        if lengths is None:
            assert counts is None
            assert largest_difference(found, expected) <= 1e-5
            continue
        assert torch.equal(counts, expected_counts)
        for one, other, count in zip(found, expected, counts, strict=True):
            assert largest_difference(one[:count], other[:count]) <= 1e-5


def test_taps_are_the_depthwise_convolution() -> None:
    x, weight, bias = torch.randn(2, 50, 6), torch.randn(6, 1, 31), torch.randn(6)
    expected = F.conv1d(x.mT, weight, bias, padding=15, groups=6).mT
    assert largest_difference(over_taps(x, weight, bias), expected) <= 1e-5


def test_patches_are_the_convolution_of_one_channel() -> None:
    x, weight = torch.randn(2, 9, 13), torch.randn(5, 1, 3, 3)
    for strides in ((2, 2), (2, 1)):
        found = F.linear(patches(x, strides), padded_taps(weight)).permute(0, 3, 1, 2)
        expected = F.conv2d(x[:, None], weight, None, strides, 1)
        assert largest_difference(found, expected) <= 1e-5


def test_without_lengths_all_is_a_clip(music: Tensor, winograd: bool) -> None:
    model = trained(VARIANTS["conformer-25"])
    form = optimize(model, winograd=winograd)
    with torch.no_grad():
        found, expected = form(music, layers=[-1, 0]), model(music, layers=[-1, 0])
    assert found.num_frames is None
    for state, reference in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert largest_difference(state, reference) <= 1e-5


@pytest.mark.parametrize("values", [2**10, 2**13, 2**30])
def test_the_parts_in_which_it_computes_never_matter(
    values: int, music: Tensor, winograd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = optimize(trained(VARIANTS["conformer-25"]), winograd=winograd)
    expected = form(music).hidden_states  # without gradients, outside of no_grad too
    assert not expected[0].requires_grad
    monkeypatch.setattr(front_end, "VALUES", values)
    for state, reference in zip(form(music).hidden_states, expected, strict=True):
        assert largest_difference(state, reference) <= 1e-5


# ----------------------------------------------------------------------------- Winograd


@pytest.mark.parametrize("stride", [1, 2])
def test_the_bilinear_form_is_the_convolution(stride: int) -> None:
    a, b, g = bilinear(stride)
    x, taps = torch.randn(len(b), dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    expected = F.conv1d(x[None, None], taps[None, None], stride=stride)[0, 0]
    torch.testing.assert_close(a @ ((g @ taps) * (b @ x)), expected, rtol=0, atol=1e-12)
    assert len(expected) == 4
    assert len(g) == {1: 6, 2: 9}[stride]  # products for 12


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
def test_its_error_is_small_at_full_width(strides: tuple[int, int]) -> None:
    """Outputs have a size of 1, and hear 4608 inputs each."""
    torch.manual_seed(0)
    x, bias = torch.randn(19, 16, 512), torch.randn(512)
    weight = torch.randn(512, 512, 3, 3) / 4608**0.5
    convolution = Winograd(weight, bias, strides)
    expected = F.conv2d(
        x.permute(2, 0, 1)[None].double(), weight.double(), bias.double(), strides, padding=1
    )[0].permute(1, 2, 0)
    found = convolution(x, 0, len(expected), Workspace(), "test")
    assert largest_difference(found, expected) < 5e-5


def test_only_wide_convolutions_use_it() -> None:
    def kinds(channels: int, winograd: bool) -> set[str]:
        config = recipe.TINY.replace(front_end=FrontEndConfig(conv_dim=channels))
        form = optimize(MusicFM(config), winograd=winograd)
        return {type(module).__name__ for module in form.front_end.modules()} & {
            "_Direct",
            "Winograd",
        }

    assert kinds(64, True) == {"Winograd"}
    assert kinds(64, False) == kinds(16, True) == {"_Direct"}


# ---------------------------------------------------------------------- types and the model


def cosines(found: Tensor, expected: Tensor, centred: bool = False) -> Tensor:
    """Of (clip, time, dim) frames, (clip, time); as they are, or without the clip's mean frame."""
    if centred:
        found, expected = (x - x.mean(dim=1, keepdim=True) for x in (found, expected))
    return F.cosine_similarity(found, expected, dim=-1)


def test_bfloat16_between_float32_residuals_is_near_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On music, with trained weights, at every layer and frame."""
    monkeypatch.setattr(form_module, "multiplies_bfloat16", lambda: True)
    model = MusicFM.from_pretrained("nano")
    song = reading.load(DEMO_SONG, model.config.sample_rate)
    clip = torch.from_numpy(song[: model.config.context_samples])[None]
    expected = optimize(model)(clip).hidden_states
    form = optimize(model.bfloat16())
    assert {weight.dtype for weight in form.encoder.parameters()} == {torch.float32, torch.bfloat16}
    for state, reference in zip(form(clip).hidden_states, expected, strict=True):
        assert state.dtype == torch.float32
        assert cosines(state, reference).min() >= 0.9998
        centred = cosines(state, reference, centred=True)
        assert centred.mean() >= 0.9999
        assert centred.min() >= 0.9997


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_where_half_precision_is_slow_it_is_float32_of_the_rounded_weights(
    dtype: torch.dtype, tiny: MusicFM, music: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(form_module, "multiplies_bfloat16", lambda: False)
    rounded = copy.deepcopy(tiny).to(dtype)
    found = optimize(rounded)(music, logits=True)
    with torch.no_grad():
        expected = rounded.float()(music, logits=True)
    for state, reference in zip(found.hidden_states, expected.hidden_states, strict=True):
        assert largest_difference(state, reference) <= 1e-5
    assert largest_difference(found.logits, expected.logits) <= 1e-5


# ----------------------------------------------------------------------------- integers

needs_vnni = pytest.mark.skipif(
    not form_module.multiplies_int8(), reason="this CPU has no instructions for int8"
)


@needs_vnni
@pytest.mark.parametrize("native", [True, False], ids=["bfloat16", "float32"])
def test_int8_is_near_float32(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """On music, with trained weights, at every layer and frame; whatever is between products."""
    monkeypatch.setattr(form_module, "multiplies_bfloat16", lambda: native)
    model = MusicFM.from_pretrained("nano")
    song = reading.load(DEMO_SONG, model.config.sample_rate)
    clip = torch.from_numpy(song[: model.config.context_samples])[None]
    expected = optimize(model)(clip).hidden_states
    for state, reference in zip(
        optimize(model, int8=True)(clip).hidden_states, expected, strict=True
    ):
        assert state.dtype == torch.float32
        assert cosines(state, reference).min() >= 0.999
        centred = cosines(state, reference, centred=True)
        assert centred.mean() >= 0.9998
        assert centred.min() >= 0.998  # of the last layer; of the others, 0.9997


@needs_vnni
@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_int8_gives_each_clip_what_it_gives_alone(config: ModelConfig) -> None:
    """A step of an integer would show; whatever lies in the padding, and however loud it is."""
    model = trained(config)
    form = optimize(model, int8=True)
    clips = torch.from_numpy(recipe.waveform(3, len(LENGTHS), max(LENGTHS)))
    found = form(clips, torch.tensor(LENGTHS), logits=True)
    expected = model(clips, torch.tensor(LENGTHS))
    assert torch.equal(found.num_frames, expected.num_frames)
    for index, (length, frames) in enumerate(zip(LENGTHS, found.num_frames, strict=True)):
        alone = form(clips[index : index + 1, :length], logits=True)
        for layer, state in enumerate(found.hidden_states):
            inside = state[index, :frames]
            assert largest_difference(inside, alone.hidden_states[layer][0]) <= 1e-5
            assert (
                cosines(inside[None], expected.hidden_states[layer][index, None, :frames]).min()
                > 0.99
            )
        assert largest_difference(found.logits[index, :frames], alone.logits[0]) <= 1e-5


@needs_vnni
@pytest.mark.parametrize("values", [2**10, 2**13])
def test_the_parts_in_which_int8_computes_never_matter(
    values: int, music: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = optimize(trained(VARIANTS["conformer-25"]), int8=True)
    expected = form(music).hidden_states
    monkeypatch.setattr(int8, "VALUES", values)
    for state, reference in zip(form(music).hidden_states, expected, strict=True):
        assert largest_difference(state, reference) <= 1e-5


@needs_vnni
def test_int8_of_silence_is_finite(tiny: MusicFM) -> None:
    for state in optimize(tiny, int8=True)(torch.zeros(1, 9_600)).hidden_states:
        assert state.isfinite().all()


def test_int8_is_refused_where_it_overflows(tiny: MusicFM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form_module, "multiplies_int8", lambda: False)
    with pytest.raises(ConfigError, match="this CPU has no AVX512-VNNI instructions"):
        optimize(tiny, int8=True)
    with pytest.raises(ConfigError, match="this CPU has no AVX512-VNNI instructions"):
        Embedder(tiny, int8=True)


@needs_vnni
def test_the_embedder_computes_with_int8(tiny: MusicFM, music: Tensor) -> None:
    embedder = Embedder(tiny, layer=2, int8=True)
    assert embedder.precision == "int8"
    with torch.inference_mode():
        (expected,) = optimize(tiny, int8=True)(music[:1], layers=[2]).hidden_states
    assert torch.equal(embedder(music[0]).frames, expected[0])
    with pytest.raises(ConfigError, match="a model on meta cannot be optimised"):
        embedder.to("meta")


# ---------------------------------------------------------------------------- the model


def test_the_model_stays_as_it_is(tiny: MusicFM, music: Tensor) -> None:
    before, keys = checkpoint.fingerprint(tiny), list(tiny.state_dict())
    expected = tiny(music).hidden_states
    form = optimize(tiny)
    form(music)
    assert checkpoint.fingerprint(tiny) == before
    assert list(tiny.state_dict()) == keys
    assert all(weight.requires_grad for weight in tiny.parameters())
    for state, reference in zip(tiny(music).hidden_states, expected, strict=True):
        assert torch.equal(state, reference)


def test_the_form_is_not_for_saving(tiny: MusicFM, tmp_path: object) -> None:
    with pytest.raises(ConfigError, match="cannot be saved; save the one that it was made from"):
        optimize(tiny).save_pretrained(f"{tmp_path}/folder")
    with pytest.raises(ConfigError, match="is optimised already"):
        optimize(optimize(tiny))


def test_compiling_is_for_cuda(tiny: MusicFM) -> None:
    with pytest.raises(ConfigError, match="compiling is for CUDA, and the model is on cpu"):
        Embedder(tiny, compile=True)


def test_another_device_is_refused() -> None:
    with torch.device("meta"):
        model = MusicFM(recipe.TINY)
    with pytest.raises(ConfigError, match="a model on meta cannot be optimised"):
        optimize(model)


def test_the_embedder_computes_with_it(tiny: MusicFM, music: Tensor) -> None:
    with torch.inference_mode():
        (expected,) = optimize(tiny)(music[:1], layers=[2]).hidden_states
    assert torch.equal(Embedder(tiny, layer=2)(music[0]).frames, expected[0])
