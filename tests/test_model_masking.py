import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from conftest import Golden
from musicfm.errors import ConfigError
from musicfm.model.config import ModelConfig, preset
from musicfm.model.masking import (
    MaskingConfig,
    draw_blocks,
    hidden_tokens,
    hide,
    mask_waveform,
    masked_loss,
)

FM7, FM6, FM5 = preset("fm7"), preset("fm6"), preset("fm5")
MASKING = MaskingConfig()
BLOCK = 9_600


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_hidden_samples_and_tokens_equal_the_published_ones(music: Tensor, golden: Golden) -> None:
    blocks = torch.from_numpy(golden["span_mask"])
    noise = torch.zeros_like(music)
    noise.unflatten(1, (-1, BLOCK))[blocks] = torch.from_numpy(golden["noise"])
    masked = hide(music, blocks, BLOCK, noise)
    np.testing.assert_array_equal(masked[:, ::97], golden["masked_waveform"])
    np.testing.assert_array_equal(hidden_tokens(blocks, 10, 100), golden["token_mask"])


@pytest.mark.parametrize(("model", "tokens"), [(FM7, 10), (FM6, 20), (FM5, 30)])
def test_a_token_is_hidden_exactly_if_its_samples_are(model: ModelConfig, tokens: int) -> None:
    assert MASKING.tokens_per_block(model) == tokens
    waveform = torch.full((4, 10 * BLOCK + 5_000), 7.0)
    masked, hidden = mask_waveform(waveform, model, MASKING, seeded())
    assert hidden.shape == (4, model.num_tokens(waveform.shape[1]))
    changed = masked != waveform
    whole = changed[:, : hidden.shape[1] * model.samples_per_frame]
    assert torch.equal(
        whole, hidden.repeat_interleave(model.samples_per_frame, dim=1)[:, : whole.shape[1]]
    )
    assert hidden.any()
    assert not hidden.all()
    assert not changed[:, 10 * BLOCK :].any()  # the tail


@pytest.mark.parametrize("samples", [1_025, BLOCK - 1])
def test_a_clip_shorter_than_a_block_is_not_hidden(samples: int) -> None:
    waveform = torch.ones(2, samples)
    masked, hidden = mask_waveform(waveform, FM7, MaskingConfig(probability=1.0))
    assert torch.equal(masked, waveform)
    assert not hidden.any()


def test_padding_is_not_hidden() -> None:
    waveform = torch.ones(3, 4 * BLOCK)
    lengths = torch.tensor([4 * BLOCK, 3 * BLOCK - 1, BLOCK])
    everything = MaskingConfig(probability=1.0)
    masked, hidden = mask_waveform(waveform, FM7, everything, seeded(), lengths)
    for row, expected in enumerate((4, 2, 1)):
        assert hidden[row].nonzero()[:, 0].tolist() == list(range(10 * expected))
        assert (masked[row] != 1).nonzero()[:, 0].tolist() == list(range(BLOCK * expected))


def test_the_generator_decides_all() -> None:
    waveform = torch.zeros(2, 20 * BLOCK)
    first, again = (mask_waveform(waveform, FM7, MASKING, seeded(3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    other = mask_waveform(waveform, FM7, MASKING, seeded(4))
    assert not torch.equal(first[1], other[1])
    state = torch.get_rng_state()
    mask_waveform(waveform, FM7, MASKING, seeded())
    assert torch.equal(torch.get_rng_state(), state)
    mask_waveform(waveform, FM7, MASKING)  # the global one
    assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.6, 1.0])
def test_blocks_are_hidden_with_their_probability(probability: float) -> None:
    drawn = draw_blocks(200, 200, probability, seeded())
    assert drawn.float().mean().item() == pytest.approx(probability, abs=0.01)


def test_hidden_samples_are_noise_of_the_given_deviation() -> None:
    waveform = torch.full((1, 40 * BLOCK), 7.0)
    for deviation in (0.1, 0.02):
        masking = MaskingConfig(probability=1.0, noise_std=deviation)
        noise, _ = mask_waveform(waveform, FM7, masking, seeded())
        assert noise.std().item() == pytest.approx(deviation, rel=0.02)
        assert abs(noise.mean().item()) < 0.02 * deviation


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_the_masked_waveform_keeps_its_type_and_the_clean_one_its_samples(
    dtype: torch.dtype,
) -> None:
    waveform = torch.ones(1, 4 * BLOCK, dtype=dtype)
    masked, _ = mask_waveform(waveform, FM7, MaskingConfig(probability=1.0), seeded())
    assert masked.dtype == dtype
    assert torch.equal(waveform, torch.ones_like(waveform))


@pytest.mark.parametrize("seconds", [0.41, 0.05, 0.001])
def test_blocks_that_do_not_align_with_tokens_are_refused(seconds: float) -> None:
    message = f"block_seconds {seconds} is .* tokens at 25 Hz; choose a whole number"
    with pytest.raises(ConfigError, match=message):
        mask_waveform(torch.zeros(1, 24_000), FM7, MaskingConfig(block_seconds=seconds))


def test_the_loss_is_the_mean_cross_entropy_of_hidden_tokens() -> None:
    generator = seeded()
    logits = torch.randn(2, 6, 3, 5, generator=generator)  # one frame more than tokens
    tokens = torch.randint(5, (2, 5, 3), generator=generator)
    mask = torch.tensor([[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]).bool()
    losses, hits = [], []
    for clip, time in mask.nonzero().tolist():
        for codebook in range(3):
            scores, target = logits[clip, time, codebook], int(tokens[clip, time, codebook])
            losses.append(-scores.log_softmax(dim=0)[target].item())
            hits.append(scores.argmax().item() == target)
    loss = masked_loss(logits, tokens, mask)
    assert loss.total.item() == pytest.approx(np.sum(losses), rel=1e-6)
    assert loss.mean.item() == pytest.approx(np.mean(losses), rel=1e-6)
    assert loss.accuracy.item() == pytest.approx(np.mean(hits))
    assert 0 < loss.accuracy < 1
    assert loss.num_hidden == 12


def test_the_loss_of_half_precision_logits_is_computed_in_float32() -> None:
    logits = 20 * torch.randn(1, 4, 1, 5, generator=seeded()).half()
    tokens, mask = torch.zeros(1, 4, 1, dtype=torch.int64), torch.ones(1, 4).bool()
    loss = masked_loss(logits, tokens, mask).mean
    assert loss.dtype == torch.float32
    assert loss == F.cross_entropy(logits.float().flatten(0, 2), tokens.flatten())


def test_nothing_hidden_is_no_loss_and_still_has_a_gradient() -> None:
    logits = torch.randn(1, 4, 1, 5, requires_grad=True)
    tokens = torch.zeros(1, 4, 1, dtype=torch.int64)
    loss = masked_loss(logits, tokens, torch.zeros(1, 4).bool())
    loss.mean.backward()
    assert (loss.mean.item(), loss.accuracy.item()) == (0.0, 0.0)
    assert logits.grad is not None
    assert not logits.grad.any()
