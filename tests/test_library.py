"""A library, by Python and by the command line."""

import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import musicfm
import tones
from command_line import Run
from libraries import DIM, SETTINGS, encoded, names, recording, write_library
from musicfm.cli.lists import read_list
from musicfm.embedding.embedder import Embedder
from musicfm.errors import ConfigError, DataError, OutputError
from musicfm.library import index, transform
from musicfm.library.adding import Added, add
from musicfm.library.database import DATABASE, MIGRATIONS, Database
from musicfm.library.duplicates import candidates
from musicfm.library.fingerprints import align, fingerprint
from musicfm.library.keys import Key
from musicfm.library.library import Library
from musicfm.library.m3u import write_m3u8
from musicfm.library.playlists import between
from musicfm.library.pooling import merged, pooled
from musicfm.library.search import nearest
from musicfm.library.writing import Writer
from musicfm.model.musicfm import MusicFM

DATA = Path(__file__).with_name("data")


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of tones, in two formats."""
    folder = tmp_path_factory.mktemp("songs")
    for number, suffix in enumerate((".wav", ".flac", ".wav")):
        samples = tones.samples(number)[: 24_000 * 6]
        soundfile.write(folder / f"tone_{number}{suffix}", samples, 24_000)
    return folder


@pytest.fixture(scope="module")
def _filled(tmp_path_factory: pytest.TempPathFactory, music: Path) -> Path:
    folder = tmp_path_factory.mktemp("library") / "lib"
    summary = add(folder, [music], num_workers=1)
    assert (summary.done, summary.failures, summary.fitted) == (3, [], 1)
    return folder


@pytest.fixture
def lib(_filled: Path, tmp_path: Path) -> Path:
    """A library of three songs; a copy for each test."""
    return Path(shutil.copytree(_filled, tmp_path / "lib"))


@pytest.fixture
def drawn(tmp_path: Path) -> Library:
    """A library of forty tracks whose vectors are drawn."""
    return write_library(tmp_path, 40)


def numbers(found: Sequence[Any]) -> list[int]:
    return names([each.track.path for each in found])


def test_a_track_has_the_vector_and_the_analysis_that_embed_and_analyze_give(
    lib: Path, music: Path
) -> None:
    library = musicfm.Library(lib)
    track = library.track(music / "tone_0.wav")
    assert track is not None
    assert (track.title, track.duration, track.missing) == ("tone_0", 6.0, False)
    model = MusicFM.from_pretrained("nano")
    frames = Embedder(model)(music / "tone_0.wav").frames.numpy()
    vector = library.vectors(raw=True)[track.vector]
    np.testing.assert_allclose(vector[:192], frames.mean(axis=0), atol=1e-3)
    np.testing.assert_allclose(vector[192:], frames.std(axis=0), atol=1e-3)
    alone, analysis = musicfm.analyze(music / "tone_0.wav"), library.analysis(track)
    assert analysis is not None
    assert [beat.time for beat in analysis.beats] == pytest.approx(
        [beat.time for beat in alone.beats], abs=1e-5
    )
    assert analysis.key == alone.key == track.key
    assert track.tempo == pytest.approx(alone.tempo)
    assert library.vectors("segments").shape[0] == 3
    np.testing.assert_allclose(np.linalg.norm(library.vectors(), axis=1), 1.0, atol=1e-5)


def test_similar_as_a_table_as_json_and_as_a_playlist(
    lib: Path, music: Path, run: Run, tmp_path: Path
) -> None:
    song, out = music / "tone_0.wav", tmp_path / "lists" / "like.m3u8"
    status, printed, _ = run("library", "similar", lib, song, "--json", "--limit", 5, "--out", out)
    found = json.loads(printed)
    assert status == 0
    assert [Path(each["path"]).name for each in found] == ["tone_2.wav", "tone_1.flac"]
    assert found[0]["similarity"] > found[1]["similarity"]
    lines = out.read_text().splitlines()
    assert lines[:2] == ["#EXTM3U", "#EXTINF:6,tone_2"]
    assert not os.path.isabs(lines[2])
    assert [os.path.realpath(path) for path in read_list(out)] == [
        os.path.realpath(each["path"]) for each in found
    ]
    _, table, _ = run("library", "similar", lib, song, "--segment", "0:01-0:05")
    assert [line.split()[1:3] for line in table.splitlines()] == [["at", "0:00"]] * 2


def test_a_song_that_is_not_in_the_library_finds_itself_as_it_was(
    lib: Path, music: Path, tmp_path: Path
) -> None:
    shutil.copy(music / "tone_1.flac", tmp_path / "other.flac")
    found = Library(lib).similar(tmp_path / "other.flac")
    assert Path(found[0].track.path).name == "tone_1.flac"
    assert found[0].similarity == pytest.approx(1.0, abs=1e-3)


def test_a_table_has_a_line_for_each_track_whatever_its_name(
    lib: Path, music: Path, run: Run
) -> None:
    with sqlite3.connect(lib / DATABASE) as connection:
        connection.execute("UPDATE tracks SET path = path || char(10) || 'x', title = 'a\nb'")
    connection.close()
    _, table, _ = run("library", "similar", lib, music / "tone_0.wav")
    assert len(table.splitlines()) == 3
    assert "a\\nb" in table


def test_a_long_first_run_can_be_searched_meanwhile(
    music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musicfm.library.adding.FIRST_FIT", 2)
    found: list[int] = []
    real = Writer.write

    def write(self: Writer, *arguments: Any) -> None:
        real(self, *arguments)
        library = Library(tmp_path / "lib")
        if library.settings.transform:
            found.append(len(library.similar(music / "tone_0.wav")))

    monkeypatch.setattr(Writer, "write", write)
    monkeypatch.setattr(index, "MOST_EXACT", 2)
    assert add(tmp_path / "lib", [music], num_workers=1).fitted == 2
    assert found == [2]
    assert len([*(tmp_path / "lib").glob("*.usearch")]) == 2  # of more than two, made by itself


def test_what_moved_was_copied_or_has_other_tags_is_not_encoded_again(
    lib: Path, music: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Embedder, "batch", None)  # whoever encodes fails
    new = tmp_path / "new"
    shutil.copytree(music, new)
    ids = {track.title: track.id for track in Library(lib).tracks()}
    with pytest.MonkeyPatch.context() as gone:  # the old folder is not there any more
        gone.setattr("musicfm.library.writing.is_gone", lambda path: not path.startswith(str(new)))
        summary = add(lib, [new], num_workers=1)
    assert (summary.done, summary.recognised, summary.missing) == (0, 3, 0)
    assert {track.title: track.id for track in Library(lib).tracks()} == ids
    assert all(track.path.startswith(str(new)) for track in Library(lib).tracks())
    shutil.copy(new / "tone_0.wav", new / "copy.wav")
    summary = add(lib, [new], num_workers=1)
    assert (summary.skipped, summary.recognised) == (3, 1)
    first, copy = (Library(lib).track(new / name) for name in ("tone_0.wav", "copy.wav"))
    assert first is not None
    assert copy is not None
    assert (copy.vector, copy.segments, copy.title) == (first.vector, first.segments, "copy")
    assert Library(lib).similar(new / "copy.wav", limit=1)[0].track.id == first.id


def test_a_bad_file_is_reported_and_a_changed_one_replaced(
    lib: Path, music: Path, tmp_path: Path, run: Run
) -> None:
    new = Path(shutil.copytree(music, tmp_path / "new"))
    add(lib, [new], num_workers=1)
    before = Library(lib).track(new / "tone_0.wav")
    (new / "bad.mp3").write_bytes(b"no sound" * 100)
    soundfile.write(new / "tone_0.wav", tones.samples(1)[: 24_000 * 4], 24_000)
    status, _, errors = run("library", "add", lib, new, "--workers", 1)
    assert status == 1
    assert "failed:" in errors
    assert "1 added" in errors
    after = Library(lib).track(new / "tone_0.wav")
    assert before is not None
    assert after is not None
    assert (after.id, after.duration) == (before.id, 4.0)


def test_tracks_whose_files_are_gone_are_marked_and_pruned_on_request(
    tmp_path: Path, music: Path, published_tiny: Path
) -> None:
    lib, new = tmp_path / "lib", Path(shutil.copytree(music, tmp_path / "new"))

    def again(**options: Any) -> Added:
        return add(lib, [new], num_workers=1, **options)

    assert again(model=str(published_tiny)).done == 3
    kept = Library(lib)
    expected = {t.path: kept.vectors(raw=True)[t.vector].copy() for t in kept.tracks()}
    (new / "tone_1.flac").unlink()
    assert (again().missing, len(kept.tracks())) == (1, 3)
    assert [track.missing for track in kept.tracks()] == [False, True, False]
    assert len(kept.similar(new / "tone_0.wav")) == 1
    summary = again(prune=True)
    assert (summary.removed, summary.missing) == (1, 0)
    tracks = kept.tracks()
    assert sorted(track.vector for track in tracks) == [0, 1]
    for track in tracks:
        assert np.array_equal(kept.vectors(raw=True)[track.vector], expected[track.path])
    assert len([*lib.glob("*.f32")]) == 4


def test_another_model_is_refused_with_both_named(
    lib: Path, music: Path, published_tiny: Path
) -> None:
    with pytest.raises(ConfigError, match=r"'nano' \(.*'.*pretrained_tiny.pt'"):
        add(lib, [music], model=str(published_tiny))


def test_manifests_and_urls_are_added(
    music: Path, tmp_path: Path, published_tiny: Path, run: Run
) -> None:
    lib, listed = tmp_path / "lib", tmp_path / "songs.jsonl"
    url = f"file://{music}/tone_1.flac"
    assert run("scan", music / "tone_0.wav", music / "tone_2.wav", "--out", listed)[0] == 0
    status, _, said = run(
        "library", "add", lib, listed, url, "--model", published_tiny, "--workers", 1
    )
    assert (status, "3 added" in said) == (0, True), said
    there = {track.path for track in Library(lib).tracks()}
    assert there == {str(music / "tone_0.wav"), str(music / "tone_2.wav"), url}
    assert {each.track.path for each in Library(lib).similar(url)} == there - {url}
    status, _, said = run("library", "add", lib, listed, url, "--workers", 1)
    assert (status, "nothing new: 3 of 3 were done" in said) == (0, True), said


def test_a_second_writer_is_refused(drawn: Library) -> None:
    with drawn.database.alone(), pytest.raises(OutputError, match="another run is writing to"):
        drawn.fit()


def test_vectors_whose_track_was_never_written_are_overwritten(
    drawn: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "music" / "late.mp3"
    path.write_bytes(b"late")
    writer = Writer(drawn.database)

    class Killed(BaseException):
        pass

    def kill(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("musicfm.library.writing._insert", kill)
        with pytest.raises(Killed):
            writer.write(recording(path), "late", encoded(99))
    assert len(drawn.tracks()) == len(drawn.vectors()) == 40
    assert drawn.database.raw_path("tracks", drawn.settings).stat().st_size == 41 * 2 * DIM * 4
    writer.write(recording(path), "late", encoded(7))
    track = drawn.track(path)
    assert track is not None
    assert np.array_equal(drawn.vectors(raw=True)[track.vector], encoded(7).vectors.track)
    assert drawn.similar(path, limit=1)[0].track.path.endswith("007.mp3")


@pytest.mark.processes
def test_a_run_that_was_killed_is_continued_and_loses_nothing(music: Path, tmp_path: Path) -> None:
    lib, songs = tmp_path / "lib", tmp_path / "songs"
    songs.mkdir()
    for number in range(12):
        samples = tones.samples(number)[: 24_000 * 4]
        soundfile.write(songs / f"{number}.wav", samples, 24_000)
    command = [sys.executable, "-m", "musicfm", "library", "add", str(lib), str(songs)]
    command += ["--workers", "1"]

    def count() -> int:
        return len(Library(lib).tracks()) if (lib / DATABASE).exists() else 0

    done = 0
    for target in (1, 4):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 200
        while count() < target and process.poll() is None:
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
        done, before = count(), done
        assert done >= max(target, before)
    last = add(lib, [songs], num_workers=1)
    assert (last.done, last.skipped, last.failures) == (12 - done, done, [])
    whole = add(tmp_path / "whole", [songs], num_workers=1)
    assert whole.done == 12
    one, other = Library(lib), Library(tmp_path / "whole")
    for track, same in zip(one.tracks(), other.tracks(), strict=True):
        assert track.path == same.path
        np.testing.assert_allclose(
            one.vectors(raw=True)[track.vector], other.vectors(raw=True)[same.vector], atol=1e-4
        )


def test_filters(drawn: Library, tmp_path: Path) -> None:
    song = tmp_path / "music" / "020.mp3"
    assert set(numbers(drawn.similar(song, limit=4))) == {18, 19, 21, 22}
    found = drawn.similar(song, limit=40, tempo=(125.0, 130.0))
    assert sorted(numbers(found)) == [*range(25, 31)]
    found = drawn.similar(song, limit=40, key="Am", key_distance=1)
    assert {each.track.key for each in found} == {"A minor", "C major"}
    found = drawn.similar(song, limit=40, key="D#m")
    assert {each.track.key for each in found} == {"Eb minor"}
    assert len(drawn.similar(song, limit=100)) == 39
    found = drawn.similar(song, segment=(10.0, 20.0), limit=3)
    assert set(numbers(found)) <= set(range(16, 25))
    assert {each.start for each in found} <= {0.0, 10.0, 20.0}
    with pytest.raises(ConfigError, match="there is no part from 40 to 50 s in a recording of 30"):
        drawn.similar(song, segment=(40.0, 50.0))


def test_tracks_by_the_same_artist_can_be_left_out(drawn: Library, tmp_path: Path) -> None:
    with sqlite3.connect(drawn.path / DATABASE) as connection:
        connection.execute("UPDATE tracks SET artist = 'A' WHERE vector < 30")
        connection.execute("UPDATE tracks SET artist = 'b' WHERE vector >= 30")
    connection.close()
    found = drawn.similar(tmp_path / "music" / "020.mp3", limit=40, not_artist=True)
    assert sorted(numbers(found)) == [*range(30, 40)]
    with sqlite3.connect(drawn.path / DATABASE) as connection:
        connection.execute("UPDATE tracks SET artist = ''")
    connection.close()
    with pytest.raises(ConfigError, match=r"020\.mp3 has no artist among its tags"):
        drawn.similar(tmp_path / "music" / "020.mp3", not_artist=True)


def test_a_track_is_known_by_other_paths_to_it(drawn: Library, tmp_path: Path) -> None:
    link, copy = tmp_path / "link", tmp_path / "copy.mp3"
    link.symlink_to(tmp_path / "music")
    song = drawn.track(tmp_path / "music" / "020.mp3")
    assert drawn.track(link / "020.mp3") == song
    shutil.copy2(tmp_path / "music" / "020.mp3", copy)  # of the same size and age
    assert drawn.track(copy) is None


def test_a_playlist_goes_from_one_track_to_another_in_small_steps(
    drawn: Library, tmp_path: Path, run: Run
) -> None:
    music, out = tmp_path / "music", tmp_path / "list.m3u8"
    status, _, _ = run(
        "library", "playlist", drawn.path, "--from", music / "000.mp3", "--to", music / "020.mp3",
        "--length", 8, "--out", out,
    )  # fmt: skip
    order = names(read_list(out))
    assert status == 0
    assert (order[0], order[-1], len(order)) == (0, 20, 8)
    assert order == sorted(order)
    assert max(np.diff(order)) < 6
    around = drawn.playlist(music / "010.mp3", length=5)
    assert names([around[0].path]) == [10]
    assert set(names([track.path for track in around])) == {8, 9, 10, 11, 12}
    harmonic = drawn.playlist(music / "000.mp3", music / "021.mp3", length=6, harmonic=True)
    keys = [Key.parse(track.key or "") for track in harmonic]
    assert all(one.distance(other) <= 1 for one, other in itertools.pairwise(keys))
    for arguments in (["--from", "a"], [], ["--around", "a", "--from", "b", "--to", "c"]):
        status, _, errors = run("library", "playlist", drawn.path, *arguments)
        assert (status, errors) == (1, "error: give --from and --to, or --around\n")
    status, _, errors = run("library", "playlist", drawn.path, "--around", "none.mp3")
    assert (status, "none.mp3 is not in" in errors) == (1, True)


def test_a_playlist_from_a_track_to_itself_is_refused(drawn: Library, tmp_path: Path) -> None:
    song = tmp_path / "music" / "003.mp3"
    with pytest.raises(ConfigError, match=r"003\.mp3 is both the first and the last"):
        drawn.playlist(song, song)


def test_a_playlist_of_all_there_is_has_each_track_once() -> None:
    vectors = transform.unit(np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32))
    assert sorted(between(vectors, 3, 5, 20)) == [*range(9)]
    assert between(vectors, 3, 5, 2) == [3, 5]


def test_names_that_are_no_text_stay_what_they_are(drawn: Library, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path / "music") + b"/#\xff.mp3"))
    path.write_bytes(b"odd")
    Writer(drawn.database).write(recording(path), "odd", encoded(3))
    track = drawn.track(path)
    assert track is not None
    assert track.path == str(path)
    lines = replace(track, path=f"{tmp_path}/two\nlines.mp3")
    write_m3u8(tmp_path / "music" / "odd.m3u8", [track, lines])
    assert read_list(tmp_path / "music" / "odd.m3u8") == [
        f"{tmp_path}/music/./#\udcff.mp3", f"file://{tmp_path}/two%0Alines.mp3"
    ]  # fmt: skip


def test_exact_search_in_blocks_is_that_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musicfm.library.search.ROWS_AT_ONCE", 7)
    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((100, 5)).astype(np.float32)
    query = rng.standard_normal(5).astype(np.float32)
    expected = np.argsort(-(matrix @ query))
    assert nearest(matrix, query, 12)[0].tolist() == expected[:12].tolist()
    some = np.arange(0, 100, 3)
    rows, products = nearest(matrix, query, 50, some)
    assert rows.tolist() == [row for row in expected.tolist() if row % 3 == 0]
    np.testing.assert_allclose(products, (matrix @ query)[rows], rtol=1e-5)


def test_an_index_finds_nearly_all_the_nearest(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = transform.unit(rng.standard_normal((3_000, 32)).astype(np.float32))
    path = tmp_path / "tracks.f32"
    index.build(path, matrix[:2_000])
    index.build(path, matrix[:2_900])  # and the last are searched exactly
    found = 0
    for query in matrix[::100]:
        rows, products = index.near(path, matrix, query, 10)
        assert products[0] == pytest.approx(1.0, abs=1e-5)
        found += len({*rows.tolist()} & {*nearest(matrix, query, 10)[0].tolist()})
    assert found >= 0.95 * 300


def test_an_index_is_opened_once_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from usearch.index import Index

    opened: list[str] = []
    real = Index.view

    def view(self: Any, path: str) -> None:
        opened.append(path)
        real(self, path)

    monkeypatch.setattr(Index, "view", view)
    rng = np.random.default_rng(0)
    matrix = transform.unit(rng.standard_normal((900, 32)).astype(np.float32))
    path = tmp_path / "tracks.f32"
    index.build(path, matrix[:800])

    def best(row: int, rows: int = 900) -> int:
        return int(index.near(path, matrix[:rows], matrix[row], 3)[0][0])

    with ThreadPoolExecutor(8) as pool:
        assert [*pool.map(best, range(100))] == [*range(100)]
    assert best(850) == 850
    assert len(opened) == (100 + 1 if os.name == "nt" else 1)
    index.build(path, matrix)
    with monkeypatch.context() as patch:
        patch.setattr(index, "nearest", lambda *found: (found[3], None))
        rows, _ = index.near(path, matrix, matrix[850], 3)
    assert (850 in rows, len(rows)) == (True, 3)  # by the new one: none is compared by itself
    assert best(700, rows=800) == 700
    assert best(850, rows=800) < 800  # rows that the reader does not know of yet


@pytest.mark.parametrize("content", [b"", b"not an index", None])
def test_a_damaged_index_is_named(content: bytes | None, tmp_path: Path) -> None:
    matrix = np.eye(32, dtype=np.float32)
    path = tmp_path / "tracks.f32"
    index.build(path, matrix)
    target = index.path_of(path)
    target.write_bytes(target.read_bytes()[:1_000] if content is None else content)
    with pytest.raises(DataError, match=r"tracks.usearch is damaged.*musicfm library index"):
        index.near(path, matrix, matrix[0], 3)
    with pytest.raises(DataError, match=r"tracks.usearch is damaged.*musicfm library index"):
        index.build(path, matrix)


def test_an_index_is_used_and_swept_with_its_transform(
    drawn: Library, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    song = tmp_path / "music" / "020.mp3"
    expected = numbers(drawn.similar(song, limit=4))
    status, _, said = run("library", "index", drawn.path)
    assert (status, "needs no index: up to 1,000,000 vectors" in said) == (0, True)
    assert not [*drawn.path.glob("*.usearch")]
    monkeypatch.setattr(index, "MOST_EXACT", 30)
    assert run("library", "index", drawn.path)[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("musicfm.library.library.nearest", None)
        assert numbers(drawn.similar(song, limit=4)) == expected
    assert len([*drawn.path.glob("*.usearch")]) == 2
    drawn.fit()
    assert not [*drawn.path.glob("*.usearch")]


def test_a_transform_stays_until_another_is_fitted(drawn: Library, tmp_path: Path) -> None:
    before = drawn.vectors().copy()
    assert not transform.is_due(drawn.database)
    writer = Writer(drawn.database)
    for number in range(40, 60):
        path = tmp_path / "music" / f"{number:03}.mp3"
        path.write_bytes(b"new")
        writer.write(recording(path), f"sound {number}", encoded(number))
    assert np.array_equal(drawn.vectors()[:40], before)
    assert transform.is_due(drawn.database)
    assert drawn.fit().version == 2
    assert not np.allclose(drawn.vectors()[:40], before)
    assert not transform.is_due(drawn.database)
    assert len([*drawn.path.glob("*.f32")]) == 4


def test_without_a_transform_it_says_how_to_get_one(drawn: Library, tmp_path: Path) -> None:
    with drawn.database.connect() as connection:
        connection.execute("UPDATE settings SET value = '0' WHERE name = 'transform'")
    with pytest.raises(DataError, match=r"no transform; .* musicfm library fit"):
        drawn.similar(tmp_path / "music" / "000.mp3")


def test_segments_of_ten_seconds_and_the_rest() -> None:
    frames = np.random.default_rng(0).standard_normal((774, 3)).astype(np.float16)
    found = pooled(frames, 25.0)
    assert found.segments.shape == (3, 6)
    assert pooled(frames[:-150], 25.0).segments.shape == (2, 6)
    assert pooled(frames[:3], 25.0).segments.shape == (1, 6)
    np.testing.assert_allclose(found.segments[2, :3], frames[500:].mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(found.track[3:], frames.astype(float).std(axis=0), atol=1e-4)
    np.testing.assert_allclose(merged(found.segments, [250, 250, 274]), found.track, atol=1e-5)


def test_libraries_of_the_first_version_are_read(tmp_path: Path) -> None:
    """What was written once stays readable: do not change the file, add one for a new version."""
    with sqlite3.connect(tmp_path / DATABASE) as connection:
        connection.executescript((DATA / "library_1.sql").read_text())
    connection.close()
    library = Library(tmp_path)
    (track,) = library.tracks()
    assert library.settings == replace(SETTINGS, transform=1)
    assert (track.path, track.title, track.key, track.tempo) == ("/a.mp3", "A", "A minor", 100.0)
    assert library.database.analysis(track) == {"number": 0}


def test_a_migration_keeps_what_is_there_and_happens_as_a_whole(
    drawn: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = drawn.tracks()
    step = "ALTER TABLE tracks ADD COLUMN mood TEXT; UPDATE tracks SET mood = 'calm'"
    with monkeypatch.context() as patch:
        patch.setattr("musicfm.library.database.MIGRATIONS", (*MIGRATIONS, f"{step}; no SQL"))
        with pytest.raises(OutputError, match="syntax error"):
            drawn.tracks()
    assert drawn.tracks() == before
    monkeypatch.setattr("musicfm.library.database.MIGRATIONS", (*MIGRATIONS, step))
    for _ in range(2):
        assert drawn.tracks() == before
        with drawn.database.connect() as connection:
            assert connection.execute("SELECT DISTINCT mood FROM tracks").fetchall() == [("calm",)]
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)


def test_libraries_of_a_newer_version_are_refused(drawn: Library) -> None:
    with drawn.database.connect() as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(DataError, match="was written by a newer musicfm"):
        drawn.tracks()


def test_what_is_no_library_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} is not a library; make one: musicfm library"):
        musicfm.Library(tmp_path).tracks()
    (tmp_path / DATABASE).write_bytes(b"no database" * 100)
    with pytest.raises(DataError, match="is damaged, or not a library"):
        musicfm.Library(tmp_path).tracks()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    with pytest.raises(OutputError, match="is not empty, and not a library"):
        Database.create(tmp_path / "other", SETTINGS)


def notes(seed: int, seconds: float = 16.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Decaying tones, of pitches and times that are drawn."""
    rng, time = np.random.default_rng(seed), np.arange(12_000) / 24_000
    sound = 0.001 * rng.standard_normal(round(24_000 * seconds))
    for start in rng.integers(0, len(sound) - len(time), round(4 * seconds)):
        pitch = 220 * 2 ** (rng.integers(0, 36) / 12)
        sound[start : start + len(time)] += np.sin(2 * np.pi * pitch * time) * np.exp(-9 * time) / 9
    return sound


