"""Pictures of a study: the table, and how good each layer is."""

from pathlib import Path
from statistics import fmean
from typing import Any

from musicfm.files import atomic_write
from musicfm.tasks.report import COLUMNS, Report

PICTURE, LAYERS = "table.png", "layers.png"

_COLOURS = {"ahead": "#1b7f3b", "tie": "#8a8a8a", "behind": "#c0392b"}


def draw(report: Report, out: Path) -> None:
    """Draws ``table.png``, and ``layers.png`` if there were layers to choose from.

    Raises OutputError.
    """
    _save(_table(report), out / PICTURE)
    if any(len(result.curve) > 1 for result in report.results):
        _save(_layers(report), out / LAYERS)


def _table(report: Report) -> Any:
    """A panel for each column: all rows on the headline, with their intervals."""
    from matplotlib.figure import Figure

    test = next(iter(report.corpus.tests))
    rows = list(dict.fromkeys(result.row.name for result in report.results))[::-1]
    columns = [c for c in COLUMNS if any((row, test, c.label) in report.cells for row in rows)]
    figure = Figure(
        figsize=(2.0 + 1.9 * len(columns), 1.2 + 0.32 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        for place, row in enumerate(rows):
            cell = report.cells.get((row, test, column.label))
            if cell is None:
                continue
            colour = _COLOURS[cell.reference.verdict] if cell.reference else "black"
            score = cell.score
            axis.plot([score.low, score.high], [place, place], color=colour, linewidth=2)
            axis.plot(score.value, place, "o", color=colour, markersize=5)
        axis.set_title(column.label, fontsize=10)
        axis.set_xlim(0.0, 1.02)
        axis.grid(axis="x", alpha=0.3)
        axis.tick_params(labelsize=8)
    axes[0].set_yticks(range(len(rows)), rows, fontsize=9)
    figure.suptitle(
        f"{report.corpus.name}, {test}: {report.reference} (black) is ahead of green rows, ties "
        "with grey ones, and is behind red ones",
        fontsize=10,
    )
    return figure


def _layers(report: Report) -> Any:
    """A panel for each task: the score on validation of each layer, by row: mean and range."""
    from matplotlib.figure import Figure

    results = [result for result in report.results if len(result.curve) > 1]
    tasks = list(dict.fromkeys(result.task for result in results))
    figure = Figure(figsize=(2.8 * len(tasks) + 0.6, 2.8), layout="constrained")
    axes = figure.subplots(1, len(tasks), squeeze=False)[0]
    for axis, task in zip(axes, tasks, strict=True):
        for result in results:
            if result.task == task:
                layers = [layers[0] for layers in result.curve]
                scores = list(result.curve.values())
                means = [fmean(some) for some in scores]
                (line,) = axis.plot(layers, means, "o-", label=result.row.name)
                low, high = [*map(min, scores)], [*map(max, scores)]
                axis.vlines(layers, low, high, color=line.get_color(), alpha=0.5)
                axis.set_xticks(layers)
        axis.set_title(task, fontsize=10)
        axis.set_xlabel("layer")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("validation")
    axes[-1].legend(fontsize=8)
    return figure


def _save(figure: Any, path: Path) -> None:
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
