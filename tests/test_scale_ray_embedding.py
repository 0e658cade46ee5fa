"""On a cluster of this machine. Workers are processes that import PyTorch: slow to begin."""

import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

import audio_files
from musicfm.audio.decoders import Failure
from musicfm.embedding.collection import Written, embed_collection, find_recordings
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.results import TABLE
from musicfm.embedding.windows import Samples
from musicfm.errors import ConfigError
from musicfm.model.musicfm import MusicFM
from musicfm.scale import ray_embedding
from musicfm.scale.ray_embedding import EmbedTask, embed_chunk, embed_on_ray, share_out

pytestmark = [
    pytest.mark.skipif(find_spec("ray") is None, reason="ray comes with musicfm[scale]"),
    # Its processes, when a start took too long.
    pytest.mark.filterwarnings("ignore:subprocess .* is still running:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:`use_.* is deprecated:DeprecationWarning:ray.data.context"),
]

MEANS: dict[str, Any] = {"pooling": "mean", "file_format": "parquet"}


@pytest.fixture(scope="session")
def cluster() -> Iterator[None]:
    """Four cores that may not be there, for two actors with a decoder each."""
    import ray

    # Workers cannot import what is defined here, so it is sent to them.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        for attempt in range(10):  # on a busy machine, it may take longer than Ray's 30 s
            try:
                ray.init(
                    "local",
                    num_cpus=4,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
                break
            except Exception as error:
                if "timed out during startup" not in str(error) or attempt == 9:
                    raise
        yield
        ray.shutdown()


class Deadly(Embedder):
    """Embeds, but two recordings kill its process, as one does that takes all memory.

    The one that has 1.0 s does so once, the one that has 1.5 s always.
    """

    kills: Path

    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        for window in windows:
            seconds = len(window) / self.config.sample_rate
            if seconds == 1.5 or (seconds == 1.0 and not (self.kills / "1.0").exists()):
                (self.kills / str(seconds)).touch()
                with (self.kills / "all").open("a") as file:
                    file.write(f"{seconds}\n")
                os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(windows)


def rows(out: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    return list(parquet.read_table(out / TABLE).sort_by("path").to_pylist())


def write_library(folder: Path) -> None:
    """Recordings of 0.5 to 2.5 s, and one that is none."""
    folder.mkdir()
    for number, seconds in enumerate([0.5, 0.6, 1.0, 0.7, 1.5, 0.8, 2.5]):
        audio_files.write(folder, "tone.flac", seconds).rename(folder / f"{number}.flac")
    (folder / "bad.mp3").write_bytes(b"no music")


@pytest.mark.processes
@pytest.mark.timeout(1800)
def test_a_cluster_gives_what_one_process_gives_whatever_kills_its_workers(
    cluster: None, tiny: MusicFM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_embedding, "CHUNKS_PER_WORKER", 1)
    music, out = tmp_path / "music", tmp_path / "out"
    write_library(music)
    embedder = Deadly(tiny, [1, 3], batch_size=1)
    embedder.kills = tmp_path / "kills"
    embedder.kills.mkdir()
    options: dict[str, Any] = {**MEANS, "actors": 2, "num_workers": 1}
    summary = embed_on_ray(embedder, [music], out, **options)
    reasons = {Path(path).name: reason for path, reason in summary.failures}
    assert set(reasons) == {"bad.mp3", "4.flac"}
    assert "bad.mp3 is not audio" in reasons["bad.mp3"]
    assert "4.flac killed its worker 3 times" in reasons["4.flac"]
    kills = (embedder.kills / "all").read_text().split()
    assert kills.count("1.0") == 1
    assert kills.count("1.5") == 1 + 3  # with its chunk, and alone
    assert (summary.done, summary.skipped) == (6, 0)

    (music / "4.flac").unlink()
    alone = tmp_path / "alone"
    expected = embed_collection(Embedder(tiny, [1, 3]), [music], alone, **MEANS)
    assert rows(out) == rows(alone)
    assert summary.audio_seconds == pytest.approx(expected.audio_seconds)

    # What is done is skipped, what has changed is not, and URLs are read too.
    shutil.copy(music / "6.flac", music / "0.flac")
    audio_files.write(tmp_path, "tone.wav", 0.9)
    sources = [str(music), f"file://{tmp_path}/tone.wav"]
    again = embed_on_ray(embedder, sources, out, **options)
    assert (again.done, again.skipped) == (2, 5)
    (changed, *_, added) = rows(out)
    assert len(rows(out)) == 7
    assert changed["layer_1"] == rows(alone)[-1]["layer_1"]
    assert added["path"] == f"file://{tmp_path}/tone.wav"
    np.testing.assert_allclose(
        added["layer_3"], Embedder(tiny, 3)(tmp_path / "tone.wav").mean(), atol=1e-5
    )


def test_an_actor_writes_the_files_of_one_process(tiny: MusicFM, tmp_path: Path) -> None:
    music, out, alone = (tmp_path / name for name in ("music", "out", "alone"))
    write_library(music)
    embedder = Embedder(tiny, [1, 3], batch_size=1)
    embed_collection(embedder, [music], alone, pooling=8.0)
    job = EmbedTask(embedder, out, 8.0, num_decoders=1, timeout_seconds=60.0, on_damage="error")
    outcomes = embed_chunk(job, find_recordings([music], []))
    files = {path.name: path.read_bytes() for path in alone.glob("*.npz")}
    assert {path.name: path.read_bytes() for path in out.glob("*.npz")} == files
    assert {o.found["output"] for o in outcomes if isinstance(o, Written)} == set(files)
    assert [Path(o.key.path).name for o in outcomes if isinstance(o, Failure)] == ["bad.mp3"]


@pytest.mark.parametrize(
    ("there", "asked", "given"),
    [
        # A model on a CPU takes a core, and the others decode.
        ({"CPU": 8.0}, (None, None, None), (1, 7, 8, 0)),
        ({"CPU": 8.0}, (2, None, None), (2, 3, 4, 0)),
        ({"CPU": 8.0}, (4, 1, None), (4, 1, 2, 0)),
        # A model on a GPU does not.
        ({"CPU": 64.0, "GPU": 8.0}, (None, None, None), (8, 8, 8, 1)),
        ({"CPU": 64.0, "GPU": 2.0}, (None, None, None), (2, 16, 16, 1)),
        ({"CPU": 64.0, "GPU": 8.0}, (4, 2, False), (4, 2, 3, 0)),
    ],
)
def test_a_cluster_is_shared_out(
    there: dict[str, float], asked: tuple[Any, Any, Any], given: tuple[int, int, int, int]
) -> None:
    plan = share_out(there, *asked)
    assert (plan.actors, plan.num_decoders, plan.num_cpus, plan.num_gpus) == given


@pytest.mark.parametrize(
    ("there", "asked", "message"),
    [
        ({"CPU": 8.0}, (None, None, True), "the cluster has no GPU"),
        ({"CPU": 4.0}, (4, 1, None), "4 actors with 1 decoders each need 8 cores, and .* has 4;"),
        ({"CPU": 64.0, "GPU": 2.0}, (3, 1, None), "need 3 cores and 3 GPUs, .* has 64 and 2;"),
    ],
)
def test_a_cluster_that_is_too_small_is_said_to_be(
    there: dict[str, float], asked: tuple[Any, Any, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        share_out(there, *asked)
