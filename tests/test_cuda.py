"""What only a GPU shows; skipped where there is none."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from command_line import Run
from conftest import Golden
from musicfm.audio import reading
from musicfm.embedding.embedder import Embedder
from musicfm.model.inference.optimized import optimize
from musicfm.model.musicfm import MusicFM, full_float32

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")

DEMO_SONG = Path(__file__).parents[1] / "examples" / "demo_song.ogg"


@pytest.fixture(scope="module")
def nano() -> MusicFM:
    return MusicFM.from_pretrained("nano").cuda()


@pytest.fixture(scope="module")
def windows() -> Tensor:
    """Music, (3, samples): 20 s each."""
    samples = torch.from_numpy(reading.load(DEMO_SONG, 24_000, duration_seconds=60.0))
    return samples.unflatten(0, (3, -1)).cuda()


@torch.inference_mode()
def states(model: MusicFM, waveform: Tensor, lengths: Tensor | None = None) -> list[Tensor]:
    with full_float32():
        return [state.float() for state in model(waveform, lengths).hidden_states]


@pytest.mark.parametrize("form", ["model", "inference"])
def test_parity_with_the_authors(form: str, tiny: MusicFM, golden: Golden, music: Tensor) -> None:
    model = tiny.cuda()
    if form == "inference":
        model = optimize(model)
    for layer, found in enumerate(states(model, music.cuda())):
        if f"hidden_{layer}" in golden:
            np.testing.assert_allclose(
                found.cpu(), golden[f"hidden_{layer}"], rtol=0, atol=1e-4, err_msg=str(layer)
            )
    tokens = model.tokenize(music.cuda())[:, :, 0].cpu()
    np.testing.assert_array_equal(tokens, golden["tokens"])


@pytest.mark.parametrize("pinned", [False, True], ids=["any algorithm", "pinned"])
@pytest.mark.parametrize("form", ["model", "inference"])
def test_a_padded_batch_changes_nothing(
    form: str, pinned: bool, nano: MusicFM, windows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cuDNN's algorithms pinned, too, which otherwise differ with the size of a batch."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", pinned)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    model = optimize(nano) if form == "inference" else nano
    counts = torch.tensor([480_000, 200_123, 99_999]).cuda()
    together = states(model, windows, counts)
    differences, largest = torch.zeros(len(together)), torch.zeros(len(together))
    for i, count in enumerate(counts.tolist()):
        alone = states(model, windows[i : i + 1, :count])
        frames = nano.config.num_frames(count)
        for layer, (one, other) in enumerate(zip(alone, together, strict=True)):
            difference = (one[0] - other[i, :frames]).abs().max().cpu()
            differences[layer] = torch.maximum(differences[layer], difference)
            largest[layer] = torch.maximum(largest[layer], one.abs().max().cpu())
    print("largest difference of each layer:", " ".join(f"{d:.1e}" for d in differences))
    print("largest value of each layer:     ", " ".join(f"{value:.1f}" for value in largest))
    assert differences.max() < 1e-4


@pytest.mark.parametrize("compile", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision(dtype: torch.dtype, compile: bool, nano: MusicFM, windows: Tensor) -> None:
    form = optimize(copy.deepcopy(nano).to(dtype), compile=compile)
    counts = torch.tensor([480_000, 200_123, 99_999]).cuda()
    for lengths in (None, counts):
        for one, other in zip(
            states(form, windows, lengths), states(nano, windows, lengths), strict=True
        ):
            for i, count in enumerate([480_000] * 3 if lengths is None else counts.tolist()):
                frames = nano.config.num_frames(count)
                a, b = one[i, :frames], other[i, :frames]
                assert F.cosine_similarity(a, b, dim=1).min() > 0.9995
                mean = b.mean(dim=0)
                assert F.cosine_similarity(a - mean, b - mean, dim=1).min() > 0.999


def test_attention_is_fused(nano: MusicFM, windows: Tensor) -> None:
    form = optimize(copy.deepcopy(nano).bfloat16())
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        states(form, windows)
        torch.cuda.synchronize()
    kernels = {event.name for event in profiled.events()}
    assert any("flash" in name or "sdpa" in name for name in kernels), kernels


def test_the_embedder(nano: MusicFM) -> None:
    on_gpu = Embedder(copy.deepcopy(nano), layer="all")
    on_cpu = Embedder(copy.deepcopy(nano).cpu(), layer="all")
    one, other = (embedder(DEMO_SONG).frames for embedder in (on_gpu, on_cpu))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)
    on_gpu.to("cpu")
    torch.testing.assert_close(on_gpu(DEMO_SONG).frames, other, rtol=0, atol=1e-5)


def test_embed(run: Run, tmp_path: Path) -> None:
    options = ["--device", "cuda", "--dtype", "bfloat16", "--compile"]
    status, _, said = run("embed", DEMO_SONG, "--out", tmp_path, *options)
    assert status == 0, said
    with np.load(tmp_path / "demo_song.npz") as result:
        assert np.isfinite(result["frames"]).all()


@pytest.mark.parametrize("setting", ["precision=bfloat16", "precision=float16", "compile=true"])
def test_pretrain(setting: str, run: Run, tmp_path: Path) -> None:
    few = ["--set", "steps=4", "--set", "checkpoint_every=2", "--set", setting, "--workers", "2"]
    status, _, said = run("pretrain", "tiny", DEMO_SONG, "--out", tmp_path / "run", *few)
    assert status == 0, said
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_gradients_are_those_of_the_cpu(tiny: MusicFM, music: Tensor) -> None:
    gradients = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        config = tiny.config.replace(encoder=tiny.config.encoder.replace(dropout=0.0))
        model = MusicFM(config).to(device).train()
        with full_float32():
            output = model(music.to(device), logits=True)
            assert output.logits is not None
            output.logits.square().mean().backward()
        gradients.append([p.grad.cpu() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)
