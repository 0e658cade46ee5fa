import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import npz
from musicfm.embedding import results
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.pooling import pool
from musicfm.embedding.results import (
    TABLE,
    VECTORS,
    ChunkedArray,
    FrameSpool,
    RunningMean,
    TableWriter,
    write_npz,
)
from musicfm.errors import OutputError
from musicfm.model.musicfm import MusicFM


@pytest.mark.parametrize("in_memory", [10**9, 100])
@pytest.mark.parametrize("rate", [None, 8.0, 50.0])
def test_a_spool_gives_back_what_it_took(
    tmp_path: Path, in_memory: int, rate: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "IN_MEMORY", in_memory)
    monkeypatch.setattr(results, "FRAMES_AT_ONCE", 7)
    frames = torch.randn(2, 53, 3)
    spool = FrameSpool(25.0, rate, tmp_path)
    for part in frames.split(10, dim=1):
        spool.add(part)
    assert not list(tmp_path.iterdir())  # what waits on disk has no name
    write_npz(tmp_path / "a.npz", spool.arrays(single=False))
    spool.close()
    found = npz.read(tmp_path / "a.npz")
    expected = frames
    if rate is not None:
        expected = torch.cat(list(pool(lambda a, b: frames[:, a:b], 53, 25.0, rate)), dim=1)
    np.testing.assert_array_equal(found["frames"], expected)
    assert found["times"].shape == (expected.shape[1],)
    assert found["rate"] == (rate or 25.0)


def test_one_layer_has_no_axis_of_layers(tmp_path: Path) -> None:
    frames = torch.randn(1, 5, 3)
    spool, mean = FrameSpool(25.0, None, tmp_path), RunningMean()
    for part in frames.split(2, dim=1):
        spool.add(part)
        mean.add(part)
    with contextlib.closing(spool):
        write_npz(tmp_path / "a.npz", {**spool.arrays(single=True), **mean.arrays(single=True)})
    found = npz.read(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["frames"], frames[0])
    np.testing.assert_allclose(found["mean"], frames[0].mean(dim=0), atol=1e-6)


def test_equal_results_are_equal_files(tmp_path: Path) -> None:
    for name in "ab":
        write_npz(tmp_path / f"{name}.npz", {"x": np.arange(5), "y": "text"})
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_result_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    def full_disk() -> ChunkedArray:
        def parts() -> Iterator[torch.Tensor]:
            yield torch.zeros(2, 3)
            raise OSError(28, "No space left on device")

        return ChunkedArray((4, 3), parts())

    path = tmp_path / "a.npz"
    write_npz(path, {"x": 1})
    with pytest.raises(OutputError, match=r"cannot write .*a\.npz: No space left on device"):
        write_npz(path, {"x": full_disk()})
    assert npz.read(path)["x"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_table_that_lacks_vectors_is_refused(tmp_path: Path, tiny: MusicFM) -> None:
    writer = TableWriter(tmp_path, Embedder(tiny, 1))
    entry = {"path": "/a.wav", "duration": 1.0, "row": 0}
    for row in (0, -1, 10**9, None):
        with pytest.raises(OutputError, match=r"vectors\.f32 lacks what .* says of /a\.wav"):
            writer.conclude([entry | {"row": row}])
    (tmp_path / VECTORS).write_bytes(bytes(4 * tiny.config.encoder.dim))
    writer.conclude([entry])
    assert (tmp_path / TABLE).is_file()


def test_a_full_disk_is_one_sentence_while_frames_wait_there(tmp_path: Path) -> None:
    spool = FrameSpool(25.0, None, tmp_path)
    spool.add(torch.zeros(1, 5, 3))
    spool.close()
    with open("/dev/full", "r+b", buffering=0) as full:
        spool._files = [full]
        with pytest.raises(OutputError, match="No space left on device"):
            spool.add(torch.zeros(1, 5, 3))
