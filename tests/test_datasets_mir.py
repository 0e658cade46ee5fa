"""Datasets that mirdata reads, in their genuine layouts and formats."""

import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trees
from musicfm.datasets.catalogue import read_dataset
from musicfm.datasets.labelled import Labelled, LabelledTrack
from musicfm.errors import ConfigError, DataError

# Said by what smart_open, which mirdata needs, imports of Google's.
pytestmark = pytest.mark.filterwarnings("ignore:Please install grpcio-status:ImportWarning")

WriteIndex = Callable[[str, Mapping[str, Mapping[str, str | None]]], Path]


@pytest.fixture
def write_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> WriteIndex:
    """Gives mirdata the index of a small dataset, where it looks for the downloaded one."""
    pytest.importorskip("mirdata")

    def write(name: str, tracks: Mapping[str, Mapping[str, str | None]]) -> Path:
        indexes = importlib.import_module(f"mirdata.datasets.{name}").INDEXES
        index = indexes[indexes["default"]]
        monkeypatch.setattr(index, "indexes_dir", str(tmp_path / "indexes"))
        content = {
            "version": "1.0",
            "tracks": {
                track: {key: [path, path and "0" * 32] for key, path in files.items()}
                for track, files in tracks.items()
            },
        }
        trees.write_text(Path(index.get_path()), json.dumps(content))
        for files in tracks.values():
            for key, path in files.items():
                if path is not None and key in ("audio", "audio_mic"):
                    trees.write_audio(tmp_path / "data" / path)
        return tmp_path / "data"

    return write


def read(name: str, home: Path) -> tuple[Labelled, dict[str, LabelledTrack]]:
    found = read_dataset(name, home, num_workers=1)
    return found, {item.audio.stem: item for item in found.tracks}


def gtzan(number: int, genre: str = "hiphop") -> dict[str, str | None]:
    name = f"{genre}.{number:05d}"
    return {
        "audio": f"gtzan_genre/genres/{genre}/{name}.wav",
        "beats": f"gtzan_tempo_beat-main/beats/gtzan_{genre}_{number:05d}.beats",
        "tempo": f"gtzan_tempo_beat-main/tempo/gtzan_{genre}_{number:05d}.bpm",
    }


def test_gtzan(write_index: WriteIndex) -> None:
    # 2 is for training, and 39 a repetition; beats of 3 lack, those of 4 are damaged.
    tracks = {f"hiphop.{number:05d}": gtzan(number) for number in (0, 2, 39, 3, 4)}
    home = write_index("gtzan_genre", tracks)
    beats = home / "gtzan_tempo_beat-main" / "beats"
    for number in (2, 39):
        trees.write_text(beats / f"gtzan_hiphop_{number:05d}.beats", "0.5\t4\n1.0\t1\n1.5\t2\n")
    trees.write_text(beats / "gtzan_hiphop_00000.beats", "0.5\n1.0\n")
    trees.write_text(beats / "gtzan_hiphop_00004.beats", "0.5\t1\nhalf\n")
    found, items = read("gtzan", home)
    assert items["hiphop.00000"].annotations.beats is not None
    assert items["hiphop.00000"].annotations.beats.positions.tolist() == [0, 0]
    assert items["hiphop.00002"].annotations.beats is not None
    assert items["hiphop.00002"].annotations.beats.positions.tolist() == [4, 1, 2]
    assert items["hiphop.00002"].annotations.tags == {"hip-hop": 1.0}
    assert [item.track.split for item in items.values()] == [
        "test",
        "train",
        "train",
        "train",
        None,
    ]
    assert items["hiphop.00039"].annotations.tags is None
    assert items["hiphop.00039"].annotations.beats is not None
    problems = "\n".join(found.problems)
    assert "the fault-filtered split leaves hiphop.00039 out" in problems
    assert "gtzan_hiphop_00003.beats is not there" in problems
    assert "gtzan_hiphop_00004.beats: the beats are not used" in problems
    assert len(found.problems) == 3


def test_ballroom(write_index: WriteIndex) -> None:
    name = "Media-105901"
    home = write_index(
        "ballroom",
        {
            name: {
                "audio": f"B_1.0/audio/Waltz/{name}.wav",
                "beats": f"B_1.0/annotations/beats/{name}.beats",
                "tempo": f"B_1.0/annotations/tempo/{name}.bpm",
            }
        },
    )
    trees.write_text(home / "B_1.0" / "annotations" / "beats" / f"{name}.beats", "0.3 3\n0.9 1\n")
    _, items = read("ballroom", home)
    beats = items[name].annotations.beats
    assert beats is not None
    assert beats.downbeats.tolist() == [0.9]


