"""The parts by themselves: musicfm.modules."""

import copy
import importlib
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import Golden
from musicfm.errors import AudioError
from musicfm.model.config import ConformerConfig
from musicfm.model.inference import front_end as front_end_module
from musicfm.model.musicfm import MusicFM
from musicfm.model.quantizers import RandomCodebook
from musicfm.modules import conv as conv_module
from musicfm.modules.conformer import Conformer, Settings
from musicfm.modules.conv import Conv2dSubsampling, Res2dModule
from musicfm.modules.features import MelSTFT
from musicfm.modules.random_quantizer import RandomProjectionQuantizer


def new_conformer(dropout: float = 0.1) -> Any:
    """Of three layers, with random weights."""
    config = ConformerConfig(dim=64, depth=3, num_heads=4, ffn_dim=128, dropout=dropout)
    return Conformer(Settings.of(config))


def largest_difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


# ---------------------------------------------------------------------------- features


def test_the_mel_is_the_published_one(music: Tensor, golden: Golden) -> None:
    mel: Any = MelSTFT(n_fft=2048, hop_length=240, is_db=True)
    found = mel(music)
    assert found.shape == (2, 128, 401)
    np.testing.assert_allclose(found[..., :-1][:, :, ::8], golden["mel_db"], rtol=0, atol=1e-3)
    assert torch.equal(mel.amplitude_to_db(mel.mel_stft(music)), found)
    assert torch.equal(mel.mel_stft.mel_scale(mel.mel_stft.spectrogram(music)), MelSTFT()(music))


@pytest.mark.parametrize("shape", [(4_000,), (3, 1, 4_000)])
def test_the_mel_takes_any_leading_axes(shape: tuple[int, ...]) -> None:
    waveform = torch.rand(shape)
    assert torch.equal(
        MelSTFT()(waveform), MelSTFT()(waveform.reshape(-1, 4_000)).reshape(*shape[:-1], 128, 17)
    )


def test_the_mel_stays_float32() -> None:
    mel: Any = MelSTFT(is_db=True).half()
    assert mel(torch.rand(1, 2_400).half()).dtype == torch.float32
    assert {buffer.dtype for buffer in mel.buffers()} == {torch.float32}
    with pytest.raises(AudioError, match="the shortest clip has 1025 samples"):
        mel(torch.rand(1_024))


# ------------------------------------------------------------------------------ quantizer


def test_the_quantizer_draws_and_finds_what_ours_does(music: Tensor, tiny: MusicFM) -> None:
    state = torch.get_rng_state()
    quantizer = RandomProjectionQuantizer(512, 16, 4_096, seed=145)
    assert torch.equal(torch.get_rng_state(), state)
    ours = RandomCodebook(512, 4_096, 16, 145)
    assert torch.equal(quantizer.random_projection, ours.random_projection)
    assert torch.equal(quantizer.codebook, ours.codebook)
    frames = tiny.token_features(music)
    tokens = quantizer(frames)
    assert (tokens.shape, tokens.dtype) == ((2, 100), torch.int64)
    for clip, found in zip(frames @ quantizer.random_projection, tokens, strict=True):
        a, b = (nn.functional.normalize(x, dim=1) for x in (clip, quantizer.codebook))
        assert torch.equal(torch.cdist(a, b).argmin(dim=1), found)
    assert torch.equal(quantizer.codebook_lookup(frames @ quantizer.random_projection), tokens)


def test_the_quantizer_draws_as_the_authors_did() -> None:
    torch.manual_seed(142)
    projection, codebook = torch.empty(512, 16), torch.empty(256, 16)
    nn.init.xavier_normal_(projection)
    nn.init.normal_(codebook)
    found = RandomProjectionQuantizer(512, 16, 256)
    assert torch.equal(found.random_projection, projection)
    assert torch.equal(found.codebook, codebook)


# -------------------------------------------------------------------------- front end


def front_end(**arguments: Any) -> Any:
    """Of 64 channels, so that Winograd's arithmetic takes part, with statistics that matter."""
    torch.manual_seed(0)
    conv = Conv2dSubsampling(1, 64, 32, n_bands=16, **arguments)
    for name, statistics in conv.named_buffers():
        if name.endswith("running_var"):
            nn.init.uniform_(statistics, 0.5, 1.5)
        elif name.endswith("running_mean"):
            nn.init.normal_(statistics, std=0.1)
    return conv.eval()


