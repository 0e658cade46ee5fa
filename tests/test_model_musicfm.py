import copy
import pickle
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import recipe
from conftest import Golden
from musicfm.errors import ConfigError
from musicfm.model.config import (
    FrontEndConfig,
    MelConfig,
    ModelConfig,
    TransformerConfig,
    preset,
)
from musicfm.model.encoder import ConformerBlock
from musicfm.model.masking import hidden_tokens, hide, masked_loss
from musicfm.model.musicfm import MusicFM, Output, full_float32
from musicfm.model.published import ours, published

BLOCK = 9_600


def filled(config: ModelConfig) -> MusicFM:
    """A model with the recipe's weights, in eval mode."""
    model = MusicFM(config)
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if name in model.state_dict() and weight.is_floating_point():
                weight.copy_(torch.from_numpy(recipe.tensor(published(name), tuple(weight.shape))))
    return model.eval()


def largest_difference(found: Tensor, expected: Tensor) -> float:
    return (found.detach().float() - expected.detach().float()).abs().max().item()


# ---------------------------------------------------------- parity with the published model


@pytest.mark.parametrize("prefix", ["", "odd_"])
def test_outputs_equal_those_of_the_published_model(
    prefix: str, tiny: MusicFM, golden: Golden, request: pytest.FixtureRequest
) -> None:
    waveform: Tensor = request.getfixturevalue(f"{prefix}music")
    output = tiny(waveform, logits=True)
    for layer, state in enumerate(output.hidden_states):
        if f"{prefix}hidden_{layer}" in golden:
            expected = golden[f"{prefix}hidden_{layer}"]
            np.testing.assert_allclose(state.detach().numpy(), expected, rtol=0, atol=1e-4)
    logits = output.logits[:, ::5, 0].detach().numpy()
    np.testing.assert_allclose(logits, golden[f"{prefix}logits"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(tiny.tokenize(waveform)[:, :, 0], golden[f"{prefix}tokens"])


@pytest.mark.parametrize("activation_checkpointing", [False, True])
def test_a_training_step_equals_that_of_the_published_model(
    activation_checkpointing: bool, tiny: MusicFM, music: Tensor, golden: Golden
) -> None:
    config = tiny.config.replace(encoder=tiny.config.encoder.replace(dropout=0.0))
    model = MusicFM(config)
    model.load_state_dict(tiny.state_dict())
    model.set_activation_checkpointing(activation_checkpointing)
    blocks = torch.from_numpy(golden["span_mask"])
    noise = torch.zeros_like(music)
    noise.unflatten(1, (-1, BLOCK))[blocks] = torch.from_numpy(golden["noise"])

    masked = hide(music, blocks, BLOCK, noise)
    logits = model(masked, layers=[0], logits=True).logits
    loss = masked_loss(logits, model.tokenize(music), hidden_tokens(blocks, 10, 100))
    loss.mean.backward()

    assert loss.mean.item() == pytest.approx(golden["train_loss"].item(), rel=1e-4)
    assert loss.accuracy.item() == pytest.approx(golden["train_accuracy"].item(), abs=1e-6)
    norms = {
        f"gradnorm/{published(name)}": weight.grad.norm().item()
        for name, weight in model.named_parameters()
        if weight.grad is not None
    }
    assert norms.keys() == {name for name in golden if name.startswith("gradnorm/")}
    for name, norm in norms.items():
        # Biases before a BatchNorm and of keys have no gradient in theory: there it is noise.
        assert norm == pytest.approx(golden[name].item(), rel=1e-3, abs=1e-5), name
    buffers = [name for name in golden if name.startswith("after_step/")]
    assert len(buffers) == 2
    for name in buffers:
        found = model.get_buffer(ours(name.removeprefix("after_step/")))
        np.testing.assert_allclose(found, golden[name], rtol=0, atol=1e-6)


# --------------------------------------------------------------------- clips and batches

VARIANTS = {
    f"{encoder.kind}-{rate}": recipe.TINY.replace(
        mel=MelConfig(hop_length=hop), front_end=front_end, encoder=encoder
    )
    for encoder in (
        recipe.TINY.encoder,
        TransformerConfig(dim=64, depth=3, num_heads=4, ffn_dim=128),
    )
    for rate, hop, front_end in (
        (25, 240, FrontEndConfig(conv_dim=16)),
        (50, 240, FrontEndConfig(conv_dim=16, time_strides=(2, 1))),
        (75, 320, FrontEndConfig(conv_dim=16, time_strides=(1, 1))),
    )
}
VARIANTS["conformer-25 with pitch"] = VARIANTS["conformer-25"].replace(pitch=recipe.PITCH)
# The shortest, multiples of neither a hop nor a frame, just off whole frames, and a full one.
LENGTHS = [1_025, 1_199, 5_003, 9_599, 9_600, 9_601, 17_281, 30_000]


@pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
def test_a_clip_among_others_gives_what_it_gives_alone(config: ModelConfig) -> None:
    """At every layer and frame, whatever lies in the padding."""
    model = filled(config)
    clips = torch.from_numpy(recipe.waveform(3, len(LENGTHS), max(LENGTHS)))
    padded = torch.randn(clips.shape, generator=torch.Generator().manual_seed(0))
    for row, clip, length in zip(padded, clips, LENGTHS, strict=True):
        row[:length] = clip[:length]
    lengths = torch.tensor(LENGTHS)
    together = model(padded, lengths, logits=True)
    tokens = model.tokenize(padded, lengths)
    assert together.num_frames.tolist() == [config.num_frames(length) for length in LENGTHS]
    for index, length in enumerate(LENGTHS):
        clip = clips[index : index + 1, :length]
        alone = model(clip, logits=True)
        frames = config.num_frames(length)
        for state, expected in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert expected.shape[1] == frames
            assert largest_difference(state[index, :frames], expected[0]) <= 1e-5
        assert largest_difference(together.logits[index, :frames], alone.logits[0]) <= 1e-5
        assert torch.equal(tokens[index, : config.num_tokens(length)], model.tokenize(clip)[0])


def test_full_lengths_are_no_lengths(tiny: MusicFM, odd_music: Tensor) -> None:
    given = tiny(odd_music, torch.tensor([odd_music.shape[1]]))
    for state, expected in zip(given.hidden_states, tiny(odd_music).hidden_states, strict=True):
        assert largest_difference(state, expected) <= 1e-5


def test_a_batch_is_its_clips(tiny: MusicFM, music: Tensor) -> None:
    together = tiny(music).hidden_states
    for index in range(2):
        alone = tiny(music[index : index + 1]).hidden_states
        for state, expected in zip(together, alone, strict=True):
            assert largest_difference(state[index], expected[0]) <= 1e-5


def test_padding_gives_no_gradient(tiny: MusicFM, music: Tensor) -> None:
    waveform = music[:, :9_600].clone().requires_grad_()
    output = tiny(waveform, torch.tensor([9_600, 5_003]), layers=[-1])
    frames = output.hidden_states[0][1, : output.num_frames[1]]
    frames.sum().backward()
    assert waveform.grad is not None
    assert waveform.grad[1, :5_003].abs().sum() > 0
    assert waveform.grad[1, 5_003:].abs().sum() == 0


def test_a_model_that_gets_pitch_computes_what_it_did(tiny: MusicFM, music: Tensor) -> None:
    model = MusicFM(tiny.config.replace(pitch=recipe.PITCH)).eval()
    missing, unexpected = model.load_state_dict(tiny.state_dict(), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"pitch"}
    assert not unexpected
    for state, expected in zip(model(music).hidden_states, tiny(music).hidden_states, strict=True):
        assert torch.equal(state, expected)
    model(music).hidden_states[-1].sum().backward()
    assert model.pitch is not None
    gradient = model.pitch.linear.weight.grad
    assert gradient is not None
    assert gradient.abs().sum() > 0  # and it learns from the first step on


# ------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("layers", [[0], [3], [2, 0], [1, 1], [-1, 0, -4, 3], [-2]])
def test_layers_come_in_the_order_asked_for(
    layers: list[int], tiny: MusicFM, music: Tensor
) -> None:
    every = tiny(music).hidden_states
    assert len(every) == tiny.num_layers == 4
    output = tiny(music, layers=layers)
    assert output.logits is output.num_frames is None
    assert len(output.hidden_states) == len(layers)
    for layer, state in zip(layers, output.hidden_states, strict=True):
        assert torch.equal(state, every[layer])


@pytest.mark.parametrize(("layers", "named"), [([4], "4"), ([0, -5], "-5")])
def test_a_layer_that_is_not_there_is_named(
    layers: list[int], named: str, tiny: MusicFM, music: Tensor
) -> None:
    with pytest.raises(ConfigError, match=f"no layer {named}; this model has layers 0 to 3"):
        tiny(music, layers=layers)
    with pytest.raises(ConfigError, match="no layer was asked for"):
        tiny(music, layers=[])


@pytest.mark.parametrize(
    ("layers", "logits", "blocks", "heads"),
    [([0], False, 0, 0), ([1], False, 1, 0), ([0, 2], False, 2, 0), ([0], True, 3, 1)],
)
def test_nothing_runs_beyond_what_is_asked_for(
    layers: list[int], logits: bool, blocks: int, heads: int, tiny: MusicFM, music: Tensor
) -> None:
    ran: list[nn.Module] = []
    for module in tiny.modules():
        module.register_forward_hook(lambda module, *_: ran.append(module))
    output = tiny(music, layers=layers, logits=logits)
    assert sum(isinstance(module, ConformerBlock) for module in ran) == blocks
    assert ran.count(tiny.head) == heads
    assert (tiny.encoder.norm in ran) == (blocks == 3)
    assert len(output.hidden_states) == len(layers)


# -------------------------------------------------------------------- types and compilation


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)], ids=str
)
def test_half_precision_is_near_float32(
    dtype: torch.dtype, tolerance: float, tiny: MusicFM, music: Tensor
) -> None:
    """States have a size of about 3."""
    expected, tokens = tiny(music).hidden_states, tiny.tokenize(music)
    model = tiny.to(dtype)
    assert (model.dtype, model.config) == (dtype, recipe.TINY)
    for waveform in (music, music.to(dtype)):
        output = model(waveform, torch.tensor([96_000, 96_000]), logits=True)
        assert output.logits.dtype == dtype
        for state, reference in zip(output.hidden_states, expected, strict=True):
            assert state.dtype == dtype
            assert largest_difference(state, reference) < tolerance
    assert torch.equal(model.tokenize(music), tokens)