@pytest.mark.parametrize(("name", "band"), [("beatles", "The Beatles"), ("queen", "Queen")])
def test_isophonics(write_index: WriteIndex, name: str, band: str) -> None:
    album = "01_-_Please_Please_Me"
    songs = {}
    for song in ("11_-_Secret", "12_-_Honey"):
        songs[song] = {
            "audio": f"audio/{album}/{song}.wav",
            "chords": f"annotations/chordlab/{band}/{album}/{song}.lab",
            "keys": f"annotations/keylab/{band}/{album}/{song}.lab",
            "sections": f"annotations/seglab/{band}/{album}/{song}.lab",
        }
        if name == "beatles":
            songs[song]["beat"] = f"annotations/beat/{band}/{album}/{song}.txt"
    home = write_index(name, songs)
    labels = home / "annotations"
    tail = Path(band, album, "11_-_Secret")
    trees.write_text(labels / "chordlab" / f"{tail}.lab", "0.0\t1.0\tN\n1.0\t2.0\tE:min/b3\n")
    trees.write_text(
        labels / "keylab" / f"{tail}.lab", "0.0\t0.5\tSilence\n0.5\t3.0\tKey\tE:minor\n"
    )
    trees.write_text(labels / "seglab" / f"{tail}.lab", "0.0\t0.5\t0\tsilence\n0.5\t3\t0\tverse\n")
    trees.write_text(labels / "beat" / f"{tail}.txt", "0.50\t4\n1.00\t1\n1.50\tNew Point\n2.0\t3\n")
    tail = tail.with_name("12_-_Honey")
    trees.write_text(labels / "chordlab" / f"{tail}.lab", "0.0\t1.0\tperhaps\n")
    trees.write_text(labels / "seglab" / f"{tail}.lab", "0.0\t3.0\t0\toutro\n")
    found, items = read(name, home)
    secret = items["11_-_Secret"]
    assert (secret.track.artist, secret.track.album) == ("", album)
    annotations = secret.annotations
    assert annotations.chords is not None
    assert annotations.chords.labels == ("N", "E:min/b3")
    assert annotations.keys is not None
    assert annotations.keys.labels == ("E:minor",)
    assert annotations.keys.intervals.tolist() == [[0.5, 3.0]]
    assert annotations.segments is not None
    assert annotations.segments.labels == ("silence", "verse")
    if name == "beatles":
        assert annotations.beats is not None
        assert annotations.beats.positions.tolist() == [4, 1, 2, 3]
    assert items["12_-_Honey"].annotations.segments is not None
    problems = "\n".join(found.problems)
    assert "12_-_Honey.lab: the chords are not used: chords ['perhaps']" in problems
    assert str(labels / "keylab" / f"{tail}.lab is not there") in problems


SALAMI_CHORDS = """\
# title: I Don't Mind
# artist: James Brown
# metre: 6/8
# tonic: C

0.0\tsilence
0.1\tA, intro, | A:min | A:min |, (guitar)
0.5\tB, verse, | C:maj | A:min |, (voice
1.0\t| C:maj | A:min |, voice), (guitar)
1.5\tC, | D:maj |, (organ)
2.0\tZ, fadeout
2.5\tsilence
2.9\tend
"""


def test_billboard(write_index: WriteIndex) -> None:
    folder = "McGill-Billboard/0003"
    labs = ("full", "majmin7", "majmin7inv", "majmin", "majmininv")
    files: dict[str, str | None] = {f"lab_{lab}": f"{folder}/{lab}.lab" for lab in labs}
    files |= {
        "audio": "audio/1960s/James Brown/I Don't Mind/audio.flac",
        "salami": f"{folder}/salami_chords.txt",
        "bothchroma": f"{folder}/bothchroma.csv",
        "tuning": f"{folder}/tuning.csv",
    }
    home = write_index("billboard", {"3": files, "4": files})
    with pytest.raises(DataError, match="lacks what billboard says of its tracks: Metadata not"):
        read("billboard", home)
    trees.write_text(
        home / "billboard-2.0-index.csv",
        "id,chart_date,target_rank,actual_rank,title,artist,peak_rank,weeks_on_chart\n"
        "3,1961-07-03,56,57,I Don't Mind,James Brown,47,11\n",
    )
    trees.write_text(home / folder / "salami_chords.txt", SALAMI_CHORDS)
    trees.write_text(home / folder / "full.lab", "0.0\t0.1\tN\n0.1\t2.0\tA:min\n\n")
    found, items = read("billboard", home)
    assert items["audio"].track.artist == "James Brown"
    segments = items["audio"].annotations.segments
    assert segments is not None
    assert segments.labels == ("silence", "intro", "verse", "no_function", "fadeout", "silence")
    assert segments.intervals[2].tolist() == [0.5, 1.5]  # what follows has no name
    assert items["audio"].annotations.chords is not None
    assert items["audio"].annotations.chords.labels == ("N", "A:min")
    assert "audio.flac is listed twice" in found.problems[0]


