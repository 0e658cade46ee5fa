import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

import audio_files
from musicfm.audio import reading
from musicfm.datasets.scanning import scan
from musicfm.datasets.statistics import MelStatistics, Moments, measure
from musicfm.datasets.tracks import Manifest
from musicfm.errors import ConfigError, DataError
from musicfm.model.config import MelConfig
from musicfm.model.mel import LogMel
from musicfm.model.published import read_stats

VALUES = st.lists(st.floats(-1e3, 1e3), max_size=20)


@given(st.lists(VALUES, max_size=5))
def test_moments_merge_to_those_of_the_whole(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged += Moments.of(part)
    whole = np.concatenate([np.zeros(0), *map(np.asarray, parts)])
    assert merged.count == len(whole)
    if len(whole):
        assert merged.mean == pytest.approx(whole.mean(), abs=1e-9)
        assert merged.std == pytest.approx(whole.std(), abs=1e-6)
    else:
        assert math.isnan(merged.std)


def test_moments_of_many_values_with_a_far_mean_stay_exact() -> None:
    values = 1e6 + np.random.default_rng(0).standard_normal(100_000)
    merged = Moments()
    for part in np.array_split(values, 1000):
        merged += Moments.of(part)
    assert merged.std == pytest.approx(values.std(), rel=1e-9)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Four recordings of 3 to 25 seconds, at changing levels. Do not change them."""
    folder = tmp_path_factory.mktemp("music")
    for index, (suffix, seconds) in enumerate([("wav", 25), ("flac", 12), ("ogg", 3), ("mp3", 7)]):
        samples = audio_files.tone(44100, seconds)
        fade = np.linspace(0.01, 1 / (1 + index), len(samples), dtype=np.float32)
        soundfile.write(folder / f"{index}.{suffix}", samples * fade[:, None], 44100)
    return scan([folder], num_workers=1).manifest


def log_mel(samples: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    return LogMel(MelConfig())(torch.from_numpy(samples)[None])[0].double().numpy()


def whole(manifest: Manifest) -> list[npt.NDArray[np.float64]]:
    return [log_mel(reading.load(Path(manifest.root) / track.path, 24000)) for track in manifest]


def test_the_moments_are_those_of_the_whole(manifest: Manifest) -> None:
    found = measure(manifest, num_workers=2)
    mels = np.concatenate(whole(manifest))
    assert found.mean == pytest.approx(mels.mean(), abs=1e-6)
    assert found.std == pytest.approx(mels.std(), abs=1e-6)
    assert (found.num_tracks, found.failures) == (4, [])
    assert found.seconds == pytest.approx(len(mels) / 100)


def test_samples_depend_on_the_seed_not_on_workers_and_order(manifest: Manifest) -> None:
    found = measure(manifest, num_workers=1, num_tracks=2, sample_seconds=1.5)
    assert (found.num_tracks, found.seconds) == (2, 3.0)
    parts = [mel.mean() for mel in whole(manifest)]
    assert min(parts) - 20 < found.mean < max(parts) + 20
    turned = Manifest(manifest.root, sorted(manifest, key=lambda track: track.path, reverse=True))
    assert measure(turned, num_workers=2, num_tracks=2, sample_seconds=1.5) == found
    other = measure(manifest, num_workers=1, num_tracks=2, sample_seconds=1.5, seed=1)
    assert other.mean != found.mean


def test_the_file_is_one_that_models_read(tmp_path: Path) -> None:
    MelStatistics(1.5, 20.25, 4, 10.0).save(tmp_path / "stats.json")
    assert read_stats(tmp_path / "stats.json") == (1.5, 20.25)
    assert json.loads((tmp_path / "stats.json").read_text())["num_tracks"] == 4


def test_bad_tracks_are_listed(manifest: Manifest, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.wav", np.zeros(500), 24000)
    track = scan([tmp_path], num_workers=1).manifest[0]
    paths = [manifest[2].path, str(tmp_path / "short.wav"), "gone.wav"]
    mixed = Manifest(manifest.root, [replace(track, path=path) for path in paths])
    found = measure(mixed, num_workers=1)
    assert found.mean == pytest.approx(whole(manifest)[2].mean(), abs=1e-6)
    (short, why_short), (gone, why_gone) = found.failures
    assert (Path(short).name, Path(gone).name) == ("short.wav", "gone.wav")
    assert "is shorter than 0.043 s" in why_short
    assert "gone.wav does not exist" in why_gone


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda m: measure(m, num_tracks=0), "num_tracks is 0; give more than 0"),
        (lambda m: measure(m, sample_seconds=-1.0), "sample_seconds is -1.0"),
        (lambda m: measure(m, num_workers=0), "num_workers is 0"),
    ],
)
def test_impossible_samples_are_refused(
    manifest: Manifest, attempt: Callable[[Manifest], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        attempt(manifest)


def test_silence_has_no_statistics(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(24000), 24000)
    with pytest.raises(DataError, match="no statistics: they are silent"):
        measure(scan([tmp_path], num_workers=1).manifest, num_workers=1)