def test_duplicates_are_told_from_other_recordings(
    tmp_path: Path, published_tiny: Path, run: Run
) -> None:
    music, lib = tmp_path / "music", tmp_path / "lib"
    music.mkdir()
    song, louder = notes(1), 1.4 * notes(1)
    soundfile.write(music / "song.flac", song, 24_000)
    soundfile.write(music / "song.mp3", np.concatenate([np.zeros(28_800), louder]), 24_000)
    soundfile.write(music / "cut.ogg", song[24_000 * 4 : 24_000 * 13], 24_000)
    soundfile.write(music / "other.flac", notes(2), 24_000)
    shutil.copy(music / "other.flac", music / "same.flac")
    add(lib, [music], model=str(published_tiny), num_workers=1)
    status, out, _ = run("library", "duplicates", lib, "--json")
    found = {Path(group["path"]).name: group["duplicates"] for group in json.loads(out)}
    assert status == 0
    parts = {Path(each["path"]).name: each["start"] for each in found["song.mp3"]}
    assert parts == {
        "song.flac": pytest.approx(1.2, abs=0.1),
        "cut.ogg": pytest.approx(5.2, abs=0.1),
    }
    (same,) = (group for name, group in found.items() if name != "song.mp3")
    assert [each["agreement"] for each in same] == [1.0]


