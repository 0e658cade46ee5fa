import numpy as np
import pytest
import torch
from torch import Tensor

import recipe
from musicfm.errors import ConfigError
from musicfm.model.config import MelConfig, ModelConfig, PitchConfig
from musicfm.model.mel import LogMel
from musicfm.model.pitch import LogPitch

CONFIG = PitchConfig()
HOP = 960


def tone(hertz: float, samples: int = 48_000) -> Tensor:
    return 0.5 * torch.sin(2 * np.pi * hertz * torch.arange(samples).double() / 24_000)[None]


def level(hertz: float) -> Tensor:
    """Of a tone, in the middle of a clip, (num_bands,)."""
    return LogPitch(CONFIG, 24_000, HOP)(tone(hertz), 50)[0, 25]


@pytest.mark.parametrize("semitone", [9, 24, 40, 57, 83])
def test_the_loudest_band_is_that_of_the_tone(semitone: int) -> None:
    hertz = CONFIG.lowest_hertz * 2 ** (semitone / 12)
    assert abs(level(hertz).argmax().item() - 3 * semitone) <= (1 if semitone < 12 else 0)


@pytest.mark.parametrize("hertz", [98.0, 147.0, 262.0, 440.0, 1_760.0])
def test_neighbouring_semitones_are_told_apart(hertz: float) -> None:
    """Also where a mel band is wider than both: where each has its peak, the other is far below."""
    one, other = level(hertz), level(hertz * 2 ** (1 / 12))
    assert one[one.argmax()] - other[one.argmax()] > 10.0
    if hertz < 200.0:
        mel = LogMel(MelConfig())
        one, other = mel(tone(hertz))[0, 100], mel(tone(hertz * 2 ** (1 / 12)))[0, 100]
        assert one[one.argmax()] - other[one.argmax()] < 5.0


def test_half_a_semitone_is_heard() -> None:
    found = level(220.0 * 2 ** (0.5 / 12)) - level(220.0)
    assert found.abs().max() > 3.0


def test_an_octave_up_is_the_same_picture_thirty_six_bands_up() -> None:
    low, high = level(440.0).argmax(), level(880.0).argmax()
    assert high - low == 36


def test_a_padded_clip_has_the_frames_it_has_alone(music: Tensor) -> None:
    log_pitch = LogPitch(CONFIG, 24_000, HOP)
    lengths = torch.tensor([1_025, 8_191, 24_000, 30_001, 48_000])
    padded = torch.full((len(lengths), 48_000), torch.nan)
    for row, length in zip(padded, lengths.tolist(), strict=True):
        row[:length] = music[0, :length]
    frames = log_pitch(padded, 50, lengths)
    for row, length in zip(frames, lengths.tolist(), strict=True):
        count = -(-length // HOP)
        alone = log_pitch(music[:1, :length], count)[0]
        torch.testing.assert_close(row[:count], alone, rtol=0, atol=1e-4)


def test_it_stays_float32_in_a_model_of_another_type(music: Tensor) -> None:
    log_pitch = LogPitch(CONFIG, 24_000, HOP)
    expected = log_pitch(music, 50)
    halved = log_pitch.half()
    assert halved.window.dtype == halved.filters.dtype == torch.float32
    assert torch.equal(halved(music, 50), expected)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(halved(music, 50), expected)


def test_a_model_without_pitch_has_the_configuration_it_always_had() -> None:
    assert "pitch" not in recipe.TINY.to_dict()
    config = recipe.TINY.replace(pitch=recipe.PITCH)
    assert ModelConfig.from_dict(config.to_dict()) == config
    assert config.to_dict()["pitch"]["num_semitones"] == 24


def test_pitches_above_half_the_sample_rate_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pitch reaches 16744 Hz.*choose fewer semitones"):
        recipe.TINY.replace(pitch=PitchConfig(num_semitones=108))
