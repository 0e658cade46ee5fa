"""Seconds for the forward pass: the model, plain and optimised, beside the authors' arithmetic.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/forward.py [--config fm7] [--seconds 30] [--runs 5] [--threads 1]
        [--onnx LAYER ...] [--out FILE]

The baseline is what the authors' code computes, built here from torch modules: the convolutional
front end written plainly, and transformers' Wav2Vec2ConformerEncoder of the same size, which runs
all layers. All have the same weights, get the same mel and run in turn in one process; the ratios
are medians over rounds. The mel itself costs the same in all and is left out. A run to layer n ends
with block n, so one run to the last layer gives the times of all.

With --onnx, onnxruntime runs what musicfm export writes for these layers, too, on the CPU and with
as many threads. That begins with the waveform, so its times include the mel.

Peak is the fastest product of two square float32 matrices, measured in every round. With one thread
times are of the CPU, which other work on the machine prolongs less than those of a clock.

On CUDA all is in half precision: the baseline in float16, which the authors offer, the others in
bfloat16, and peak is that of bfloat16. Differences are those from the baseline in float16. Memory
is the most that was allocated in a run.
"""

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from machine import machine
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import (
    Wav2Vec2ConformerEncoder,
)

from musicfm import ModelConfig, MusicFM, full_float32, optimize, preset
from musicfm.model.config import ConformerConfig
from musicfm.model.export import export_onnx
from musicfm.model.inference.optimized import multiplies_bfloat16, multiplies_int8
from musicfm.model.published import published


class Clock:
    """Of a device; of the CPU's own time where it runs one thread."""

    def __init__(self, device: str) -> None:
        self.cuda = torch.device(device).type == "cuda"
        self.of_cpu = not self.cuda and torch.get_num_threads() == 1

    def __call__(self) -> Any:
        """This moment; on CUDA, the one when all that was asked for is done."""
        if not self.cuda:
            return time.process_time() if self.of_cpu else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, begin: Any, end: Any) -> float:
        """Seconds."""
        if not self.cuda:
            return end - begin
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    def seconds(self, work: Callable[[], object]) -> float:
        """That something takes."""
        begin = self()
        work()
        return self.between(begin, self())


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


class Run:
    """A model that notes the time at which each layer is done."""

    def __init__(self, model: MusicFM, clock: Clock) -> None:
        self.model, self.clock = model, clock
        self.marks: list[Any] = []
        for block in model.encoder.blocks:
            block.register_forward_hook(lambda *_: self.marks.append(self.clock()))

    def __call__(self, mel: Tensor) -> list[Tensor]:
        x, _ = self.model.front_end(mel, None)
        self.marks = [self.clock()]
        states = self.model.encoder(x, None, range(self.model.num_layers))
        self.marks[-1] = self.clock()  # the last layer is normed
        return states

    def seconds(self, mel: Tensor) -> list[float]:
        """Of every layer, from the start."""
        begin = self.clock()
        self(mel)
        return [self.clock.between(begin, mark) for mark in self.marks]

    def operations(self, mel: Tensor) -> list[float]:
        """Executed for every layer, in GFLOP, counted without computing."""
        model = copy.deepcopy(self.model).to("meta")
        counted = []
        for layer in range(model.num_layers):
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                x, _ = model.front_end(mel.to("meta"), None)
                model.encoder(x, None, [layer])
            counted.append(counter.get_total_flops() / 1e9)
        return counted


class OnnxRun:
    """A model in onnxruntime: waveform to one layer."""

    def __init__(self, model: MusicFM, layer: int, clock: Clock) -> None:
        import onnxruntime

        self.layer, self.clock = layer, clock
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(model, path, layers=[layer])
            self.session = onnxruntime.InferenceSession(
                path, options, providers=["CPUExecutionProvider"]
            )

    def __call__(self, waveform: Tensor) -> Tensor:
        lengths = torch.full((len(waveform),), waveform.shape[1])
        given = {"waveform": waveform.numpy(), "lengths": lengths.numpy()}
        return torch.from_numpy(self.session.run([f"layer_{self.layer}"], given)[0])

    def seconds(self, waveform: Tensor) -> float:
        return self.clock.seconds(lambda: self(waveform))


def peak(device: str, clock: Clock) -> float:
    """GFLOP per second of a product of matrices: of float32, on CUDA of bfloat16."""
    size, dtype = (8192, torch.bfloat16) if clock.cuda else (2048, torch.float32)
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    if clock.cuda:
        a @ b  # loads what is needed
    return 2 * size**3 / clock.seconds(lambda: a @ b) / 1e9


def memory(work: Callable[[], object]) -> float:
    """The most that was allocated on CUDA meanwhile, in GiB."""
    torch.cuda.reset_peak_memory_stats()
    work()
    return torch.cuda.max_memory_allocated() / 2**30


