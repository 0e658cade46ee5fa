from pathlib import Path

import numpy as np
import pytest

import trees
from musicfm.datasets.catalogue import read_dataset
from musicfm.errors import DataError

HEAD = (
    "File,Title,Artist,Release,Duration,BPM,Ratio Bars in 4,Time Signature,Genre,MusicBrainz Id,"
    "Acoustid Id\n"
)
ROWS = """\
0001_12step,"1, 2 Step",Ciara,Goodies,3.0,113,100.0,4|4,R&B,0408655f,
0003_6foot7foot,6 Foot 7 Foot,Lil Wayne,Tha Carter IV,n/a,84,100.0,4|4,Hip-Hop,83347ae2,
0004_abc,ABC,The Jackson 5,Hits for Kids,180.955,94,94.59459459,4|4,Pop-Rock,5f1604ed,
"""
BEATS = "0.5\t1\t1\n1.0\t2\t1\n1.5\t1\t2\n2.0\t2\t2\n"
SEGMENTS = "0.0 silence\n0.5 verse\n1.5 chorus\n2.5 end\n"


def write_harmonix(folder: Path) -> Path:
    """Three tracks in the genuine layout."""
    trees.write_text(folder / "dataset" / "metadata.csv", HEAD + ROWS)
    for name in ("0001_12step", "0003_6foot7foot", "0004_abc"):
        trees.write_audio(folder / "audio" / f"{name}.flac")
        trees.write_text(folder / "dataset" / "beats_and_downbeats" / f"{name}.txt", BEATS)
        trees.write_text(folder / "dataset" / "segments" / f"{name}.txt", SEGMENTS)
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return write_harmonix(tmp_path)


def test_beats_and_sections_are_read(home: Path) -> None:
    found = read_dataset("harmonix", home, num_workers=1)
    (other,) = found.problems
    assert "0004_abc.flac is about 181.0 s of audio, and the audio has 3.0 s" in other
    step = found.tracks[0]
    assert (step.track.artist, step.track.title) == ("Ciara", "1, 2 Step")
    assert step.annotations.beats is not None
    assert step.annotations.beats.downbeats.tolist() == [0.5, 1.5]
    segments = step.annotations.segments
    assert segments is not None
    assert segments.labels == ("silence", "verse", "chorus", "end")
    np.testing.assert_allclose(segments.intervals[-1], [2.5, 3.0])  # until the audio ends
    assert all(item.track.split is not None for item in found.tracks)


def test_a_damaged_file_costs_its_kind_only(home: Path) -> None:
    folder = home / "dataset"
    bad = trees.write_text(folder / "segments" / "0001_12step.txt", "0.0 intro\nsoon verse\n")
    (folder / "beats_and_downbeats" / "0003_6foot7foot.txt").unlink()
    (home / "audio" / "0004_abc.flac").unlink()
    found = read_dataset("harmonix", home, num_workers=1)
    step, foot = found.tracks
    assert step.annotations.segments is None
    assert step.annotations.beats is not None
    assert foot.annotations.beats is None
    assert foot.annotations.segments is not None
    problems = "\n".join(found.problems)
    assert f"{bad}, line 2 is not a section: 'soon verse'" in problems
    assert "0003_6foot7foot.txt: No such file" in problems
    assert "0004_abc.mp3 is not there" in problems
    assert len(found.problems) == 3


def test_annotations_of_longer_music_are_not_used(home: Path) -> None:
    trees.write_text(home / "dataset" / "segments" / "0001_12step.txt", "0.0 intro\n60.0 end\n")
    found = read_dataset("harmonix", home, num_workers=1)
    assert found.tracks[0].annotations.segments is None
    assert any("they go on until 60.0 s" in problem for problem in found.problems)


def test_a_table_is_needed(home: Path) -> None:
    trees.write_text(home / "dataset" / "metadata.csv", "a,b\n")
    with pytest.raises(DataError, match=r"metadata\.csv has no column 'File'"):
        read_dataset("harmonix", home)
