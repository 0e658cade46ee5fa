import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import recipe
from conftest import Golden
from musicfm.errors import AudioError
from musicfm.model.config import MelConfig, ModelConfig
from musicfm.model.mel import (
    LogMel,
    check_waveform,
    mel_filters,
    reflect_pad,
    stream_mel,
)
from musicfm.model.musicfm import MusicFM

CONFIG = MelConfig()


@pytest.mark.parametrize("prefix", ["", "odd_"])
def test_mel_equals_that_of_the_published_model(
    prefix: str, golden: Golden, request: pytest.FixtureRequest
) -> None:
    waveform: Tensor = request.getfixturevalue(f"{prefix}music")
    mel = LogMel(CONFIG)(waveform).transpose(1, 2).numpy()
    np.testing.assert_allclose(mel[:, :, ::8], golden[f"{prefix}mel_db"], rtol=0, atol=1e-3)


def test_filters_equal_the_published_ones(golden: Golden) -> None:
    np.testing.assert_allclose(
        mel_filters(CONFIG).numpy(), golden["mel_filters"], rtol=0, atol=1e-7
    )


@pytest.mark.parametrize(("samples", "frames"), [(1_025, 4), (2_400, 10), (2_639, 10), (2_640, 11)])
def test_frames_are_whole_hops(samples: int, frames: int) -> None:
    assert LogMel(CONFIG)(torch.zeros(1, samples)).shape == (1, frames, 128)


def test_silence_lies_at_the_floor() -> None:
    assert torch.equal(LogMel(CONFIG)(torch.zeros(1, 2_400)), torch.full((1, 10, 128), -100.0))


@pytest.mark.parametrize("hop_length", [240, 320])
def test_a_padded_clip_has_the_frames_it_has_alone(hop_length: int, music: Tensor) -> None:
    mel = LogMel(MelConfig(hop_length=hop_length))
    clip = music[0]
    lengths = torch.tensor([1_025, 1_026, 2_047, 24_000, 30_001, 48_000])
    padded = torch.randn(len(lengths), 48_000)
    for row, length in zip(padded, lengths.tolist(), strict=True):
        row[:length] = clip[:length]
    frames = mel(padded, lengths)
    for row, length in zip(frames, lengths.tolist(), strict=True):
        alone = mel(clip[None, :length])[0]
        torch.testing.assert_close(row[: len(alone)], alone, rtol=0, atol=1e-4)


