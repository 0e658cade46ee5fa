"""Embedding a collection on a Ray cluster: ``musicfm embed --engine ray``.

Ray Data deals chunks of recordings to workers. A worker is an actor with the model on a GPU of its
own, and decoder processes beside it; windows of all recordings of a chunk share batches. What comes
back is a line per recording, with its mean if a table is asked for; the journal, the table and the
report are written here, by one process, as without Ray. Frames are too many to pass through one
process: workers write the ``.npz`` files themselves, to a folder that all machines share.

A recording that crashes or hangs a decoder costs only itself, as without Ray. One that kills the
whole worker, say by memory, takes its chunk along, and Ray would begin that again for ever. So the
workers count beginnings: a chunk that was lost is done again in smaller ones, and at last each
recording alone; one that then kills its worker three times is reported.
"""

import contextlib
import hashlib
import logging
import math
import os
import pickle
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast

import numpy as np

from musicfm.audio.decoders import Failure, decode_files
from musicfm.embedding.collection import (
    Run,
    Source,
    Summary,
    Written,
    check_results,
    running,
    settings_of,
    written,
)
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.results import NpzWriter, Pooling, RunningMean
from musicfm.errors import ConfigError, MusicFMError, OutputError
from musicfm.journal import Recording
from musicfm.scale.partitions import reconcile, write_partition

if TYPE_CHECKING:
    import pyarrow as pa

MAX_CHUNK = 256
"""Recordings that a worker is given at once; so many may have to be done again after a kill."""
CHUNKS_PER_WORKER = 8
"""Fewest chunks, where there are recordings enough, lest one worker be left with much."""
SMALLER = 16
"""Factor by which chunks are smaller in the next pass."""
ATTEMPTS_ALONE = 3
MAX_LOST, MAX_LOST_PART = 20, 0.05
"""Chunks of a pass, or the part of them, until the cluster rather than recordings is to blame."""

Outcome: TypeAlias = Written[Recording] | Failure[Recording]


@dataclass(frozen=True)
class _Lost:
    """A chunk has killed its worker as often as it may."""


