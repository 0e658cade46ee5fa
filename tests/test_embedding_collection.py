import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import audio_files
import npz
from musicfm.embedding import collection, results
from musicfm.embedding.collection import (
    Run,
    Summary,
    Written,
    _pending,
    embed_collection,
    find_recordings,
)
from musicfm.embedding.embedder import Embedder
from musicfm.errors import ConfigError, OutputError
from musicfm.journal import Journal, Recording
from musicfm.model.musicfm import MusicFM


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six recordings in two folders, and things that are none. Do not change it."""
    folder = tmp_path_factory.mktemp("music")
    for index, name in enumerate(["tone.wav", "tone.flac", "tone.mp3", "tone.ogg", "tone.m4a"]):
        path = audio_files.write(folder, name, seconds=0.5 + 0.3 * index)
        target = folder / f"album {index % 2}" / f"{index} {path.suffix[1:]}{path.suffix}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    audio_files.write(folder, "tone.wav", seconds=1.0).rename(folder / "top.WAV")
    (folder / "cover.jpg").write_bytes(b"jpg")
    (folder / "._top.wav").write_bytes(b"a Mac's")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "song.wav").write_bytes(b"x")
    return folder


@pytest.fixture
def embedder(tiny: MusicFM) -> Embedder:
    return Embedder(tiny, layer=2, batch_size=3)


def outputs(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.rglob("*.npz"))}


def names(sources: list[Path]) -> list[str]:
    failures: list[tuple[str, str]] = []
    found = [recording.name for recording in find_recordings(sources, failures)]
    assert not failures
    return found


def test_a_folder_is_searched_for_recordings(music: Path) -> None:
    inside = ["album 0/0 wav", "album 0/2 mp3", "album 0/4 m4a", "album 1/1 flac", "album 1/3 ogg"]
    assert names([music]) == ["top", *inside]


def test_names_keep_the_structure_below_what_sources_have_in_common(music: Path) -> None:
    song = music / "album 0" / "0 wav.wav"
    assert names([song]) == ["0 wav"]
    assert names([song, song, music / "album 0"]) == ["0 wav", "2 mp3", "4 m4a"]
    assert names([music / "top.WAV", song]) == ["top", "album 0/0 wav"]
    assert names([music / "album 1", song]) == ["album 1/1 flac", "album 1/3 ogg", "album 0/0 wav"]


def test_results_are_those_of_the_embedder(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    summary = embed_collection(embedder, [music], tmp_path)
    assert (summary.done, summary.skipped, summary.failures) == (6, 0, [])
    for recording in find_recordings([music], []):
        found = npz.read(tmp_path / f"{recording.name}.npz")
        expected = embedder(recording.path)
        np.testing.assert_allclose(found["frames"], expected.frames, atol=1e-5)
        np.testing.assert_array_equal(found["times"], expected.times)
        assert found["duration"] == expected.duration
        assert str(found["source"]) == str(recording)
    assert summary.audio_seconds == pytest.approx(6.5, abs=0.1)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_do_not_depend_on_workers_or_batches(
    music: Path, tiny: MusicFM, tmp_path: Path, workers: int
) -> None:
    embed_collection(Embedder(tiny, 2), [music], tmp_path / "a", num_workers=1)
    embed_collection(Embedder(tiny, 2, batch_size=5), [music], tmp_path / "b", num_workers=workers)
    for name in outputs(tmp_path / "a"):
        a, b = (npz.read(tmp_path / run / name)["frames"] for run in "ab")
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_urls_give_what_paths_give(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    sources = [f"file://{music}", f"file://{music}/none.wav"]
    summary = embed_collection(embedder, sources, tmp_path / "urls")
    assert (summary.done, len(summary.failures)) == (6, 1)
    assert "none.wav cannot be read: No such file or directory" in summary.failures[0][1]
    embed_collection(embedder, [music], tmp_path / "paths")
    assert set(outputs(tmp_path / "urls")) == set(outputs(tmp_path / "paths"))
    for name in outputs(tmp_path / "urls"):
        url, path = (npz.read(tmp_path / kind / name) for kind in ("urls", "paths"))
        np.testing.assert_allclose(url["frames"], path["frames"], atol=1e-5)
        assert str(url["source"]) == f"file://{path['source']}"
    assert embed_collection(embedder, sources, tmp_path / "urls").skipped == 6


def test_pooled_results(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    embed_collection(embedder, [music / "top.WAV"], tmp_path / "mean", pooling="mean")
    embed_collection(embedder, [music / "top.WAV"], tmp_path / "8", pooling=8.0)
    expected = embedder(music / "top.WAV")
    mean, at = npz.read(tmp_path / "mean" / "top.npz"), npz.read(tmp_path / "8" / "top.npz")
    np.testing.assert_allclose(mean["mean"], expected.mean(), atol=1e-6)
    np.testing.assert_allclose(at["frames"], expected.at(8.0), atol=1e-6)
    np.testing.assert_allclose(at["times"], expected.times_at(8.0))


def test_a_table_of_means(music: Path, tiny: MusicFM, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    embedder = Embedder(tiny, [1, 3])
    for sources in ([music / "album 1"], [music / "album 0", music / "album 1"]):
        embed_collection(embedder, sources, tmp_path, pooling="mean", file_format="parquet")
    rows = parquet.read_table(tmp_path / results.TABLE).to_pylist()
    assert [Path(row["path"]).name[:1] for row in rows] == ["0", "2", "4", "1", "3"]
    for row in rows:
        expected = embedder(row["path"]).mean()
        np.testing.assert_allclose(row["layer_1"], expected[0], atol=1e-5)
        np.testing.assert_allclose(row["layer_3"], expected[1], atol=1e-5)


def test_decoding_needs_a_process(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="num_workers is 0; give 1 or more"):
        embed_collection(embedder, [music], tmp_path, num_workers=0)


def test_a_table_needs_means(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pool to the mean"):
        embed_collection(embedder, [], tmp_path, file_format="parquet")


def test_a_folder_without_recordings_is_an_error(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ConfigError, match="no recordings in"):
        embed_collection(embedder, [tmp_path], tmp_path / "out")


def test_what_is_done_is_skipped_and_what_changed_is_not(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    library, out = tmp_path / "library", tmp_path / "out"
    library.mkdir()
    for number in range(3):
        (library / f"{number}.wav").write_bytes((music / "top.WAV").read_bytes())
    embed_collection(embedder, [library], out)
    before = outputs(out)
    assert embed_collection(embedder, [library], out).skipped == 3

    (out / "0.npz").unlink()
    os.utime(library / "1.wav", (1, 1))
    summary = embed_collection(embedder, [library], out)
    assert (summary.done, summary.skipped) == (2, 1)
    assert outputs(out) == before
    assert embed_collection(embedder, [library], out, overwrite=True).done == 3


def test_what_is_done_is_done_wherever_the_recordings_move(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    library, moved, out = tmp_path / "library", tmp_path / "moved", tmp_path / "out"
    shutil.copytree(music, library)
    embed_collection(embedder, [library], out)
    before = outputs(out)
    library.rename(moved)
    assert embed_collection(embedder, [moved], out).skipped == 6

    (out / "top.npz").unlink()
    os.utime(moved / "album 1" / "1 flac.flac", (1, 1))  # is there no more, and this is another
    summary = embed_collection(embedder, [moved], out)
    assert (summary.done, summary.skipped) == (1, 4)
    assert "its result would have the name of that of" in summary.failures[0][1]
    assert outputs(out).keys() == before.keys()

    again = embed_collection(embedder, [moved], out, overwrite=True)
    assert (again.done, len(again.failures)) == (5, 1)


def test_a_recording_may_be_replaced_by_one_in_another_format(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    library, out = tmp_path / "library", tmp_path / "out"
    library.mkdir()
    shutil.copy(music / "top.WAV", library / "song.wav")
    embed_collection(embedder, [library], out)
    before = outputs(out)
    (library / "song.wav").unlink()
    shutil.copy(music / "album 1" / "1 flac.flac", library / "song.flac")
    for done in (1, 0):
        summary = embed_collection(embedder, [library], out)
        assert (summary.done, summary.skipped) == (done, 1 - done)
    assert outputs(out).keys() == before.keys()
    assert outputs(out) != before


def test_a_table_holds_where_recordings_have_moved(
    music: Path, tiny: MusicFM, tmp_path: Path
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    library, moved, out = tmp_path / "library", tmp_path / "moved", tmp_path / "out"
    shutil.copytree(music / "album 1", library)
    for folder in (library, moved):
        if folder is moved:
            library.rename(moved)
        embed_collection(Embedder(tiny, 1), [folder], out, pooling="mean", file_format="parquet")
        rows = parquet.read_table(out / results.TABLE).to_pylist()
        assert [Path(row["path"]) for row in rows] == sorted(folder.iterdir())


def test_a_name_that_is_too_long_costs_only_itself(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    library = tmp_path / "library"
    library.mkdir()
    for name in (f"{'n' * 252}.au", "a.wav"):
        (library / name).write_bytes((music / "top.WAV").read_bytes())
    summary = embed_collection(embedder, [library], tmp_path / "out")
    ((_, reason),) = summary.failures
    assert summary.done == 1
    assert "File name too long" in reason


def test_bad_recordings_are_reported_and_skipped(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    library, out = tmp_path / "library", tmp_path / "out"
    library.mkdir()
    (library / "good.wav").write_bytes((music / "top.WAV").read_bytes())
    (library / "text.mp3").write_text("hello")
    (library / "empty.flac").touch()
    cut = audio_files.write(library, "tone.flac", seconds=3.0)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    audio_files.write(library, "24.wav", seconds=0.02)
    os.mkfifo(library / "pipe.wav")
    sources: list[Path] = [library, library / "missing.wav", library / "zero\0byte.wav"]
    summary = embed_collection(embedder, sources, out)
    assert summary.done == 1
    reasons = {Path(path).name: reason for path, reason in summary.failures}
    assert set(reasons) == {
        "text.mp3", "empty.flac", "tone.flac", "24.wav", "missing.wav", "pipe.wav",
        "zero\0byte.wav",
    }  # fmt: skip
    for name, reason in reasons.items():
        assert name in reason  # every reason names its file
    assert "too short" in reasons["24.wav"]
    report = json.loads((out / collection.REPORT).read_text())
    assert sorted(report["failures"]) == sorted([path, reason] for path, reason in summary.failures)

    damaged = embed_collection(embedder, sources, tmp_path / "warn", on_damage="warn")
    assert damaged.done == 2
    assert Path(damaged.damaged[0][0]).name == "tone.flac"


def test_results_of_one_name_are_refused_not_overwritten(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    for album in "xy":
        (tmp_path / album).mkdir()
        (tmp_path / album / "song.wav").write_bytes((music / "top.WAV").read_bytes())
    (tmp_path / "x" / "song.flac").write_bytes((music / "album 1" / "1 flac.flac").read_bytes())
    out = tmp_path / "out"
    first = embed_collection(embedder, [tmp_path / "x"], out)
    assert (first.done, first.failures) == (1, [])
    assert "song.wav is left out: song.flac has the same name" in first.left_out[0][1]
    before = outputs(out)
    second = embed_collection(embedder, [tmp_path / "y"], out)
    assert second.done == 0
    assert "its result would have the name of that of" in second.failures[0][1]
    assert outputs(out) == before


def test_names_that_differ_only_in_form_stay_two_where_the_file_system_tells_them_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["Zo\u00eb", "Zoe\u0308", "zo\u00eb", "Zoe"]
    recordings = [Recording(tmp_path / f"{name}.wav", f"a/{name}", 1, 1) for name in names]

    def pending() -> tuple[list[str], int]:
        summary = Summary()
        with Journal(tmp_path / "out", {}, recordings, False) as journal:
            found, _ = _pending(recordings, journal, tmp_path / "out", [".npz"], False, summary)
        return [recording.name[2:] for recording in found], len(summary.failures)

    assert pending() == (names, 0)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "journal.jsonl",
        ".journal.jsonl.lock",
    }
    monkeypatch.setattr(collection, "is_same_name", lambda *_: True)  # as on a Mac
    assert pending() == ([names[0], names[3]], 2)


def test_a_result_that_cannot_be_written_costs_only_itself(
    music: Path, embedder: Embedder, tmp_path: Path
) -> None:
    (tmp_path / "top.npz").mkdir()
    summary = embed_collection(embedder, [music], tmp_path, overwrite=True)
    assert summary.done == 5
    assert "cannot write" in summary.failures[0][1]


def test_files_of_others_are_not_replaced(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "top.npz").write_bytes(b"another program's")
    for done in (5, 0):
        summary = embed_collection(embedder, [music], tmp_path)
        assert summary.done == done
        assert "top.npz is there already, and no run" in summary.failures[0][1]
        assert (tmp_path / "top.npz").read_bytes() == b"another program's"


def test_what_a_killed_run_left_is_replaced(
    music: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Run, done: Written[Recording]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "on_done", killed)
    with pytest.raises(KeyboardInterrupt):
        embed_collection(embedder, [music], tmp_path)
    monkeypatch.undo()
    assert len(outputs(tmp_path)) == 1
    summary = embed_collection(embedder, [music], tmp_path)
    assert (summary.done, summary.failures) == (6, [])


def test_a_full_disk_stops_the_run_and_loses_nothing(
    music: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = iter([True, True])

    def write(path: Path, arrays: Any) -> None:
        if not next(space, False):
            cause = OSError(errno.ENOSPC, "No space left on device")
            raise OutputError(f"cannot write {path}: No space left on device") from cause
        real_write(path, arrays)

    real_write = results.write_npz
    monkeypatch.setattr(results, "write_npz", write)
    with pytest.raises(OutputError, match="No space left on device"):
        embed_collection(embedder, [music], tmp_path)
    monkeypatch.undo()
    assert len(outputs(tmp_path)) == 2
    summary = embed_collection(embedder, [music], tmp_path)
    assert (summary.done, summary.skipped) == (4, 2)


def test_an_interrupted_run_keeps_what_is_done(
    music: Path, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracks = Embedder.tracks

    def interrupted(self: Embedder, events: Any) -> Iterator[Any]:
        for count, event in enumerate(tracks(self, events)):
            if count == 8:
                raise KeyboardInterrupt
            yield event

    monkeypatch.setattr(Embedder, "tracks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embed_collection(embedder, [music], tmp_path)
    monkeypatch.undo()
    done = len(outputs(tmp_path))
    assert 0 < done < 6
    assert not list(tmp_path.rglob("*.partial"))
    assert embed_collection(embedder, [music], tmp_path).skipped == done


def test_the_model_defines_the_results(music: Path, tiny: MusicFM, tmp_path: Path) -> None:
    source = [music / "top.WAV"]
    embed_collection(Embedder(tiny, 2), source, tmp_path)
    with torch.no_grad():
        tiny.encoder.norm.bias.add_(1e-3)
    with pytest.raises(OutputError, match=r"other settings \(model differ\)"):
        embed_collection(Embedder(tiny, 2), source, tmp_path)
    assert embed_collection(Embedder(tiny, 2), source, tmp_path, overwrite=True).done == 1


def test_names_that_are_not_text_work(music: Path, embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    name = os.fsdecode(b"caf\xe9\n.wav")
    (tmp_path / "in" / name).write_bytes((music / "top.WAV").read_bytes())
    (tmp_path / "in" / os.fsdecode(b"\xff.mp3")).write_bytes(b"no music")
    summary = embed_collection(embedder, [tmp_path / "in"], tmp_path / "out", progress=True)
    assert (summary.done, len(summary.failures)) == (1, 1)
    assert embed_collection(embedder, [tmp_path / "in"], tmp_path / "out").skipped == 1
