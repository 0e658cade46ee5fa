"""Whether the tests notice small faults: 40 of them, one at a time.

    python tools/mutants.py [--only NUMBER ...] [--near | --all]

Each fault is put by itself into a clone of the last commit, in which tests then run until one
fails: those of `make test` in the files that name the module, then, unless --near is given, all of
`make test`, and with --all the rest of `make test-all`. Prints a row for each fault, and how many
were noticed.

The places were drawn by a seeded generator, one in each of 40 modules, among the lines of their
functions; the faults were then written without a look at the tests. Where code has changed since,
a fault may need its text adapted: it stops with the number of the fault.
"""

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import scipy.ndimage  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).parents[1]


class Fault(NamedTuple):
    """What to replace in a file of the package."""

    file: str
    old: str
    new: str


FAULTS = (
    Fault(
        "audio/framing.py",
        "num_frames = 0 if declared is None else -1",
        "num_frames = 0 if declared is None else -2",
    ),
    Fault(
        "analysis/assets/page.js",
        'const note = index < 0 ? ""',
        'const note = index < 1 ? ""',
    ),
    Fault(
        "analysis/html.py",
        "+ asset(style)",
        "",
    ),
    Fault(
        "model/checkpoint.py",
        "    if not os.path.isfile(path):\n        return None\n    return path.read_text(",
        "    if not os.path.isfile(path):\n        return []\n    return path.read_text(",
    ),
    Fault(
        "cli/__init__.py",
        'print(f"musicfm {musicfm.__version__}")\n        raise typer.Exit\n',
        'print(f"musicfm {musicfm.__version__}")\n        raise typer.Exit(1)\n',
    ),
    Fault(
        "cli/embedding.py",
        "(address or actors)",
        "(address and actors)",
    ),
    Fault(
        "embedding/collection.py",
        'file_format == "parquet" and pooling != "mean"',
        'file_format == "parquet" and pooling == "none"',
    ),
    Fault(
        "datasets/gtzan.py",
        "int(last or first) + 1",
        "int(last or first)",
    ),
    Fault(
        "datasets/labelled.py",
        "    if not tracks:\n        more",
        "    if tracks is None:\n        more",
    ),
    Fault(
        "datasets/mir.py",
        "        root.handlers[:] = handlers\n        root.setLevel(level)",
        "        root.handlers[:] = handlers",
    ),
    Fault(
        "datasets/splits.py",
        'if by in ("artist", "album") and album:',
        'if by == "album" and album:',
    ),
    Fault(
        "datasets/statistics.py",
        "seconds = mel.min_samples / mel.sample_rate",
        "seconds = mel.min_samples / mel.rate",
    ),
    Fault(
        "embedding/embedder.py",
        "yield event.frames[0] if self.single else event.frames",
        "yield event.frames",
    ),
    Fault(
        "files.py",
        "if temporary.fullmatch(path.name)",
        "if temporary.match(path.name)",
    ),
    Fault(
        "audio/folders.py",
        "visited.add(here)",
        "visited.add(folder)",
    ),
    Fault(
        "model/hub.py",
        "if found.startswith(expected)",
        "if found.startswith(expected[:1])",
    ),
    Fault(
        "model/inference/encoder.py",
        "self.pointwise2(F.silu(self._depthwise(gated)))",
        "self.pointwise2(F.relu(self._depthwise(gated)))",
    ),
    Fault(
        "model/inference/front_end.py",
        "self.strided(x, start - 1, stop + 1, workspace",
        "self.strided(x, start, stop + 2, workspace",
    ),
    Fault(
        "model/mel.py",
        "reflect_pad(samples, n_fft // 2, lengths)",
        "reflect_pad(samples, n_fft // 2 - 1, lengths)",
    ),
    Fault(
        "model/musicfm.py",
        "return self.head.weight.dtype",
        "return torch.float32",
    ),
    Fault(
        "embedding/pooling.py",
        "read(offset, int(stop[-1])).double()",
        "read(offset, int(stop[-1])).float()",
    ),
    Fault(
        "pretraining/recipe.py",
        "return (step + 1) / self.warmup_steps",
        "return step / self.warmup_steps",
    ),
    Fault(
        "model/quantizers.py",
        "with torch.autocast(frames.device.type, enabled=False)",
        "with torch.autocast(frames.device.type, enabled=True)",
    ),
    Fault(
        "remote.py",
        "except (ImportError, ValueError) as error",
        "except ImportError as error",
    ),
    Fault(
        "render/harmony.py",
        "PhraseChord(previous, degree, quality, bass)",
        "PhraseChord(start, degree, quality, bass)",
    ),
    Fault(
        "render/production.py",
        "width=round(dice.uniform(0.0, 0.5), 2)",
        "width=round(dice.uniform(0.0, 0.6), 2)",
    ),
    Fault(
        "render/theory.py",
        "if tonic == 3:  #",
        "if tonic == 1:  #",
    ),
    Fault(
        "serving/jobs.py",
        'Progress("encoding", 0.0, declared)',
        'Progress("encoding", declared, declared)',
    ),
    Fault(
        "serving/protection.py",
        "return name.lower() in self._names",
        "return name in self._names",
    ),
    Fault(
        "serving/sharing.py",
        "        self._ask(None)\n        self._thread.join()",
        "        self._ask(None)",
    ),
    Fault(
        "tasks/beat.py",
        "(events < times[-1] + half)",
        "(events < times[-1])",
    ),
    Fault(
        "tasks/corpus.py",
        "annotations = replace(annotations, **{kind: spans})",
        "annotations = replace(annotations)",
    ),
    Fault(
        "tasks/key.py",
        'NAMES[number].replace(":", " ")',
        'NAMES[number].replace(":", "")',
    ),
    Fault(
        "tasks/overlap.py",
        "sum(not names.isdisjoint(trained_on)",
        "sum(names.isdisjoint(trained_on)",
    ),
    Fault(
        "tasks/probe.py",
        "outputs = range(first, min(first + step, count))\n            frames, values",
        "outputs = range(first, min(first + step, count - 1))\n            frames, values",
    ),
    Fault(
        "tasks/spans.py",
        "for time in range(len(scores) - 1, 0, -1):\n        path",
        "for time in range(len(scores) - 1, 1, -1):\n        path",
    ),
    Fault(
        "tasks/study.py",
        "if os.path.isfile(study.out / RUN)",
        "if os.path.isdir(study.out / RUN)",
    ),
    Fault(
        "tasks/tagging.py",
        '"prevalence": float(truth.mean())',
        '"prevalence": float(found.mean())',
    ),
    Fault(
        "tasks/trials.py",
        "(*train.recordings, *valid.recordings)",
        "train.recordings",
    ),
    Fault(
        "training.py",
        "set(multiprocessing.active_children()) - before",
        "set(multiprocessing.active_children())",
    ),
)