@pytest.mark.parametrize("letter", ["p", "j", "c"])
def test_rwc(write_index: WriteIndex, letter: str) -> None:
    name = {"p": "rwc_popular", "j": "rwc_jazz", "c": "rwc_classical"}[letter]
    group = f"annotations/AIST.RWC-MDB-{letter.upper()}-2001"
    track = f"RM-{letter.upper()}001"
    files: dict[str, str | None] = {
        "audio": f"audio/rwc-{letter}-m01/1.wav",
        "sections": f"{group}.CHORUS/{track}.CHORUS.TXT",
        "beats": f"{group}.BEAT/{track}.BEAT.TXT",
    }
    if letter == "p":
        files["chords"] = f"{group}.CHORD/RWC_Pop_Chords/N001-M01-T01.lab"
        files["voca_inst"] = f"{group}.VOCA_INST/{track}.VOCA_INST.TXT"
    home = write_index(name, {track: files})
    middle = {"p": "Kazuo Nishi,Male,03:29,135,Gt,Drum", "j": "Kazuo Nishi,03:29,Solo,Pf"}
    row = f"No. 1,M01,Tr. 01,Eien no replica,{middle.get(letter, 'Bach,Kazuo Nishi,03:29,Solo')}"
    head = "Piece No.,Cat. Suffix,Tr. No.,Title" + ",x" * (row.count(",") - 3)
    trees.write_text(home / "metadata-master" / f"rwc-{letter}.csv", f"{head}\n{row}\n")
    trees.write_text(
        home / str(files["beats"]), "4\t4\t384\n49\t49\t48\n93\t93\t384\n137\t137\t48\n"
    )
    trees.write_text(home / str(files["sections"]), "4\t93\tintro\n93\t280\tchorus A\n")
    if letter == "p":
        trees.write_text(home / str(files["chords"]), "0.0\t1.0\tC:maj\n1.0\t2.0\tG:7\n")
    found, items = read(name, home)
    assert found.problems == ()
    annotations = items["1"].annotations
    assert items["1"].track.artist == "Kazuo Nishi"
    assert annotations.beats is not None
    np.testing.assert_allclose(annotations.beats.times, [0.04, 0.49, 0.93, 1.37])
    assert annotations.beats.positions.tolist() == [1, 2, 1, 2]
    assert annotations.segments is not None
    assert annotations.segments.labels == ("intro", "chorus A")
    assert (annotations.chords is not None) == (letter == "p")


def test_salami(write_index: WriteIndex) -> None:
    root = "salami-data-public-hierarchy-corrections"
    tracks: dict[str, dict[str, str | None]] = {}
    for track in ("2", "3"):
        tracks[track] = {"audio": f"audio/{track}.mp3"}
        for annotator in (1, 2):
            for case in ("uppercase", "lowercase"):
                path = f"{root}/annotations/{track}/parsed/textfile{annotator}_{case}.txt"
                tracks[track][f"annotator_{annotator}_{case}"] = path
    tracks["2"]["annotator_1_uppercase"] = None
    home = write_index("salami", tracks)
    head = "SONG_ID,SOURCE,ANNOTATOR1,ANNOTATOR2,DOUBLE,SONG_DURATION,X,TITLE,ARTIST" + ",x" * 7
    row = "Codaich,5,8,FALSE,3,,For_God_And_Country,The_Smashing_Pumpkins" + "," * 7
    trees.write_text(home / root / "metadata" / "metadata.csv", f"{head}\n2,{row}\n3,{row}\n")
    trees.write_text(
        home / root / "annotations" / "2" / "parsed" / "textfile2_functions.txt",
        "0.0\tSilence\n0.5\tIntro\n1.0\tno_function\n2.0\tVerse\n2.9\tEnd\n",
    )
    found, items = read("salami", home)
    segments = items["2"].annotations.segments
    assert segments is not None
    assert segments.labels == ("Silence", "Intro", "no_function", "Verse")
    assert items["2"].track.artist == "The_Smashing_Pumpkins"
    assert "no annotator gave functions to track 3" in found.problems[0]
    assert list(items) == ["2"]


