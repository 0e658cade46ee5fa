"""The HTTP interface, over a socket."""

import io
import json
import re
import shutil
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

import recipe
from heads_of import write_heads
from musicfm.analysis.analyzer import analyse, load_encoder
from musicfm.analysis.exports import csv_table, label_tracks
from musicfm.embedding.embedder import Embedder
from musicfm.model.config import ConformerConfig, preset
from musicfm.model.musicfm import MusicFM
from musicfm.serving.jobs import Job
from musicfm.serving.limits import Limits
from musicfm.serving.service import Service
from served import Answer, Client, eventually, serving

SECONDS = 4.0
DOCUMENTATION = (Path(__file__).parents[1] / "docs" / "serving.md").read_text(encoding="utf-8")


def wav(seconds: float = SECONDS, seed: int = 3) -> bytes:
    file = io.BytesIO()
    samples = 0.5 * recipe.waveform(seed, 1, round(seconds * 24_000))[0]
    soundfile.write(file, samples, 24_000, format="WAV", subtype="FLOAT")
    return file.getvalue()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    limits = Limits(max_bytes=2_000_000, max_seconds=10.0)
    loaded = load_encoder("nano", write_heads(tmp_path_factory.mktemp("heads")))
    return Service(*loaded, limits, num_workers=2, timeout_seconds=60.0)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[Client]:
    with serving(service) as (client, _):
        yield client


