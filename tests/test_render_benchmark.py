import json
from pathlib import Path

import pytest

from musicfm.errors import ConfigError, DataError
from musicfm.render.benchmark import (
    TEST_SETS,
    SongSet,
    fingerprint,
    render_set,
    song_sets,
    statistics,
)
from musicfm.render.composition import compose
from musicfm.render.labels import to_jams
from musicfm.render.soundfont import SoundFont
from musicfm.render.splits import split_of

FONT = SoundFont("none", "0" * 64, "none", {})


def test_the_sets_are_what_they_say_and_share_no_song() -> None:
    sets = song_sets()
    kinds = {name: {split_of(seed) for seed in songs.seeds} for name, songs in sets.items()}
    assert kinds == {
        "train": {"train"},
        "valid": {"train"},
        "test": {"test"},
        "heldout": {"heldout"},
        "degraded": {"degraded"},
    }
    assert all(len(sets[name].seeds) >= 200 for name in TEST_SETS)
    seeds = [seed for songs in sets.values() for seed in songs.seeds]
    assert len(seeds) == len(set(seeds))


@pytest.mark.parametrize("name", ["train", "valid", "test", "heldout", "degraded"])
def test_the_songs_are_those_that_were_frozen(name: str) -> None:
    songs = next(songs for songs in song_sets().values() if songs.name == name)
    for index in (0, 17, len(songs.seeds) - 1):
        jams = json.loads(json.dumps(to_jams(compose(songs.seeds[index], version=1), FONT)))
        assert fingerprint(jams) == songs.fingerprints[index]


def test_a_part_is_the_first_songs() -> None:
    songs = song_sets()["valid"]
    assert songs.part(0.1).fingerprints == songs.fingerprints[:5]
    assert len(songs.part(0.001).seeds) == 1
    with pytest.raises(ConfigError, match="part of 0 of the songs"):
        songs.part(0.0)


def test_songs_of_other_labels_are_refused(tmp_path: Path) -> None:
    songs = song_sets()["valid"].part(0.02)
    assert render_set(songs, tmp_path / "songs") == [tmp_path / "songs" / "song_1000200.flac"]
    render_set(songs, tmp_path / "songs")  # finds it there
    with pytest.raises(DataError, match=r"song_1000200\.jams has other labels"):
        render_set(SongSet("valid", songs.first_seed, ("0" * 16,)), tmp_path / "songs")


def test_statistics_count_time_and_songs() -> None:
    def jams(chord: str, tags: list[str], num_beats: int) -> dict[str, object]:
        beat = {"time": 0.0, "duration": 0.0, "value": {"num_beats": num_beats}}
        return {
            "file_metadata": {"duration": 10.0},
            "annotations": [
                {"namespace": "chord", "data": [{"time": 0.0, "duration": 5.0, "value": chord}]},
                {"namespace": "tag_open", "data": [{"value": tag} for tag in tags]},
                {"namespace": "beat_position", "data": [beat]},
            ],
        }

    found = statistics([jams("C", ["rock"], 4), jams("C", ["rock", "solo"], 3)])
    assert found["songs"] == 2
    assert found["hours"] == round(20 / 3600, 3)
    assert found["beats_per_bar"] == {"3": 1, "4": 1}
    assert found["chord"] == {"C": 0.5}
    assert found["tag_open"] == {"rock": 1.0, "solo": 0.5}


def test_the_statistics_of_the_frozen_songs_leave_nothing_out() -> None:
    path = Path(__file__).parents[1] / "src/musicfm/render/rendered_v1.json"
    for content in json.loads(path.read_bytes())["sets"].values():
        found = content["statistics"]
        assert found["songs"] == len(content["fingerprints"])
        assert sum(found["chord"].values()) == pytest.approx(1.0, abs=0.02)
        assert len(found["key_mode"]) >= 24
        assert 0.01 < min(found["tag_open"].values()) < max(found["tag_open"].values()) < 0.7