def test_autocast_is_near_float32(tiny: MusicFM, music: Tensor) -> None:
    expected = tiny(music).hidden_states
    with torch.autocast("cpu", torch.bfloat16):
        found = tiny(music).hidden_states
    for state, reference in zip(found, expected, strict=True):
        assert largest_difference(state, reference) < 0.15


needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs g++")


@pytest.mark.filterwarnings(
    "ignore:.torch.jit.* is deprecated:DeprecationWarning",
    "ignore:Torchinductor does not support code generation for complex:UserWarning",
)
@pytest.mark.compiles
@pytest.mark.parametrize(
    "backend", ["eager", "aot_eager", pytest.param("inductor", marks=needs_compiler)]
)
def test_the_compiled_model_is_the_model(backend: str, tiny: MusicFM, music: Tensor) -> None:
    compiled = torch.compile(tiny, fullgraph=True, backend=backend)
    lengths = torch.tensor([96_000, 60_001])
    # Inductor compiles for minutes; with lengths it has the same products, and masks besides.
    for given in (lengths,) if backend == "inductor" else (None, lengths):
        with torch.no_grad():
            found, expected = compiled(music, given), tiny(music, given)
        for state, reference in zip(found.hidden_states, expected.hidden_states, strict=True):
            assert largest_difference(state[:, :62], reference[:, :62]) <= 1e-4
    torch.compiler.reset()


