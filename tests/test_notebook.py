"""The notebook for Colab, run as it is."""

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "musicfm.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def test_it_is_kept_without_results() -> None:
    for cell in read().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.pages
@pytest.mark.timeout(900)
def test_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = read()
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = {cell.id: cell.get("outputs", []) for cell in notebook.cells}
    assert outputs["install"] == []  # the package is there
    assert "(2184, 192) frames, at 25 Hz" in outputs["embedder"][0].text
    assert any("image/png" in output.get("data", {}) for output in outputs["similarity"])
    assert "sections:" in outputs["found"][0].text
    assert (tmp_path / "probe" / "head" / "head.safetensors").is_file()
