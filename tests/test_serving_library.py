"""A library behind the HTTP interface."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import soundfile

import libraries
import tones
from command_line import Run
from musicfm.analysis.analyzer import load_encoder
from musicfm.errors import ConfigError
from musicfm.library.adding import add
from musicfm.library.library import Library
from musicfm.serving.limits import Limits
from musicfm.serving.service import Service, check_library
from served import Client, serving

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    music = tmp_path_factory.mktemp("songs")
    for number in range(3):
        samples = tones.samples(number)[: 24_000 * 6]
        soundfile.write(music / f"tone {number}.wav", samples, 24_000, subtype="FLOAT")
    folder = tmp_path_factory.mktemp("libraries") / "lib"
    assert add(folder, [music], num_workers=1).done == 3
    return Library(folder)


@pytest.fixture(scope="module")
def client(library: Library) -> Iterator[Client]:
    loaded = load_encoder("nano")
    check_library(library, loaded[0])
    limits = Limits(max_bytes=2_000_000, max_seconds=10.0)
    service = Service(*loaded, limits, library=library, num_workers=1, timeout_seconds=60.0)
    with serving(service) as (client, _):
        yield client


def test_the_song_itself_comes_first(client: Client, library: Library) -> None:
    known = library.tracks()[1]
    answer = client.post("/v1/similar?limit=2", Path(known.path).read_bytes())
    assert answer.status == 200, answer.body
    first, second = answer.json()["tracks"]
    assert (first["id"], first["title"]) == (known.id, "tone 1")
    assert first["similarity"] == pytest.approx(1.0, abs=0.01)
    assert second["similarity"] < first["similarity"]
    assert str(Path(known.path).parent) not in answer.body.decode()


def test_tracks_are_listed_in_parts(client: Client, library: Library) -> None:
    tracks = client.ask("GET", "/v1/tracks").json()
    assert tracks["count"] == 3
    assert [track["id"] for track in tracks["tracks"]] == [track.id for track in library.tracks()]
    part = client.ask("GET", "/v1/tracks?offset=1&limit=1").json()
    assert (part["count"], part["tracks"]) == (3, tracks["tracks"][1:2])


def test_recordings_are_given_out_by_their_number_alone(client: Client, library: Library) -> None:
    known = library.tracks()[2]
    content = Path(known.path).read_bytes()
    assert client.ask("GET", f"/v1/tracks/{known.id}/audio").body == content
    part = client.ask("GET", f"/v1/tracks/{known.id}/audio", headers={"Range": "bytes=10-19"})
    assert (part.status, part.body) == (206, content[10:20])
    assert client.ask("GET", "/v1/tracks/99/audio").status == 404
    assert client.ask("GET", "/v1/tracks/..%2F..%2Fetc%2Fpasswd/audio").status in (404, 422)


def test_the_map_plays_from_the_server(client: Client, library: Library) -> None:
    answer = client.ask("GET", "/map")
    assert answer.status == 200, answer.body
    assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
    assert f'"v1/tracks/{library.tracks()[0].id}/audio"' in answer.body.decode()
    assert str(Path(library.tracks()[0].path).parent) not in answer.body.decode()


@pytest.mark.parametrize(
    ("path", "status", "reason"),
    [
        ("/v1/similar?limit=0", 422, "limit"),
        ("/v1/similar?segment=1", 422, "there is no parameter 'segment'"),
        ("/v1/similar", 422, "recording"),
    ],
)
def test_bad_requests_are_told_in_a_sentence(
    client: Client, path: str, status: int, reason: str
) -> None:
    answer = client.post(path, b"no music")
    assert answer.status == status
    assert reason in answer.error


def test_the_routes_are_described(client: Client) -> None:
    paths = json.loads(client.ask("GET", "/openapi.json").body)["paths"]
    assert {"/v1/similar", "/v1/tracks", "/v1/tracks/{id}/audio"} <= set(paths)


def test_a_library_of_another_model_is_refused(tmp_path: Path, library: Library, run: Run) -> None:
    other = libraries.make(tmp_path / "lib", [Path(library.tracks()[0].path)])
    with pytest.raises(ConfigError, match="was made with the model 'nano', and not with this one"):
        check_library(other, load_encoder("nano")[0])
    status, _, err = run("serve", "--library", tmp_path / "none")
    assert status == 1
    assert "is not a library" in err
