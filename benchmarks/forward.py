"""Seconds for the forward pass: ours, at several depths, beside the authors' arithmetic.

    pip install -e '.[bench]'
    python benchmarks/forward.py [--config fm7] [--seconds 30] [--runs 5] [--device cpu]

The baseline is what the authors' code computes, built here from torch modules: the convolutional
front end written plainly, and transformers' Wav2Vec2ConformerEncoder of the same size, which runs
all layers. Both have the same weights, get the same mel and run in turn in one process; the ratios
are medians over pairs. The mel itself costs the same in both and is left out.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoder,
)

from musicfm import ModelConfig, MusicFM, full_float32, preset
from musicfm.config import ConformerConfig
from musicfm.published import published


class PlainBlock(nn.Module):
    """A residual block of the front end, by the published names."""

    def __init__(self, channels_in: int, channels: int, time_stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, (2, time_stride), padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels_in, channels, 3, (2, time_stride), padding=1)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.bn3(self.conv3(x)))


class Baseline(nn.Module):
    """Normalised mel (batch, time, bands) to all hidden states, as the authors compute them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        encoder, width = config.encoder, config.front_end.conv_dim
        assert isinstance(encoder, ConformerConfig)
        first, second = config.front_end.time_strides
        self.conv = nn.Module()
        self.conv.conv = nn.Sequential(
            PlainBlock(1, width, first), PlainBlock(width, width, second)
        )
        self.conv.linear = nn.Linear(width * (config.mel.n_mels // 4), encoder.dim)
        settings: Any = Wav2Vec2ConformerConfig(
            hidden_size=encoder.dim,
            num_hidden_layers=encoder.depth,
            num_attention_heads=encoder.num_heads,
            intermediate_size=encoder.ffn_dim,
            hidden_act="swish",
            position_embeddings_type="rotary",
        )
        settings._attn_implementation = "eager"  # as in the version that the authors use
        make: Any = Wav2Vec2ConformerEncoder
        self.conformer: Any = make(settings)

    def forward(self, mel: Tensor) -> tuple[Tensor, ...]:
        x = self.conv.conv(mel.transpose(1, 2)[:, None])  # type: ignore[operator]
        x = self.conv.linear(x.permute(0, 3, 1, 2).flatten(2))  # type: ignore[operator]
        states = [x]
        hooks = [
            layer.register_forward_hook(lambda _, __, out: states.append(_tensor(out)))
            for layer in self.conformer.layers
        ]
        states.append(self.conformer(x).last_hidden_state)
        for hook in hooks:
            hook.remove()
        return (*states[:-2], states[-1])  # the last block's output is the one that is normed


def _tensor(output: Any) -> Tensor:
    return output[0] if isinstance(output, tuple) else output


def baseline_like(model: MusicFM) -> Baseline:
    """The baseline with the weights of ``model``."""
    baseline = Baseline(model.config)
    names = {published(name): tensor for name, tensor in model.state_dict().items()}
    missing = baseline.load_state_dict(
        {name: tensor for name, tensor in names.items() if name in baseline.state_dict()},
        strict=False,
    ).missing_keys
    unused = ("conformer.pos_conv_embed", "conformer.embed_positions")
    assert all(name.startswith(unused) for name in missing), missing
    return baseline.eval()


def seconds(run: Callable[[], Any], device: str) -> float:
    """Time of one call, waiting for the device."""
    begin = time.perf_counter()
    run()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--config", default="fm7")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = MusicFM(preset(options.config)).eval()
    baseline = baseline_like(model).to(options.device)
    model.to(options.device)
    config, depth = model.config, model.config.encoder.depth
    mel = torch.randn(options.batch, round(options.seconds * config.mel.rate), config.mel.n_mels)
    mel = mel.to(options.device)

    def ours(layer: int) -> Tensor:
        x, _ = model.front_end(mel, None)
        return model.encoder(x, None, [layer])[0]

    layers = sorted({0, depth // 2, round(depth * 7 / 12), depth})
    with torch.inference_mode(), full_float32():
        error = max(
            (ours(layer) - state).abs().max().item() for layer, state in enumerate(baseline(mel))
        )
        times: dict[str, list[float]] = {"baseline": [], **{f"layer {n}": [] for n in layers}}
        for _ in range(options.runs):
            times["baseline"].append(seconds(lambda: baseline(mel), options.device))
            for n in layers:
                times[f"layer {n}"].append(seconds(lambda n=n: ours(n), options.device))  # type: ignore[misc]
    print(f"{options.config}, {options.batch} x {options.seconds:g} s, {options.device}, float32,")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.runs} runs;")
    print(f"largest difference between the two at any layer: {error:.1e}")
    print(f"{'':10} {'median s':>9} {'min s':>7} {'max s':>7} {'baseline / this':>16}")
    for name, values in times.items():
        ratio = statistics.median(b / v for b, v in zip(times["baseline"], values, strict=True))
        middle = statistics.median(values)
        print(f"{name:10} {middle:9.2f} {min(values):7.2f} {max(values):7.2f} {ratio:16.2f}")


if __name__ == "__main__":
    main()
