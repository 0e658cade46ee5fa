import numpy as np
import pytest
import torch

from musicfm.audio.decoders import Block, End, Event
from musicfm.embedding.embedder import Frames, WindowEncoder
from musicfm.embedding.windows import Samples
from musicfm.tasks.baselines import ChromaEncoder, MelEncoder


def frames_of(encoder: WindowEncoder, samples: Samples) -> torch.Tensor:
    events: list[Event[str]] = [Block("song", samples), End("song", ())]
    found = [event.frames for event in encoder.tracks(events) if isinstance(event, Frames)]
    return torch.cat(found, dim=1)[0]


def noise(seconds: float) -> Samples:
    rng = np.random.default_rng(0)
    return (0.1 * rng.normal(size=round(24_000 * seconds))).astype(np.float32)


@pytest.mark.parametrize(
    ("encoder", "tolerance"),
    [(MelEncoder(), 0.5), (ChromaEncoder(), 0.01)],
    ids=["mel, in dB", "chroma"],
)
def test_windows_leave_hardly_a_trace(encoder: WindowEncoder, tolerance: float) -> None:
    samples = noise(70.0)
    whole = encoder.batch([samples])[0][0]
    assert len(whole) == round(70.0 * encoder.rate)
    difference = (frames_of(encoder, samples) - whole).abs()
    assert difference.max() < tolerance
    assert (difference > 1e-3).float().mean() < 0.002


def test_mel_is_the_mean_of_what_models_see() -> None:
    samples = noise(2.0)
    encoder = MelEncoder()
    (frames,) = encoder.batch([samples])
    assert frames.shape == (1, 100, 128)
    mel = encoder._mel(torch.from_numpy(samples)[None])[0]
    torch.testing.assert_close(frames[0, 10], mel[20:22].mean(dim=0))


@pytest.mark.parametrize(("midi", "name"), [(60, 0), (69, 9), (64, 4), (47, 11)])
def test_chroma_hears_the_pitch_class(midi: int, name: int) -> None:
    time = np.arange(3 * 24_000) / 24_000
    tone = np.sin(2 * np.pi * 440 * 2 ** ((midi - 69) / 12) * time).astype(np.float32)
    frames = ChromaEncoder().batch([tone])[0][0]
    assert frames.shape == (75, 24)
    middle = frames[20:-20]
    assert (middle[:, :12].argmax(dim=1) == name).all()
    assert (middle[:, name] > 0.8).all()
    if midi < 59:  # it is a bass
        assert (middle[:, 12:].argmax(dim=1) == name).all()


def test_silence_is_finite_and_has_no_pitch() -> None:
    silence = np.zeros(48_000, np.float32)
    assert not ChromaEncoder().batch([silence])[0].any()
    assert torch.isfinite(MelEncoder().batch([silence])[0]).all()
