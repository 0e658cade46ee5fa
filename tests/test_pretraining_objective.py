import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import Golden
from musicfm.model.config import RandomProjectionConfig
from musicfm.model.masking import hidden_tokens, hide
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.objective import (
    Batch,
    GlobalBatchNorm,
    Objective,
    code_statistics,
    count_codes,
    use_global_batch_norm,
)

BLOCK = 9_600


def without_dropout(model: MusicFM) -> MusicFM:
    encoder = model.config.encoder.replace(dropout=0.0)
    plain = MusicFM(model.config.replace(encoder=encoder))
    plain.load_state_dict(model.state_dict())
    return plain


@pytest.mark.parametrize("global_batch_norm", [False, True])
def test_the_gradient_equals_that_of_the_published_model(
    tiny: MusicFM, music: Tensor, golden: Golden, global_batch_norm: bool
) -> None:
    model = without_dropout(tiny)
    if global_batch_norm:
        use_global_batch_norm(model)
    blocks = torch.from_numpy(golden["span_mask"])
    noise = torch.zeros_like(music)
    noise.unflatten(1, (-1, BLOCK))[blocks] = torch.from_numpy(golden["noise"])
    batch = Batch(music, hide(music, blocks, BLOCK, noise), hidden_tokens(blocks, 10, 100), None)

    loss, codes = Objective(model)(batch)
    loss.mean.backward()

    assert loss.mean.item() == pytest.approx(golden["train_loss"].item(), rel=1e-4)
    assert loss.accuracy.item() == pytest.approx(golden["train_accuracy"].item(), abs=1e-6)
    assert codes.sum() == loss.num_hidden == blocks.sum() * 10
    head = "gradnorm/linear.weight"
    assert head in golden
    norm = model.head.weight.grad
    assert norm is not None
    assert norm.norm().item() == pytest.approx(golden[head].item(), rel=1e-3)


def test_sums_of_parts_are_those_of_the_whole(tiny: MusicFM, music: Tensor) -> None:
    generator = torch.Generator().manual_seed(3)
    hidden = torch.rand(2, 100, generator=generator) < 0.5
    batch = Batch(music, 0.9 * music, hidden, None)
    objective = Objective(tiny)  # in eval mode: BatchNorm does not look at the batch
    whole, codes = objective(batch)
    parts = [
        objective(Batch(music[i : i + 1], 0.9 * music[i : i + 1], hidden[i : i + 1], None))
        for i in range(2)
    ]
    for i in range(3):
        assert sum(part[i] for part, _ in parts).item() == pytest.approx(whole[i].item(), rel=1e-5)
    assert torch.equal(parts[0][1] + parts[1][1], codes)


def test_several_codebooks_are_all_predicted(music: Tensor) -> None:
    import recipe

    quantizer = RandomProjectionConfig(num_codebooks=3, codebook_size=32)
    model = MusicFM(recipe.TINY.replace(quantizer=quantizer))
    hidden = torch.zeros(2, 100, dtype=torch.bool)
    hidden[:, 10:30] = True
    loss, codes = Objective(model)(Batch(music, music, hidden, None))
    loss.mean.backward()
    assert loss.num_hidden == 2 * 20 * 3
    assert codes.sum(dim=1).tolist() == [40, 40, 40]
    gradient = model.head.weight.grad
    assert gradient is not None
    assert (gradient.unflatten(0, (3, 32)).abs().amax(dim=(1, 2)) > 0).all()


def test_codes_are_counted_under_the_mask_only() -> None:
    tokens = torch.tensor([[[0, 3], [1, 3], [1, 2]], [[2, 0], [2, 0], [0, 0]]])
    hidden = torch.tensor([[True, True, False], [False, True, True]])
    counts = count_codes(tokens, hidden, 4)
    assert counts.tolist() == [[2, 1, 1, 0], [2, 0, 0, 2]]


def test_statistics_of_codes() -> None:
    even = code_statistics(torch.tensor([[5, 5, 5, 5]]))
    assert even == pytest.approx((0.25, 1.0, 4.0))
    one = code_statistics(torch.tensor([[7, 0, 0, 0]]))
    assert one == pytest.approx((1.0, 0.25, 1.0))
    half = code_statistics(torch.tensor([[4, 4, 0, 0], [8, 0, 0, 0]]))
    assert half == pytest.approx((0.75, 0.375, 2**0.5))
    assert code_statistics(torch.zeros(1, 4)) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("shape", [(4, 6, 9), (3, 6, 5, 7)])
def test_global_batch_norm_is_batch_norm_in_one_process(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    kind = nn.BatchNorm1d if len(shape) == 3 else nn.BatchNorm2d
    theirs = kind(6)
    nn.init.normal_(theirs.weight, generator=generator)
    ours = nn.Sequential(copy.deepcopy(theirs))
    use_global_batch_norm(ours)
    assert isinstance(ours[0], GlobalBatchNorm)
    x = torch.randn(shape, generator=generator) + 3
    ways = []
    for norm in (theirs, ours):
        given = x.clone().requires_grad_()
        y = norm(given)
        (y * torch.linspace(0, 1, y.numel()).view(y.shape)).sum().backward()
        norm.eval()
        ways.append([y, given.grad, *norm.parameters(), *norm.buffers(), norm(x)])
    for a, b in zip(*ways, strict=True):
        np.testing.assert_allclose(a.detach(), b.detach(), rtol=1e-5, atol=1e-5)
    assert list(ours.state_dict()) == [f"0.{name}" for name in theirs.state_dict()]
