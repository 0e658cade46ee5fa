"""Published datasets by name: what each is for, where it is from, and how it is read.

Sizes, licences and addresses are as the datasets or mirdata state them; what was not checked says
so. "Unknown" is what we do not know, and not that there is none.
"""

import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Unpack

from musicfm.audio.processes import Work
from musicfm.datasets import mir
from musicfm.datasets.giantsteps_mtg import collect_giantsteps_mtg
from musicfm.datasets.hainsworth import collect_hainsworth
from musicfm.datasets.harmonix import collect_harmonix
from musicfm.datasets.labelled import Labelled
from musicfm.datasets.magnatagatune import collect_magnatagatune
from musicfm.datasets.pieces import Collected, read_pieces
from musicfm.datasets.splits import Folding, Splitting
from musicfm.errors import ConfigError, DataError

_BY_ARTIST = Splitting(valid=0.1, test=0.2)
_BY_ALBUM = Splitting(valid=0.1, test=0.2, by="album")
_BY_TRACK = Splitting(valid=0.1, test=0.2, by="track")

_NO_AUDIO = "annotations only; the audio is not distributed"
_ISOPHONICS = "http://isophonics.net/content/reference-annotations"
_AIST = "https://staff.aist.go.jp/m.goto/RWC-MDB"
_RWC_LICENCE = "research only, after a pledge to the National Institute AIST"


@dataclass(frozen=True)
class Dataset:
    """What there is to know about a dataset."""

    title: str
    tasks: tuple[str, ...]
    tracks: str
    """Number of tracks, and their lengths."""
    source: str
    """Files to download, and from where."""
    size: str
    licence: str
    layout: str
    """Where audio and annotations lie in the folder; audio may be in any format."""
    splits: str
    """How the tracks are split unless asked for otherwise."""
    collect: Callable[[Path], Collected]
    """Raises ConfigError or DataError if the folder cannot be read."""
    splitting: Splitting | Folding | None = None
    """Splitting of all tracks; None: the dataset's own splits."""


def read_dataset(
    name: str,
    home: Path,
    *,
    splitting: Splitting | Folding | None = None,
    **work: Unpack[Work],
) -> Labelled:
    """Reads a dataset that was downloaded.

    Whatever is wrong with a track's audio or annotations is among the problems, and the rest goes
    on; so do known faults of the dataset. Tracks that its own splits leave out are in none.

    Args:
        name: one of ``DATASETS``.
        home: its folder, in the layout that ``describe`` tells.
        splitting: how to split all tracks; None takes the dataset's own splits, or what
            ``describe`` tells.
        work: see :class:`musicfm.audio.processes.Work`.

    Raises:
        ConfigError: there is no such dataset, or mirdata or its list of the files is missing.
        DataError: the folder is not there, lacks a table that is needed, or has no usable track.
    """
    dataset = _find(name)
    if not os.path.isdir(home):
        raise DataError(f"{home} is not a folder; {name} should be there: {dataset.layout}")
    return read_pieces(dataset.collect(home), splitting or dataset.splitting, **work)


