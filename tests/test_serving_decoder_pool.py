"""Processes in which uploads are decoded."""

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
import soundfile

import recipe
from musicfm.audio.decoders import Block, End, Failure
from musicfm.errors import AudioError
from musicfm.serving.decoder_pool import DecoderPool


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with contextlib.closing(DecoderPool(24_000, timeout_seconds=60.0)) as pool:
        yield pool


@pytest.fixture
def song(tmp_path: Path) -> Path:
    path = tmp_path / "song"
    samples = 0.5 * recipe.waveform(0, 1, 24_000)[0]
    soundfile.write(path, samples, 24_000, format="WAV", subtype="FLOAT")
    return path


def decoders() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_one_process_decodes_one_file_after_the_other(
    pool: DecoderPool, song: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad").write_bytes(b"no sound")
    *_, end = pool.decode(song)
    assert isinstance(end, End)
    before = decoders()
    assert len(before) == 1
    *_, failure = pool.decode(tmp_path / "bad")
    assert isinstance(failure, Failure)
    with contextlib.closing(pool.decode(tmp_path / "bad")) as bad:
        assert isinstance(next(bad), Failure)
    events = list(pool.decode(song))
    assert sum(len(event.samples) for event in events if isinstance(event, Block)) == 24_000
    assert decoders() == before


def test_leaving_early_ends_the_process_and_the_next_file_has_a_new_one(
    pool: DecoderPool, song: Path
) -> None:
    *_, _ = pool.decode(song)
    before = decoders()
    with contextlib.closing(pool.decode(song)) as events:
        next(events)
    assert not decoders() & before
    *_, end = pool.decode(song)
    assert isinstance(end, End)
    assert end.key == song


def test_a_process_that_dies_costs_one_file(pool: DecoderPool, song: Path) -> None:
    *_, _ = pool.decode(song)
    (pid,) = decoders()
    assert pid is not None
    os.kill(pid, signal.SIGSEGV)
    *_, failure = pool.decode(song)
    assert isinstance(failure, Failure)
    assert "crashed the decoder" in failure.reason
    *_, end = pool.decode(song)
    assert isinstance(end, End)


def test_the_sound_of_a_file_is_made_in_a_process(song: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_bytes(b"no sound")
    with contextlib.closing(DecoderPool(24_000, timeout_seconds=60.0)) as pool:
        before = decoders()
        noted: list[float] = []
        sound = pool.sound_of(song, noted.append)
        assert len(decoders() - before) == 1
        assert noted == sorted(noted)
        assert noted
        assert len(sound.peaks) == 100
        (tmp_path / "sound.mp3").write_bytes(sound.mp3)
        with av.open(str(tmp_path / "sound.mp3")) as container:
            assert container.streams.audio[0].codec_context.name == "mp3float"
        with pytest.raises(AudioError, match="not audio in a known format"):
            pool.sound_of(tmp_path / "bad", noted.append)
    assert decoders() <= before
