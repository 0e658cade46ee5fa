from pathlib import Path

import pytest

import trees
from musicfm.datasets.catalogue import read_dataset
from musicfm.errors import DataError


def test_beats_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "H_1.0"
    trees.write_audio(folder / "audio" / "hains001.flac")
    trees.write_text(folder / "annotations" / "beats" / "hains001.beats", "0.4\t2\n0.9\t1\n")
    trees.write_audio(folder / "audio" / "hains002.flac")
    bad = trees.write_text(folder / "annotations" / "beats" / "hains002.beats", "0.4\n")
    found = read_dataset("hainsworth", tmp_path, num_workers=1)
    (item,) = found.tracks
    assert item.annotations.beats is not None
    assert item.annotations.beats.downbeats.tolist() == [0.9]
    assert found.problems == (f"{bad}, line 1 is not a beat: '0.4'",)


def test_without_beats_it_is_another_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there are no \.beats files in .*check the folder's"):
        read_dataset("hainsworth", tmp_path)
