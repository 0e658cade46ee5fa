from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import songs
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.embedding import Embedder, WindowEncoder
from musicfm.model import MusicFM
from musicfm.tasks.features import extract
from musicfm.windows import Samples, Windowing


class Loudness(WindowEncoder):
    """Another encoder: mean and deviation of every 960 samples."""

    def __init__(self) -> None:
        super().__init__(Windowing(50, 0, 960), 24_000, 960, 4)
        self.num_windows = 0

    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        self.num_windows += len(windows)
        blocks = [torch.from_numpy(w[: len(w) // 960 * 960]).view(-1, 960) for w in windows]
        return [torch.stack([b.mean(dim=1), b.std(dim=1)], dim=1)[None] for b in blocks]

    def fingerprint(self) -> str:
        return "loudness"


def collection(folder: Path, count: int = 3, seconds: float = 4.0) -> list[LabelledTrack]:
    manifest = songs.write_songs(folder, count, seconds)
    return [LabelledTrack(track, folder / track.path, Annotations()) for track in manifest]


def test_hidden_states_are_those_of_the_embedder(tmp_path: Path, tiny: MusicFM) -> None:
    tracks = collection(tmp_path / "music")
    embedder = Embedder(tiny, [1, 3])
    found, failures = extract(embedder, tracks, tmp_path / "cache", num_workers=1)
    assert failures == []
    for item in tracks:
        features, expected = found[item.track.sha256], embedder(item.audio)
        np.testing.assert_array_equal(features.frames(), expected.frames.half().numpy())
        pooled = features.pooled([1], 8.0)
        torch.testing.assert_close(pooled[0], expected.at(8.0)[1], atol=2e-3, rtol=2e-3)
        part = features.pooled([1], 8.0, range(3, 9))
        torch.testing.assert_close(part, pooled[:, 3:9])
        np.testing.assert_array_equal(features.times(8.0), expected.times_at(8.0))


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    tracks, encoder = collection(tmp_path / "music"), Loudness()
    first, _ = extract(encoder, tracks[:2], tmp_path / "cache", num_workers=1)
    assert encoder.num_windows == 2 * 2
    again, _ = extract(encoder, tracks, tmp_path / "cache", num_workers=1)
    assert encoder.num_windows == 3 * 2
    assert {key: again[key] for key in first} == first
    assert len(again) == 3


def test_any_encoder_will_do(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music", 1)
    found, _ = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    (features,) = found.values()
    assert features.frames().shape == (1, 100, 2)
    assert features.rate == 25.0


def test_other_windows_are_other_features(tmp_path: Path, tiny: MusicFM) -> None:
    tracks = collection(tmp_path / "music", 1, 40.0)
    one, _ = extract(Embedder(tiny, 1), tracks, tmp_path / "cache", num_workers=1)
    other, _ = extract(
        Embedder(tiny, 1, overlap_seconds=0.0), tracks, tmp_path / "cache", num_workers=1
    )
    assert one[tracks[0].track.sha256].path != other[tracks[0].track.sha256].path


def test_a_bad_file_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music")
    tracks[1].audio.write_bytes(b"no sound")
    found, (reason,) = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    assert set(found) == {tracks[0].track.sha256, tracks[2].track.sha256}
    assert str(tracks[1].audio) in reason
    assert not [path for path in (tmp_path / "cache").rglob("*") if "partial" in path.name]


def test_an_impossible_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        WindowEncoder.__init__(Loudness(), Windowing(50, 0, 960), 24_000, 960, 0)
