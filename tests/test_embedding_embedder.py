import gc
import io
import tracemalloc
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import torch

import recipe
from musicfm.audio import reading
from musicfm.audio.decoders import (
    Block,
    End,
    Event,
    Failure,
)
from musicfm.embedding.embedder import Embedder, Finished, Frames
from musicfm.errors import AudioError, AudioWarning, ConfigError
from musicfm.model.config import preset
from musicfm.model.musicfm import MusicFM

RATE = 24_000
Samples = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def song() -> Samples:
    """75 s: longer than two windows."""
    return np.concatenate([recipe.waveform(seed, 1, 5 * RATE)[0] for seed in range(15)])


@pytest.fixture
def embedder(tiny: MusicFM) -> Embedder:
    return Embedder(tiny, layer=[0, 1, 2, 3])


def blocks(key: str, samples: Samples, size: int) -> Iterator[Event[str]]:
    for start in range(0, len(samples), size):
        yield Block(key, samples[start : start + size])
    yield End(key, ())


@pytest.mark.parametrize("num_samples", [1025, 5_003, 72_333, 30 * RATE])
def test_what_fits_into_a_window_is_the_plain_forward_pass(
    embedder: Embedder, song: Samples, num_samples: int
) -> None:
    clip = song[:num_samples]
    with torch.inference_mode():
        states = embedder.model(torch.from_numpy(clip)[None], layers=[0, 1, 2, 3]).hidden_states
    result = embedder(clip)
    torch.testing.assert_close(result.frames, torch.stack(states)[:, 0], atol=1e-5, rtol=0)
    assert result.duration == num_samples / RATE


@pytest.mark.parametrize("num_samples", [30 * RATE + 1, 30 * RATE + 960, 55 * RATE, 75 * RATE])
def test_a_long_recording_has_the_frames_of_its_length(
    embedder: Embedder, song: Samples, num_samples: int
) -> None:
    result = embedder(song[:num_samples])
    assert result.frames.shape == (4, embedder.config.num_frames(num_samples), 64)
    assert len(result.times) == result.frames.shape[1]


def test_stitched_frames_are_those_of_windows_where_no_other_reaches(
    embedder: Embedder, song: Samples
) -> None:
    frames = embedder(song).frames
    assert embedder.windowing.starts(len(song)) == [0, 625, 1125]
    alone = embedder(song[: 30 * RATE]).frames
    assert torch.equal(frames[:, :625], alone[:, :625])
    tail = embedder(song[1125 * 960 :]).frames
    assert torch.equal(frames[:, 1375:], tail[:, 250:])


@pytest.mark.parametrize("size", [999, 240_000, 10**7])
def test_blocks_never_matter(embedder: Embedder, song: Samples, size: int) -> None:
    events = embedder.tracks(blocks("song", song, size))
    frames = torch.cat([event.frames for event in events if isinstance(event, Frames)], dim=1)
    assert torch.equal(frames, embedder(song).frames)


@pytest.mark.parametrize("batch_size", [2, 3, 16])
def test_batches_never_matter(tiny: MusicFM, song: Samples, batch_size: int) -> None:
    one = Embedder(tiny, layer="all")(song).frames
    many = Embedder(tiny, layer="all", batch_size=batch_size)(song).frames
    torch.testing.assert_close(many, one, atol=1e-5, rtol=0)


def test_recordings_share_batches_and_keep_apart(tiny: MusicFM, song: Samples) -> None:
    embedder = Embedder(tiny, layer=2, batch_size=4)
    clips = {"a": song, "b": song[:40_000] * 0.5, "c": song[7_000:90_000]}
    streams = [blocks(name, clip, 50_000) for name, clip in clips.items()]
    events = [event for turn in zip_longest(*streams) for event in turn if event is not None]
    found: dict[str, list[torch.Tensor]] = {name: [] for name in clips}
    finished = []
    for event in embedder.tracks(events):
        if isinstance(event, Frames):
            found[event.key].append(event.frames[0])
        elif isinstance(event, Finished):
            finished.append(event.key)
    assert sorted(finished) == ["a", "b", "c"]
    for name, clip in clips.items():
        alone = embedder(clip).frames
        torch.testing.assert_close(torch.cat(found[name]), alone, atol=1e-5, rtol=0)


