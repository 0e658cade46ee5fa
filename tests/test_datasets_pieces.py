from pathlib import Path

import numpy as np
import pytest

import trees
from musicfm.datasets.annotations import Annotations, Read
from musicfm.datasets.pieces import (
    Collected,
    Piece,
    key_name,
    read_beats,
    read_pieces,
    rows_of,
    whole,
    whole_key,
)
from musicfm.datasets.splits import Folding, Splitting
from musicfm.errors import DataError

TAGGED = whole(Annotations(tags={"rock": 1.0}))


def refuse(duration: float) -> Read:
    raise DataError("song.txt is damaged")


def test_pieces_become_labelled_tracks(tmp_path: Path) -> None:
    trees.write_audio(tmp_path / "a" / "one.wav")
    trees.write_audio(tmp_path / "b" / "two.flac", 2.0)
    pieces = [
        Piece(tmp_path / "a" / "one.wav", TAGGED, artist="X", album="Y", title="Z", split="test"),
        # There in another format, and by a path that goes up.
        Piece(tmp_path / "a" / ".." / "b" / "two.wav", whole_key("C:minor")),
    ]
    found = read_pieces(Collected(pieces, ["known to be bad"]), None, num_workers=1)
    one, two = found.tracks
    assert (one.track.artist, one.track.album, one.track.title) == ("X", "Y", "Z")
    assert (one.track.split, two.track.split) == ("test", None)
    assert two.audio == tmp_path / "b" / "two.flac"
    assert two.annotations.keys is not None
    np.testing.assert_allclose(two.annotations.keys.intervals, [[0.0, 2.0]])
    assert found.problems == ("known to be bad",)


def test_what_is_asked_for_takes_the_place_of_own_splits(tmp_path: Path) -> None:
    pieces = [
        Piece(trees.write_audio(tmp_path / f"{n}.wav", 0.1), TAGGED, artist=str(n), split="test")
        for n in range(12)
    ]
    halved = read_pieces(Collected(pieces), Splitting(valid=0.5), num_workers=1)
    assert {item.track.split for item in halved.tracks} == {"train", "valid"}
    folds = [read_pieces(Collected(pieces), Folding(n, 3), num_workers=1) for n in range(3)]
    tested = [item.audio for fold in folds for item in fold.of_split("test")]
    assert sorted(tested) == sorted(piece.audio for piece in pieces)


def test_what_cannot_be_used_is_reported(tmp_path: Path) -> None:
    pieces = [
        Piece(trees.write_audio(tmp_path / "good.wav"), TAGGED),
        Piece(tmp_path / "good.wav", TAGGED),
        Piece(tmp_path / "absent.wav", TAGGED),
        Piece(tmp_path / f"{'x' * 300}.wav", TAGGED),
        Piece(trees.write_text(tmp_path / "broken.wav", "no sound"), TAGGED),
        Piece(trees.write_audio(tmp_path / "refused.wav"), refuse),
        Piece(trees.write_audio(tmp_path / "bare.wav"), whole(Annotations())),
    ]
    found = read_pieces(Collected(pieces), None, num_workers=1)
    assert [item.audio.name for item in found.tracks] == ["good.wav"]
    problems = "\n".join(found.problems)
    assert f"{tmp_path / 'good.wav'} is listed twice" in problems
    assert f"{tmp_path / 'absent.wav'} is not there" in problems
    assert str(tmp_path / "broken.wav") in problems
    assert "song.txt is damaged" in problems
    assert f"{tmp_path / 'bare.wav'} has no annotations that can be used" in problems
    assert len(found.problems) == 6
    with pytest.raises(DataError, match=r"no track .* first of 1 problems: .*absent\.wav is not"):
        read_pieces(Collected([pieces[2]]), None, num_workers=1)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("D# minor", "D#:minor"),
        ("C# major ", "C#:major"),
        ("Bb Major", "Bb:major"),
        ("-", None),
        ("C minor / F minor", None),
        ("A# major / minor", None),
        ("G minor/major", None),
        ("F / F# minor", None),
        ("C other", None),
        ("", None),
    ],
)
def test_only_a_single_major_or_minor_key_is_one(text: str, name: str | None) -> None:
    assert key_name(text) == name


def test_damaged_files_of_beats_are_named(tmp_path: Path) -> None:
    path = trees.write_text(tmp_path / "a.beats", "0.5\t1\n1.0\t2\t7\n")
    assert read_beats(path).positions.tolist() == [1, 2]
    with pytest.raises(DataError, match=r"a\.beats, line 2 is not a beat: 'one 2'"):
        read_beats(trees.write_text(path, "0.5 1\none 2\n"))
    with pytest.raises(DataError, match=r"a\.beats: its beats are not in order: 0\.500 s follows"):
        read_beats(trees.write_text(path, "0.5 1\n0.5 2\n"))
    with pytest.raises(DataError, match=r"a\.beats: it is empty"):
        read_beats(trees.write_text(path, ""))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"a\.beats is damaged"):
        read_beats(path)
    with pytest.raises(DataError, match=r"no file can be called .*a\\x00b"):
        read_beats(tmp_path / "a\0b")


def test_tables_lack_no_column(tmp_path: Path) -> None:
    path = trees.write_text(tmp_path / "t.csv", "a,b\n1,2\n3\n")
    assert list(rows_of(path, ["a", "b"], ",")) == [{"a": "1", "b": "2"}, {"a": "3", "b": ""}]
    with pytest.raises(DataError, match=r"t\.csv has no column 'c'"):
        list(rows_of(path, ["c"], ","))
