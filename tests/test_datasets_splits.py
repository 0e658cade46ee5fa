import unicodedata
from dataclasses import replace
from typing import Any

import pytest

from musicfm.datasets.splits import Folding, SplitBy, Splitting, fold, split
from musicfm.datasets.tracks import Manifest, Track
from musicfm.errors import ConfigError


def tracks(count: int) -> list[Track]:
    """Ten tracks for each artist, five for each album."""
    return [
        Track(
            f"folder {index // 5}/{index}.mp3",
            1.0,
            1,
            1,
            1,
            1,
            f"{index:064x}",
            artist=f"Artist {index // 10}",
            album=f"Album {index // 5}",
        )
        for index in range(count)
    ]


def splits(manifest: Manifest) -> dict[str, str | None]:
    return {track.path: track.split for track in manifest}


@pytest.mark.parametrize("by", ["artist", "album", "folder", "track"])
def test_groups_stay_together_and_parts_are_as_asked_for(by: SplitBy) -> None:
    done = split(Manifest("x", tracks(5000)), Splitting(valid=0.1, test=0.2, by=by))
    for name, part in (("train", 0.7), ("valid", 0.1), ("test", 0.2)):
        count = sum(track.split == name for track in done)
        assert count / 5000 == pytest.approx(part, abs=0.06 if by == "artist" else 0.04)
    groups: dict[str, set[str | None]] = {}
    for track in done:
        key = {"folder": track.path.split("/")[0], "track": track.path}.get(by)
        groups.setdefault(key or getattr(track, by), set()).add(track.split)
    assert {len(group) for group in groups.values()} == {1}
    assert len(groups) == {"artist": 500, "album": 1000, "folder": 1000, "track": 5000}[by]


def test_adding_tracks_moves_no_others() -> None:
    few, many = (
        splits(split(Manifest("x", tracks(count)), Splitting(0.3))) for count in (200, 300)
    )
    assert few.items() <= many.items()
    assert splits(split(Manifest("x", tracks(200)), Splitting(0.3, seed=1))) != few


@pytest.mark.parametrize("seed", range(20))
def test_few_groups_leave_no_part_without_any(seed: int) -> None:
    def parts(count: int, how: Splitting, given: list[Track] | None = None) -> set[str | None]:
        return {track.split for track in split(Manifest("x", (given or []) + tracks(count)), how)}

    whole = Splitting(0.05, 0.05, "track", seed)
    for count in (3, 4, 8):
        assert parts(count, whole) == {"train", "valid", "test"}
        assert parts(count, replace(whole, test=0.0)) == {"train", "valid"}
        assert parts(count, Splitting(0.9, 0.0, "track", seed)) == {"train", "valid"}
    assert parts(30, replace(whole, by="artist")) == {"train", "valid", "test"}
    assert len(parts(20, replace(whole, by="artist"))) <= 2  # two artists are not divided
    taken = [replace(tracks(1)[0], path="taken", sha256="f" * 64, split="test")]
    assert parts(2, whole, taken) == {"train", "valid", "test"}


def test_given_splits_stay() -> None:
    given = [replace(track, split="test") for track in tracks(50)]
    done = split(
        Manifest("x", given + [replace(t, path=f"b{t.path}") for t in tracks(50)]), Splitting()
    )
    assert [track.split for track in done][:50] == ["test"] * 50
    assert "test" not in [track.split for track in done][50:]


def test_what_names_no_artist_is_split_by_album_and_folder() -> None:
    anonymous = [replace(track, artist="") for track in tracks(500)]
    nameless = [replace(track, album="") for track in anonymous]
    by_album = splits(split(Manifest("x", anonymous), Splitting(0.3, by="artist")))
    assert by_album == splits(split(Manifest("x", anonymous), Splitting(0.3, by="album")))
    by_folder = splits(split(Manifest("x", nameless), Splitting(0.3, by="artist")))
    assert by_folder == splits(split(Manifest("x", nameless), Splitting(0.3, by="folder")))
    flat = Manifest("x", [replace(track, path=track.path.split("/")[1]) for track in nameless])
    one_by_one = splits(split(flat, Splitting(0.3, by="artist")))
    assert one_by_one == splits(split(flat, Splitting(0.3, by="track")))