def test_reflection_with_lengths_is_that_of_each_clip() -> None:
    waveform = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 99.0]])
    padded = reflect_pad(waveform, 2, torch.tensor([4, 3]))
    expected = [[3, 2, 1, 2, 3, 4, 3, 2], [7, 6, 5, 6, 7, 6, 5, 0]]
    assert torch.equal(padded, torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(padded[:1], reflect_pad(waveform[:1], 2, None))


@pytest.mark.parametrize(
    "cast",
    [
        lambda module: module.half(),
        lambda module: module.bfloat16(),
        lambda module: module.to(torch.float16),
        lambda module: module.double(),
        lambda module: module.bfloat16().float(),
        lambda module: copy.deepcopy(module.half()),
    ],
)
def test_buffers_stay_float32_whatever_the_type_of_the_model(
    cast: Any, tiny: MusicFM, music: Tensor
) -> None:
    before = {name: buffer.clone() for name, buffer in tiny.named_buffers() if "norm" not in name}
    model = cast(tiny)
    assert {"mel.window", "mel.filters", "encoder.inv_freq"} < set(before)
    for name, buffer in before.items():
        assert torch.equal(model.get_buffer(name), buffer)
        assert model.get_buffer(name).dtype == torch.float32
    assert torch.equal(model.features(music), tiny.features(music))


def test_mel_is_float32_under_autocast(tiny: MusicFM, music: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features, tokens = tiny.features(music), tiny.tokenize(music)
    assert torch.equal(features, tiny.features(music))
    assert torch.equal(tokens, tiny.tokenize(music))


LENGTH = torch.tensor([1_025])
NAN, INF = torch.full((3, 2_048), 0.1), torch.full((3, 2_048), 0.1)
NAN[1, 7], INF[2, 9] = torch.nan, -torch.inf


@pytest.mark.parametrize(
    ("waveform", "lengths", "message"),
    [
        (torch.zeros(2_048), None, r"shape \(2048,\); give \(batch, samples\), mono"),
        (torch.zeros(1, 2, 2_048), None, r"shape \(1, 2, 2048\); .* average the channels"),
        (torch.zeros(1, 2_048, dtype=torch.int16), None, r"torch.int16; .* divide by 32768"),
        (torch.zeros(0, 2_048), None, r"shape \(0, 2048\); the shortest clip has 1025 samples"),
        (torch.zeros(1, 1_024), None, r"shape \(1, 1024\); .* 1025 samples \(0.043 s\)"),
        (torch.zeros(2, 2_048), LENGTH, r"lengths has shape \(1,\).* give 2 whole numbers"),
        (torch.zeros(1, 2_048), LENGTH.float(), r"lengths .* is torch.float32 on cpu; give 1"),
        (torch.zeros(1, 2_048), LENGTH.to("meta"), r"on meta; give 1 .* on cpu"),
        (torch.zeros(1, 2_048), LENGTH - 1, r"lengths are \[1024\]; .* 1025 and .* 2048"),
        (torch.zeros(1, 2_048), LENGTH + 1_024, r"lengths are \[2049\]"),
        (NAN, None, r"NaN or infinite samples in clips \[1\]; repair or drop"),
        (INF, None, r"NaN or infinite samples in clips \[2\]"),
        (np.zeros((1, 2_048)), None, "waveform is of type ndarray; give a torch tensor"),
        (torch.zeros(1, 2_048), [2_048], "lengths is of type list; give a torch tensor"),
    ],
)
def test_a_waveform_that_cannot_be_heard_is_refused(
    waveform: Any, lengths: Any, message: str, tiny: MusicFM
) -> None:
    for use in (tiny, tiny.tokenize):
        with pytest.raises(AudioError, match=message):
            use(waveform, lengths)


def test_the_shortest_clip_has_a_frame() -> None:
    config = MelConfig(n_fft=512, hop_length=400)
    assert config.min_samples == 400
    check_waveform(torch.zeros(1, 400), None, config)
    assert LogMel(config)(torch.zeros(1, 400)).shape[1] == 1
    assert ModelConfig(mel=config).num_frames(400) == 1


@pytest.mark.parametrize("sizes", [[1, 239, 240, 241, 5000, 1, 60_000], [70_000], [1025] * 40])
@pytest.mark.parametrize("config", [MelConfig(), MelConfig(hop_length=320, n_mels=64)])
def test_blocks_give_the_frames_of_the_whole(sizes: list[int], config: MelConfig) -> None:
    waveform = torch.from_numpy(recipe.waveform(3, 1, sum(sizes)))[0]
    log_mel = LogMel(config)
    blocks = list(stream_mel(waveform.split(sizes), log_mel))
    torch.testing.assert_close(torch.cat(blocks), log_mel(waveform[None])[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("samples", [0, 239, 1024, 1025, 1200, 2049, 2400])
def test_the_shortest_waveforms_in_blocks(samples: int) -> None:
    waveform, log_mel = (
        torch.from_numpy(recipe.waveform(3, 1, 2400))[0, :samples],
        LogMel(MelConfig()),
    )
    blocks = [torch.zeros(0, 128), *stream_mel(waveform.split(100), log_mel)]
    if samples < log_mel.config.min_samples:
        assert len(blocks) == 1
    else:
        torch.testing.assert_close(torch.cat(blocks), log_mel(waveform[None])[0], rtol=0, atol=1e-4)