def arrays(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.body
    with np.load(io.BytesIO(answer.body)) as found:
        return dict(found)


def test_an_embedding_is_that_of_the_command_line(client: Client, tmp_path: Path) -> None:
    (tmp_path / "song.wav").write_bytes(wav())
    expected = Embedder(MusicFM.from_pretrained("nano"))(tmp_path / "song.wav")
    answer = client.post("/v1/embed?name=my%20song.wav", wav())
    assert answer.headers["Content-Disposition"] == "attachment; filename*=utf-8''my%20song.npz"
    found = arrays(answer)
    assert set(found) == {"frames", "times", "rate", "duration", "layers", "source"}
    np.testing.assert_allclose(found["frames"], expected.numpy(), atol=1e-5)
    np.testing.assert_array_equal(found["times"], expected.times)
    assert (found["rate"], found["duration"]) == (25.0, SECONDS)
    assert (found["layers"].tolist(), found["source"]) == ([2], "my song.wav")


def test_layers_and_pooling_are_as_asked(client: Client) -> None:
    frames = arrays(client.post("/v1/embed?layer=4&layer=1", wav()))
    assert frames["frames"].shape == (2, 100, 192)
    assert frames["layers"].tolist() == [1, 4]
    mean = arrays(client.post("/v1/embed?layer=4&pool=mean", wav()))["mean"]
    np.testing.assert_allclose(mean, frames["frames"][1].mean(axis=0), atol=1e-5)
    pooled = arrays(client.post("/v1/embed?layer=4&pool=2.5", wav()))
    assert pooled["rate"] == 2.5
    np.testing.assert_allclose(
        pooled["frames"], frames["frames"][1].reshape(10, 10, -1).mean(axis=1), atol=1e-5
    )


def test_an_analysis_is_that_of_the_command_line(
    client: Client, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "song.wav").write_bytes(wav())
    assert service.predictor is not None
    features, duration = service.predictor.encode(tmp_path / "song.wav", tmp_path)
    made = analyse(service.predictor, features, duration, "song", file="song.wav")
    expected = made.to_jams()
    answer = client.post("/v1/analyze?name=song.wav", wav())
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == json.loads(json.dumps(expected))

    table = client.post("/v1/analyze?name=song.wav&format=csv", wav())
    assert table.headers["Content-Type"] == "text/csv; charset=utf-8"
    assert table.body.decode() == csv_table(made)
    midi = client.post("/v1/analyze?name=song.wav&format=midi", wav())
    assert midi.body.startswith(b"MThd")
    tracks = client.post("/v1/analyze?name=song.wav&format=labels", wav())
    with zipfile.ZipFile(io.BytesIO(tracks.body)) as file:
        found = {name.removeprefix("song"): file.read(name).decode() for name in file.namelist()}
    assert found == label_tracks(made)


def test_an_analysis_says_what_is_unusual_about_the_recording(client: Client) -> None:
    content = io.BytesIO()
    one = 0.3 * np.random.default_rng(0).standard_normal(24_000)
    soundfile.write(content, np.stack([one, -one], axis=1), 24_000, format="WAV")
    found = client.post("/v1/analyze?name=song.wav", content.getvalue()).json()
    (warning, *_) = found["sandbox"]["warnings"]
    assert warning.startswith("song.wav has channels that cancel each other for 1.0 s")


def test_every_request_has_a_line_in_the_log(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def is_logged(line: str) -> bool:
        return line in [
            re.sub(r"\d+\.\d\d s", "T", record.getMessage()) for record in caplog.records
        ]

    with caplog.at_level("INFO", logger="musicfm.requests"):
        for method, path, line in (
            ("POST", "/v1/analyze?name=secret", "127.0.0.1 POST /v1/analyze 422 T"),
            ("GET", "/healthz", "127.0.0.1 GET /healthz 200 T"),
            ("GET", "/%1b[31mred", "127.0.0.1 GET (other) 404 T"),
        ):
            client.ask(method, path, b"x" if method == "POST" else None)
            assert eventually(partial(is_logged, line))  # it comes after the answer


@pytest.mark.parametrize(
    ("name", "title"),
    [("No. 5", "No. 5"), ("No. 5.mp3", "No. 5"), ("a.b.wav", "a.b")],
)
def test_titles_keep_their_dots(client: Client, name: str, title: str) -> None:
    answer = client.post(f"/v1/analyze?name={quote(name)}", wav())
    assert answer.json()["file_metadata"]["title"] == title
    assert f"{quote(title)}.jams" in answer.headers["Content-Disposition"]


def begun(client: Client, body: bytes) -> str:
    answer = client.post("/v1/jobs?name=my%20song.wav", body)
    assert answer.status == 201, answer.body
    return f"/v1/jobs/{answer.json()['id']}"


def ended(client: Client, job: str) -> dict[str, Any]:
    """What is said of a job that is over."""
    found: dict[str, Any] = {}

    def is_over() -> bool:
        found.update(client.ask("GET", job).json())
        return found["stage"] in ("done", "failed")

    assert eventually(is_over)
    return found


def test_a_result_is_kept_for_who_comes_back(
    client: Client, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    job = begun(client, wav())
    assert ended(client, job) == {
        "name": "my song.wav",
        "stage": "done",
        "seconds": SECONDS,
        "duration": SECONDS,
    }
    expected = client.post("/v1/analyze?name=my%20song.wav", wav()).json()
    for _ in range(2):
        jams = client.ask("GET", f"{job}/jams")
        assert jams.json() == expected
        assert jams.headers["Content-Disposition"].endswith("my%20song.jams")
    page = client.ask("GET", f"{job}/html")
    assert b"<title>my song</title>" in page.body
    assert page.headers["Content-Security-Policy"] == "sandbox allow-scripts allow-downloads"
    assert client.ask("GET", f"{job}/csv").body.startswith(b"kind,start,end,label,confidence")
    assert client.ask("GET", f"{job}/midi").body.startswith(b"MThd")
    assert client.ask("GET", f"{job}/labels").body.startswith(b"PK")
    assert client.ask("GET", f"{job}/wav").status == 422
    (folder,) = service._folder.iterdir()
    assert {path.stem for path in folder.iterdir()} == {"result"}  # not what was sent

    with caplog.at_level("INFO", "musicfm.requests"):
        client.ask("GET", job)
        client.ask("GET", f"{job}/csv")
        assert client.ask("DELETE", job).status == 204
        assert eventually(lambda: "DELETE /v1/jobs/ID 204" in caplog.text)
    assert "GET /v1/jobs/ID/csv 200" in caplog.text
    assert "GET /v1/jobs/ID 200" not in caplog.text
    gone = client.ask("GET", job)
    assert (gone.status, gone.error) == (404, "there is no such job; results are kept for 60 min")
    assert not list(service._folder.iterdir())


def test_a_job_that_fails_says_why_for_who_comes_back(client: Client) -> None:
    job = begun(client, b"no sound")
    found = ended(client, job)
    assert found["status"] == 422
    assert found["error"].startswith("my song.wav is not audio in a known format")
    assert client.ask("GET", f"{job}/html").status == 422
    assert client.ask("DELETE", job).status == 204


def test_what_is_kept_expires(client: Client, service: Service) -> None:
    jobs = [begun(client, wav()) for _ in range(3)]
    for job in jobs:
        ended(client, job)
    limits = service.limits
    try:
        service.limits = replace(limits, max_kept=2)
        service.tidy()
        assert [client.ask("GET", job).status for job in jobs].count(404) == 1
        service.limits = replace(limits, keep_seconds=0.0)
        service.tidy()
        assert [client.ask("GET", job).status for job in jobs].count(404) == 3
    finally:
        service.limits = limits


def test_progress_comes_in_lines_and_ends_with_the_page(client: Client) -> None:
    answer = client.post("/v1/analyze?name=a%3Cb.wav&format=html&progress=true", wav())
    assert answer.headers["Content-Type"] == "application/x-ndjson"
    *steps, last = map(json.loads, answer.body.splitlines())
    order = [("waiting", "encoding", "finishing").index(step["stage"]) for step in steps]
    assert order == sorted(order)
    assert steps[-1]["duration"] == SECONDS
    assert last["stage"] == "done"
    assert "<title>a&lt;b</title>" in last["result"]
    alone = client.post("/v1/analyze?name=a%3Cb.wav&format=html", wav())
    assert alone.headers["Content-Type"] == "text/html; charset=utf-8"
    assert alone.headers["Content-Security-Policy"].startswith("sandbox ")
    assert alone.body.decode() == last["result"]


def test_progress_ends_with_the_length_of_the_recording(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds: list[float] = []
    advance = Job._advance

    def noted(job: Job, more: float) -> None:
        advance(job, more)
        seconds.append(job.progress.seconds)

    monkeypatch.setattr(Job, "_advance", noted)
    assert client.post("/v1/embed", wav()).status == 200
    assert seconds == sorted(seconds)
    assert seconds[-1] == pytest.approx(SECONDS, abs=0.1)


def test_what_goes_wrong_on_the_way_is_the_last_line(client: Client) -> None:
    answer = client.post("/v1/analyze?progress=true", b"no sound at all")
    assert answer.status == 200
    last = json.loads(answer.body.splitlines()[-1])
    assert (last["stage"], last["status"]) == ("failed", 422)
    assert last["error"].startswith("recording is not audio in a known format")


@pytest.mark.parametrize(
    ("path", "body", "status", "reason"),
    [
        ("/v1/embed", b"", 422, "the body is empty"),
        ("/v1/embed?name=x.mp3", b"<html>", 422, "x.mp3 is not audio in a known format"),
        ("/v1/embed?name=x.wav", wav()[:-9_000], 422, "x.wav is damaged"),
        ("/v1/embed?name=x.wav", wav(0.01), 422, "x.wav is too short: 0.010 s"),
        ("/v1/embed?name=x.wav", wav(11.0), 413, "the recording is longer than 0.167 min"),
        ("/v1/embed?name=x.wav", bytes(2_000_001), 413, "the upload is larger than 2 MB"),
        ("/v1/embed?layer=5", wav(), 422, "there is no layer 5 here; choose from 0, 1, 2, 3, 4"),
        ("/v1/embed?layer=x", wav(), 422, "layer: Input should be a valid integer"),
        ("/v1/embed?pool=x", wav(), 422, "pool: Input should be 'none' or 'mean', or "),
        ("/v1/embed?pool=26", wav(), 422, "pool is 26; give none, mean, or up to 25 Hz"),
        ("/v1/embed?pool=nan", wav(), 422, "pool is nan"),
        ("/v1/analyze?format=xml", wav(), 422, "format: Input should be 'jams', 'html', 'csv'"),
        ("/v1/analyze?format=csv&progress=1", wav(), 422, "progress goes with jams and html, not"),
        ("/v1/embed?layers=3", wav(), 422, "there is no parameter 'layers'; there are name, layer"),
        ("/v1/analyze?pool=1", wav(), 422, "there is no parameter 'pool'; there are name, format"),
        ("/v1/nothing", wav(), 404, "Not Found"),
        ("/healthz", wav(), 405, "Method Not Allowed"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(
    client: Client, path: str, body: bytes, status: int, reason: str
) -> None:
    answer = client.post(path, body)
    assert answer.status == status
    assert answer.error.startswith(reason)
    assert "\n" not in answer.error
    assert "on_damage" not in answer.error


def test_a_body_of_unknown_length_is_cut_off_too(client: Client) -> None:
    answer = client.post("/v1/embed", iter([bytes(2**19)] * 5))  # in chunks, without a length
    assert (answer.status, answer.error.split(";")[0]) == (413, "the upload is larger than 2 MB")
    assert client.post("/v1/embed", iter([wav()[:99], wav()[99:]])).status == 200


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize("name", ["../../../../etc/passwd", "..\\x.wav", "/etc/shadow", "%00", ""])
@pytest.mark.parametrize("body", [b"x", PLAYLIST, b"ffconcat version 1.0\nfile /etc/passwd\n"])
def test_nothing_of_the_file_system_is_shown(
    client: Client, service: Service, name: str, body: bytes
) -> None:
    answer = client.post(f"/v1/embed?name={name.replace(chr(92), '%5C')}", body)
    assert answer.status == 422
    text = answer.body.decode() + str(answer.headers)
    for part in (str(service._folder), service._folder.name, "upload", "/tmp", "root:"):
        assert part not in text
    assert "/" not in answer.error


def test_paths_of_models_are_not_shown(tmp_path: Path) -> None:
    MusicFM.from_pretrained("nano").save_pretrained(tmp_path / "secret" / "mine")
    model = str(tmp_path / "secret" / "mine")
    loaded = load_encoder(model, write_heads(tmp_path / "heads", model)[:1])
    with serving(Service(*loaded, Limits(), num_workers=1)) as (client, _):
        answer = client.post("/v1/analyze", wav())
        assert answer.status == 200
        assert '"model": "mine"' in answer.body.decode()
        assert "secret" not in answer.body.decode()


@pytest.mark.parametrize("path", ["/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/assets/x"])
def test_no_path_leads_to_a_file(client: Client, path: str) -> None:
    assert client.ask("GET", path).status == 404


@pytest.mark.parametrize(
    "media_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_what_other_sites_can_send_unasked_is_refused(
    client: Client, media_type: str | None
) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    answer = client.ask("POST", "/v1/embed", wav(), {**headers, "Origin": "http://evil.example"})
    assert answer.status == 415
    asked = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = client.ask("OPTIONS", "/v1/embed", headers=asked)
    assert preflight.status == 405
    assert not [name for name in preflight.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("evil.example:80", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
    ],
)
def test_only_known_names_reach_it(client: Client, host: str, status: int) -> None:
    assert client.ask("GET", "/healthz", headers={"Host": host}).status == status


@pytest.mark.parametrize("path", ["/", "/healthz", "/v1/nothing"])
def test_every_answer_is_protected(client: Client, path: str) -> None:
    headers = client.ask("GET", path).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "server" not in headers


def test_the_interface_describes_itself(client: Client) -> None:
    assert client.ask("GET", "/healthz").json()["status"] == "ok"
    found = client.ask("GET", "/openapi.json").json()
    assert set(found["paths"]) == {
        "/healthz",
        "/v1/embed",
        "/v1/analyze",
        "/v1/jobs",
        "/v1/jobs/{id}",
        "/v1/jobs/{id}/{format}",
    }
    embed = found["paths"]["/v1/embed"]["post"]
    assert "audio/*" in embed["requestBody"]["content"]
    assert {parameter["name"] for parameter in embed["parameters"]} == {"name", "layer", "pool"}
    assert {"200", "408", "413", "415", "422", "503", "504"} <= set(embed["responses"])
    assert client.ask("GET", "/redoc").status == 404  # it would load scripts of another host
    page = client.ask("GET", "/docs").body.decode()
    assert set(re.findall(r'(?:src|href)="([^"]*)"', page)) == {
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "data:,",
    }


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_commands_in_the_documentation_work(client: Client, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "song.mp3", 0.5 * recipe.waveform(0, 1, 48_000)[0], 24_000)
    lines = re.findall(r"^curl .*", DOCUMENTATION, re.M)
    assert len(lines) == 7
    for line in lines:
        command = line.replace("http://127.0.0.1:8000", client.url)
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    with np.load(tmp_path / "mean.npz") as found:
        assert found["mean"].shape == (2, 192)
    assert json.loads((tmp_path / "song.jams").read_text())["file_metadata"]["title"] == "song"
    assert "<title>song</title>" in (tmp_path / "song.html").read_text()


def test_the_documentation_lists_every_status(client: Client) -> None:
    found = client.ask("GET", "/openapi.json").json()["paths"]
    ways = [way for path in found.values() for way in path.values()]
    known = {status for way in ways for status in way["responses"]}
    assert set(re.findall(r"^\| (\d+) \|", DOCUMENTATION, re.M)) == known - {
        "200",
        "201",
        "204",
    } | {"421"}


class Gate:
    """An embedder that computes only while it is open."""

    def __init__(self) -> None:
        config = preset("tiny").replace(encoder=ConformerConfig(dim=64, num_heads=4, ffn_dim=128))
        torch.manual_seed(0)
        self.embedder = Embedder(MusicFM(config), "all")
        self.open = threading.Event()
        self.fails = False
        self._batch = self.embedder.batch
        self.embedder.batch = self.batch  # type: ignore[method-assign]

    def batch(self, windows: Any) -> list[Tensor]:
        assert self.open.wait(60.0)
        if self.fails:
            self.fails = False
            raise RuntimeError("the device is gone")
        return self._batch(windows)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def gated(gate: Gate, **limits: Any) -> Service:
    return Service(gate.embedder, None, Limits(**limits), num_workers=1, timeout_seconds=60.0)


class Later(threading.Thread):
    """A request whose answer is fetched later."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self.start()

    def run(self) -> None:
        self._answer = self._client.post("/v1/embed", wav())

    @property
    def answer(self) -> Answer:
        self.join(60.0)
        return self._answer


def test_when_all_places_are_taken_others_are_told_to_come_again(gate: Gate) -> None:
    service = gated(gate, max_requests=2)
    with serving(service) as (client, _):
        first, second = Later(client), Later(client)
        assert eventually(lambda: service.num_requests == 2)
        answer = client.post("/v1/embed", wav())
        assert (answer.status, answer.error) == (503, "the server is busy; try again in a moment")
        assert int(answer.headers["Retry-After"]) > 0
        assert client.ask("GET", "/healthz").json()["requests"] == 2
        gate.open.set()
        assert (first.answer.status, second.answer.status) == (200, 200)
        assert eventually(lambda: service.num_requests == 0)
        assert client.post("/v1/embed", wav()).status == 200
        assert eventually(lambda: not list(service._folder.iterdir()))


def test_what_takes_too_long_is_given_up(gate: Gate) -> None:
    service = gated(gate, work_seconds=0.5, upload_seconds=0.5)
    with serving(service) as (client, _):
        answer = client.post("/v1/embed", wav())
        assert (answer.status, answer.error.split(";")[0]) == (
            504,
            "the result took longer than 0.5 s",
        )
        with socket.create_connection(("127.0.0.1", client.port)) as slow:
            slow.sendall(
                b"POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n"
                b"Content-Length: 1000\r\n\r\nRIFF"
            )
            assert slow.recv(12) == b"HTTP/1.1 408"
        assert eventually(lambda: service.num_requests == 0)
        gate.open.set()


def test_a_client_that_leaves_frees_its_place(gate: Gate) -> None:
    service = gated(gate)
    body = wav()
    with serving(service) as (client, _):
        for sent in (body, body[:1000]):  # all, and cut off in the middle
            with socket.create_connection(("127.0.0.1", client.port)) as leaving:
                head = "POST /v1/embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n"
                leaving.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + sent)
                assert eventually(lambda: service.num_requests == 1)
            assert eventually(lambda: service.num_requests == 0)
            assert not list(service._folder.iterdir())  # they go before the place is free
        gate.open.set()
        assert client.post("/v1/embed", body).status == 200


def test_a_failing_encoder_costs_what_is_under_way_alone(
    gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    gate.fails = True
    gate.open.set()
    with serving(gated(gate)) as (client, _):
        answer = client.post("/v1/embed", wav())
        assert answer.status == 500
        assert answer.error == "something is wrong with the server; its log says what"
        assert client.post("/v1/embed", wav()).status == 200
    assert "the device is gone" in caplog.text


def test_when_told_to_stop_it_finishes_what_is_under_way(gate: Gate) -> None:
    service = gated(gate)
    with serving(service) as (client, stop):
        later = Later(client)
        assert eventually(lambda: service.num_requests == 1)
        stopping = threading.Thread(target=stop)
        stopping.start()

        def is_refused() -> bool:
            try:
                client.ask("GET", "/healthz")
            except ConnectionError:
                return True
            return False

        assert eventually(is_refused)
        gate.open.set()
        assert later.answer.status == 200
        stopping.join(60.0)
        assert not stopping.is_alive()
    assert not service._folder.exists()


def test_what_is_not_finished_in_time_is_answered_all_the_same(gate: Gate) -> None:
    service = gated(gate)
    with serving(service, grace_seconds=0.3) as (client, stop):
        later = Later(client)
        assert eventually(lambda: service.num_requests == 1)
        stop()
        assert (later.answer.status, later.answer.error) == (503, "the server is shutting down")
        gate.open.set()
    assert not service._folder.exists()


def test_without_heads_there_are_embeddings_alone(gate: Gate) -> None:
    gate.open.set()
    with serving(gated(gate)) as (client, _):
        assert client.post("/v1/analyze", wav()).status == 501
        assert client.post("/v1/embed", wav()).status == 200
        assert "This server has no heads" in client.ask("GET", "/").body.decode()
