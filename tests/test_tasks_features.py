from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import songs
from musicfm.datasets.annotations import Annotations
from musicfm.datasets.labelled import LabelledTrack
from musicfm.embedding.embedder import Embedder, WindowEncoder
from musicfm.embedding.windows import Samples, Windowing
from musicfm.errors import DataError
from musicfm.model.musicfm import MusicFM
from musicfm.tasks.features import Features, extract, stack_offsets, stacked


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
        for layer, frames in zip((1, 3), expected.frames.half().numpy(), strict=True):
            np.testing.assert_array_equal(features.frames(layer), frames)
        pooled = features.pooled([3], 8.0)
        torch.testing.assert_close(pooled[0], expected.at(8.0)[1], atol=2e-3, rtol=2e-3)
        part = features.pooled([3], 8.0, outputs=range(3, 9))
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
    assert features.frames(0).shape == (100, 2)
    assert features.rate == 25.0


def test_other_windows_are_other_features(tmp_path: Path, tiny: MusicFM) -> None:
    tracks = collection(tmp_path / "music", 1, 40.0)
    one, _ = extract(Embedder(tiny, 1), tracks, tmp_path / "cache", num_workers=1)
    other, _ = extract(
        Embedder(tiny, 1, overlap_seconds=0.0), tracks, tmp_path / "cache", num_workers=1
    )
    context, _ = extract(
        Embedder(tiny, 1, context_seconds=24.0), tracks, tmp_path / "cache", num_workers=1
    )
    paths = {found[tracks[0].track.sha256].paths[1] for found in (one, other, context)}
    assert len(paths) == 3


def test_a_layer_is_computed_once_whatever_it_was_asked_for_with(
    tmp_path: Path, tiny: MusicFM
) -> None:
    tracks = collection(tmp_path / "music", 1)
    both, _ = extract(Embedder(tiny, [1, 2]), tracks, tmp_path / "cache", num_workers=1)
    tracks[0].audio.unlink()
    one, failures = extract(Embedder(tiny, 2), tracks, tmp_path / "cache", num_workers=1)
    assert failures == []
    (first,), (second,) = both.values(), one.values()
    assert second.paths == {2: first.paths[2]}


def test_long_recordings_arrive_in_parts(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music", 2, 30.0)  # 15 windows each
    found, _ = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    samples = soundfile.read(tracks[1].audio)[0].astype(np.float32).reshape(-1, 960)
    frames = found[tracks[1].track.sha256].frames(0)
    assert frames.shape == (750, 2)
    np.testing.assert_allclose(frames[:, 1], samples.std(axis=1, ddof=1), atol=1e-3)


def test_statistics_are_means_and_deviations_of_what_is_pooled(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music", 1, 10.0)
    found, _ = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    (features,) = found.values()
    frames = torch.from_numpy(features.frames(0).astype(np.float32))
    statistics = features.pooled([0], 0.5, "statistics")
    assert statistics.shape == (1, 5, 4)
    for i, part in enumerate(frames.split(50)):
        expected = torch.cat([part.mean(dim=0), part.std(dim=0, correction=0)])
        torch.testing.assert_close(statistics[0, i], expected, atol=1e-4, rtol=1e-3)


def test_stacking_sees_around_and_repeats_the_ends() -> None:
    assert stack_offsets(8.0) == [-8, -3, -1, 0, 1, 3, 8]
    frames = torch.arange(20.0).view(1, 20, 1)

    def read(start: int, stop: int) -> torch.Tensor:
        return frames[:, start:stop]

    part = stacked(read, 20, range(2, 5), 8.0)
    assert part.shape == (1, 3, 7)
    assert part[0, 0].tolist() == [0, 0, 1, 2, 3, 5, 10]
    torch.testing.assert_close(part, stacked(read, 20, range(20), 8.0)[:, 2:5])
    assert stacked(read, 20, range(19, 20), 8.0)[0, 0].tolist()[-4:] == [19, 19, 19, 19]


def test_a_bad_file_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music")
    tracks[1].audio.write_bytes(b"no sound")
    found, (reason,) = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    assert set(found) == {tracks[0].track.sha256, tracks[2].track.sha256}
    assert str(tracks[1].audio) in reason
    assert not [path for path in (tmp_path / "cache").rglob("*") if "partial" in path.name]


def test_what_float16_cannot_hold_costs_one_recording(tmp_path: Path) -> None:
    class Loud(Loudness):
        def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
            return [frames * 1e8 for frames in super().batch(windows)]

    tracks = collection(tmp_path / "music", 2)
    soundfile.write(tracks[0].audio, np.zeros(96_000), 24_000)
    found, (reason,) = extract(Loud(), tracks, tmp_path / "cache", num_workers=1)
    assert set(found) == {tracks[0].track.sha256}
    assert f"{tracks[1].audio} has hidden states above 65504" in reason
    assert not [path for path in (tmp_path / "cache").rglob("*") if "partial" in path.name]


def test_an_impossible_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size is 0"):
        WindowEncoder.__init__(Loudness(), Windowing(50, 0, 960), 24_000, 960, 0)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music", 1)
    found, _ = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    (features,) = found.values()
    path, data = features.paths[0], features.paths[0].read_bytes()
    for damaged in (data[:-1], data[:20], b"", data.replace(b"<f2", b"<f8"), b"PK" + data[2:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=rf"{path} is damaged; delete it, and it will be"):
            features.frames(0)
    path.write_bytes(data)
    longer = tmp_path / "longer.npy"
    np.save(longer, np.zeros((7, 2), np.float16))
    with pytest.raises(DataError, match=r"longer\.npy has 7 frames, and other layers have 100"):
        Features({0: path, 1: longer}, 25.0).pooled([0, 1], 5.0)


def test_damage_that_shows_late_costs_one_recording(tmp_path: Path) -> None:
    tracks = collection(tmp_path / "music", 2, 90.0)
    cut = tracks[0].audio
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    found, (reason,) = extract(Loudness(), tracks, tmp_path / "cache", num_workers=1)
    assert set(found) == {tracks[1].track.sha256}
    assert f"{cut} is damaged" in reason
    assert not list((tmp_path / "cache").rglob("*.partial"))
