"""The paper's table of a study: Markdown, CSV and JSON.

Each figure is a mean over seeds with the 95 % interval of the bootstrap over recordings and seeds,
and is held against the first row that is a model on the same recordings. The paper's own rows stand
apart: they are of other data, under a protocol that was not published.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from musicfm.files import write_file, write_json
from musicfm.tasks.base import Task, json_number, num_excluded
from musicfm.tasks.corpus import Corpus
from musicfm.tasks.heads import build_task, task_class
from musicfm.tasks.intervals import Estimate, Runs, compare, estimate
from musicfm.tasks.names import TASKS, TaskName
from musicfm.tasks.study import Result

TABLE, CSV, REPORT = "table.md", "table.csv", "report.json"


@dataclass(frozen=True)
class Column:
    """A column of the paper's table."""

    label: str
    task: TaskName
    metric: str


COLUMNS = (
    Column("beat", "beat", "beat"),
    Column("downbeat", "beat", "downbeat"),
    Column("chord", "chord", "chord"),
    Column("structure", "structure", "structure"),
    Column("HR.5F", "structure", "hr_05"),
    Column("key", "key", "key"),
    Column("mAP", "tagging", "map"),
    Column("ROC-AUC", "tagging", "roc_auc"),
)

MORE = (
    Column("chord majmin", "chord", "chord_majmin"),
    Column("HR3F", "structure", "hr_3"),
    Column("HR.5F trimmed", "structure", "hr_05_trimmed"),
    Column("HR3F trimmed", "structure", "hr_3_trimmed"),
    Column("key weighted", "key", "key_weighted"),
    Column("key a fifth off", "key", "key_fifth"),
    Column("relative key", "key", "key_relative"),
    Column("parallel key", "key", "key_parallel"),
)
"""Columns that the paper's table has no room for."""

OTHERS = tuple(
    Column(metric, name, metric)
    for name in TASKS
    if all(column.task != name for column in COLUMNS)
    for metric in task_class(name).metrics
)
"""Columns of tasks that the paper does not have."""

PAPER: Mapping[str, tuple[float, ...]] = {
    "FM1 (MERT)": (0.858, 0.722, 0.574, 0.578, 0.626, 0.645, 0.4499, 0.9167),
    "FM2": (0.856, 0.669, 0.636, 0.588, 0.490, 0.636, 0.4185, 0.9013),
    "FM3": (0.855, 0.703, 0.651, 0.640, 0.641, 0.662, 0.4226, 0.9000),
    "FM4": (0.863, 0.771, 0.643, 0.619, 0.534, 0.660, 0.4589, 0.9161),
    "FM5": (0.865, 0.780, 0.702, 0.715, 0.710, 0.670, 0.4821, 0.9208),
    "FM6": (0.864, 0.802, 0.690, 0.710, 0.698, 0.671, 0.4816, 0.9204),
    "FM7": (0.868, 0.804, 0.714, 0.726, 0.699, 0.674, 0.4883, 0.9235),
    "FM8": (0.866, 0.800, 0.689, 0.722, 0.716, 0.649, 0.4790, 0.9216),
    "FM9": (0.868, 0.767, 0.675, 0.664, 0.631, 0.674, 0.4726, 0.9167),
    "FM7 fine-tuned": (0.865, 0.803, 0.807, 0.742, 0.740, 0.715, 0.4809, 0.9198),
    "FM8 fine-tuned": (0.874, 0.810, 0.800, 0.739, 0.744, 0.700, 0.4735, 0.9192),
    "FM9 fine-tuned": (0.861, 0.785, 0.784, 0.718, 0.737, 0.690, 0.4695, 0.9168),
    "prior state of the art": (0.887, 0.756, 0.762, 0.723, 0.660, 0.746, 0.470, 0.913),
}
"""Table 1 of Won, Hung and Le (ICASSP 2024), in the order of the columns."""


@dataclass(frozen=True)
class Cell:
    """A figure of the table."""

    score: Estimate
    reference: Estimate | None
    """Difference of the reference row from this one; None for itself."""
    num_excluded: int
    """Recordings with nothing to measure it on."""