@pytest.mark.parametrize("by", ["artist", "album", "folder"])
def test_names_in_either_form_of_unicode_are_one(by: SplitBy) -> None:
    def named(form: Any) -> list[Track]:
        def change(text: str) -> str:
            return unicodedata.normalize(form, f"{text} Zoë Ångström の가")

        return [
            replace(
                track,
                path=f"{change(track.path.split('/')[0])}/{form} {index}.mp3",
                artist=change(track.artist),
                album=change(track.album),
                sha256=f"{form}{index}",
            )
            for index, track in enumerate(tracks(200))
        ]

    composed, decomposed = named("NFC"), named("NFD")
    both = Manifest("x", composed + decomposed)
    done = [track.split for track in split(both, Splitting(valid=0.3, by=by))]
    assert done[:200] == done[200:]
    assert [track.artist for track in both] == [t.artist for t in composed + decomposed]
    alone = split(Manifest("x", composed), Splitting(valid=0.3, by=by))
    assert done[:200] == [track.split for track in alone]
    assert {track.split for track in alone} == {"train", "valid"}


def test_splits_are_those_of_earlier_versions() -> None:
    named = [replace(track, artist=f"Björk {track.artist}") for track in tracks(100)]
    done = split(Manifest("x", named), Splitting(valid=0.3))
    assert [number for number in range(10) if done[10 * number].split == "valid"] == [2, 4]


def test_copies_go_to_one_split() -> None:
    originals = tracks(200)
    copies = [replace(track, path=f"copy of {track.path}") for track in originals]
    both = Manifest("x", originals + copies)
    done = [track.split for track in split(both, Splitting(by="track"))]
    assert done[:200] == done[200:]


@pytest.mark.parametrize("parts", [{"valid": 1.0}, {"valid": -0.1}, {"valid": 0.5, "test": 0.5}])
def test_impossible_parts_are_refused(parts: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="leave something for training"):
        Splitting(**parts)
    other: Any = "mood"
    with pytest.raises(ConfigError, match="not by 'mood'"):
        Splitting(by=other)


def test_folds_are_each_tested_once_and_validated_before() -> None:
    manifest = Manifest("x", tracks(2000))
    folds = [splits(fold(manifest, Folding(index, 4))) for index in range(4)]
    for path in folds[0]:
        seen = [done[path] for done in folds]
        assert sorted(map(str, seen)) == ["test", "train", "train", "valid"]
        assert seen[seen.index("test") - 1] == "valid"
    for done in folds:
        assert list(done.values()).count("test") / 2000 == pytest.approx(0.25, abs=0.08)


@pytest.mark.parametrize("by", ["artist", "album", "folder"])
def test_folds_divide_no_group(by: SplitBy) -> None:
    groups: dict[str, set[str | None]] = {}
    for track in fold(Manifest("x", tracks(1000)), Folding(1, 5, by=by)):
        key = track.path.split("/")[0] if by == "folder" else getattr(track, by)
        groups.setdefault(key, set()).add(track.split)
    assert {len(group) for group in groups.values()} == {1}


def test_folds_do_not_depend_on_other_tracks() -> None:
    few, many = (splits(fold(Manifest("x", tracks(n)), Folding(2, 4))) for n in (200, 300))
    assert few.items() <= many.items()
    assert splits(fold(Manifest("x", tracks(200)), Folding(2, 4, seed=1))) != few
    given = [replace(track, split="train") for track in tracks(50)]
    assert {track.split for track in fold(Manifest("x", given), Folding())} == {"train"}


@pytest.mark.parametrize("folds", [(4, 4), (-1, 4), (0, 2)])
def test_impossible_folds_are_refused(folds: tuple[int, int]) -> None:
    with pytest.raises(ConfigError, match="is impossible; there are at least 3 folds"):
        Folding(*folds)
    other: Any = "mood"
    with pytest.raises(ConfigError, match="not by 'mood'"):
        Folding(by=other)
