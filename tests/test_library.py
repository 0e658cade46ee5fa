"""A library, by Python and by the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

import musicfm
import tones
from command_line import Run
from musicfm.errors import DataError
from musicfm.library.adding import add


@pytest.fixture(scope="module")
def music(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three songs of tones."""
    folder = tmp_path_factory.mktemp("songs")
    for number in range(3):
        soundfile.write(folder / f"tone_{number}.wav", tones.samples(number)[: 24_000 * 6], 24_000)
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


def test_tracks_have_vectors_and_an_analysis(lib: Path, music: Path) -> None:
    library = musicfm.Library(lib)
    tracks = library.tracks()
    assert [Path(track.path).name for track in tracks] == [f"tone_{n}.wav" for n in range(3)]
    assert [track.title for track in tracks] == ["tone_0", "tone_1", "tone_2"]
    assert {track.duration for track in tracks} == {6.0}
    raw, compared = library.vectors(raw=True), library.vectors()
    assert raw.shape == (3, 384)
    assert library.vectors("segments").shape[0] == sum(track.num_segments for track in tracks)
    np.testing.assert_allclose(np.linalg.norm(compared, axis=1), 1.0, atol=1e-5)
    analysis = library.analysis(tracks[0])
    assert analysis is not None
    assert analysis.key == tracks[0].key
    assert analysis.tempo == pytest.approx(tracks[0].tempo)


def test_the_most_similar_comes_first_and_never_the_song_itself(
    lib: Path, music: Path, run: Run
) -> None:
    song = music / "tone_0.wav"
    status, out, _ = run("library", "similar", lib, song, "--json", "--limit", 5)
    found = json.loads(out)
    assert status == 0
    assert [Path(each["path"]).name for each in found] == ["tone_2.wav", "tone_1.wav"]
    assert found[0]["similarity"] > found[1]["similarity"]


def test_what_is_no_library_is_told_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} is no library; make one: musicfm library add"):
        musicfm.Library(tmp_path).tracks()
