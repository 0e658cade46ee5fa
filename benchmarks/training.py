"""Seconds of audio per second, and part of the peak, of one training step.

    python benchmarks/training.py [--recipe nano fm7] [--clips 1] [--runs 3] [--threads 1]
        [--device cuda] [--compile] [--out FILE]

A step as pretraining runs it, without Lightning and without loading: tokens from the clean clips,
forward, backward, AdamW. Recipes are trained with the arithmetic that they name on a GPU, and in
float32 on a CPU. "mel and tokens" is the part of a step that comes before the model: the mel of
the clean and of the masked clips, and the targets.

Peak is the fastest product of two square matrices of float32, on a GPU of bfloat16, measured in
every round. Operations are
those of products and convolutions, as PyTorch counts them. With one thread, times are of the CPU.
"""

import argparse
import statistics
from pathlib import Path

import torch
from forward import Clock, peak
from machine import machine
from torch.utils.flop_counter import FlopCounterMode

from musicfm import MusicFM
from musicfm.memory import tune_malloc
from musicfm.pretraining.objective import Batch, Objective
from musicfm.pretraining.recipe import Recipe, load_recipe
from musicfm.pretraining.run import build_model


def clips(recipe: Recipe, count: int, device: str) -> Batch:
    """Noise, as hidden as the recipe has it."""
    config = recipe.model
    samples = config.context_samples
    hidden = torch.rand(count, config.num_tokens(samples)) < recipe.masking.probability
    clean, masked = 0.1 * torch.randn(2, count, samples, device=device)
    return Batch(clean, masked, hidden.to(device), None)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", nargs="+", default=["nano", "fm7"])
    parser.add_argument("--clips", type=int, default=1, help="in a step")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="as the recipe's setting")
    parser.add_argument("--out", type=Path, help="where to write the table, too")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    tune_malloc()
    clock = Clock(given.device)

    lines = [
        f"{machine()}; threads: {given.threads}; {given.clips} clips in a step; medians of "
        f"{given.runs}",
        "",
        "| | seconds | audio / time | mel and tokens | GFLOP | of peak |",
        "|---|---|---|---|---|---|",
    ]
    if clock.cuda:
        lines[-2:] = [lines[-2] + " memory, GiB | first step, s |", lines[-1] + "---|---|"]
    for name in given.recipe:
        recipe = load_recipe(name)
        half = given.device != "cpu" and recipe.precision == "bfloat16"
        model: MusicFM = build_model(recipe).to(given.device).train()
        objective = Objective(model)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        batch = clips(recipe, given.clips, given.device)

        def step(
            objective: Objective = objective,
            optimizer: torch.optim.AdamW = optimizer,
            batch: Batch = batch,
            half: bool = half,
        ) -> None:
            with torch.autocast(batch.clean.device.type, torch.bfloat16, enabled=half):
                loss, _ = objective(batch)
            (loss.total / loss.num_hidden).backward()
            optimizer.step()
            optimizer.zero_grad()

        @torch.no_grad()
        def prepare(model: MusicFM = model, batch: Batch = batch) -> None:
            model.tokenize(batch.clean)
            model.features(batch.masked)

        with FlopCounterMode(display=False) as counter:
            step()
        operations = counter.get_total_flops() / 1e9
        first = 0.0
        if given.compile:
            for block in model.encoder.blocks:
                block.compile()
            first = clock.seconds(step)
        if clock.cuda:
            torch.cuda.reset_peak_memory_stats()
        times, before, peaks = [], [], []
        for _ in range(given.runs):
            peaks.append(peak(given.device, clock))
            times.append(clock.seconds(step))
            before.append(clock.seconds(prepare))
        seconds = statistics.median(times)
        audio = given.clips * recipe.model.context_seconds
        lines.append(
            f"| {name} | {seconds:.3g} | {audio / seconds:.1f} | "
            f"{statistics.median(before) / seconds:.1%} | {operations:.0f} | "
            f"{operations / seconds / max(peaks):.0%} |"
        )
        if clock.cuda:
            lines[-1] += f" {torch.cuda.max_memory_allocated() / 2**30:.1f} | {first:.0f} |"
    table = "\n".join(lines)
    print(table)
    if given.out:
        given.out.write_text(f"{table}\n")


if __name__ == "__main__":
    main()