@dataclass(frozen=True)
class Report:
    """All figures of a study."""

    corpus: Corpus
    results: Sequence[Result]
    reference: str
    """The row that others are held against."""
    overlaps: Mapping[str, str]
    """Remarks on models that were trained on test recordings, by row."""
    cells: Mapping[tuple[str, str, str], Cell]
    """Cells by row, test set, and label of the column."""


def make_report(corpus: Corpus, results: Sequence[Result], overlaps: Mapping[str, str]) -> Report:
    """Computes all figures. The first row with layers is the reference, or else the first."""
    by_row = {(result.row.name, result.task): result for result in results}
    reference = next((r.row.name for r in results if r.layers), results[0].row.name)
    cells: dict[tuple[str, str, str], Cell] = {}
    for result in results:
        task = _task(corpus, result.task)
        other = by_row.get((reference, result.task))
        for test in corpus.tests:
            runs = _runs(result, test)
            for column in (*COLUMNS, *OTHERS, *MORE):
                if column.task != result.task:
                    continue
                comparison = None
                if other is not None and other is not result:
                    comparison = compare(task, _runs(other, test), runs, column.metric)
                cells[result.row.name, test, column.label] = Cell(
                    estimate(task, runs, column.metric),
                    comparison,
                    num_excluded(runs[0].values(), column.metric),
                )
    return Report(corpus, results, reference, overlaps, cells)


def write_report(report: Report, out: Path, *, paper: bool) -> None:
    """Writes the tables, with the rows of the paper or without. Raises OutputError."""
    write_file(out / TABLE, to_markdown(report, paper=paper))
    write_file(out / CSV, to_csv(report))
    write_json(out / REPORT, to_json(report))


def to_markdown(report: Report, *, paper: bool) -> str:
    """The tables, with what has to be known to read them, and the paper's rows if wanted."""
    corpus, sections = report.corpus, []
    tests = ", ".join(f"{name} {len(items)}" for name, items in corpus.tests.items())
    sections.append(
        f"# {corpus.name}\n\n"
        + (f"{corpus.note}\n\n" if corpus.note else "")
        + f"Songs: training {len(corpus.train)}, validation {len(corpus.valid)}, {tests}. Means "
        "over seeds; ± is half of the 95 % interval of the bootstrap over songs and seeds, whose "
        f"ends are in {CSV}. Whether {report.reference} is ahead (+), behind (-) or neither (=) on "
        "the same songs stands after each figure of the other rows."
    )
    for place, test in enumerate(corpus.tests):
        headline = " (the headline)" if place == 0 and len(corpus.tests) > 1 else ""
        sections.append(f"## {test}{headline}\n\n{_table(report, test, (*COLUMNS, *OTHERS))}")
        if place == 0:
            sections.append(f"More of {test}:\n\n{_table(report, test, MORE)}")
            sections.append(_remarks(report, test))
    sections.append(_choices(report))
    sections.append(_excluded_note(report))
    if paper:
        sections.append(_paper(report))
    return "\n\n".join(section for section in sections if section) + "\n"


def to_csv(report: Report) -> str:
    """A line for each figure."""
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(
        ["row", "test", "column", "score", "low", "high", "less_low", "less_high", "verdict"]
    )
    for (row, test, label), cell in report.cells.items():
        difference = cell.reference
        writer.writerow(
            [
                row,
                test,
                label,
                *(f"{x:.4f}" for x in (cell.score.value, cell.score.low, cell.score.high)),
                f"{difference.low:.4f}" if difference else "",
                f"{difference.high:.4f}" if difference else "",
                difference.verdict if difference else "",
            ]
        )
    return stream.getvalue()


