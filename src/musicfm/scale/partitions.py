"""A table of means as a folder of Parquet files, which ``read_table`` reads as one table.

Each file holds some recordings and has its final name when it is complete. What counts is in the
journal; :func:`reconcile` makes the files agree with it, after a kill between the two, and after a
recording has been embedded again.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from musicfm.embedding.results import TABLE, table_of
from musicfm.errors import as_text
from musicfm.files import atomic_write, writing

if TYPE_CHECKING:
    import pyarrow as pa


def write_partition(
    folder: Path,
    layers: Sequence[int],
    paths: Sequence[str],
    durations: Sequence[float],
    means: npt.NDArray[np.float32],
) -> str:
    """Writes some recordings, sorted by path.

    Args:
        folder: of the results.
        layers: what the layers are called.
        paths: of the recordings.
        durations: of each, in seconds.
        means: (recordings, layers, dim).

    Returns:
        The name of the file within ``folder``, which follows from ``paths``.

    Raises OutputError.
    """
    order = sorted(range(len(paths)), key=paths.__getitem__)
    table = table_of(layers, [paths[k] for k in order], [durations[k] for k in order], means[order])
    digest = hashlib.sha256("\n".join(paths[k] for k in order).encode("utf-8", "surrogateescape"))
    name = f"{TABLE}/part-{digest.hexdigest()[:16]}.parquet"
    _write(folder / name, table)
    return name


def reconcile(folder: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Takes out of the files whatever is not, or not any more, what the journal means.

    Args:
        folder: of the results.
        entries: the journal's.

    Raises OutputError.
    """
    import pyarrow as pa
    from pyarrow import parquet

    owners = {as_text(entry["path"]): entry["output"] for entry in entries}
    wanted = Counter(owners.values())
    for path in sorted((folder / TABLE).glob("part-*.parquet")):
        name = f"{TABLE}/{path.name}"
        if not wanted[name]:
            with writing(path):
                path.unlink()
        elif parquet.read_metadata(path).num_rows != wanted[name]:
            table = parquet.read_table(path)
            keep = [owners.get(row) == name for row in table["path"].to_pylist()]
            _write(path, table.filter(pa.array(keep)))


def _write(path: Path, table: "pa.Table") -> None:
    from pyarrow import parquet

    with atomic_write(path) as temporary:
        parquet.write_table(table, temporary)
