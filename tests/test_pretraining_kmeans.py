from pathlib import Path

import numpy as np
import pytest
import torch

from musicfm.audio import reading
from musicfm.datasets.tracks import Manifest
from musicfm.errors import CheckpointError, ConfigError
from musicfm.model.config import KMeansConfig
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining import kmeans, run
from musicfm.pretraining.kmeans import fit_centroids, load_centroids, save_centroids
from songs import write_songs
from test_pretraining_run import MICRO

CONFIG = MICRO.model.replace(quantizer=KMeansConfig(codebook_size=8, num_codebooks=2))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_songs(tmp_path_factory.mktemp("songs"), 6)


@pytest.fixture(scope="module")
def centroids(manifest: Manifest) -> torch.Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kmeans, "_BATCH_FRAMES", 200)
        return fit_centroids(CONFIG, manifest, seed=0)


def test_centroids_describe_the_music(manifest: Manifest, centroids: torch.Tensor) -> None:
    assert centroids.shape == (2, 8, CONFIG.token_dim)
    assert not torch.equal(centroids[0], centroids[1])
    model = MusicFM(CONFIG)
    songs = [reading.load(Path(manifest.root) / track.path, 24_000) for track in manifest]
    waveform = torch.from_numpy(np.stack(songs))
    frames = model.token_features(waveform).flatten(0, 1)
    for codebook in centroids:
        distances = torch.cdist(frames, codebook).amin(dim=1).square().mean()
        around_the_mean = (frames - frames.mean(dim=0)).square().sum(dim=1).mean()
        assert distances < 0.7 * around_the_mean
    model.quantizer.load_state_dict({"centroids": centroids})
    expected = torch.stack([torch.cdist(frames, book).argmin(dim=1) for book in centroids], dim=1)
    assert torch.equal(model.tokenize(waveform).flatten(0, 1), expected)


def test_a_seed_gives_the_same_centroids(
    manifest: Manifest, centroids: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kmeans, "_BATCH_FRAMES", 200)
    torch.testing.assert_close(fit_centroids(CONFIG, manifest, seed=0), centroids)
    assert not torch.allclose(fit_centroids(CONFIG, manifest, seed=1), centroids)


def test_a_run_learns_them_and_keeps_them(
    manifest: Manifest, centroids: torch.Tensor, tmp_path: Path
) -> None:
    recipe = MICRO.replace(model=CONFIG, steps=2)
    empty = Manifest(manifest.root, [])
    path = tmp_path / "centroids.safetensors"
    save_centroids(centroids, CONFIG, path)
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"k-means tokens, .* run musicfm kmeans"):
        run.pretrain(recipe, lambda: (manifest, empty), out, device="cpu", num_workers=0)
    run.pretrain(
        recipe,
        lambda: (manifest, empty),
        out,
        centroids=path,
        device="cpu",
        num_workers=0,
    )
    kept = MusicFM.from_pretrained(out / "model").quantizer.state_dict()["centroids"]
    assert torch.equal(kept, centroids)


def test_centroids_of_another_model_are_refused(centroids: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "centroids.safetensors"
    save_centroids(centroids, CONFIG, path)
    other = CONFIG.replace(mel=CONFIG.mel.replace(mean=1.0))
    with pytest.raises(CheckpointError, match="fitted for another model"):
        load_centroids(MusicFM(other), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="holds no centroids"):
        load_centroids(MusicFM(CONFIG), path)
    with pytest.raises(CheckpointError, match="holds no centroids"):
        load_centroids(MusicFM(CONFIG), tmp_path / "absent.safetensors")


def test_other_tokens_are_neither_fitted_nor_loaded(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="tokens need no fitting"):
        fit_centroids(MICRO.model, manifest, seed=0)
    with pytest.raises(ConfigError, match="leave out the centroids"):
        run.pretrain(MICRO, lambda: (manifest, manifest), tmp_path, centroids=tmp_path / "x")
