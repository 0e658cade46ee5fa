import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import recipe
from musicfm.model.config import (
    ConformerConfig,
    MelConfig,
    ModelConfig,
    TransformerConfig,
)
from musicfm.model.encoder import (
    Conv1d,
    Conv2d,
    Encoder,
    SelfAttention,
    inverse_frequencies,
    rotate,
    rotation_of,
)
from musicfm.model.mel import Float32Buffers
from musicfm.model.musicfm import MusicFM

CONFORMER = ConformerConfig(dim=32, depth=2, num_heads=4, ffn_dim=48, conv_kernel=5)
TRANSFORMER = TransformerConfig(dim=32, depth=2, num_heads=4, ffn_dim=48)
CONFIGS = pytest.mark.parametrize("config", [CONFORMER, TRANSFORMER], ids=lambda c: c.kind)


def angles(time: int) -> tuple[Tensor, Tensor]:
    return rotation_of(
        torch.zeros(1, time, 32), inverse_frequencies(CONFORMER.dim, CONFORMER.num_heads)
    )


def test_attention_is_the_softmax_written_out() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(CONFORMER).eval()
    x = torch.randn(2, 7, 32)
    mask = torch.arange(7)[None] < torch.tensor([[7], [4]])
    found = attention(x, angles(7), mask)

    normed = F.layer_norm(x, (32,), attention.norm.weight, attention.norm.bias)
    turned = torch.zeros_like(normed)
    for head in range(4):
        for i in range(4):
            first, second = 8 * head + i, 8 * head + 4 + i
            angle = torch.arange(7) * 10_000.0 ** (-i / 4)
            a, b = normed[..., first], normed[..., second]
            turned[..., first] = a * angle.cos() - b * angle.sin()
            turned[..., second] = b * angle.cos() + a * angle.sin()
    expected = torch.zeros_like(x)
    query, key, value = attention.query(turned), attention.key(turned), attention.value(normed)
    for clip in range(2):
        for head in range(4):
            part = slice(8 * head, 8 * head + 8)
            scores = query[clip, :, part] @ key[clip, :, part].T / math.sqrt(8)
            scores[:, ~mask[clip]] = -torch.inf
            expected[clip, :, part] = scores.softmax(dim=1) @ value[clip, :, part]
    torch.testing.assert_close(found, attention.out(expected), rtol=0, atol=1e-6)


def test_inner_products_after_rotation_depend_on_the_distance_alone() -> None:
    a, b = torch.randn(2, 32)
    cos, sin = angles(50)
    rotation = (cos, sin)
    left, right = (rotate(x.expand(1, 50, 32), rotation, 4)[0] for x in (a, b))
    for distance in (0, 1, 17):
        products = (left[distance:] * right[: 50 - distance]).sum(dim=1)
        torch.testing.assert_close(products, products[:1].expand_as(products), rtol=0, atol=1e-4)


def test_rotation_keeps_lengths_and_leaves_the_first_frame() -> None:
    x = torch.randn(1, 50, 32)
    turned = rotate(x, angles(50), 4)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[:, 0], x[:, 0])
    assert not torch.allclose(turned[:, 1], x[:, 1])


def test_inverse_frequencies_have_half_a_head() -> None:
    frequencies = inverse_frequencies(1_024, 16)
    assert frequencies.shape == (32,)
    torch.testing.assert_close(frequencies, 10_000.0 ** (-torch.arange(32) / 32))


@CONFIGS
def test_dropout_is_off_in_eval_mode(config: ConformerConfig | TransformerConfig) -> None:
    encoder = Encoder(config.replace(dropout=0.5))
    x = torch.randn(2, 9, 32)
    layers = range(config.depth + 1)
    trained = encoder(x, None, layers), encoder(x, None, layers)
    assert all(not torch.equal(a, b) for a, b in zip(*trained, strict=True))
    encoder.eval()
    heard = encoder(x, None, layers), encoder(x, None, layers)
    assert all(torch.equal(a, b) for a, b in zip(*heard, strict=True))
    assert torch.equal(heard[0][0], x)


