"""The main job: a recording in, embeddings out.

A ladder, entered where your data is: :meth:`Embedder.batch` takes windows of samples,
:meth:`Embedder.tracks` the decoded blocks of many recordings, :meth:`Embedder.stream` and
``embedder(...)`` one recording. Each rung is the one below and one step more, so what a recording
gives does not depend on where one enters.
"""

import io
import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Literal, Self, TypeAlias, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musicfm.audio import reading
from musicfm.audio.decoders import (
    Block,
    End,
    Event,
    Failure,
    Start,
)
from musicfm.audio.sources import AudioFile
from musicfm.embedding.pooling import pool, pooled_times
from musicfm.embedding.windows import (
    Cutter,
    Samples,
    Stitcher,
    Window,
    Windowing,
)
from musicfm.errors import AudioError, ConfigError, MusicFMError
from musicfm.model import checkpoint
from musicfm.model.inference.optimized import optimize
from musicfm.model.musicfm import MusicFM, full_float32

Source: TypeAlias = AudioFile | bytes | Tensor | npt.NDArray[np.floating]
KeyT = TypeVar("KeyT")
Occurrence = TypeVar("Occurrence")


@dataclass(frozen=True, eq=False)
class Embedding:
    """The frames of one recording. Frame k is centred at ``k / rate`` seconds."""

    frames: Tensor
    """(time, dim), or (layers, time, dim) if several layers were asked for; float32, on the CPU."""
    rate: float
    """Frames per second."""
    duration: float
    """Seconds of audio."""

    @property
    def times(self) -> npt.NDArray[np.float64]:
        """(time,) the centre of each frame, in seconds."""
        return np.arange(self.frames.shape[-2]) / self.rate

    def mean(self) -> Tensor:
        """Sequence level: the mean over time, (dim,) or (layers, dim)."""
        return self.frames.mean(dim=-2)

    def at(self, rate: float) -> Tensor:
        """Token level: adaptive average pooling over time to ``rate`` outputs per second.

        Returns:
            (time', dim) or (layers, time', dim); their times are ``times_at(rate)``. A rate above
            the model's repeats frames.
        """

        def read(start: int, stop: int) -> Tensor:
            return self.frames[..., start:stop, :]

        return torch.cat(list(pool(read, self.frames.shape[-2], self.rate, rate)), dim=-2)

    def times_at(self, rate: float) -> npt.NDArray[np.float64]:
        """(time',) the centre of each output of ``at(rate)``, in seconds."""
        return pooled_times(self.frames.shape[-2], self.rate, rate)

    def numpy(self) -> npt.NDArray[np.float32]:
        """The frames as an array."""
        return cast(npt.NDArray[np.float32], self.frames.numpy())


@dataclass(frozen=True, eq=False)
class Frames(Generic[KeyT]):
    """The next frames of a recording, (layers, time, dim) float32 on the CPU."""

    key: KeyT
    frames: Tensor


@dataclass(frozen=True)
class Finished(Generic[KeyT]):
    """All frames of a recording have been given."""

    key: KeyT
    duration: float
    warnings: tuple[str, ...]


TrackEvent: TypeAlias = Start[KeyT] | Frames[KeyT] | Finished[KeyT] | Failure[KeyT]


def usable(events: Iterable[Occurrence | Failure[Any]]) -> Iterator[Occurrence]:
    """The events of recordings that are all wanted. Raises AudioError where one fails."""
    for event in events:
        if isinstance(event, Failure):
            raise AudioError(event.reason)
        yield event


class _Track(Generic[KeyT]):
    """One recording on its way through."""

    def __init__(self, key: KeyT, windowing: Windowing) -> None:
        self.key = key
        self.cutter = Cutter(windowing)
        self.stitcher = Stitcher(windowing.overlap)
        self.warnings: tuple[str, ...] = ()
        self.failed = False


