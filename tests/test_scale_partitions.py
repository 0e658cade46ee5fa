from pathlib import Path
from typing import Any

import numpy as np
from pyarrow import parquet

from musicfm.embedding.results import TABLE
from musicfm.scale.partitions import reconcile, write_partition

LAYERS = [3, 7]


def write(folder: Path, *paths: str) -> list[dict[str, Any]]:
    """A partition of some recordings; the journal's lines about them."""
    means = np.stack([np.full((2, 4), float(path[-1]), np.float32) for path in paths])
    output = write_partition(folder, LAYERS, paths, [1.0 for _ in paths], means)
    return [{"path": path, "output": output} for path in paths]


def paths(folder: Path) -> list[str]:
    return list(parquet.read_table(folder / TABLE)["path"].to_pylist())


def test_partitions_are_read_as_one_table(tmp_path: Path) -> None:
    entries = write(tmp_path, "song 2", "song 1") + write(tmp_path, "song 3")
    reconcile(tmp_path, entries)
    table = parquet.read_table(tmp_path / TABLE)
    assert table.column_names == ["path", "duration", "layer_3", "layer_7"]
    found = {row["path"]: row["layer_7"] for row in table.to_pylist()}
    assert found == {f"song {n}": [n] * 4 for n in (1, 2, 3)}
    (both,) = [
        path for path in (tmp_path / TABLE).iterdir() if "2" in str(parquet.read_table(path))
    ]
    assert parquet.read_table(both)["path"].to_pylist() == ["song 1", "song 2"]


def test_a_partition_is_a_function_of_its_recordings(tmp_path: Path) -> None:
    (one, _), (other, _) = write(tmp_path, "a 1", "a 2"), write(tmp_path, "a 2", "a 1")
    assert one["output"] == other["output"]
    assert len(list((tmp_path / TABLE).iterdir())) == 1


def test_what_the_journal_does_not_know_is_taken_out(tmp_path: Path) -> None:
    known = write(tmp_path, "song 1", "song 2")
    write(tmp_path, "song 3")  # and then came a kill
    cut = write(tmp_path, "song 4", "song 5")[:1]
    reconcile(tmp_path, known + cut)
    assert sorted(paths(tmp_path)) == ["song 1", "song 2", "song 4"]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / TABLE).iterdir()}
    reconcile(tmp_path, known + cut)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / TABLE).iterdir()}


def test_of_a_recording_embedded_again_the_last_row_stays(tmp_path: Path) -> None:
    first = write(tmp_path, "song 1", "song 2")
    again = write(tmp_path, "song 1")
    reconcile(tmp_path, [again[0], first[1]])
    assert sorted(paths(tmp_path)) == ["song 1", "song 2"]


def test_names_that_are_not_text_are_kept_apart(tmp_path: Path) -> None:
    entries = write(tmp_path, "caf\udce9 1", "caf\udce8 2")
    reconcile(tmp_path, entries)
    assert paths(tmp_path) == ["caf\\udce8 2", "caf\\udce9 1"]
