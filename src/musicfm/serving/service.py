"""Jobs of many clients, done by one model with some threads, within limits."""

import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Self

from musicfm.embedding.embedder import Embedder
from musicfm.embedding.results import Pooling
from musicfm.errors import ConfigError
from musicfm.library.library import Library
from musicfm.serving.decoder_pool import DecoderPool
from musicfm.serving.jobs import RESULTS, AnalyzeJob, EmbedJob, Format, Job, SimilarJob
from musicfm.serving.limits import Limits, RequestError
from musicfm.serving.sharing import SharedEncoder
from musicfm.tasks.predict import Predictor

_STOP_SECONDS = 5.0
_RETRY_SECONDS = 5


def check_library(library: Library, embedder: Embedder) -> None:
    """Raises ConfigError unless a library can be searched with what an embedder gives."""
    settings = library.settings
    if settings.fingerprint != embedder.fingerprint():
        raise ConfigError(
            f"{library.path} was made with the model '{settings.model}', and not with this one; "
            "leave --model out, or make another library"
        )
    if settings.layer not in embedder.layers:
        raise ConfigError(f"{library.path} needs layer {settings.layer}; add it to --layer")


def shutting_down() -> RequestError:
    """What clients are told when the server is to stop."""
    return RequestError(503, "the server is shutting down", _RETRY_SECONDS)


class Slot:
    """What a client holds while it is served: a folder for its upload, and its job.

    Leaving the ``with`` block cancels the job, unless it is kept; the slot is free again once that
    has ended.
    """

    def __init__(self, service: "Service", folder: Path) -> None:
        self.folder, self.upload = folder, folder / "upload"
        self.job: Job | None = None
        self.is_kept = False
        """Whether the job goes on, and its result stays, when the client leaves."""
        self._service = service

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.job is None:
            self._service.free(self)
        elif not self.is_kept:
            self.job.cancel()
            self.job.future.add_done_callback(lambda _: self._service.free(self))


@dataclass
class Kept:
    """An analysis that nobody has to wait for, and its result."""

    job: Job
    begun: float
    """The start by the monotonic clock; likewise the end, None before it."""
    ended: float | None = None
    is_late: bool = False
    """Whether it took too long, and was cancelled."""