def main() -> None:
    """Prints a table in Markdown."""
    parser = argparse.ArgumentParser(description="Whether the tests notice small faults.")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these faults")
    parser.add_argument("--near", action="store_true", help="run the files that name the module")
    parser.add_argument("--all", action="store_true", help="run what make test leaves out, too")
    given = parser.parse_args()
    numbers = given.only or range(len(FAULTS))

    markers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    names = markers["tool"]["pytest"]["ini_options"]["markers"]
    marked = " or ".join(name.partition(":")[0] for name in names)
    print("| | file | fault | noticed by | in |\n|---|---|---|---|---|", flush=True)
    noticed = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        for number in numbers:
            fault = FAULTS[number]
            path = clone / "src" / "musicfm" / fault.file
            whole = path.read_text(encoding="utf-8")
            if whole.count(fault.old) != 1:
                sys.exit(
                    f"fault {number}: {fault.file} has its text {whole.count(fault.old)} times"
                )
            path.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
            failed, tier = "", "make test"
            if files := naming(fault, clone / "tests"):
                failed = first_failure(clone, f"not ({marked})", files)
            if not given.near:
                failed = failed or first_failure(clone, f"not ({marked})", [])
            if not failed and given.all:
                failed, tier = first_failure(clone, marked, []), "make test-all"
            path.write_text(whole, encoding="utf-8")
            noticed += bool(failed)
            changed = " ".join(fault.new.split()).replace("|", "\\|")
            row = (number, fault.file, f"`{changed}`", failed or "none", tier if failed else "")
            print(f"| {' | '.join(map(str, row))} |", flush=True)
    print(f"\n{noticed} of {len(numbers)} noticed.")


def naming(fault: Fault, tests: Path) -> list[str]:
    """The test files that are called after the module of a fault, and those that import it."""
    module = fault.file.removesuffix("/__init__.py").rsplit(".", 1)[0].replace("assets/", "")
    parent, _, name = f"musicfm.{module.replace('/', '.')}".rpartition(".")
    imports = re.compile(rf"\b{parent}\.{name}\b|from {parent} import .*\b{name}\b")
    found = [
        (not path.stem.endswith(f"_{name}"), str(path))
        for path in tests.glob("test_*.py")
        if path.stem.endswith(f"_{name}") or imports.search(path.read_text("utf-8"))
    ]
    return [path for _, path in sorted(found)]


def first_failure(clone: Path, marked: str, files: Sequence[str]) -> str:
    """The first test that fails; empty if all pass."""
    with tempfile.NamedTemporaryFile("r", encoding="utf-8") as output:
        # Forked, so that PyTorch is imported once.
        child = multiprocessing.get_context("fork").Process(
            target=test, args=(clone, output.name, ["-m", marked, *files])
        )
        child.start()
        child.join()
        if child.exitcode in (0, 5):  # 5: no test is so marked
            return ""
        printed = output.read()
    failed = re.search(r"^(?:FAILED|ERROR) (?:\S*tests/)?(\S+)", printed, re.MULTILINE)
    if failed is None:
        sys.exit(f"pytest ended with status {child.exitcode}:\n{printed[-2_000:]}")
    return failed[1]


def test(clone: Path, output: str, arguments: Sequence[str]) -> None:
    """The life of a process: runs the tests of the clone on the package of the clone."""
    descriptor = os.open(output, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.chdir(clone)
    os.environ |= {"PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    sys.path.insert(0, str(clone / "src"))
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *arguments]))


if __name__ == "__main__":
    main()
