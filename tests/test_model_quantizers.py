from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from musicfm.errors import CheckpointError
from musicfm.model import quantizers
from musicfm.model.config import (
    KMeansConfig,
    MelConfig,
    RandomProjectionConfig,
    preset,
)
from musicfm.model.mel import LogMel
from musicfm.model.musicfm import MusicFM
from musicfm.model.quantizers import (
    KMeansQuantizer,
    Quantizer,
    RandomProjectionQuantizer,
    build_quantizer,
    pitch_classes,
)

STACK, MEL = 2, MelConfig(n_mels=6)
FEATURES = STACK * MEL.n_mels
RANDOM = RandomProjectionConfig(codebook_size=50, codebook_dim=4)
KMEANS = KMeansConfig(num_codebooks=2, codebook_size=20)


@pytest.fixture
def frames() -> Tensor:
    return torch.randn(3, 40, FEATURES, generator=torch.Generator().manual_seed(0))


def fitted_kmeans() -> KMeansQuantizer:
    quantizer = KMeansQuantizer(KMEANS, FEATURES)
    generator = torch.Generator().manual_seed(1)
    quantizer.centroids.copy_(torch.randn(quantizer.centroids.shape, generator=generator))
    return quantizer


@pytest.fixture
def seeded() -> Iterator[None]:
    before = torch.get_rng_state()
    torch.manual_seed(142)
    yield
    torch.set_rng_state(before)


@pytest.mark.usefixtures("seeded")
def test_codes_are_those_of_the_published_construction() -> None:
    """Which seeds the global generator, then draws the projection and the codes from it."""
    config = RandomProjectionConfig()
    projection = nn.init.xavier_normal_(torch.empty(512, 16))
    codes = nn.init.normal_(torch.empty(4_096, 16))
    quantizer = RandomProjectionQuantizer(config, 4, MelConfig())
    assert torch.equal(quantizer.get_buffer("codebooks.0.random_projection"), projection)
    assert torch.equal(quantizer.get_buffer("codebooks.0.codebook"), codes)


def test_codebook_i_is_drawn_from_the_seed_plus_i(frames: Tensor) -> None:
    tokens = RandomProjectionQuantizer(RANDOM.replace(num_codebooks=3), STACK, MEL)(frames)
    assert (tokens.shape, tokens.dtype) == ((3, 40, 3), torch.int64)
    for i in range(3):
        single = RandomProjectionQuantizer(RANDOM.replace(seed=RANDOM.seed + i), STACK, MEL)
        assert torch.equal(tokens[..., i : i + 1], single(frames))
    assert not torch.equal(tokens[..., 0], tokens[..., 1])


def spectrum(*notes: int) -> Tensor:
    """(1, tokens, features) stacked log-mel frames of MIDI notes with partials, and faint noise."""
    time = torch.arange(24_000) / 24_000
    generator = torch.Generator().manual_seed(0)
    waveform = 1e-3 * torch.randn(24_000, generator=generator)
    for note in notes:
        hertz = 440.0 * 2.0 ** ((note - 69) / 12.0)
        for partial in range(1, 6):
            waveform += 0.1 / partial * (2.0 * torch.pi * hertz * partial * time).sin()
    return LogMel(MelConfig())(waveform[None]).unflatten(1, (-1, 4)).flatten(2)


@pytest.mark.parametrize("note", range(55, 79))
def test_a_note_stands_out_at_its_pitch_class(note: int) -> None:
    frames = spectrum(note).unflatten(2, (4, 128)).mean(dim=(0, 1, 2))
    assert (frames @ pitch_classes(MelConfig())).argmax() == (note - 69) % 12


def test_codebooks_of_pitch_hear_neither_level_nor_tilt_nor_octave() -> None:
    config = RandomProjectionConfig(num_codebooks=6, codebook_size=64, pitch_codebooks=3)
    quantizer = RandomProjectionQuantizer(config, 4, MelConfig())
    plain = RandomProjectionQuantizer(config.replace(pitch_codebooks=0), 4, MelConfig())
    frames = spectrum(60, 64, 67)
    tokens = quantizer(frames)
    assert torch.equal(tokens[..., :3], plain(frames)[..., :3])

    def kept(changed: Tensor) -> list[float]:
        return (quantizer(changed) == tokens).float().mean(dim=(0, 1)).tolist()

    tilted = kept(frames + torch.linspace(20.0, -20.0, 128).repeat(4))
    assert max(tilted[:3]) < 0.5
    assert min(tilted[3:]) > 0.9
    octave, semitone = kept(spectrum(60, 64, 67, 72)), kept(spectrum(61, 65, 68))
    assert sum(octave[3:]) > 3 * 0.5
    assert max(semitone[3:]) < 0.1


def test_random_projection_takes_the_nearest_code_on_the_sphere(frames: Tensor) -> None:
    quantizer = RandomProjectionQuantizer(RANDOM, STACK, MEL)
    book = quantizer.codebooks[0]
    projected = F.normalize(frames @ book.get_buffer("random_projection"), dim=-1)
    codes = F.normalize(book.get_buffer("codebook"), dim=-1)
    nearest = torch.cdist(projected.flatten(0, 1), codes).argmin(dim=1)
    assert torch.equal(quantizer(frames).flatten(), nearest)


def test_kmeans_takes_the_nearest_centroid(frames: Tensor) -> None:
    quantizer = fitted_kmeans()
    tokens = quantizer(frames)
    for i in range(2):
        nearest = torch.cdist(frames.flatten(0, 1), quantizer.centroids[i]).argmin(dim=1)
        assert torch.equal(tokens[..., i].flatten(), nearest)


@pytest.mark.parametrize("chunk", [1, 7, 119, 120, 121])
@pytest.mark.parametrize("kind", ["random", "kmeans"])
def test_chunks_bound_the_scores_and_change_no_token(
    kind: str, chunk: int, frames: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantizer = fitted_kmeans() if kind == "kmeans" else build_quantizer(RANDOM, STACK, MEL)
    expected = quantizer(frames)
    sizes = []

    def scores(self: Quantizer, frames: Tensor, codebook: int) -> Tensor:
        found = type(quantizer).scores(self, frames, codebook)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(quantizers, "FRAMES_AT_ONCE", chunk)
    monkeypatch.setattr(quantizer, "scores", scores.__get__(quantizer))
    assert torch.equal(quantizer(frames), expected)
    assert max(sizes) == min(chunk, 120)
    assert sum(sizes) == 120 * quantizer.num_codebooks


def test_tokens_need_no_whole_frame(frames: Tensor) -> None:
    quantizer = RandomProjectionQuantizer(RANDOM, STACK, MEL)
    assert quantizer(frames[:, :0]).shape == (3, 0, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tokens_are_float32_arithmetic_in_a_half_model(dtype: torch.dtype, frames: Tensor) -> None:
    for quantizer in (RandomProjectionQuantizer(RANDOM, STACK, MEL), fitted_kmeans()):
        expected = quantizer(frames)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(quantizer.to(dtype)(frames), expected)


def test_nothing_in_a_quantizer_is_trained(frames: Tensor) -> None:
    for quantizer in (RandomProjectionQuantizer(RANDOM, STACK, MEL), fitted_kmeans()):
        assert not list(quantizer.parameters())
        assert not quantizer(frames.clone().requires_grad_()).requires_grad


def test_an_unfitted_quantizer_is_not_saved(tmp_path: Path) -> None:
    model = MusicFM(preset("tiny").replace(quantizer=KMEANS))
    with pytest.raises(CheckpointError, match=r"'quantizer.centroids' has NaN or infinite"):
        model.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
