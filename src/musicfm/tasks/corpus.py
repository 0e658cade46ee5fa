"""What heads are trained, chosen and tested on: one labelled collection with its splits."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from musicfm.audio.processes import Work
from musicfm.datasets.catalogue import DATASETS, read_dataset
from musicfm.datasets.labelled import Labelled, LabelledTrack, read_labelled
from musicfm.datasets.splits import Splitting
from musicfm.errors import ConfigError, DataError, printable
from musicfm.render import benchmark
from musicfm.seeds import derive_seed
from musicfm.tasks.chord import chord_class
from musicfm.tasks.heads import task_class
from musicfm.tasks.key import key_class
from musicfm.tasks.names import TaskName
from musicfm.tasks.tagging import applying

SPLITTING = Splitting(valid=0.1, test=0.2)

RENDERED_NOTE = (
    "Scores on rendered songs rank checkpoints on synthetic music. They do not predict those on "
    "GTZAN, Harmonix or any other recordings."
)


@dataclass(frozen=True)
class Corpus:
    """A labelled collection, split."""

    name: str
    train: tuple[LabelledTrack, ...]
    valid: tuple[LabelledTrack, ...]
    tests: Mapping[str, tuple[LabelledTrack, ...]]
    """Test sets by name, the headline first."""
    vocabulary: tuple[str, ...] = ()
    """The tags that occur in all of the training songs."""
    problems: tuple[str, ...] = ()
    lack: str = ""
    """A sentence on splits that are empty, for whoever learns from it."""
    note: str = ""
    """A sentence to be said with every score."""
    rest: tuple[LabelledTrack, ...] = ()
    """Tracks that are in no split."""

    @property
    def tracks(self) -> tuple[LabelledTrack, ...]:
        """All that are in a split."""
        return (*self.train, *self.valid, *(item for test in self.tests.values() for item in test))

    def vocabulary_for(self, task: TaskName) -> tuple[str, ...]:
        """What :func:`musicfm.tasks.heads.build_task` takes: nothing for most tasks."""
        return self.vocabulary if task_class(task).has_vocabulary else ()

    def as_one_test(self) -> "Corpus":
        """With all tracks in one test set."""
        return replace(self, train=(), valid=(), rest=(), tests={"all": self.tracks + self.rest})

    def with_labels(self, fraction: float) -> "Corpus":
        """With a fraction of the training tracks alone, at least one. Raises ConfigError."""
        if not 0.0 < fraction <= 1.0:
            raise ConfigError(
                f"a fraction of {fraction:g} of the labels is impossible; give 0 to 1"
            )
        count = max(1, round(fraction * len(self.train)))
        order = sorted(self.train, key=lambda item: derive_seed(0, "labels", item.track.path))
        return replace(self, train=tuple(order[:count]))


def open_corpus(
    source: str,
    songs: Path,
    *,
    fraction: float = 1.0,
    **work: Unpack[Work],
) -> Corpus:
    """Reads a labelled collection.

    Args:
        source: "rendered-v1"; "rendered-v2-quick"; "rendered-v2" and the folder of its sound fonts
            and compositions, such as "rendered-v2=sources"; a published dataset and its folder,
            such as "gtzan=/data/gtzan"; a folder of recordings with a .jams file beside each; or a
            manifest of such.
        songs: the folder to render the songs of these into.
        fraction: of the songs of each of their sets that is used.
        work: see :class:`musicfm.audio.processes.Work`.

    Raises:
        ConfigError: there is no such collection.
        DataError: it cannot be used.
    """
    name, is_dataset, home = source.partition("=")
    if source == benchmark.NAME:
        sets, tests = benchmark.song_sets(), benchmark.TEST_SETS
        return _rendered(source, sets, tests, songs, fraction, work)
    if source == benchmark.QUICK or (name == benchmark.NAME_V2 and is_dataset):
        return _rendered_v2(Path(home) if is_dataset else None, songs, fraction, work)
    if fraction != 1.0:
        raise ConfigError(
            f"a fraction of the songs is for {benchmark.NAME} and {benchmark.NAME_V2}; give all of "
            f"{source}"
        )
    if is_dataset and name in DATASETS:
        found = read_dataset(name, Path(home), **work)
        return _of_splits(name, found)
    if not os.path.exists(source):
        known = ", ".join(DATASETS)
        raise ConfigError(
            f"there is no collection '{source}': give {benchmark.NAME}, {benchmark.QUICK}, a "
            f"folder, a manifest, or NAME=FOLDER with one of {benchmark.NAME_V2}, {known}"
        )
    found = read_labelled([source], SPLITTING, **work)
    return _of_splits(printable(Path(source).name), found)


def _of_splits(name: str, found: Labelled) -> Corpus:
    """A collection of one test set. What is in two splits, by its bytes, stays in the later one."""
    test = found.of_split("test")
    tested = {item.track.sha256 for item in test}
    valid = tuple(i for i in found.of_split("valid") if i.track.sha256 not in tested)
    held_out = tested | {item.track.sha256 for item in valid}
    train = tuple(i for i in found.of_split("train") if i.track.sha256 not in held_out)
    dropped = len(found.of_split("train")) + len(found.of_split("valid")) - len(train) - len(valid)
    problems = found.problems
    lack = ""
    if dropped:
        problems = (
            *problems,
            f"{dropped} recordings of {name} have the bytes of one that is held out, and are left "
            "out of training or validation",
        )
    if not (train and valid and test):
        lack = (
            f"{name} has {len(train)} recordings for training, {len(valid)} for validation and "
            f"{len(test)} for testing; for another split, make a manifest, with another --seed "
            "until it has some of each: musicfm scan FOLDER --valid 0.2 --test 0.2 --split-by "
            "track --seed 1 --out songs.parquet"
        )
    corpus = Corpus(name, train, valid, {"test": test}, vocabulary_of(train), problems)
    return _checked(replace(corpus, lack=lack, rest=found.of_split(None)))


def vocabulary_of(tracks: Iterable[LabelledTrack]) -> tuple[str, ...]:
    """The tags that apply to some recording."""
    return tuple(sorted({tag for item in tracks for tag in applying(item.annotations)}))


def _checked(corpus: Corpus) -> Corpus:
    """Without chords and keys that cannot be read, which are reported.

    Those of a recording are used as long as most of them can be: else they are in another notation,
    of which some happen to look like ours.
    """
    problems: list[str] = []

    def check(item: LabelledTrack) -> LabelledTrack:
        annotations = item.annotations
        for kind, class_of in (("chords", chord_class), ("keys", key_class)):
            spans = getattr(annotations, kind)
            if spans is None:
                continue
            wrong = _unreadable(spans.labels, class_of)
            if not wrong:
                continue
            reason = next(iter(wrong.values()))
            labels = tuple("X" if label in wrong else label for label in spans.labels)
            count = sum(label in wrong for label in spans.labels)
            if 2 * count >= len(labels):
                problems.append(f"the {kind} of {item.audio} are not used: {reason}")
                spans = None
            else:
                problems.append(
                    f"{count} of the {len(labels)} {kind} of {item.audio} do not count: {reason}"
                )
                spans = replace(spans, labels=labels)
            annotations = replace(annotations, **{kind: spans})
        return replace(item, annotations=annotations)

    parts: dict[str, Any] = {
        name: tuple(map(check, getattr(corpus, name))) for name in ("train", "valid", "rest")
    }
    tests = {name: tuple(map(check, items)) for name, items in corpus.tests.items()}
    return replace(corpus, tests=tests, problems=(*corpus.problems, *problems), **parts)


def _unreadable(labels: Iterable[str], class_of: Callable[[str], int]) -> dict[str, DataError]:
    """The labels that name no class, and why."""
    wrong: dict[str, DataError] = {}
    for label in dict.fromkeys(labels):
        try:
            class_of(label)
        except DataError as error:
            wrong[label] = error
    return wrong


def _rendered_v2(sources: Path | None, songs: Path, fraction: float, work: Work) -> Corpus:
    """rendered-v2 by its sources, or without them the quick one."""
    quick = sources is None
    fonts = None if sources is None else benchmark.find_fonts(sources)
    compositions = None if sources is None else benchmark.find_compositions(sources)
    name, sets = benchmark.name_v2(quick), benchmark.song_sets_v2(quick)
    tests = [key for key in sets if key not in ("train", "valid")]
    return _rendered(name, sets, tests, songs / name, fraction, work, fonts, compositions)


def _rendered(
    name: str,
    sets: Mapping[benchmark.SetName, benchmark.SongSet],
    test_sets: Sequence[benchmark.SetName],
    folder: Path,
    fraction: float,
    work: Work,
    fonts: Mapping[str, Path] | None = None,
    compositions: Path | None = None,
) -> Corpus:
    """A fraction of the songs of each set, which are rendered unless they are there."""
    tracks: dict[str, tuple[LabelledTrack, ...]] = {}
    problems: tuple[str, ...] = ()
    for key, songs in sets.items():
        paths = benchmark.render_set(
            songs.part(fraction), folder / key, fonts=fonts, compositions=compositions, **work
        )
        found = read_labelled(paths, Splitting(0.0, 0.0), num_workers=work.get("num_workers"))
        tracks[key], problems = found.tracks, problems + found.problems
    return Corpus(
        name,
        tracks["train"],
        tracks["valid"],
        {key: tracks[key] for key in test_sets},
        vocabulary_of(tracks["train"]),
        problems,
        note=RENDERED_NOTE,
    )