@CONFIGS
def test_frames_outside_a_clip_do_not_reach_it(config: ConformerConfig | TransformerConfig) -> None:
    encoder = Encoder(config).eval()
    x = torch.randn(1, 9, 32)
    mask = torch.arange(9)[None] < 6
    layers = range(config.depth + 1)
    alone = encoder(x[:, :6], None, layers)
    x[:, 6:] = 1e3
    for state, expected in zip(encoder(x, mask, layers), alone, strict=True):
        torch.testing.assert_close(state[:, :6], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "build", [lambda: Conv1d(8, 6, 3, padding=1), lambda: Conv2d(8, 6, 3, 2, padding=1)]
)
def test_float16_convolutions_on_a_cpu_run_in_float32(
    build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    convolution = build().half()
    kind: Any = nn.Conv1d if isinstance(convolution, Conv1d) else nn.Conv2d
    plain, ran_in = kind._conv_forward, []

    def noted(self: nn.Module, *tensors: Tensor | None) -> Tensor:
        ran_in.append({tensor.dtype for tensor in tensors if tensor is not None})
        return plain(self, *tensors)

    monkeypatch.setattr(kind, "_conv_forward", noted)
    x = torch.randn((2, 8, 16) if isinstance(convolution, Conv1d) else (2, 8, 16, 12)).half()
    found = convolution(x)
    assert ran_in == [{torch.float32}]
    assert found.dtype == torch.float16
    assert torch.equal(found, convolution.float()(x.float()).half())


def test_the_final_norm_follows_the_last_block_alone() -> None:
    encoder = Encoder(CONFORMER).eval()
    x = torch.randn(1, 5, 32)
    before, last = encoder(x, None, [1, 2])
    block_output = encoder.blocks[1](before, rotation_of(x, encoder.inv_freq), None)
    assert torch.equal(last, encoder.norm(block_output))


@CONFIGS
def test_activation_checkpointing_changes_no_number(
    config: ConformerConfig | TransformerConfig,
) -> None:
    """Nor BatchNorm's statistics, which recomputing would update a second time."""
    model = MusicFM(ModelConfig(mel=MelConfig(), front_end=recipe.TINY.front_end, encoder=config))
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    waveform = torch.from_numpy(recipe.waveform(1, 2, 12_000))
    results = []
    for enabled in (False, True):
        model.load_state_dict(start)
        model.set_activation_checkpointing(enabled)
        model.zero_grad()
        torch.manual_seed(5)  # the same dropout
        logits = model(waveform, logits=True).logits
        loss = logits.square().mean()
        loss.backward()
        grads = {
            name: weight.grad.clone()
            for name, weight in model.named_parameters()
            if weight.grad is not None
        }
        buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
        results.append({"loss": loss.detach()} | grads | buffers)
    plain, recomputed = results
    assert plain.keys() == recomputed.keys()
    counters = [value for name, value in plain.items() if name.endswith("num_batches_tracked")]
    assert counters
    assert all(counter == 1 for counter in counters)
    for name, value in plain.items():
        assert torch.equal(value, recomputed[name]), name


def test_activation_checkpointing_recomputes_in_the_backward_pass(tiny: MusicFM) -> None:
    calls: list[nn.Module] = []
    for block in tiny.encoder.blocks:
        block.register_forward_pre_hook(lambda module, _: calls.append(module))
    tiny.set_activation_checkpointing()
    tiny.train()(torch.zeros(1, 4_800), layers=[-1]).hidden_states[0].sum().backward()
    assert len(calls) == 2 * len(tiny.encoder.blocks)
    calls.clear()
    with torch.no_grad():
        tiny(torch.zeros(1, 4_800))
    assert len(calls) == len(tiny.encoder.blocks)


def test_buffers_that_stay_float32_are_restored_from_half() -> None:
    class Constant(Float32Buffers):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("value", torch.ones(2, dtype=torch.float16))
            self.register_buffer("none", None)

    assert Constant().half().get_buffer("value").dtype == torch.float32


@pytest.mark.parametrize(
    "convolution",
    [
        Conv2d(1, 8, 3, (2, 2), padding=1),
        Conv2d(1, 8, 3, (2, 1), padding=1),
        Conv2d(1, 8, (7, 3), (3, 1), padding=(3, 1)),  # of pitches
        Conv2d(1, 8, 3, padding=2, dilation=2),
        Conv2d(2, 8, 3, padding=1),
    ],
)
def test_convolutions_are_the_same_on_a_gpu(
    convolution: Conv2d, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(2, convolution.in_channels, 15, 20)
    expected = convolution(x)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(convolution(x), expected)
