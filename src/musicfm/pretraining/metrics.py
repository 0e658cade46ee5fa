"""What a run reports: a JSON line for every log line, TensorBoard beside it, and the curves."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from musicfm.errors import DataError
from musicfm.files import atomic_write, parse_json, write_file, writing

METRICS = "metrics.jsonl"


def rewind_metrics(path: Path, step: int) -> None:
    """Drops what was written after ``step``, and a line that was cut off."""
    lines = [json.dumps(row) for row in read_metrics(path) if row["step"] <= step]
    write_file(path, "".join(f"{line}\n" for line in lines))


def add_metrics(path: Path, step: int, values: Mapping[str, Any]) -> None:
    """Appends a line."""
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, **values}) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file, without a last one that was cut off; none if there is none.

    Raises DataError, which names the first line that is damaged.
    """
    if not os.path.exists(path):
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().rpartition(b"\n")[0].splitlines(), start=1):
        try:
            row = parse_json(line)
            row["step"] + 1
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number} is damaged; delete that line") from error
        rows.append(row)
    return rows


def draw_curves(rows: list[dict[str, Any]], target: Path) -> None:
    """Draws loss, accuracy beside its baseline, gradient norm and learning rate over the steps."""
    from matplotlib.figure import Figure

    panels = (
        ("Loss per hidden token (nats)", ("loss", "valid_loss")),
        (
            "Accuracy on hidden tokens",
            ("accuracy", "valid_accuracy", "unigram_accuracy"),
        ),
        ("Gradient norm", ("gradient_norm",)),
        ("Learning rate", ("learning_rate",)),
    )
    names = {
        "loss": "training",
        "accuracy": "training",
        "valid_loss": "held out",
        "valid_accuracy": "held out",
        "unigram_accuracy": "always the most frequent token",
    }
    figure = Figure(figsize=(10, 7), layout="constrained")
    for axes, (title, keys) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        for key in keys:
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            if points:
                style = ".-" if key.startswith("valid") else "-"
                axes.plot(*zip(*points, strict=True), style, label=names.get(key), linewidth=1.2)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(keys) > 1 and axes.lines:
            axes.legend(frameon=False)
    with atomic_write(target) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
