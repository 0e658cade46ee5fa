"""The script from nothing to the paper's table, with as little of everything as works."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from musicfm.tasks.report import COLUMNS

SCRIPT = Path(__file__).parents[1] / "runs" / "reproduce.sh"


@pytest.mark.pages
@pytest.mark.timeout(900)
def test_from_nothing_to_the_table(tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "OUT": str(tmp_path),
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
    }
    subprocess.run(["bash", SCRIPT, "--smoke"], check=True, capture_output=True, env=environment)
    rows = list(csv.DictReader((tmp_path / "table" / "table.csv").read_text().splitlines()))
    model = f"{tmp_path}/pretraining/model"
    scored = {row["column"] for row in rows if row["row"] == model}
    assert scored >= {column.label for column in COLUMNS}
    assert {row["row"] for row in rows} == {model, "trivial", "oracle"}
    assert (tmp_path / "layers" / "table.md").is_file()
    assert (tmp_path / "layers" / "layers.png").is_file()


def test_an_argument_that_it_does_not_know_is_refused() -> None:
    done = subprocess.run(["bash", SCRIPT, "--fast"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: runs/reproduce.sh [--smoke]" in done.stderr