def main() -> None:
    """Prints a table, and writes it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--config", default="fm7")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--onnx", type=int, nargs="+", default=[], metavar="LAYER", help="for onnxruntime"
    )
    parser.add_argument("--out", type=Path, help="where to write the table, too")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    clock = Clock(options.device)
    model = MusicFM(preset(options.config)).eval()
    baseline = baseline_like(model).to(options.device)
    forms = {"the model": model.to(options.device)}
    if clock.cuda:
        baseline = baseline.half()
        forms = {"the model": model.bfloat16(), "optimised model": optimize(model)}
        forms["optimised model, compiled"] = optimize(model, compile=True)
    else:
        forms["optimised model, direct"] = optimize(model, winograd=False)
        forms["optimised model"] = optimize(model)
        if multiplies_bfloat16():
            forms["optimised model, bfloat16"] = optimize(copy.deepcopy(model).bfloat16())
        if multiplies_int8():
            forms["optimised model, int8"] = optimize(model, int8=True)
    runs = {name: Run(form, clock) for name, form in forms.items()}
    config, depth = model.config, model.config.encoder.depth
    waveform = 0.1 * torch.randn(options.batch, round(options.seconds * config.sample_rate))
    mel = model.features(waveform.to(options.device)).to(model.dtype)
    in_onnx = [OnnxRun(model, layer, clock) for layer in options.onnx]

    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    onnx_times: list[list[float]] = [[] for _ in in_onnx]
    base, peaks = [], []
    with torch.inference_mode(), full_float32():
        heard = mel.half() if clock.cuda else mel
        reference = [state.float() for state in baseline(heard)]
        warm = {name: clock.seconds(partial(run, mel)) for name, run in runs.items()}
        error = {
            name: max((a - b).abs().max().item() for a, b in zip(run(mel), reference, strict=True))
            for name, run in runs.items()
        }
        onnx_error = [(run(waveform) - reference[run.layer]).abs().max().item() for run in in_onnx]
        for _ in range(options.runs):
            peaks.append(peak(options.device, clock))
            base.append(clock.seconds(lambda: baseline(heard)))
            for name, run in runs.items():
                times[name].append(run.seconds(mel))
            for onnx_run, values in zip(in_onnx, onnx_times, strict=True):
                values.append(onnx_run.seconds(waveform))

    what = "CPU time" if clock.of_cpu else "time"
    numbers = "half precision" if clock.cuda else "float32 where not said otherwise"
    lines = [
        f"{options.config}, {options.batch} x {options.seconds:g} s on {options.device}, "
        f"{numbers}; {machine()}, transformers {transformers.__version__}; "
        f"threads: {options.threads}; {options.runs} rounds, median {what} (smallest); "
        f"peak {max(peaks):.0f} GFLOP/s.",
        "",
        "| | layer | seconds | baseline / this | GFLOP | of peak | largest difference |",
        "|---|---|---|---|---|---|---|",
        f"| baseline | {depth} | {statistics.median(base):.3g} ({min(base):.3g}) | 1.00 | | | |",
    ]
    for name in runs:
        # Those of integers are not counted; compiling changes none.
        counted = runs[name.removesuffix(", compiled")]
        operations = None if name == "optimised model, int8" else counted.operations(mel)
        for layer in sorted({0, round(depth * 7 / 12), depth}):
            values = [marks[layer] for marks in times[name]]
            ratio = statistics.median(b / v for b, v in zip(base, values, strict=True))
            middle, executed = statistics.median(values), ["", ""]
            if operations is not None:
                of_peak = operations[layer] / middle / max(peaks)
                executed = [f"{operations[layer]:.0f}", f"{of_peak:.0%}"]
            lines.append(
                f"| {name} | {layer} | {middle:.3g} ({min(values):.3g}) | {ratio:.2f} | "
                f"{' | '.join(executed)} | {error[name]:.0e} |"
            )
    for onnx_run, values, difference in zip(in_onnx, onnx_times, onnx_error, strict=True):
        ratio = statistics.median(b / v for b, v in zip(base, values, strict=True))
        lines.append(
            f"| onnxruntime | {onnx_run.layer} | {statistics.median(values):.2f} "
            f"({min(values):.2f}) | {ratio:.2f} | | | {difference:.0e} |"
        )
    if clock.cuda:
        with torch.inference_mode():
            used = {name: memory(partial(run, mel)) for name, run in runs.items()}
            used = {"baseline": memory(lambda: baseline(heard)), **used}
        lines += ["", "| | first run, s | memory, GiB |", "|---|---|---|"]
        for name, gib in used.items():
            first = f"{warm[name]:.1f}" if name in warm else ""
            lines.append(f"| {name} | {first} | {gib:.1f} |")
    table = "\n".join(lines)
    print(table)
    if options.out:
        options.out.write_text(table + "\n")


if __name__ == "__main__":
    main()
