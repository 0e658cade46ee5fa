"""A model as an ONNX file, for runtimes without PyTorch.

The file holds the mel, the front end, and the encoder as far as the deepest layer asked for. Any
number of clips of any lengths goes in, and each gives what it gives alone, as in
:meth:`musicfm.MusicFM.forward`, but nothing is checked.
"""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from musicfm.errors import ConfigError
from musicfm.files import atomic_write
from musicfm.model.checkpoint import fingerprint
from musicfm.model.musicfm import MusicFM

_MOST_BYTES = 2_000_000_000
"""Bytes of weights within the file, a protobuf message that ends at 2 GiB, with its graph."""


def export_onnx(model: MusicFM, path: str | Path, *, layers: Sequence[int]) -> None:
    """Writes a model as ONNX, in float32 whatever its type, as it computes in eval mode.

    Inputs of the file are ``waveform``, (batch, samples) float32 in [-1, 1] at the model's sample
    rate, and ``lengths``, (batch,) int64, the true samples of each clip. Outputs are ``layer_7``
    and so on, (batch, frames, dim) float32, each layer once, and ``num_frames``, (batch,) int64;
    frames beyond a clip's own are undefined. Batch and samples are dynamic. Its metadata has
    ``config`` and ``layers`` as JSON, and ``fingerprint``, which is
    :func:`musicfm.model.checkpoint.fingerprint`.

    Weights above 2 GB go into a file beside, called as the first with ``.data`` at its end. The
    two belong together and to these names. Where both are replaced, the old file is removed before,
    so that a kill leaves no file with the weights of another.

    Args:
        model: stays as it is.
        path: ends in ``.onnx``; a file there is replaced.
        layers: as in :meth:`musicfm.MusicFM.forward`.

    Raises:
        ConfigError: a layer that the model does not have, another ending, or no onnx installed.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    wanted = list(dict.fromkeys(model.check_layers(layers)))
    if path.suffix != ".onnx":
        raise ConfigError(f"cannot export to {path}: give a file that ends in .onnx")
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise ConfigError("ONNX needs onnx and onnxscript; pip install 'musicfm[export]'")
    with atomic_write(path) as new:  # a folder that cannot be written is noticed at once
        exported = _graph(_in_float32(model), wanted)
        exported.metadata_props.update(
            config=json.dumps(model.config.to_dict()),
            layers=json.dumps(wanted),
            fingerprint=fingerprint(model),
        )
        _write(exported, path, new)


class _Exported(nn.Module):
    """The model with tensors in and tensors out."""

    def __init__(self, model: MusicFM, layers: list[int]) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor | None, ...]:
        output = self.model(waveform, lengths, self.layers)
        return *output.hidden_states, output.num_frames


def _in_float32(model: MusicFM) -> MusicFM:
    """The same on the CPU, in eval mode; shares its memory where nothing changes."""
    with torch.device("meta"):
        same = MusicFM(model.config)
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    same.load_state_dict(
        {n: t.float() if t.is_floating_point() else t for n, t in tensors.items()}, assign=True
    )
    return same.eval()


def _graph(model: MusicFM, layers: list[int]) -> Any:
    """The model as an ``onnx_ir.Model``."""
    import onnx_ir

    config = model.config
    # Sizes of 1 would be taken for constants; these are several clips of several frames.
    samples = config.mel.min_samples + 4 * config.samples_per_frame
    clips = torch.zeros(2, samples), torch.full((2,), samples)
    batch = torch.export.Dim("batch")
    length = torch.export.Dim("samples", min=config.mel.min_samples)
    names = [f"layer_{layer}" for layer in layers]
    with torch.no_grad(), _quietly():
        program: Any = torch.onnx.export(
            _Exported(model, layers).eval(),
            clips,
            dynamo=True,
            verbose=False,
            input_names=["waveform", "lengths"],
            output_names=[*names, "num_frames"],
            dynamic_shapes=({0: batch, 1: length}, {0: torch.export.Dim.AUTO}),
        )
    exported = program.model
    for output in exported.graph.outputs[:-1]:  # the frames come as a formula of the samples
        output.shape = onnx_ir.Shape(["batch", "frames", config.encoder.dim])
    for node in exported.graph:  # which lines of Python, on which machine
        node.metadata_props.clear()
    return exported


@contextmanager
def _quietly() -> Iterator[None]:
    """Keeps PyTorch's exporter from telling what is none of the user's business."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that torchvision is not installed
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)`", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _write(exported: Any, path: Path, new: Path) -> None:
    """Writes to ``new``, which becomes ``path``."""
    import onnx
    import onnx_ir

    weights = exported.graph.initializers.values()
    if sum(weight.const_value.nbytes for weight in weights) <= _MOST_BYTES:
        onnx_ir.save(exported, new)
        return
    beside = path.with_name(f"{path.name}.data")
    with atomic_write(beside) as new_beside:
        onnx_ir.save(exported, new, external_data=new_beside.name)
        graph = onnx.load(new, load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = beside.name
        new.write_bytes(graph.SerializeToString())
        path.unlink(missing_ok=True)