class WindowEncoder(ABC):
    """Whatever gives frames for windows of samples: with it, for recordings of any length.

    A recording that fits into a window is one; a longer one is cut into overlapping windows, whose
    frames are cross-faded (see :mod:`musicfm.embedding.windows`). To compare another encoder, write
    :meth:`batch` and :meth:`fingerprint`.

    Args:
        windowing: how recordings are cut.
        sample_rate: of the samples, in Hz.
        min_samples: the shortest recording.
        batch_size: windows computed at once.
        layers: what the layers that it gives are called.

    Raises ConfigError for an impossible batch.
    """

    precision = "float32"
    """Type of the arithmetic."""

    def __init__(
        self,
        windowing: Windowing,
        sample_rate: int,
        min_samples: int,
        batch_size: int,
        layers: Sequence[int] = (0,),
    ) -> None:
        if batch_size < 1:
            raise ConfigError(f"batch_size is {batch_size}; give 1 or more")
        self.windowing, self.sample_rate = windowing, sample_rate
        self.min_samples, self.batch_size = min_samples, batch_size
        self.layers = tuple(layers)

    @property
    def rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.windowing.frame

    @abstractmethod
    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        """The frames of some windows, each as if it were alone.

        Args:
            windows: (samples,) each, float32, of any lengths.

        Returns:
            (layers, time, dim) of each, float32, on the CPU; a frame per ``windowing.frame``
            samples, rounded up or down alike.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """Of what it has learnt and how it computes: what tells it from other encoders."""

    def tracks(self, events: Iterable[Event[KeyT] | None]) -> Iterator[TrackEvent[KeyT]]:
        """Embeds the recordings whose samples arrive in ``events``; windows share batches.

        Args:
            events: as :func:`musicfm.audio.decoders.decode_files` gives them. None among them says
                that the next may be long in coming: windows then do not wait for a full batch.

        Yields:
            Of each recording Start if ``events`` have it, its frames in order and then Finished, or
            a Failure that voids them.
        """
        decoding: dict[KeyT, _Track[KeyT]] = {}
        queue: deque[tuple[_Track[KeyT], Window]] = deque()
        for event in events:
            if event is None:
                yield from self._embed_all(queue)
                continue
            track = decoding.get(event.key) or _Track(event.key, self.windowing)
            decoding[event.key] = track
            match event:
                case Start():
                    yield event
                case Block(samples=samples):
                    queue.extend((track, window) for window in track.cutter.push(samples))
                case End(warnings=warnings):
                    del decoding[event.key]
                    track.warnings = warnings
                    if track.cutter.num_samples < self.min_samples:
                        track.failed = True
                        yield Failure(event.key, self._too_short(track))
                    else:
                        queue.append((track, track.cutter.finish()))
                case Failure():
                    del decoding[event.key]
                    if not track.failed:
                        track.failed = True
                        yield event
            while len(queue) >= self.batch_size:
                yield from self._embed([queue.popleft() for _ in range(self.batch_size)])
        yield from self._embed_all(queue)

    def _embed_all(self, queue: deque[tuple[_Track[KeyT], Window]]) -> Iterator[TrackEvent[KeyT]]:
        """Computes all windows of a queue."""
        while queue:
            yield from self._embed(
                [queue.popleft() for _ in range(min(len(queue), self.batch_size))]
            )

    def _embed(self, batch: list[tuple[_Track[KeyT], Window]]) -> Iterator[TrackEvent[KeyT]]:
        """Computes a batch and stitches each window to its recording."""
        batch = [(track, window) for track, window in batch if not track.failed]
        for (track, window), frames in zip(
            batch, self.batch([window.samples for _, window in batch]), strict=True
        ):
            if track.failed:
                continue
            if not bool(torch.isfinite(frames).all()):
                track.failed = True
                reason = f"{track.key} gives frames that are not finite; compute in float32"
                yield Failure(track.key, reason)
                continue
            final = track.stitcher.push(window.start, frames, window.last)
            if final.shape[1]:
                yield Frames(track.key, final)
            if window.last:
                duration = track.cutter.num_samples / self.sample_rate
                yield Finished(track.key, duration, track.warnings)

    def _too_short(self, track: _Track[KeyT]) -> str:
        return (
            f"{track.key} is too short: {track.cutter.num_samples / self.sample_rate:.3f} s; "
            f"the model needs at least {self.min_samples / self.sample_rate:.3f} s "
            f"({self.min_samples} samples)"
        )


def decode(
    source: AudioFile | bytes, sample_rate: int, on_damage: Literal["error", "warn"] = "error"
) -> Iterator[Event[str]]:
    """Decodes one recording in this process, as :meth:`WindowEncoder.tracks` takes it.

    Args:
        source: a path, a binary file object that can seek, or the bytes of a file.
        sample_rate: of the samples, in Hz.
        on_damage: raise, or warn and give what comes before the damage.

    Raises AudioError if the recording cannot be used.
    """
    key = os.fspath(source) if isinstance(source, str | os.PathLike) else "The recording"
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    for samples in reading.stream(file, sample_rate, on_damage=on_damage):
        yield Block(key, samples)
    yield End(key, ())


def wanted_layers(model: MusicFM, layer: int | Sequence[int] | str | None) -> list[int]:
    """Layers as indices from 0: those given, "all", or with None the usual one, 7 of 12.

    Raises ConfigError: a layer that the model does not have, or one twice.
    """
    if layer is None:
        return [round(model.config.encoder.depth * 7 / 12)]
    if isinstance(layer, str):
        if layer == "all":
            return list(range(model.num_layers))
        raise ConfigError(f"layer is {layer!r}; give a number, several, or 'all'")
    layers = model.check_layers([int(layer)] if isinstance(layer, int | np.integer) else layer)
    if len(set(layers)) < len(layers):  # whoever reads a result asks for a layer by its number
        named = ", ".join(map(str, layers))
        raise ConfigError(f"of the layers {named}, one comes twice; give each once")
    return layers


def _usual_batch_size(model: MusicFM) -> int:
    return 1 if model.device.type == "cpu" else 16


class Embedder(WindowEncoder):
    """Embeds recordings of any length, format, rate and number of channels.

    A recording that fits into the model's context is embedded by one plain forward pass; a longer
    one in overlapping windows that are cross-faded (see :mod:`musicfm.embedding.windows`). What
    comes out depends on the recording, the model, the layers and the overlap: never on batches or
    blocks.
    """

    def __init__(
        self,
        model: MusicFM,
        layer: int | Sequence[int] | Literal["all"] | None = None,
        *,
        overlap_seconds: float | None = None,
        context_seconds: float | None = None,
        batch_size: int | None = None,
        int8: bool = False,
        compile: bool = False,
    ) -> None:
        """Puts the model into eval mode; its device and dtype are those to compute with.

        On a CPU and on CUDA an optimised copy of the model computes, see :func:`musicfm.optimize`:
        made here, from the weights of this moment.

        Args:
            model: move it first: ``model.to("cuda", torch.bfloat16)``.
            layer: the hidden state to take, several, or all of them; None takes 7 of 12, the
                authors' choice for probing, and as deep in relation in other models.
            overlap_seconds: of neighbouring windows; None is a sixth of the context.
            context_seconds: of a window; None is the model's own context.
            batch_size: windows computed at once; None is 1 on a CPU, 16 elsewhere.
            int8: compute with 8-bit integers, on a CPU that has instructions for them.
            compile: let PyTorch's compiler fuse what is between products: for many recordings on
                CUDA.

        Raises:
            ConfigError: a layer that the model does not have, an impossible context, overlap or
                batch, or int8 or compiling where that cannot be; no model at all.
        """
        if not isinstance(model, MusicFM):
            raise ConfigError(
                f"the model is of type {type(model).__name__}; give a MusicFM, such as "
                "MusicFM.from_pretrained('msd')"
            )
        self.model, self._int8, self._compile = model.eval(), int8, compile
        self._fast = self._optimized()
        self.config = model.config
        self.single = layer is None or isinstance(layer, int | np.integer)
        self._batch_size_asked = batch_size
        super().__init__(
            Windowing.of(self.config, overlap_seconds, context_seconds),
            self.config.sample_rate,
            self.config.mel.min_samples,
            _usual_batch_size(model) if batch_size is None else batch_size,
            wanted_layers(model, layer),
        )
        self.precision = "int8" if int8 else str(model.dtype).removeprefix("torch.")

    def _optimized(self) -> MusicFM:
        if self.model.device.type not in ("cpu", "cuda") and not (self._int8 or self._compile):
            return self.model
        return optimize(self.model, int8=self._int8, compile=self._compile)

    def to(self, device: str | torch.device) -> Self:
        """Moves the model to a device; the batch size is what suits it, unless one was given.

        Raises ConfigError if it computes with int8 and the device is not a CPU.
        """
        before = self.model.device
        self.model.to(device)
        if self.model.device != before or self._int8:  # this CPU may be another machine's
            self._fast = self._optimized()
        if self._batch_size_asked is None:
            self.batch_size = _usual_batch_size(self.model)
        return self

    def __call__(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        on_damage: Literal["error", "warn"] = "error",
    ) -> Embedding:
        """Embeds one recording.

        Args:
            source: a file (a path, a binary file object, or its bytes), or samples in [-1, 1]:
                (samples,) or (1, samples), float.
            sample_rate: of samples; resampled if it is not the model's. None: the model's.
            on_damage: for a damaged file, raise, or warn and use what comes before the damage.

        Raises:
            AudioError: the recording cannot be used.
        """
        duration = 0.0
        chunks = []
        for event in usable(self.tracks(self._open(source, sample_rate, on_damage))):
            if isinstance(event, Frames):
                chunks.append(event.frames)
            elif isinstance(event, Finished):
                duration = event.duration
        frames = torch.cat(chunks, dim=1)
        return Embedding(frames[0] if self.single else frames, self.rate, duration)

    def stream(
        self,
        source: Source,
        sample_rate: int | None = None,
        *,
        on_damage: Literal["error", "warn"] = "error",
    ) -> Iterator[Tensor]:
        """As ``embedder(...)``, but yields frames as they become final, in flat memory.

        Yields:
            (time', dim) or (layers, time', dim).
        """
        for event in usable(self.tracks(self._open(source, sample_rate, on_damage))):
            if isinstance(event, Frames):
                yield event.frames[0] if self.single else event.frames

    @torch.inference_mode()
    def batch(self, windows: Sequence[Samples]) -> list[Tensor]:
        """The hidden states of some windows, each as if it were alone."""
        if not windows:
            return []
        counts = [len(window) for window in windows]
        waveform = np.zeros((len(windows), max(counts)), np.float32)
        for row, window in zip(waveform, windows, strict=True):
            row[: len(window)] = window
        device = self.model.device
        lengths = None if len(set(counts)) == 1 else torch.tensor(counts, device=device)
        exact = full_float32() if self.model.dtype == torch.float32 else nullcontext()
        try:
            with exact:
                output = self._fast(torch.from_numpy(waveform).to(device), lengths, self.layers)
        except torch.OutOfMemoryError as error:
            raise MusicFMError(
                f"{len(windows)} windows of {max(counts) / self.config.sample_rate:g} s do not fit "
                f"into the memory of {device}; use a smaller batch size"
            ) from error
        frames = torch.stack(output.hidden_states, dim=1).float().cpu()
        return [
            clip[:, : self.config.num_frames(count)]
            for clip, count in zip(frames, counts, strict=True)
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the model, see :func:`musicfm.model.checkpoint.fingerprint`."""
        return checkpoint.fingerprint(self.model)

    def _open(
        self, source: Source, sample_rate: int | None, on_damage: Literal["error", "warn"]
    ) -> Iterator[Event[str]]:
        """The samples of one recording, as the decoder processes would give them."""
        if isinstance(source, str | os.PathLike | bytes) or hasattr(source, "read"):
            if sample_rate is not None:
                raise AudioError("sample_rate is for samples; a file states its own")
            file = cast(AudioFile | bytes, source)
            yield from decode(file, self.config.sample_rate, on_damage)
            return
        key = "the waveform"
        rate = self.config.sample_rate if sample_rate is None else sample_rate
        yield Block(key, self._samples(source, rate))
        yield End(key, ())

    def _samples(self, source: Tensor | npt.NDArray[np.floating], sample_rate: int) -> Samples:
        """Checks samples given in memory, and resamples them if need be: (samples,) float32."""
        if isinstance(source, Tensor):
            source = source.detach().cpu()
            samples = (source.float() if source.is_floating_point() else source).numpy()
        else:
            samples = np.asarray(source)
            if samples.dtype.kind not in "iuf":
                raise AudioError(
                    f"{type(source).__name__} is not a recording; give a file's path, or samples"
                )
        if samples.ndim == 2 and samples.shape[0] == 1:
            samples = samples[0]
        if samples.ndim != 1:
            raise AudioError(
                f"the waveform has shape {samples.shape}; give (samples,), mono: average channels "
                "first, and call once for each clip of a batch"
            )
        if samples.size and np.abs(samples).max() > reading.LOUDEST:
            raise AudioError(
                f"the waveform reaches {np.abs(samples).max():g}; samples belong in [-1, 1] "
                "(16-bit integers: divide by 32768)"
            )
        return reading.resample(samples, sample_rate, self.config.sample_rate)