def test_guitarset(write_index: WriteIndex) -> None:
    name = "03_BN3-119-G_solo"
    home = write_index(
        "guitarset",
        {
            name: {
                "audio_hex_cln": f"audio_hex-pickup_debleeded/{name}_hex_cln.wav",
                "audio_hex": f"audio_hex-pickup_original/{name}_hex.wav",
                "audio_mic": f"audio_mono-mic/{name}_mic.wav",
                "audio_mix": f"audio_mono-pickup_mix/{name}_mix.wav",
                "jams": f"annotation/{name}.jams",
            }
        },
    )

    def annotation(namespace: str, *values: Any) -> dict[str, Any]:
        rows = [
            {"time": float(n), "duration": 1.0, "value": value, "confidence": None}
            for n, value in enumerate(values)
        ]
        return {"namespace": namespace, "data": rows}

    beats = ({"position": n, "measure": 1, "num_beats": 4, "beat_units": 4} for n in (1, 2, 3))
    content = {
        "annotations": [
            annotation("beat_position", *beats),
            annotation("chord", "G:maj", "C:maj"),
            annotation("chord", "G:maj(9)/1", "C:maj/5"),
            annotation("key_mode", "G:major"),
        ],
        "file_metadata": {"duration": 3.0},
    }
    trees.write_text(home / "annotation" / f"{name}.jams", json.dumps(content))
    found, items = read("guitarset", home)
    assert found.problems == ()
    item = items[f"{name}_mic"]
    assert item.track.artist == "player 03"
    assert item.annotations.chords is not None
    assert item.annotations.chords.labels == ("G:maj", "C:maj")
    assert item.annotations.beats is not None
    assert item.annotations.beats.positions.tolist() == [1, 2, 3]
    assert item.annotations.keys is not None


@pytest.mark.parametrize(
    ("name", "mirdata_name", "keys"),
    [("giantsteps", "giantsteps_key", "keys_gs+"), ("beatport", "beatport_key", "keys")],
)
def test_electronic_dance_music(
    write_index: WriteIndex, name: str, mirdata_name: str, keys: str
) -> None:
    titles = ["10089 Jason Sparks - Close My Eyes (Original Mix)", "11 A - B", "12 C - D"]
    home = write_index(
        mirdata_name,
        {
            str(n): {
                "audio": f"audio/{title}.mp3",
                "meta": f"meta/{title}.json",
                "key": f"{keys}/{title}.txt",
            }
            for n, title in enumerate(titles)
        },
    )
    trees.write_text(
        home / "meta" / f"{titles[0]}.json",
        json.dumps({"artists": [{"name": "Jason Sparks"}, {"name": "J. Little"}]}),
    )
    trees.write_text(home / "meta" / f"{titles[2]}.json", "{")
    trees.write_text(home / keys / f"{titles[0]}.txt", "D major")
    trees.write_text(home / keys / f"{titles[1]}.txt", "D minor | F major")
    trees.write_text(home / keys / f"{titles[2]}.txt", "D minor")
    found, items = read(name, home)
    (item,) = items.values()
    assert item.track.artist == "Jason Sparks, J. Little"
    assert item.annotations.keys is not None
    assert item.annotations.keys.labels == ("D:major",)
    if name == "giantsteps":
        assert item.track.split == "test"
    problems = "\n".join(found.problems)
    assert f"track 2 of {mirdata_name} in {home} cannot be used" in problems
    assert "is not a single major or minor key" in problems


def test_fma_keys(write_index: WriteIndex) -> None:
    home = write_index(
        "fma_keys", {"2": {"audio": "000/000002.mp3"}, "5": {"audio": "000/000005.mp3"}}
    )
    with pytest.raises(DataError, match="lacks what fma_keys says of its tracks"):
        read("fma_keys", home)
    table = "track_id,spotify_uri,key_and_mode\n2,,C# minor\n"
    trees.write_text(home / "fma_keys_metadata.csv", table)
    found, items = read("fma_keys", home)
    assert items["000002"].annotations.keys is not None
    assert items["000002"].annotations.keys.labels == ("C#:minor",)
    assert "track 5 of fma_keys" in found.problems[0]


def test_an_index_that_is_not_there_is_named_with_how_to_get_it(
    write_index: WriteIndex, tmp_path: Path
) -> None:
    home = write_index("ballroom", {})
    (tmp_path / "indexes" / "ballroom_full_index_1.0.json").unlink()
    home.mkdir()
    with pytest.raises(ConfigError, match=r"no list of the files of ballroom .*download\(\['index"):
        read_dataset("ballroom", home)
    trees.write_text(tmp_path / "indexes" / "ballroom_full_index_1.0.json", "{")
    with pytest.raises(DataError, match="is damaged; delete it, and download again"):
        read_dataset("ballroom", home)


def test_importing_mirdata_leaves_logging_alone(tmp_path: Path) -> None:
    pytest.importorskip("mirdata")
    program = """
import logging, sys
from pathlib import Path
from musicfm import MusicFMError
from musicfm.datasets.catalogue import read_dataset
try:
    read_dataset("ballroom", Path(sys.argv[1]))
except MusicFMError:
    assert "mirdata" in sys.modules
    assert not logging.getLogger().handlers
    assert logging.getLogger().level == logging.WARNING
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


def test_without_mirdata_one_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mirdata", None)
    with pytest.raises(ConfigError, match=r"pip install 'musicfm\[data\]'"):
        read_dataset("ballroom", tmp_path)
