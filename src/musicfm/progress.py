"""The progress bar of long work: how far, how fast, and how long still."""

from collections.abc import Mapping
from typing import Generic, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from musicfm.errors import printable

KeyT = TypeVar("KeyT")


class _Shown:
    """A bar that is drawn for as long as a block lasts."""

    _bar: Progress

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class AudioProgress(_Shown):
    """A bar over files that shows hours of audio and times real time, on standard error.

    Remaining time is estimated from ``work``, in any unit that is known beforehand, say bytes.
    """

    def __init__(self, what: str, num_files: int, work: float, enabled: bool = True) -> None:
        self.console = Console(stderr=True, soft_wrap=True, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[files]}/{task.fields[num_files]} files"),
            _AudioColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
            disable=not enabled or not num_files,
        )
        self._what = what
        self._task = self._bar.add_task(
            what, total=max(work, 1.0), files=0, num_files=num_files, seconds=0.0
        )

    def advance(self, *, files: int = 0, seconds: float = 0.0, work: float = 0.0) -> None:
        """Adds finished files, seconds of audio, and work."""
        (task,) = self._bar.tasks
        fields = task.fields
        files += fields["files"]
        # Parts of bytes add up to a little less than all of them, and the bar would never be full.
        done = task.total if files == fields["num_files"] else task.completed + work
        self._bar.update(
            self._task, completed=done, files=files, seconds=fields["seconds"] + seconds
        )

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        self.console.print(printable(message), markup=False)


class RecordingProgress(AudioProgress, Generic[KeyT]):
    """A bar over recordings that are encoded, which moves within them too.

    Args:
        what: is done.
        sizes: of the recordings, in bytes.
        enabled: whether to draw.
    """

    def __init__(self, what: str, sizes: Mapping[KeyT, int], enabled: bool = True) -> None:
        super().__init__(what, len(sizes), sum(sizes.values()), enabled)
        self._sizes = sizes
        self._bytes_per_second: dict[KeyT, float] = {}
        self._shown: dict[KeyT, float] = {}  # bytes that the bar counts as done

    def on_start(self, key: KeyT, duration: float) -> None:
        """A recording says that it lasts so many seconds."""
        self._bytes_per_second[key] = self._sizes[key] / duration

    def on_audio(self, key: KeyT, seconds: float) -> None:
        """So many more seconds of a recording are done."""
        self._move(key, seconds * self._bytes_per_second.get(key, 0.0), seconds=seconds)

    def on_end(self, key: KeyT) -> None:
        """Nothing more will come of a recording."""
        self._move(key, self._sizes[key], files=1)
        del self._shown[key]
        self._bytes_per_second.pop(key, None)

    def _move(self, key: KeyT, work: float, *, files: int = 0, seconds: float = 0.0) -> None:
        """Moves the bar, by no more than what a recording has left."""
        shown = self._shown.get(key, 0.0)
        work = min(work, self._sizes[key] - shown)
        self._shown[key] = shown + work
        self.advance(files=files, seconds=seconds, work=work)


class _AudioColumn(ProgressColumn):
    """Hours of audio done, and how many times real time."""

    def render(self, task: Task) -> Text:
        seconds, elapsed = task.fields["seconds"], task.elapsed or 0.0
        rate = f"{seconds / elapsed:.1f}" if elapsed else "-"
        return Text(f"{seconds / 3600:.2f} h, {rate}x real time", no_wrap=True)


class Steps(_Shown):
    """A bar over equal pieces of work, on standard error, of which some may be done already."""

    def __init__(self, what: str, count: int, enabled: bool = True, done: int = 0) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=Console(stderr=True, soft_wrap=True, highlight=False),
            disable=not enabled or not count,
            speed_estimate_period=600.0,
        )
        self._what = what
        self._task = self._bar.add_task(what, total=count, completed=done)

    def advance(self, count: int = 1) -> None:
        """Counts a piece, or several."""
        self._bar.advance(self._task, count)

    def show(self, figures: str) -> None:
        """Shows the latest figures beside the bar."""
        self._bar.update(self._task, description=f"{self._what}, {figures}")

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        if not self._bar.disable:
            self._bar.console.print(message, markup=False)