@pytest.fixture
def folds(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts how often a front end was folded."""
    made: list[Any] = []
    original = front_end_module.CpuFrontEnd

    def count(*arguments: Any, **options: Any) -> Any:
        made.append(original(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(conv_module, "CpuFrontEnd", count)
    return made


def test_the_front_end_takes_images_and_spectrograms() -> None:
    conv: Any = Conv2dSubsampling(2, 8, 32, strides=[2, 1], n_bands=16)
    assert conv(torch.rand(3, 2, 16, 9)).shape == (3, 5, 32)
    assert Conv2dSubsampling(1, 8, 32, n_bands=16)(torch.rand(3, 16, 9)).shape == (3, 3, 32)
    assert conv.conv[0].conv1.stride == (2, 2)
    with pytest.raises(AudioError, match=r"mel has shape \(16, 9\); give \(batch, bands, time\)"):
        conv(torch.rand(16, 9))
    assert [name for name, _ in conv.conv[1].named_children()] == [
        "conv1", "bn1", "conv2", "bn2", "relu", "conv3", "bn3",
    ]  # fmt: skip


def test_a_block_of_one_shape_adds_its_input() -> None:
    block: Any = Res2dModule(4, 4, stride=(1, 1)).eval()
    assert not block.diff
    assert not hasattr(block, "conv3")
    x = torch.randn(1, 4, 6, 5)
    expected = x + block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    assert torch.equal(block(x), expected.relu())


@pytest.mark.parametrize("strides", [(2, 2), (2, 1), (1, 2), (1, 1)])
@pytest.mark.parametrize("frames", [3, 41, 602])
@pytest.mark.parametrize("fold", [False, True])
def test_a_long_clip_in_pieces_is_the_clip(
    strides: tuple[int, int],
    frames: int,
    fold: bool,
    folds: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conv_module, "PIECE", 16)
    monkeypatch.setattr(conv_module, "WORTH_FOLDING", 0 if fold else 10**9)
    conv = front_end(strides=strides)
    mel = torch.randn(2, 16, frames)
    expected = conv(mel)  # with gradients
    assert not folds
    with torch.no_grad():
        found = conv(mel)
    assert len(folds) == fold
    assert largest_difference(found, expected) < 1e-5


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that is made within it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_does_not_grow_with_a_clip(dtype: torch.dtype) -> None:
    conv = Conv2dSubsampling(1, 64, 2, n_bands=4).eval().to(dtype)
    largest = []
    for seconds in (120, 420):
        mel = torch.zeros(1, 4, seconds * 100, dtype=dtype)
        with torch.inference_mode(), Largest() as mode:
            assert conv(mel).shape == (1, seconds * 25, 2)
        largest.append(mode.elements)
    assert largest[0] == largest[1] > mel.numel()


def test_convolutions_can_be_traced_symbolically() -> None:
    conv, images = front_end(), torch.randn(1, 1, 16, 20)
    traced = torch.fx.symbolic_trace(conv.conv)
    assert torch.equal(traced(images), conv.conv(images))


def test_the_weights_of_this_moment_count(folds: list[Any]) -> None:
    conv, mel = front_end(), torch.randn(1, 16, 600)
    with torch.no_grad():
        before = conv(mel)
        conv.conv[0].conv2.weight.data.mul_(2.0)
        conv.conv[1].bn3.running_mean.add_(1.0)
        after = conv(mel)
    assert len(folds) == 2
    assert largest_difference(after, before) > 0.1
    assert largest_difference(after, conv(mel)) < 1e-5


def hooked(conv: Any) -> None:
    conv.conv[0].bn1.register_forward_hook(lambda *_: None)


def replaced(conv: Any) -> None:
    conv.conv[0].conv1 = nn.Sequential(conv.conv[0].conv1, nn.ReLU())


def normed_otherwise(conv: Any) -> None:
    conv.conv[1].bn2 = nn.GroupNorm(4, 64)  # sees the whole clip


def patched(conv: Any) -> None:
    block = conv.conv[1]
    block.forward = lambda x: type(block).forward(block, x) + 1.0


def dilated(conv: Any) -> None:
    conv.conv[1].conv2.dilation = conv.conv[1].conv2.padding = (2, 2)


def otherwise_activated(conv: Any) -> None:
    conv.conv[0].relu = nn.GELU()


def partly_training(conv: Any) -> None:
    conv.conv[0].bn1.train()


def statistics_of_the_batch(conv: Any) -> None:
    conv.conv[0].bn1.running_mean = conv.conv[0].bn1.running_var = None


def without_bias(conv: Any) -> None:
    conv.linear = nn.Linear(conv.linear.in_features, 32, bias=False)


def without_weight(conv: Any) -> None:
    conv.conv[0].bn2 = nn.BatchNorm2d(64, affine=False).eval()


def longer(conv: Any) -> None:
    conv.conv.append(nn.Tanh())


@pytest.mark.parametrize(
    "change",
    [
        hooked, replaced, normed_otherwise, patched, dilated, otherwise_activated,
        partly_training, statistics_of_the_batch, without_bias, without_weight, longer,
    ],
)  # fmt: skip
def test_a_changed_front_end_is_computed_as_it_stands(change: Any, folds: list[Any]) -> None:
    conv, mel = front_end(), torch.randn(1, 16, 3_200)
    plain = conv(mel)
    change(conv)
    with torch.no_grad():
        found = conv(mel)
    assert not folds
    expected = conv.linear(conv.conv(mel[:, None]).permute(0, 3, 1, 2).flatten(2))
    assert torch.equal(found, expected)
    assert torch.equal(found, plain) == (change is hooked)


def test_hooks_see_a_long_clip_once() -> None:
    conv, seen = front_end(), []
    conv.conv[0].conv1.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    with torch.no_grad():
        conv(torch.zeros(1, 16, 4_000))
    assert seen == [(1, 64, 8, 2_000)]


def test_autocast_gets_the_modules(folds: list[Any]) -> None:
    conv, mel = front_end(), torch.randn(1, 16, 600)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert conv(mel).dtype == torch.bfloat16
    assert not folds


@pytest.mark.compiles
def test_a_compiler_gets_the_modules(folds: list[Any]) -> None:
    conv, mel = front_end(), torch.randn(1, 16, 600)
    with torch.no_grad():
        torch.compile(conv, backend="eager", fullgraph=True)(mel)  # type: ignore[no-untyped-call]
    torch.compiler.reset()
    assert not folds


# -------------------------------------------------------------------------- conformer


def test_outputs_have_names_and_numbers() -> None:
    conformer = new_conformer().eval()
    x = torch.randn(2, 9, 64)
    output: Any = conformer(x, output_hidden_states=True, output_attentions=True)
    assert "ConformerOutput" in str(type(output))
    assert list(output.keys()) == ["last_hidden_state", "hidden_states", "attentions"]
    assert output["hidden_states"] is output.hidden_states is output[1]
    assert output["last_hidden_state"] is output.last_hidden_state is output[0]
    assert torch.equal(output.hidden_states[0], x)
    assert output.hidden_states[-1] is output.last_hidden_state
    assert len(output.hidden_states) == 4
    assert output.get("hidden_states") is output.hidden_states
    assert len(output) == len({**output}) == len(output[:3]) == 3
    assert isinstance(output, dict)
    short = conformer(x)
    assert list(short) == list(short.keys()) == ["last_hidden_state"]
    assert short.to_tuple()[0] is short.last_hidden_state
    assert "hidden_states" not in short
    assert short.hidden_states is None
    assert largest_difference(short[0], output[0]) < 1e-5  # attention written out
    (alone,) = conformer(x, return_dict=False)
    assert torch.equal(alone, short[0])
    assert conformer.config.num_hidden_layers == 3


def test_attentions_are_those_that_are_used() -> None:
    layer = new_conformer().eval().layers[0].self_attn
    x = torch.randn(2, 9, 64)
    expected, nothing = layer(x)
    assert nothing is None
    seen: list[str] = []
    for name in ("linear_q", "dropout"):
        layer.get_submodule(name).register_forward_hook(lambda *_, name=name: seen.append(name))
    attended, weights = layer(x, output_attentions=True)
    assert seen == ["linear_q", "dropout"]
    assert weights.shape == (2, 4, 9, 9)
    assert largest_difference(attended, expected) < 1e-6
    value = layer.linear_v(x).unflatten(-1, (4, 16)).transpose(1, 2)
    by_hand = layer.linear_out((weights @ value).transpose(1, 2).flatten(2))
    assert largest_difference(by_hand, expected) < 1e-6


def test_the_dropout_of_attention_may_be_hooked_or_replaced() -> None:
    layer = new_conformer().eval().layers[0].self_attn
    x = torch.randn(2, 9, 64)
    expected, seen = layer(x)[0], []
    handle = layer.dropout.register_forward_hook(lambda _, __, output: seen.append(output))
    assert largest_difference(layer(x)[0], expected) < 1e-6
    assert [weights.shape for weights in seen] == [(2, 4, 9, 9)]
    handle.remove()
    layer.dropout = nn.Identity()
    assert largest_difference(layer(x)[0], expected) < 1e-6


def test_frames_beyond_a_clip_change_nothing() -> None:
    conformer = new_conformer().eval()
    x = torch.randn(1, 9, 64)
    padded = nn.functional.pad(x, (0, 0, 0, 5), value=3.0)
    mask = torch.arange(14)[None] < 9
    alone = conformer(x).last_hidden_state
    for given in (mask, mask.long()):
        found = conformer(padded, attention_mask=given).last_hidden_state
        assert largest_difference(found[:, :9], alone) < 1e-5
    layer, positions = conformer.layers[0], conformer.embed_positions(padded)
    added = torch.zeros(1, 1, 14, 14).masked_fill(~mask[:, None, None], -torch.inf)
    zeroed = padded.masked_fill(~mask[..., None], 0.0)
    for given in (mask, added):
        found, weights = layer(zeroed, given, positions, True, mask)
        assert largest_difference(found[:, :9], layer(x)[0]) < 1e-5
        assert weights is not None
        assert weights[..., 9:].abs().max() == 0


def test_activations_may_be_replaced() -> None:
    conformer = new_conformer().eval()
    x = torch.randn(1, 9, 64)
    before = conformer(x).last_hidden_state
    names = [n for n, m in conformer.named_modules() if isinstance(m, nn.SiLU | nn.GLU)]
    assert names[:4] == [
        "layers.0.ffn1.intermediate_act_fn", "layers.0.conv_module.glu",
        "layers.0.conv_module.activation", "layers.0.ffn2.intermediate_act_fn",
    ]  # fmt: skip
    for name in ("ffn1.intermediate_act_fn", "conv_module.activation"):
        layer = copy.deepcopy(conformer)
        layer.layers[1].set_submodule(name, nn.GELU())
        assert largest_difference(layer(x).last_hidden_state, before) > 1e-4


def test_its_configuration_makes_another_one() -> None:
    conformer = new_conformer().eval()
    config = copy.deepcopy(conformer.config)
    config.num_hidden_layers = 2
    student = type(conformer)(config).eval()
    assert len(student.layers) == 2
    student.layers[0].load_state_dict(conformer.layers[0].state_dict())
    x = torch.randn(1, 9, 64)
    assert torch.equal(student.layers[0](x)[0], conformer.layers[0](x)[0])
    assert config.to_dict()["hidden_size"] == 64


class Loud(nn.Module):
    """A layer within another one, whose arguments have the names of a layer's."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states: Tensor, output_attentions: bool, **others: Any) -> Any:
        assert others.keys() == {"attention_mask", "relative_position_embeddings"}
        x, weights = self.layer(hidden_states, output_attentions=output_attentions, **others)
        return 2.0 * x, weights


def test_layers_may_be_replaced() -> None:
    conformer = new_conformer().eval()
    x = torch.randn(1, 9, 64)
    expected = 2.0 * conformer(x, output_hidden_states=True).hidden_states[1]
    conformer.layers[0] = Loud(conformer.layers[0])
    assert torch.equal(conformer(x, output_hidden_states=True).hidden_states[1], expected)


def test_recomputed_activations_give_the_same_gradients() -> None:
    x = torch.randn(2, 9, 64)
    norms = []
    for recompute in (False, True):
        torch.manual_seed(0)
        conformer = new_conformer(dropout=0.0)
        conformer.gradient_checkpointing = recompute
        conformer(x).last_hidden_state.sum().backward()
        norms.append([w.grad.norm() for w in conformer.parameters() if w.grad is not None])
        assert conformer.layers[0].conv_module.batch_norm.num_batches_tracked == 1
    torch.testing.assert_close(*norms)


def test_what_is_not_here_says_what_to_use() -> None:
    with pytest.raises(ImportError, match=r"no Wav2Vec2ConformerEncoder: .* use musicfm.modules"):
        from musicfm.modules.flash_conformer import Wav2Vec2ConformerEncoder  # noqa: F401
    assert importlib.import_module("musicfm.modules.flash_conformer").__doc__