def test_other_music_does_not_agree(tmp_path: Path) -> None:
    for seed in (1, 2):
        soundfile.write(tmp_path / f"{seed}.wav", notes(seed), 24_000)
    one, other = (fingerprint(tmp_path / f"{seed}.wav") for seed in (1, 2))
    assert align(one, one).agreement == pytest.approx(1.0, abs=1e-6)
    assert align(one, other).agreement < 0.6


def test_candidates_for_duplicates_are_near_in_vectors(drawn: Library) -> None:
    tracks = drawn.tracks()
    pairs = candidates(tracks, drawn.vectors(), drawn.vectors("segments"))
    apart = [abs(a - b) for a, b in (names([x.path, y.path]) for x, y in pairs)]
    assert pairs
    assert max(apart) < 15


@pytest.mark.parametrize(
    ("text", "name", "camelot"),
    [("Am", "A minor", (8, "A")), ("8B", "C major", (8, "B")), ("F#", "Gb major", (2, "B")),
     ("eb:min", "D# minor", (2, "A")), ("12a", "Db minor", (12, "A"))],
)  # fmt: skip
def test_keys_as_people_write_them(text: str, name: str, camelot: tuple[int, str]) -> None:
    key = Key.parse(text)
    assert name in key.spellings()
    assert key.camelot == camelot


def test_keys_a_step_apart_are_the_fifths_and_the_relative_key() -> None:
    near = [
        name
        for name in ("C", "Em", "Dm", "A", "F#m", "G")
        if Key.parse("Am").distance(Key.parse(name)) <= 1
    ]
    assert near == ["C", "Em", "Dm"]
    with pytest.raises(ConfigError, match="'H' is not a key"):
        Key.parse("H")
