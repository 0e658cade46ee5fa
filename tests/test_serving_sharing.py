"""One model for many threads."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import pytest
import torch
from torch import Tensor

import recipe
from musicfm.audio.decoders import (
    Block,
    End,
    Event,
    Failure,
)
from musicfm.embedding.embedder import Embedder, Finished, Frames, WindowEncoder
from musicfm.embedding.windows import Samples
from musicfm.errors import MusicFMError
from musicfm.model.musicfm import MusicFM
from musicfm.serving.sharing import SharedEncoder
from served import eventually


def nothing() -> None:
    pass


def clip(seed: int, seconds: float = 1.0) -> Samples:
    return recipe.waveform(seed, 1, round(seconds * 24_000))[0]


def blocks(samples: Samples) -> Iterator[Event[str]]:
    yield Block("file", samples[:10_000])
    yield Block("file", samples[10_000:])
    yield End("file", ())


def frames_of(shared: SharedEncoder, samples: Samples) -> Tensor:
    events = list(shared.tracks(blocks(samples), "song", nothing))
    assert isinstance(events[-1], Finished)
    return torch.cat([event.frames for event in events if isinstance(event, Frames)], dim=1)


def test_recordings_of_many_threads_share_batches(tiny: MusicFM) -> None:
    embedder = Embedder(tiny, "all", batch_size=4)
    clips = [clip(seed) for seed in range(5)]
    expected = [embedder(samples).frames for samples in clips]
    sizes, may_go, compute = [], threading.Event(), embedder.batch

    def batch(windows: list[Samples]) -> list[Tensor]:
        assert may_go.wait(60.0)
        sizes.append(len(windows))
        return compute(windows)

    embedder.batch = batch  # type: ignore[method-assign, assignment]
    with SharedEncoder(embedder) as shared, ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(frames_of, shared, samples) for samples in clips]
        # The first is at the gate, and the others queue up; or it has taken some of them along.
        eventually(lambda: shared._asked.qsize() >= 8, seconds=5.0)
        may_go.set()
        for future, frames in zip(futures, expected, strict=True):
            torch.testing.assert_close(future.result(), frames, atol=1e-5, rtol=0)
    assert sum(sizes) == 5
    assert max(sizes) > 1


def test_none_waits_for_others_to_fill_its_batch(tiny: MusicFM) -> None:
    with SharedEncoder(Embedder(tiny, "all", batch_size=16)) as shared:
        assert frames_of(shared, clip(0)).shape[1] == 25


def test_a_recording_that_fails_is_told_by_its_name(tiny: MusicFM) -> None:
    with SharedEncoder(Embedder(tiny)) as shared:
        (short,) = shared.tracks([Block("f", clip(0, 0.01)), End("f", ())], "song", nothing)
        assert isinstance(short, Failure)
        assert short.reason.startswith("song is too short")
        (broken,) = shared.tracks([Block("f", clip(0)), Failure("f", "broken")], "song", nothing)
        assert isinstance(broken, Failure)
        assert broken.reason == "broken"
        assert frames_of(shared, clip(1)).shape[1] == 25


def test_who_leaves_early_leaves_nothing_behind(tiny: MusicFM) -> None:
    class LeftError(Exception):
        pass

    def leave() -> None:
        raise LeftError

    with SharedEncoder(Embedder(tiny)) as shared:
        tracks = shared.tracks(blocks(clip(0)), "song", leave)
        with pytest.raises(LeftError):
            next(tracks)
        events = (event for event in [*blocks(clip(0, 60.0))][:-1])
        tracks = shared.tracks(events, "song", nothing)
        assert isinstance(next(tracks), Frames)
        tracks.close()
        tracks = shared.tracks(blocks(clip(0, 60.0)), "song", nothing)
        assert isinstance(next(tracks), Frames)
        assert eventually(shared._asked.empty)
        tracks.close()  # when everything has been asked for
        assert frames_of(shared, clip(1)).shape[1] == 25
        eventually(lambda: not shared._under_way, seconds=30.0)


def test_at_the_end_the_encoder_has_finished() -> None:
    finished = threading.Event()

    class Slow:
        def tracks(self, events: Iterator[object]) -> Iterator[object]:
            yield from events
            time.sleep(0.1)
            finished.set()

    with SharedEncoder(cast(WindowEncoder, Slow())):
        pass
    assert finished.is_set()


def test_an_encoder_that_fails_starts_again(
    tiny: MusicFM, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = Embedder(tiny)
    compute = embedder.batch

    def fail(windows: list[Samples]) -> list[Tensor]:
        embedder.batch = compute  # type: ignore[method-assign]
        raise RuntimeError("no memory")

    embedder.batch = fail  # type: ignore[method-assign, assignment]
    with SharedEncoder(embedder) as shared:
        with pytest.raises(MusicFMError, match="the encoder has failed"):
            frames_of(shared, clip(0))
        assert frames_of(shared, clip(0)).shape[1] == 25
    assert "no memory" in caplog.text