def to_json(report: Report) -> dict[str, Any]:
    """The figures, the layers that were chosen and why, and what could not be used."""
    return {
        "corpus": report.corpus.name,
        "reference": report.reference,
        "figures": [
            {
                "row": row,
                "test": test,
                "column": label,
                "score": json_number(cell.score.value),
                "low": json_number(cell.score.low),
                "high": json_number(cell.score.high),
                "excluded": cell.num_excluded,
                "verdict": cell.reference.verdict if cell.reference else None,
            }
            for (row, test, label), cell in report.cells.items()
        ],
        "layers": [
            {
                "row": result.row.name,
                "task": result.task,
                "chosen": list(result.layers),
                "seeds": len(result.runs),
                "validation": [
                    {"layers": list(layers), "scores": [json_number(score) for score in scores]}
                    for layers, scores in result.curve.items()
                ],
            }
            for result in report.results
        ],
        "overlaps": dict(report.overlaps),
        "problems": [*report.corpus.problems, *_failures(report)],
    }


def _failures(report: Report) -> list[str]:
    """Of all rows, each once."""
    return list(dict.fromkeys(reason for result in report.results for reason in result.failures))


def _runs(result: Result, test: str) -> Runs:
    return [run[test].tracks for run in result.runs]


def _task(corpus: Corpus, name: TaskName) -> Task[Any]:
    return build_task(name, corpus.vocabulary_for(name))


def _table(report: Report, test: str, columns: Sequence[Column]) -> str:
    rows = list(dict.fromkeys(result.row.name for result in report.results))
    lines = []
    for row in rows:
        cells = [report.cells.get((row, test, column.label)) for column in columns]
        if any(cells):
            mark = report.overlaps.get(row, "")
            lines.append([f"{row}{' †' if mark else ''}", *map(_cell, cells)])
    used = [
        column for column in columns if any((r, test, column.label) in report.cells for r in rows)
    ]
    keep = [0, *(1 + columns.index(column) for column in used)]
    header = ["", *(column.label for column in columns)]
    table = _markdown([header[i] for i in keep], [[line[i] for i in keep] for line in lines])
    notes = [f"† {row}: {mark}." for row, mark in report.overlaps.items() if mark and row in rows]
    return "\n\n".join([table, *notes]) if lines else ""


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return ""
    signs = {"ahead": " +", "behind": " -", "tie": " ="}
    sign = signs[cell.reference.verdict] if cell.reference else ""
    half = (cell.score.high - cell.score.low) / 2
    spread = "" if math.isnan(half) else f" ±{_short(half)}"
    return f"{_short(cell.score.value)}{spread}{sign}"


def _short(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}".removeprefix("0")


def _remarks(report: Report, test: str) -> str:
    """What the metrics have to be read with, of each task once."""
    summaries = {result.task: result.runs[0][test].summary for result in report.results}
    remarks = [_task(report.corpus, task).remark(summary) for task, summary in summaries.items()]
    return " ".join(remark for remark in remarks if remark)


def _choices(report: Report) -> str:
    chosen = [result for result in report.results if result.layers]
    if not chosen:
        return ""
    rows = list(dict.fromkeys(result.row.name for result in chosen))
    tasks = list(dict.fromkeys(result.task for result in chosen))
    found = {(result.row.name, result.task): result for result in chosen}
    lines = [[row, *(_layers(found.get((row, task))) for task in tasks)] for row in rows]
    return "Layers, chosen on validation, and seeds:\n\n" + _markdown(["", *tasks], lines)


def _layers(result: Result | None) -> str:
    if result is None:
        return ""
    layers = "all, weighted" if len(result.layers) > 1 else str(result.layers[0])
    return f"{layers}; {len(result.runs)}"


def _excluded_note(report: Report) -> str:
    counts = {
        (test, label): cell.num_excluded
        for (_, test, label), cell in report.cells.items()
        if cell.num_excluded
    }
    parts = [f"{label} of {test}: {count}" for (test, label), count in counts.items()]
    return (
        "Songs with nothing to measure, which do not count: " + ", ".join(parts) + "."
        if parts
        else ""
    )


def _paper(report: Report) -> str:
    """The paper's rows, in the columns of the tasks of the report."""
    tasks = {result.task for result in report.results}
    used = [place for place, column in enumerate(COLUMNS) if column.task in tasks]
    return (
        "## The paper\n\nOther data and another protocol; not to be compared with the above.\n\n"
        + _markdown(
            ["", *(COLUMNS[place].label for place in used)],
            [[name, *(_short(row[place]) for place in used)] for name, row in PAPER.items()],
        )
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