# -------------------------------------------------------------------- building and copying


def test_building_seeds_nothing_and_tokens_depend_on_no_seed(music: Tensor) -> None:
    """Weights are drawn from the global generator, as everywhere in PyTorch; codes are not."""
    torch.manual_seed(1)
    first, then = MusicFM(recipe.TINY), torch.rand(3)
    torch.manual_seed(1)
    again, then_again = MusicFM(recipe.TINY), torch.rand(3)
    other = MusicFM(recipe.TINY)
    assert torch.equal(then, then_again)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(first.tokenize(music), other.tokenize(music))


def test_on_the_meta_device_no_random_number_is_drawn() -> None:
    before = torch.get_rng_state()
    with torch.device("meta"):
        model = MusicFM(preset("fm7"))
    assert torch.equal(torch.get_rng_state(), before)
    assert model.device.type == "meta"
    assert {model.mel.window.device.type, model.mel.filters.device.type} == {"cpu"}


def test_building_does_no_input_or_output(monkeypatch: pytest.MonkeyPatch, music: Tensor) -> None:
    def refuse(*args: Any, **options: Any) -> Any:
        raise AssertionError(f"input or output: {args}")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(Path, "open", refuse)
    monkeypatch.setattr(socket, "socket", refuse)
    assert len(MusicFM(recipe.TINY).eval()(music).hidden_states) == 4


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal(
    copied: Callable[[MusicFM], MusicFM], tiny: MusicFM, music: Tensor
) -> None:
    twin = copied(tiny)
    assert twin.config == tiny.config
    assert same(twin(music, logits=True), tiny(music, logits=True))


def test_the_state_dict_is_all_there_is(tiny: MusicFM, music: Tensor) -> None:
    twin = MusicFM(tiny.config).eval()
    assert not same(twin(music), tiny(music))
    twin.load_state_dict(tiny.state_dict())
    assert same(twin(music), tiny(music))


def same(left: Output, right: Output) -> bool:
    states = zip(left.hidden_states, right.hidden_states, strict=True)
    if left.logits is not None and right.logits is not None:
        states = zip(
            (*left.hidden_states, left.logits), (*right.hidden_states, right.logits), strict=True
        )
    return all(torch.equal(a, b) for a, b in states)


@pytest.fixture
def switches() -> Iterator[list[Any]]:
    switches: list[Any] = [torch.backends.cudnn.conv, torch.backends.cuda.matmul]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    yield switches
    for switch, precision in zip(switches, before, strict=True):
        switch.fp32_precision = precision


def test_full_float32_leaves_the_switches_as_they_were(switches: list[Any]) -> None:
    for switch in switches:
        switch.fp32_precision = "tf32"
    seen = []
    with suppress(KeyError), full_float32():
        seen = [switch.fp32_precision for switch in switches]
        raise KeyError
    assert seen == ["ieee", "ieee"]
    assert [switch.fp32_precision for switch in switches] == ["tf32", "tf32"]