class Service:
    """Does jobs, a few at a time, for as long as a ``with`` block lasts.

    Args:
        embedder: with all layers that may be asked for, those of the heads among them.
        predictor: the heads; None: there are none. See
            :func:`musicfm.analysis.analyzer.load_encoder` for both.
        limits: for clients.
        library: to look for similar tracks in, made with the same model; see
            :func:`check_library`.
        num_workers: the number of jobs that run at once, each with a process that decodes.
        timeout_seconds: after which a decoder without progress is given up.
    """

    def __init__(
        self,
        embedder: Embedder,
        predictor: Predictor | None,
        limits: Limits,
        *,
        library: Library | None = None,
        num_workers: int,
        timeout_seconds: float = 20.0,
    ) -> None:
        self.embedder, self.predictor, self.limits = embedder, predictor, limits
        self.library = library
        self._encoder = SharedEncoder(embedder)
        self._num_workers, self._timeout_seconds = num_workers, timeout_seconds
        self._pools: SimpleQueue[DecoderPool] = SimpleQueue()
        self._slots: set[Slot] = set()
        self._kept: dict[str, Kept] = {}
        """By the id of the job."""
        self._lock = threading.Lock()
        self._is_closing = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder = Path(tempfile.mkdtemp(prefix="musicfm-serve-"))
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            stack.enter_context(self._encoder)
            for _ in range(self._num_workers):
                self._pools.put(DecoderPool(self.embedder.sample_rate, self._timeout_seconds))
            self._pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="job")
            self._opened = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        with self._lock:
            futures = [slot.job.future for slot in self._slots if slot.job]
        self._pool.shutdown(wait=False, cancel_futures=True)
        wait(futures, _STOP_SECONDS)  # not for ever: one may wait for a decoder that hangs
        while not self._pools.empty():
            self._pools.get().close()
        self._opened.close()

    @property
    def num_requests(self) -> int:
        """How many are under way."""
        return len(self._slots)

    def admit(self) -> Slot:
        """A slot for a client. Raises RequestError if all are taken."""
        with self._lock:
            self._check_open()
            if len(self._slots) >= self.limits.max_requests:
                raise RequestError(503, "the server is busy; try again in a moment", _RETRY_SECONDS)
            slot = Slot(self, Path(tempfile.mkdtemp(dir=self._folder)))
            self._slots.add(slot)
            return slot

    def free(self, slot: Slot) -> None:
        """Takes a slot back, with all files that are there."""
        shutil.rmtree(slot.folder, ignore_errors=True)
        with self._lock:
            self._slots.discard(slot)

    def embed(self, slot: Slot, name: str, layers: Sequence[int], pooling: Pooling) -> Job:
        """Embeds the upload in a slot; see :class:`musicfm.serving.jobs.EmbedJob`."""
        return self._submit(slot, EmbedJob(name, slot.upload, self._encoder, layers, pooling))

    def similar(self, slot: Slot, name: str, limit: int) -> Job:
        """Looks for tracks like the upload; see :class:`musicfm.serving.jobs.SimilarJob`."""
        assert self.library is not None
        job = SimilarJob(name, slot.upload, self._encoder, self.library, limit)
        return self._submit(slot, job)

    def analyze(self, slot: Slot, name: str, format: Format) -> Job:
        """Analyses the upload in a slot; see :class:`musicfm.serving.jobs.AnalyzeJob`."""
        assert self.predictor is not None
        job = AnalyzeJob(name, slot.upload, self._encoder, self.predictor, [format])
        return self._submit(slot, job)

    def begin(self, slot: Slot, name: str) -> str:
        """Analyses the upload in a slot, and keeps a JAMS file and a page.

        Returns:
            The id of the job, which nobody can guess, for :meth:`kept`.
        """
        assert self.predictor is not None
        formats: list[Format] = ["jams", "html"]
        job = AnalyzeJob(name, slot.upload, self._encoder, self.predictor, formats)
        self._submit(slot, job)
        slot.is_kept = True
        identity, kept = secrets.token_urlsafe(12), Kept(job, time.monotonic())
        with self._lock:
            self._kept[identity] = kept

        def end(_: Future[Path]) -> None:
            with suppress(OSError):
                for path in slot.folder.iterdir():
                    if path.name not in RESULTS.values():
                        path.unlink(missing_ok=True)
            kept.ended = time.monotonic()
            with self._lock:
                self._slots.discard(slot)

        job.future.add_done_callback(end)
        return identity

    def kept(self, identity: str) -> Kept:
        """A job that was begun. Raises RequestError if there is none of that id any more."""
        with self._lock:
            if identity in self._kept:
                return self._kept[identity]
        minutes = self.limits.keep_seconds / 60
        raise RequestError(404, f"there is no such job; results are kept for {minutes:g} min")

    def forget(self, identity: str) -> None:
        """Ends a job and deletes its result. Raises RequestError if there is none."""
        kept = self.kept(identity)
        kept.job.cancel()
        with self._lock:
            self._kept.pop(identity, None)
        kept.job.future.add_done_callback(
            lambda _: shutil.rmtree(kept.job.folder, ignore_errors=True)
        )

    def tidy(self) -> None:
        """Gives up jobs that take too long, and forgets results that were kept long enough."""
        now, limits = time.monotonic(), self.limits
        with self._lock:
            ended = [(i, k.ended) for i, k in self._kept.items() if k.ended is not None]
            latest = now - limits.work_seconds
            late = [k for k in self._kept.values() if k.ended is None and k.begun < latest]
        for kept in late:
            kept.is_late = True
            kept.job.cancel()
        extra = max(0, len(ended) - limits.max_kept)
        for slot, (identity, end) in enumerate(sorted(ended, key=lambda item: item[1])):
            if slot < extra or now > end + limits.keep_seconds:
                self.forget(identity)

    def stop(self) -> None:
        """Admits nobody any more, and ends all jobs."""
        with self._lock:
            self._is_closing = True
            jobs = [slot.job for slot in self._slots if slot.job]
        for job in jobs:
            job.cancel()

    def _submit(self, slot: Slot, job: Job) -> Job:
        with self._lock:
            self._check_open()
            job.future = self._pool.submit(self._run, job)
            slot.job = job
            return job

    def _check_open(self) -> None:
        if self._is_closing:
            raise shutting_down()

    def _run(self, job: Job) -> Path:
        pool = self._pools.get()
        try:
            return job.run(pool, self.limits)
        finally:
            self._pools.put(pool)