def test_a_pause_of_the_events_is_one_for_windows_to_be_computed(
    tiny: MusicFM, song: Samples
) -> None:
    embedder = Embedder(tiny, batch_size=16)
    paused = False

    def events() -> Iterator[Event[str] | None]:
        nonlocal paused
        yield from blocks("song", song[:RATE], 1_000)
        yield None
        paused = True

    tracks = embedder.tracks(events())
    assert isinstance(next(tracks), Frames)
    assert isinstance(next(tracks), Finished)
    assert not paused
    assert list(tracks) == []


def test_a_failure_voids_one_recording_only(embedder: Embedder, song: Samples) -> None:
    events: list[Event[str]] = [
        Block("bad", song[:50_000]),
        *blocks("good", song[:50_000], 10_000),
        Failure("bad", "it broke"),
        *blocks("short", song[:1000], 1000),
        *blocks("empty", song[:0], 1),
    ]
    outcomes = {e.key: e for e in embedder.tracks(events) if not isinstance(e, Frames)}
    assert isinstance(outcomes["good"], Finished)
    assert outcomes["bad"] == Failure("bad", "it broke")
    short = outcomes["short"]
    assert isinstance(short, Failure)
    assert (
        short.reason
        == "short is too short: 0.042 s; the model needs at least 0.043 s (1025 samples)"
    )
    assert isinstance(outcomes["empty"], Failure)


def test_frames_that_overflow_are_a_failure_not_a_result(tiny: MusicFM, song: Samples) -> None:
    with torch.no_grad():
        tiny.encoder.norm.weight.fill_(3e38)
    embedder = Embedder(tiny, layer=-1)
    with pytest.raises(AudioError, match=r"not finite; compute in float32"):
        embedder(song[:5000])


def test_streaming_gives_the_same_frames_in_pieces(embedder: Embedder, song: Samples) -> None:
    parts = list(embedder.stream(song))
    assert len(parts) > 1
    assert torch.equal(torch.cat(parts, dim=1), embedder(song).frames)


def test_the_frames_of_one_layer_have_no_layers(tiny: MusicFM, song: Samples) -> None:
    embedder = Embedder(tiny, layer=1)
    assert torch.equal(torch.cat(list(embedder.stream(song))), embedder(song).frames)


def test_memory_does_not_grow_with_the_recording(tiny: MusicFM) -> None:
    embedder = Embedder(tiny, layer=0)
    block = recipe.waveform(0, 1, 10 * RATE)[0]

    def peak(num_blocks: int) -> int:
        events: list[Event[str]] = [*[Block("x", block)] * num_blocks, End("x", ())]
        gc.collect()
        tracemalloc.start()
        for _ in embedder.tracks(events):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(24) < 1.1 * peak(8)


def test_files_of_any_rate_and_channels_are_heard_alike(
    embedder: Embedder, song: Samples, tmp_path: Path
) -> None:
    stereo = np.stack([song[:RATE], -0.5 * song[:RATE]], axis=1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE, subtype="FLOAT")
    torch.testing.assert_close(
        embedder(tmp_path / "a.wav").frames, embedder(stereo.mean(axis=1)).frames
    )
    soundfile.write(tmp_path / "b.flac", song[:RATE], 44_100)
    resampled = reading.load(tmp_path / "b.flac", RATE)
    assert torch.equal(embedder(str(tmp_path / "b.flac")).frames, embedder(resampled).frames)


def test_a_damaged_file_is_refused_or_used_in_part(embedder: Embedder, tmp_path: Path) -> None:
    path = tmp_path / "cut.wav"
    soundfile.write(path, recipe.waveform(0, 1, 3 * RATE)[0], RATE)
    path.write_bytes(path.read_bytes()[: 2 * RATE * 2])
    with pytest.raises(AudioError, match=r"cut\.wav is damaged"):
        embedder(path)
    with pytest.warns(AudioWarning, match=r"cut\.wav is damaged"):
        result = embedder(path, on_damage="warn")
    assert 1.9 < result.duration < 2.0


def test_samples_at_another_rate_are_resampled(embedder: Embedder, song: Samples) -> None:
    expected = embedder(reading.resample(song[:44_100], 44_100, RATE)).frames
    assert torch.equal(embedder(song[:44_100], sample_rate=44_100).frames, expected)
    assert torch.equal(
        embedder(torch.from_numpy(song[None, :5000])).frames, embedder(song[:5000]).frames
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (np.zeros((2, 5000), np.float32), r"shape \(2, 5000\); give \(samples,\), mono"),
        (np.zeros((3, 2, 5000), np.float32), "give .samples,., mono"),
        (np.zeros(5000, np.int16), "int16"),
        (io.BytesIO(), "The recording is empty"),
        ({}, "dict is not a recording; give a file's path, or samples"),
        (np.zeros(0, np.float32), "shape"),
        (np.full(5000, 20_000.0, np.float32), r"reaches 20000; samples belong in \[-1, 1\]"),
        (np.full(5000, np.nan, np.float32), "NaN or infinite"),
        (np.zeros(1024, np.float32), "too short: 0.043 s"),
        ("no/such/file.mp3", "no/such/file.mp3"),
    ],
)
def test_what_is_no_mono_music_is_refused(
    embedder: Embedder, source: Samples | str, message: str
) -> None:
    with pytest.raises(AudioError, match=message):
        embedder(source)


