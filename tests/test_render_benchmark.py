import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from musicfm.errors import ConfigError, DataError
from musicfm.render.benchmark import (
    TEST_SETS,
    SongSet,
    find_compositions,
    find_fonts,
    fingerprint,
    name_v2,
    render_set,
    song_sets,
    song_sets_v2,
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
    with pytest.raises(ConfigError, match="fraction of 0 of the songs"):
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


# rendered-v2


def test_the_sets_of_the_second_benchmark_share_no_song_and_differ_as_they_say() -> None:
    sets = song_sets_v2()
    kinds = {name: {split_of(seed) for seed in songs.seeds} for name, songs in sets.items()}
    assert kinds == {
        "train": {"train"}, "valid": {"train"}, "all": {"heldout"}, "test": {"test"},
        "fonts": {"test"}, "compositions": {"test"}, "heldout": {"heldout"},
        "degraded": {"degraded"},
    }  # fmt: skip
    seeds = [
        seed for some in (sets, song_sets()) for songs in some.values() for seed in songs.seeds
    ]
    assert len(seeds) == len(set(seeds))
    train = set(sets["train"].fonts)
    for name, songs in sets.items():
        assert len(songs.seeds) == {"train": 200, "valid": 50}.get(name, 100)
        assert (not set(songs.fonts) & train) == (name in ("all", "fonts"))
        assert bool(songs.compositions) == (name in ("all", "compositions"))
        assert (songs.version, songs.max_seconds) == (2, 60.0)


def test_the_quick_variant_has_the_songs_that_need_no_download() -> None:
    quick, full = song_sets_v2(quick=True), song_sets_v2()
    assert set(quick) == {"train", "valid", "test", "heldout", "degraded"}
    for name, songs in quick.items():
        assert songs.fonts == ()
        assert songs.fingerprints == full[name].fingerprints
    assert name_v2(quick=True).startswith("rendered-v2-quick-")
    assert name_v2() == f"rendered-v2-{name_v2(quick=True)[-8:]}"


@pytest.mark.parametrize("name", ["train", "valid", "test", "fonts", "heldout", "degraded"])
def test_the_songs_of_the_second_benchmark_are_those_that_were_frozen(name: str) -> None:
    songs = next(songs for songs in song_sets_v2().values() if songs.name == name)
    for index in (0, len(songs.seeds) - 1):
        song = compose(songs.seeds[index], max_seconds=songs.max_seconds, anywhere=True)
        jams = json.loads(json.dumps(to_jams(song, FONT)))
        assert fingerprint(jams) == songs.fingerprints[index]


def test_other_fonts_and_compositions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "FluidR3_GM.sf2").write_bytes(b"something else")
    message = (
        r"rendered-v2 needs the sound font FluidR3_GM\.sf2 of Debian's package fluid-soundfont-gm"
    )
    with pytest.raises(DataError, match=message):
        find_fonts(tmp_path)
    with pytest.raises(DataError, match="POP909 is missing or something else"):
        find_compositions(tmp_path)


def test_a_set_is_rendered_with_its_fonts(tmp_path: Path, timgm6mb: SoundFont) -> None:
    font = tmp_path / "sources" / "TimGM6mb.sf2"
    font.parent.mkdir()
    found = importlib.util.find_spec("pretty_midi")
    assert found is not None
    assert found.origin is not None
    shutil.copy(Path(found.origin).with_name("TimGM6mb.sf2"), font)
    one = replace(song_sets_v2()["valid"].part(0.02), fonts=(timgm6mb.sha256,) * 2)
    fonts = {timgm6mb.sha256: font}
    (path,) = render_set(one, tmp_path / "songs", fonts=fonts, num_workers=1)
    jams = json.loads(path.with_suffix(".jams").read_text())
    assert jams["file_metadata"]["duration"] == 60.0
    (played,) = jams["sandbox"]["sound_fonts"]
    assert played["sha256"] == timgm6mb.sha256
