"""What half precision and int8 cost: hidden states beside float32, and scores of heads.

    pip install -c constraints.txt -e '.[tasks]'
    python benchmarks/precision.py [--model nano] [--music FILE ...] [--labelled FOLDER]
        [--device cuda] [--out FILE]

Hidden states are those of optimised models, over consecutive windows of the model's
context. Of every layer the cosine between a frame and that of the float32 form is taken: as it is,
and after subtracting the window's mean frame from both, which is what tells frames apart. Given are
the smallest, that below which 1 % lie, and the mean.

With --labelled, recordings with JAMS files beside them, the heads that ship with the model are
scored on them, with the hidden states of each form. Nothing is trained here.
"""

import argparse
import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from machine import machine
from torch import Tensor
from torch.nn import functional as F

from musicfm import Embedder, MusicFM, full_float32, optimize
from musicfm.audio import reading
from musicfm.model.inference.optimized import multiplies_bfloat16, multiplies_int8
from musicfm.tasks import heads
from musicfm.tasks.corpus import open_corpus
from musicfm.tasks.evaluation import encode_tracks
from musicfm.tasks.predict import Predictor
from musicfm.tasks.probe import evaluate

DEMO_SONG = Path(__file__).parents[1] / "examples" / "demo_song.ogg"


def main() -> None:
    """Prints tables, and writes them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--music", type=Path, nargs="+", default=[DEMO_SONG])
    parser.add_argument("--labelled", type=Path, help="folder of recordings for the heads")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="where to write the tables, too")
    options = parser.parse_args()

    model = MusicFM.from_pretrained(options.model).to(options.device)
    names = ["float32"]
    if model.device.type == "cuda":
        names += ["bfloat16", "float16"]
    else:
        names += ["bfloat16"] if multiplies_bfloat16() else []
        names += ["int8"] if multiplies_int8() else []
    lines = [f"{options.model}; {machine()}.", "", *cosines(model, names, options.music)]
    if options.labelled is not None:
        lines += ["", *scores(options.model, model, names, options.labelled)]
    text = "\n".join(lines)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


def rounded(model: MusicFM, name: str) -> MusicFM:
    """The model with the weights that a form of this name is made from."""
    return model if name == "int8" else copy.deepcopy(model).to(getattr(torch, name))


def cosines(model: MusicFM, names: Sequence[str], music: Sequence[Path]) -> list[str]:
    """A table of the forms beside float32."""
    windows = [window for path in music for window in windows_of(model, path)]
    seconds = sum(window.shape[1] for window in windows) / model.config.sample_rate
    exact = optimize(model)
    with full_float32():
        references = [exact(window).hidden_states for window in windows]
    lines = [
        f"Cosines with float32, over {seconds:.0f} s in {len(windows)} windows of "
        f"{', '.join(path.name for path in music)}:",
        "",
        "| | layer | smallest | 1 % | mean | without the mean frame: smallest | 1 % | mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in names[1:]:
        form = optimize(rounded(model, name), int8=name == "int8")
        found = [form(window).hidden_states for window in windows]
        for layer in range(model.num_layers):
            cells = []
            for centred in (False, True):
                pairs = zip(found, references, strict=True)
                values = torch.cat([cosine(a[layer][0], b[layer][0], centred) for a, b in pairs])
                figures = values.min(), values.quantile(0.01), values.mean()
                cells += [f"{figure:.6f}" for figure in figures]
            lines.append(f"| {name} | {layer} | {' | '.join(cells)} |")
    return lines


def windows_of(model: MusicFM, path: Path) -> Iterator[Tensor]:
    """(1, samples) each; a rest that does not fill a window is left out."""
    samples = torch.from_numpy(reading.load(path, model.config.sample_rate))
    size = model.config.context_samples
    for start in range(0, len(samples) - size + 1, size):
        yield samples[None, start : start + size].to(model.device)


def cosine(found: Tensor, expected: Tensor, centred: bool) -> Tensor:
    """Of (time, dim) frames, (time,)."""
    found, expected = found.float(), expected.float()
    if centred:
        found, expected = (x - x.mean(dim=0) for x in (found, expected))
    return F.cosine_similarity(found, expected, dim=-1)


def scores(source: str, model: MusicFM, names: Sequence[str], labelled: Path) -> list[str]:
    """A table of what the model's heads score with the hidden states of each form."""
    predictor = Predictor.load(list(heads.shipped(source).values()), source)
    tracks = open_corpus(str(labelled), labelled).as_one_test().tracks
    found: dict[str, Mapping[str, float]] = {}
    for name in names:
        encoder = Embedder(rounded(model, name), predictor.encoder.layers, int8=name == "int8")
        with tempfile.TemporaryDirectory() as cache:
            recordings, failures = encode_tracks(
                replace(predictor, encoder=encoder), tracks, Path(cache), num_workers=1
            )
            assert not failures, failures
            found[name] = {
                metric: evaluation.summary[metric]
                for head in predictor.heads
                for evaluation in [evaluate(head, recordings)]
                for metric in head.task.metrics
            }
    lines = [
        f"Scores of the model's heads on {len(tracks)} recordings:",
        "",
        f"| | {' | '.join(names)} |",
        "|---" * (len(names) + 1) + "|",
    ]
    for metric in found[names[0]]:
        cells = [f"{found[name][metric]:.4f}" for name in names]
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