def describe(name: str) -> str:
    """What there is to know about a dataset, as text of several lines. Raises ConfigError."""
    dataset = _find(name)
    names = ("tracks", "source", "size", "licence", "layout", "splits")
    rows = {"tasks": ", ".join(dataset.tasks), **{name: getattr(dataset, name) for name in names}}
    lines = [f"{name}: {dataset.title}"]
    for key, text in rows.items():
        lines += textwrap.wrap(
            text,
            100,
            initial_indent=f"  {key:8}",
            subsequent_indent=" " * 10,
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _find(name: str) -> Dataset:
    if name not in DATASETS:
        raise ConfigError(f"there is no dataset '{name}'; there are {', '.join(DATASETS)}")
    return DATASETS[name]


DATASETS: Mapping[str, Dataset] = {
    "gtzan": Dataset(
        title="GTZAN, with beats and downbeats, and the genre as a tag",
        tasks=("beat", "tagging"),
        tracks="1000 excerpts of 30 s",
        source="genres.tar.gz (http://opihi.cs.uvic.ca/sound/genres.tar.gz, or a copy of it); "
        "annotations: https://github.com/TempoBeatDownbeat/gtzan_tempo_beat",
        size="about 1.2 GB (not checked)",
        licence="unknown",
        layout="gtzan_genre/genres/blues/blues.00000.wav; "
        "gtzan_tempo_beat-main/beats/gtzan_blues_00000.beats",
        splits="the fault-filtered split (443, 197 and 290 excerpts) of Kereliuk et al. 2015; the "
        "other 70 are in no split and keep their beats, but not their genre",
        collect=partial(mir.collect_mir, mir.GTZAN),
    ),
    "ballroom": Dataset(
        title="Ballroom",
        tasks=("beat",),
        tracks="698 excerpts of about 30 s",
        source="data1.tar.gz (https://mtg.upf.edu/ismir2004/contest/tempoContest/data1.tar.gz); "
        "annotations: https://github.com/CPJKU/BallroomAnnotations",
        size="unknown",
        licence="CC BY-NC-SA 4.0, as mirdata has it",
        layout="B_1.0/audio/Waltz/Media-105901.wav; B_1.0/annotations/beats/Media-105901.beats",
        splits="by track: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.BALLROOM),
        splitting=_BY_TRACK,
    ),
    "hainsworth": Dataset(
        title="Hainsworth",
        tasks=("beat",),
        tracks="222 excerpts of about 1 min",
        source="not distributed; ask its author",
        size="unknown",
        licence="CC BY-NC-SA 4.0, as mirdata has it",
        layout="H_1.0/audio/hains001.flac; H_1.0/annotations/beats/hains001.beats",
        splits="by track: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=collect_hainsworth,
        splitting=_BY_TRACK,
    ),
    "beatles": Dataset(
        title="Beatles, of the Isophonics annotations",
        tasks=("beat", "chord", "structure", "key"),
        tracks="about 180 songs",
        source=f"{_ISOPHONICS}-beatles; {_NO_AUDIO}",
        size="unknown",
        licence="unknown",
        layout="audio/01_-_Please_Please_Me/11_-_Do_You_Want_To_Know_A_Secret.wav; "
        "annotations/{beat,chordlab,keylab,seglab}/The Beatles/...",
        splits="by album: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.BEATLES),
        splitting=_BY_ALBUM,
    ),
    "queen": Dataset(
        title="Queen, of the Isophonics annotations",
        tasks=("chord", "structure", "key"),
        tracks="51 songs",
        source=f"{_ISOPHONICS}-queen; {_NO_AUDIO}",
        size="unknown",
        licence="unknown",
        layout="audio/Greatest Hits I/01 Bohemian Rhapsody.flac; "
        "annotations/{chordlab,keylab,seglab}/Queen/...",
        splits="by track, as there are but three albums: 0.7 for training, 0.1 for validation, 0.2 "
        "for testing",
        collect=partial(mir.collect_mir, mir.QUEEN),
        splitting=_BY_TRACK,
    ),
    "billboard": Dataset(
        title="McGill Billboard",
        tasks=("chord", "structure"),
        tracks="890 slots of the charts, some with the same song",
        source=f"the McGill Billboard project, https://ddmal.music.mcgill.ca/research; {_NO_AUDIO}",
        size="unknown",
        licence="CC0, of the annotations",
        layout="audio/1960s/James Brown/I Don't Mind/audio.flac; billboard-2.0-index.csv; "
        "McGill-Billboard/0003/{full.lab,salami_chords.txt}",
        splits="by artist: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.BILLBOARD),
        splitting=_BY_ARTIST,
    ),
    "rwc_popular": Dataset(
        title="RWC Popular",
        tasks=("beat", "chord", "structure"),
        tracks="100 songs",
        source=f"{_AIST}, audio on request; metadata: https://github.com/magdalenafuentes/metadata",
        size="unknown",
        licence=_RWC_LICENCE,
        layout="audio/rwc-p-m01/1.wav; annotations/AIST.RWC-MDB-P-2001.{BEAT,CHORD,CHORUS}; "
        "metadata-master/rwc-p.csv",
        splits="by artist: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.RWC_POPULAR),
        splitting=_BY_ARTIST,
    ),
    "rwc_jazz": Dataset(
        title="RWC Jazz",
        tasks=("beat", "structure"),
        tracks="50 pieces",
        source=f"{_AIST}, audio on request; metadata: https://github.com/magdalenafuentes/metadata",
        size="unknown",
        licence=_RWC_LICENCE,
        layout="audio/rwc-j-m01/1.wav; annotations/AIST.RWC-MDB-J-2001.{BEAT,CHORUS}; "
        "metadata-master/rwc-j.csv",
        splits="by artist: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.RWC_JAZZ),
        splitting=_BY_ARTIST,
    ),
    "rwc_classical": Dataset(
        title="RWC Classical",
        tasks=("beat", "structure"),
        tracks="about 60 recordings of 50 pieces (not checked)",
        source=f"{_AIST}, audio on request; metadata: https://github.com/magdalenafuentes/metadata",
        size="unknown",
        licence=_RWC_LICENCE,
        layout="audio/rwc-c-m01/1.wav; annotations/AIST.RWC-MDB-C-2001.{BEAT,CHORUS}; "
        "metadata-master/rwc-c.csv",
        splits="by artist: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.RWC_CLASSICAL),
        splitting=_BY_ARTIST,
    ),
    "salami": Dataset(
        title="SALAMI, with the functions of sections",
        tasks=("structure",),
        tracks="over 1300",
        source="https://github.com/bmcfee/salami-data-public, branch hierarchy-corrections; "
        f"{_NO_AUDIO}",
        size="unknown",
        licence="CC0, of the annotations",
        layout="audio/2.mp3; salami-data-public-hierarchy-corrections",
        splits="by artist: 0.7 for training, 0.1 for validation, 0.2 for testing",
        collect=partial(mir.collect_mir, mir.SALAMI),
        splitting=_BY_ARTIST,
    ),
    "guitarset": Dataset(
        title="GuitarSet, recorded by microphone",
        tasks=("beat", "chord", "key"),
        tracks="360 excerpts of about 30 s",
        source="annotation.zip and audio_mono-mic.zip of https://zenodo.org/record/3371780",
        size="about 0.7 GB (not checked)",
        licence="MIT, as mirdata has it",
        layout="audio_mono-mic/00_BN1-129-Eb_comp_mic.wav; annotation/00_BN1-129-Eb_comp.jams",
        splits="by player: 01 for testing, 03 for validation, the other four for training",
        collect=partial(mir.collect_mir, mir.GUITARSET),
        splitting=_BY_ARTIST,
    ),
    "giantsteps": Dataset(
        title="GiantSteps Key, in the revision GiantSteps+",
        tasks=("key",),
        tracks="about 600 excerpts of 2 min",
        source="audio.zip, keys.zip and original_metadata.zip of https://zenodo.org/record/1095691",
        size="unknown",
        licence="CC BY-SA 4.0",
        layout="audio/10089 Jason Sparks - Close My Eyes (Original Mix).mp3; keys_gs+; meta",
        splits="all of it is for testing, as usual",
        collect=partial(mir.collect_mir, mir.GIANTSTEPS_KEY),
    ),
    "beatport": Dataset(
        title="Beatport EDM Key",
        tasks=("key",),
        tracks="1486 excerpts of 2 min; excerpts of several keys or none are left out",
        source="audio.zip, keys.zip and original_metadata.zip of https://zenodo.org/record/1101082",
        size="unknown",
        licence="CC BY-SA 4.0",
        layout="audio/100066 Lindstrom - Monsteer (Original Mix).mp3; keys; meta",
        splits="by artist: 0.9 for training, 0.1 for validation",
        collect=partial(mir.collect_mir, mir.BEATPORT_KEY),
        splitting=Splitting(valid=0.1),
    ),
    "fma_keys": Dataset(
        title="FMA Keys",
        tasks=("key",),
        tracks="5489 recordings, 340 h",
        source="https://zenodo.org/records/10719860",
        size="unknown",
        licence="annotations for non-commercial research; audio under the licence of each artist",
        layout="fma_keys_metadata.csv, and the folders of the archives",
        splits="by artist, as the files' tags name it: 0.7 for training, 0.1 for validation, 0.2 "
        "for testing",
        collect=partial(mir.collect_mir, mir.FMA_KEYS),
        splitting=_BY_ARTIST,
    ),
    "magnatagatune": Dataset(
        title="MagnaTagATune, 50 tags",
        tasks=("tagging",),
        tracks="25 863 clips of 29 s, of which splits use some 21 000",
        source="mp3.zip.001 to .003 and annotations_final.csv of "
        "https://mirg.city.ac.uk/codeapps/the-magnatagatune-dataset; the authors' split: "
        "https://github.com/minzwon/sota-music-tagging-models, split/mtat",
        size="about 3 GB (not checked)",
        licence="CC BY-NC-SA, of the audio (not checked)",
        layout="mp3/0 to mp3/f; split/{train,valid,test,binary,tags}.npy or annotations_final.csv",
        splits="the authors', where split is there; else by folder: 0 to b, c, and d to f",
        collect=collect_magnatagatune,
    ),
    "harmonix": Dataset(
        title="Harmonix Set",
        tasks=("beat", "structure"),
        tracks="912 songs",
        source=f"https://github.com/urinieto/harmonixset; {_NO_AUDIO}",
        size="unknown",
        licence="MIT, of the annotations",
        layout="the repository, with audio/0001_12step.mp3",
        splits="by artist, in 4 folds: one for testing, the next for validation",
        collect=collect_harmonix,
        splitting=Folding(fold=0, num_folds=4),
    ),
    "giantsteps_mtg": Dataset(
        title="GiantSteps-MTG-Keys",
        tasks=("key",),
        tracks="1486 excerpts of 2 min, of which those with one sure key are used",
        source="https://github.com/GiantSteps/giantsteps-mtg-key-dataset; audio from Beatport",
        size="unknown",
        licence="unknown",
        layout="the repository, with audio/10089.LOFI.mp3",
        splits="by track: 0.9 for training, 0.1 for validation",
        collect=collect_giantsteps_mtg,
        splitting=Splitting(valid=0.1, by="track"),
    ),
}
"""Datasets by the names that users give."""