def test_a_sample_rate_for_a_file_is_refused(embedder: Embedder) -> None:
    with pytest.raises(AudioError, match="a file states its own"):
        embedder("song.wav", sample_rate=RATE)


@pytest.mark.parametrize("rate", [0, -1])
def test_an_impossible_sample_rate_is_refused(embedder: Embedder, song: Samples, rate: int) -> None:
    with pytest.raises(AudioError):
        embedder(song, sample_rate=rate)


def test_layers_are_one_several_or_all(tiny: MusicFM, song: Samples) -> None:
    everything = Embedder(tiny, layer="all")(song[:5000]).frames
    assert everything.shape[0] == 4
    assert torch.equal(Embedder(tiny, layer=2)(song[:5000]).frames, everything[2])
    assert torch.equal(Embedder(tiny, layer=-1)(song[:5000]).frames, everything[3])
    assert torch.equal(Embedder(tiny, layer=np.int64(2))(song[:5000]).frames, everything[2])  # type: ignore[arg-type]
    assert torch.equal(Embedder(tiny, layer=[3, 1])(song[:5000]).frames, everything[[3, 1]])
    with pytest.raises(ConfigError, match="layers 0 to 3"):
        Embedder(tiny, layer=4)
    with pytest.raises(ConfigError, match="give a number, several, or 'all'"):
        Embedder(tiny, layer="last")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"give a list, such as \[7\]"):
        Embedder(tiny, layer=np.array([1, 2]))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the model is of type str; give a MusicFM, such as"):
        Embedder("nano")  # type: ignore[arg-type]


@pytest.mark.parametrize("batch_size", [0, -1])
def test_an_impossible_batch_is_refused(tiny: MusicFM, batch_size: int) -> None:
    with pytest.raises(ConfigError, match="give 1 or more"):
        Embedder(tiny, batch_size=batch_size)


def test_the_default_layer_is_the_authors() -> None:
    with torch.device("meta"):
        assert Embedder(MusicFM(preset("fm7"))).layers == (7,)
        assert Embedder(MusicFM(preset("fm8"))).layers == (14,)


def test_embedding_ignores_training_mode(tiny: MusicFM, song: Samples) -> None:
    expected = Embedder(tiny, layer=3)(song[:5000]).frames
    assert torch.equal(Embedder(tiny.train(), layer=3)(song[:5000]).frames, expected)


def test_a_head_can_be_trained_on_the_results(tiny: MusicFM, song: Samples) -> None:
    embedder = Embedder(tiny, layer=2)
    for frames in (embedder(song[:5000]).frames, next(embedder.stream(song))):
        head = torch.nn.Linear(64, 1)
        head(frames).sum().backward()  # tensors of inference mode would refuse
        assert head.weight.grad is not None


def test_results_know_their_rate_and_times(tiny: MusicFM, song: Samples) -> None:
    result = Embedder(tiny, layer=2)(song[: 12 * RATE])
    assert result.rate == 25.0
    np.testing.assert_allclose(result.times, np.arange(300) / 25)
    torch.testing.assert_close(result.mean(), result.frames.mean(dim=0))
    assert result.at(16.0).shape == (192, 64)
    assert len(result.times_at(16.0)) == 192
    assert result.numpy().dtype == np.float32
    np.testing.assert_array_equal(result.numpy(), result.frames)


@pytest.mark.parametrize("name", ["fm4", "fm6"])
def test_other_rates_and_contexts_work(name: str, song: Samples) -> None:
    tiny, full = preset("tiny"), preset(name)
    config = full.replace(
        encoder=tiny.encoder, front_end=full.front_end.replace(conv_dim=4), quantizer=tiny.quantizer
    )
    embedder = Embedder(MusicFM(config), layer=1)
    clip = song[: 12 * RATE]
    frames = embedder(clip).frames
    assert frames.shape[0] == config.num_frames(len(clip)) == 12 * config.frame_rate