def embed_on_ray(
    embedder: Embedder,
    sources: Sequence[Source],
    out: str | os.PathLike[str],
    *,
    pooling: Pooling = "none",
    file_format: Literal["npz", "parquet"] = "npz",
    address: str | None = None,
    actors: int | None = None,
    num_workers: int | None = None,
    use_gpus: bool | None = None,
    timeout_seconds: float = 60.0,
    on_damage: Literal["error", "warn"] = "error",
    overwrite: bool = False,
    progress: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Summary:
    """As :func:`musicfm.embedding.collection.embed_collection`, on a Ray cluster.

    A session of Ray that the caller has begun is used, and left open.

    Args:
        embedder: with the model, on the CPU, and the layers to use; every actor gets a copy.
        sources: as there; the actors have to find paths where they are here. URLs they can.
        out: the output folder, on this machine; of ``.npz`` files, one that all machines share.
        pooling: as there.
        file_format: a ``.npz`` per recording, or a folder of Parquet files, which needs means.
        address: of a running cluster, such as "auto" or "ray://host:10001"; None starts one on
            this machine, for as long as the run lasts.
        actors: over the cluster; None: one per GPU, or one.
        num_workers: processes that decode, for each actor; None: its share of the cores.
        use_gpus: whether each actor has a GPU; None: if the cluster has any.
        timeout_seconds: as there.
        on_damage: as there.
        overwrite: as there.
        progress: as there.
        options: as there.

    Raises:
        ConfigError: settings that make no sense together, or more than the cluster has.
        OutputError: the folder cannot be written, is not shared, or holds other results.
        MusicFMError: the workers cannot compute, or die again and again.
    """
    check_results(pooling, file_format)
    folder, is_table = Path(os.path.abspath(out)), file_format == "parquet"
    settings = settings_of(embedder, pooling, "partitions" if is_table else "npz", on_damage)

    def conclude(entries: Iterable[Mapping[str, Any]]) -> None:
        if is_table:
            reconcile(folder, entries)

    with running(
        "Embedding",
        sources,
        folder,
        settings,
        suffixes=[] if is_table else [".npz"],
        conclude=conclude,
        overwrite=overwrite,
        progress=progress,
        options=options,
    ) as run:
        if run.pending:
            with _cluster(address, actors, num_workers, use_gpus) as cluster:
                job = EmbedTask(
                    embedder,
                    folder,
                    None if is_table else pooling,
                    cluster.num_decoders,
                    timeout_seconds,
                    on_damage,
                )
                _embed(run, job, cluster)
    return run.summary


@dataclass(frozen=True)
class Cluster:
    """What there is to work with."""

    actors: int
    num_decoders: int
    """Decoder processes of each actor."""
    num_cpus: int
    num_gpus: int


@contextlib.contextmanager
def _cluster(
    address: str | None, actors: int | None, num_decoders: int | None, use_gpus: bool | None
) -> Iterator[Cluster]:
    """Joins a cluster, or starts one, unless that is done; what to ask of it."""
    # It would report its use to its makers, measure itself, and print what is handled here.
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_enable_metrics_collection": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        where: dict[str, Any] = {"address": address or os.environ.get("RAY_ADDRESS")}
        if where["address"] is None:
            # On this machine, what is asked for is also what there is.
            wanted = (actors or 1) * (1 + (num_decoders or 1))
            cores = max(os.cpu_count() or 1, wanted)
            where = {"address": "local", "num_cpus": cores, "include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
        except Exception as error:  # of many kinds
            reason = str(error).strip().split("\n")[0]
            if where["address"] == "local":
                raise ConfigError(
                    f"Ray does not start here ({reason}); try again, or leave out --engine ray"
                ) from error
            raise ConfigError(
                f"no Ray cluster at '{where['address']}' ({reason}); start one with ray start "
                "--head, or leave out the address"
            ) from error
    try:
        yield share_out(ray.cluster_resources(), actors, num_decoders, use_gpus)
    finally:
        if is_ours:
            ray.shutdown()


def share_out(
    there: Mapping[str, float],
    actors: int | None,
    num_decoders: int | None,
    use_gpus: bool | None,
) -> Cluster:
    """What to ask of a cluster. Raises ConfigError if it does not have that."""
    cpus, gpus = int(there.get("CPU", 0)), int(there.get("GPU", 0))
    if use_gpus and not gpus:
        raise ConfigError("the cluster has no GPU; compute on cpu, or add machines that have some")
    num_gpus = 1 if gpus and use_gpus is not False else 0
    if actors is None:
        actors = gpus if num_gpus else 1
    # A model on a CPU takes a core; one on a GPU hardly does.
    own = 0 if num_gpus else 1
    if num_decoders is None:
        num_decoders = max(1, min(16, cpus // actors - own))
    num_cpus = own + num_decoders
    if actors * num_cpus > cpus or actors * num_gpus > gpus:
        raise ConfigError(
            f"{actors} actors with {num_decoders} decoders each need {actors * num_cpus} cores"
            f"{f' and {actors} GPUs' if num_gpus else ''}, and the cluster has {cpus}"
            f"{f' and {gpus}' if num_gpus else ''}; ask for fewer"
        )
    return Cluster(actors, num_decoders, num_cpus, num_gpus)


@dataclass(frozen=True)
class EmbedTask:
    """What an actor has to know."""

    embedder: Embedder
    folder: Path
    pooling: Pooling | None
    """Pooling of the .npz files to write; None: means, which are sent back."""
    num_decoders: int
    timeout_seconds: float
    on_damage: Literal["error", "warn"]


def _embed(run: Run, job: EmbedTask, cluster: Cluster) -> None:
    """Goes over what is pending, in ever smaller chunks."""
    import ray

    left = {str(recording): recording for recording in run.pending}
    for recording in run.pending:  # workers write when they can, and do not wait for a note
        run.on_write(recording)
    shared = ray.put(job)
    share = math.ceil(len(left) / (CHUNKS_PER_WORKER * cluster.actors))
    size = max(1, min(MAX_CHUNK, share))
    while left:
        for outcomes in _pass(list(left.values()), size, shared, cluster):
            _note(run, job, outcomes)
            for outcome in outcomes:
                del left[str(outcome.key)]
        if size == 1:
            break
        size = max(1, size // SMALLER)
    for recording in left.values():
        run.on_error(
            recording,
            f"{recording} killed its worker {ATTEMPTS_ALONE} times; it probably takes too much "
            "memory, or is damaged",
        )


def _pass(
    recordings: list[Recording], size: int, job: Any, cluster: Cluster
) -> Iterator[list[Outcome]]:
    """Distributes recordings in chunks; yields the result of each chunk whose worker survived it.

    Raises MusicFMError: the workers cannot go on.
    """
    import pyarrow as pa
    import ray
    from ray.data import ActorPoolStrategy

    chunks = [recordings[start : start + size] for start in range(0, len(recordings), size)]
    table = pa.table({"chunk": [pickle.dumps(chunk) for chunk in chunks]})
    data = ray.data.from_arrow([table.slice(k, 1) for k in range(len(chunks))])
    data.context.execution_no_progress_timeout_s = -1  # decoders have a timeout of their own
    data.context.enable_progress_bars = data.context.print_on_execution_start = False
    ledger = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(_Ledger).remote()
    results = data.map_batches(
        _Actor,
        fn_constructor_args=(job, ledger, ATTEMPTS_ALONE if size == 1 else 1),
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(cluster.actors, len(chunks))),
        num_cpus=cluster.num_cpus,
        num_gpus=cluster.num_gpus,
    )
    num_lost = 0
    try:
        for batch in results.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in cast("pa.Table", batch)["outcome"].to_pylist():
                outcome = pickle.loads(row)
                if isinstance(outcome, _Lost):
                    num_lost += 1
                    if num_lost > max(MAX_LOST, MAX_LOST_PART * len(chunks)):
                        raise MusicFMError(
                            f"workers were killed over {num_lost} of {len(chunks)} chunks; what is "
                            "done is kept: give them more memory, or fewer per machine"
                        )
                elif isinstance(outcome, MusicFMError):
                    raise outcome
                else:
                    yield outcome
    except ray.exceptions.RayError as error:
        raise MusicFMError(
            f"the cluster cannot go on ({str(error).splitlines()[0]}); what is done is kept"
        ) from error


def _note(run: Run, job: EmbedTask, outcomes: Sequence[Outcome]) -> None:
    """Writes the result of a chunk: means into a partition first, then the journal."""
    done = [outcome for outcome in outcomes if isinstance(outcome, Written)]
    if job.pooling is None and done:
        output = write_partition(
            job.folder,
            job.embedder.layers,
            [str(outcome.key) for outcome in done],
            [outcome.duration for outcome in done],
            np.stack([outcome.found.pop("mean") for outcome in done]),
        )
        for item in done:
            item.found["output"] = output
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            run.on_error(outcome.key, outcome.reason)
            continue
        if not os.path.isfile(job.folder / outcome.found["output"]):
            raise OutputError(
                f"{job.folder} is not shared by all machines of the cluster: what a worker wrote "
                "is not here; choose a folder that is, or a table"
            )
        run.on_audio(outcome.key, outcome.duration)
        run.on_done(outcome)


class _Means:
    """Keeps the mean of each recording, to be sent back."""

    def accumulator(self, recording: Recording) -> RunningMean:
        return RunningMean()

    def write(
        self, recording: Recording, collected: RunningMean, duration: float
    ) -> dict[str, Any]:
        return {"mean": collected.mean()}


def embed_chunk(job: EmbedTask, recordings: list[Recording]) -> list[Outcome]:
    """What an actor does with a chunk. Raises MusicFMError if it cannot go on."""
    import torch

    # Ray shows an actor the GPU that it has been given, and no other.
    embedder = job.embedder.to("cuda" if torch.cuda.is_available() else "cpu")
    writer = _Means() if job.pooling is None else NpzWriter(job.folder, embedder, job.pooling)
    decoded = decode_files(
        ((recording, recording.path) for recording in recordings),
        embedder.config.sample_rate,
        num_workers=min(job.num_decoders, len(recordings)),
        timeout_seconds=job.timeout_seconds,
        on_damage=job.on_damage,
    )
    with contextlib.closing(decoded):
        events = written(embedder.tracks(decoded), writer)
        return [event for event in events if isinstance(event, Written | Failure)]


class _Ledger:
    """Counts how often each chunk of a pass has been begun."""

    def __init__(self) -> None:
        self._begun: Counter[bytes] = Counter()

    def begin(self, chunk: bytes) -> int:
        """Counts one more; how many there are."""
        self._begun[chunk] += 1
        return self._begun[chunk]


class _Actor:
    """Embeds chunks, with a model that it has loaded once."""

    def __init__(self, job: Any, ledger: Any, attempts: int) -> None:
        import ray

        import __main__

        self._job: EmbedTask = ray.get(job)
        self._ledger, self._attempts = ledger, attempts
        # Or every decoder would import Ray, whose program is the main script here.
        vars(__main__)["__file__"] = None

    def __call__(self, batch: "pa.Table") -> "pa.Table":
        """Takes chunks; gives the results of the recordings of each."""
        import pyarrow as pa

        outcomes = [pickle.dumps(self._embed(chunk)) for chunk in batch["chunk"].to_pylist()]
        return pa.table({"outcome": outcomes})

    def _embed(self, chunk: bytes) -> list[Outcome] | MusicFMError | _Lost:
        import ray

        if ray.get(self._ledger.begin.remote(hashlib.sha256(chunk).digest())) > self._attempts:
            return _Lost()
        try:
            return embed_chunk(self._job, pickle.loads(chunk))
        except MusicFMError as error:
            return error
        except Exception as error:  # Ray would say it at length
            return MusicFMError(f"a worker cannot go on ({type(error).__name__}: {error})")
