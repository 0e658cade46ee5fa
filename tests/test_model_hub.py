"""Downloads, against a stand-in of the hub in a thread of this process."""

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

import recipe
from musicfm.errors import CheckpointError
from musicfm.model import hub
from musicfm.model.hub import PUBLISHED, is_repo_id
from musicfm.model.musicfm import MusicFM

REVISION = PUBLISHED["msd"].revision
MSD = f"/minzwon/MusicFM/resolve/{REVISION}"


@dataclass
class Server:
    """Files by path, and what was asked for."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    """(method, path, Range) of each."""
    breaks: list[int] = field(default_factory=list)
    """Bytes after which the connections of the next bodies break."""
    address: str = ""

    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET" and path in self.files]


class Handler(BaseHTTPRequestHandler):
    hub: Server  # set by the fixture

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        requested = self.headers.get("Range")
        self.hub.requests.append((self.command, self.path, requested))
        content = self.hub.files.get(self.path)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int(requested.removeprefix("bytes=").split("-")[0]) if requested else 0
        self.send_response(206 if requested else 200)
        if requested:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            stop = start + self.hub.breaks.pop(0) if self.hub.breaks else len(content)
            self.wfile.write(content[start:stop])
            self.close_connection = stop < len(content)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The hub, and an empty cache."""
    known = Server()
    handler = type("Bound", (Handler,), {"hub": known})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    known.address = f"http://127.0.0.1:{http.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", known.address)
    template = known.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    notes = str(tmp_path / "harnesses")  # of the hub's client, in some versions
    monkeypatch.setattr(constants, "AGENT_HARNESSES_PATH", notes, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_PROGRESS_BARS", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield known
    huggingface_hub.close_session()
    http.shutdown()
    thread.join()
    http.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def msd(server: Server, published_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub with a small checkpoint in place of the published one."""
    weights = published_tiny.read_bytes()
    stats = published_tiny.with_name("tiny_stats.json").read_bytes()
    server.files = {f"{MSD}/pretrained_msd.pt": weights, f"{MSD}/msd_stats.json": stats}
    entry = hub.PublishedCheckpoint(
        "pretrained_msd.pt", sha256(weights), "msd_stats.json", sha256(stats)[:8]
    )
    monkeypatch.setitem(PUBLISHED, "msd", entry)
    return server


# --------------------------------------------------------------- the published checkpoints


def test_an_alias_is_downloaded_once_at_its_revision(msd: Server, tiny: MusicFM) -> None:
    model = MusicFM.from_pretrained("msd")
    assert model.config == tiny.config
    assert sorted(msd.downloads()) == sorted(msd.files)
    msd.requests.clear()
    MusicFM.from_pretrained("msd")
    assert not msd.downloads()


def test_a_large_download_is_announced_once(
    msd: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "_LARGE", len(msd.files[f"{MSD}/pretrained_msd.pt"]) - 1)
    MusicFM.from_pretrained("msd")
    assert re.fullmatch(r"downloading \S+ GB of minzwon/MusicFM to \S+\n", capsys.readouterr().err)
    MusicFM.from_pretrained("msd")
    assert not capsys.readouterr().err


def test_a_folder_named_as_an_alias_is_told_by_its_dot(
    msd: Server, tiny: MusicFM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.save_pretrained("msd")
    MusicFM.from_pretrained("./msd")
    assert not msd.requests
    MusicFM.from_pretrained("msd")
    assert msd.requests


@pytest.mark.parametrize("name", ["pretrained_msd.pt", "msd_stats.json"])
def test_another_file_than_the_published_one_is_refused(name: str, msd: Server) -> None:
    original = msd.files[f"{MSD}/{name}"]
    longer = (original + b"\n" * count for count in range(1, 1_000))
    changed = next(file for file in longer if sha256(file)[0] == sha256(original)[0])
    msd.files[f"{MSD}/{name}"] = changed
    message = f"not the published {name}: .* {sha256(changed)}, expected {sha256(original)[:8]}"
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained("msd")
    with pytest.warns(UserWarning, match=message):
        MusicFM.from_pretrained("msd", allow_hash_mismatch=True)


def test_deleting_the_file_that_is_named_brings_it_back_whole(msd: Server, tmp_path: Path) -> None:
    MusicFM.from_pretrained("msd")
    (cached,) = tmp_path.rglob("pretrained_msd.pt")
    cached.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="delete it, or pass allow_hash") as caught:
        MusicFM.from_pretrained("msd")
    Path(str(caught.value).split(" is not ")[0]).unlink()
    MusicFM.from_pretrained("msd")


def test_statistics_of_an_alias_may_be_given(msd: Server) -> None:
    assert MusicFM.from_pretrained("msd", stats=(1.0, 2.0)).config.mel.mean == 1.0


def test_an_interrupted_download_is_resumed(msd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # kept or lost as a whole
    msd.breaks = [10_500]
    MusicFM.from_pretrained("msd")
    asked = [(path, range_) for method, path, range_ in msd.requests if method == "GET" and range_]
    assert asked == [(f"{MSD}/pretrained_msd.pt", "bytes=10000-")]


def test_offline_uses_what_is_cached(msd: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    MusicFM.from_pretrained("msd")
    msd.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    MusicFM.from_pretrained("msd")
    assert not msd.requests


def advice(server: Server) -> str:
    weights, stats = (
        f"{server.address}{MSD}/{name}" for name in ("pretrained_msd.pt", "msd_stats")
    )
    return f"download {weights} and {stats}.json into one folder, say data/, and load data/pre"


@pytest.mark.parametrize("reason", ["offline", "no network", "not there", "breaks off"])
def test_without_the_file_it_is_said_how_to_get_it(
    reason: str, msd: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        huggingface_hub.close_session()
    elif reason == "no network":
        monkeypatch.setattr(time, "sleep", lambda _: None)  # before it tries again
        msd.address = "http://127.0.0.1:1"
        template = msd.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", msd.address)
    elif reason == "breaks off":
        monkeypatch.setattr(time, "sleep", lambda _: None)
        msd.breaks = [10] * 20
    else:
        msd.files.clear()
    message = rf"cannot download pretrained_msd.pt of minzwon/MusicFM \(.+\); .*{advice(msd)}"
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained("msd")


def test_the_published_files_are_pinned() -> None:
    for alias, entry in PUBLISHED.items():
        assert entry.weights == f"pretrained_{alias}.pt"
        assert entry.stats == f"{alias}_stats.json"
        assert re.fullmatch("[0-9a-f]{64}", entry.weights_sha256)
        assert re.fullmatch("[0-9a-f]{8,64}", entry.stats_sha256)
        assert re.fullmatch("[0-9a-f]{40}", entry.revision)


# ---------------------------------------------------------------------------- models of ours


@pytest.mark.parametrize(("revision", "asked"), [(None, "main"), ("v1", "v1")])
def test_a_model_of_ours_by_its_id(
    revision: str | None, asked: str, server: Server, tiny: MusicFM, tmp_path: Path
) -> None:
    tiny.save_pretrained(tmp_path / "model")
    server.files = {
        f"/me/model/resolve/{asked}/{path.name}": path.read_bytes()
        for path in (tmp_path / "model").iterdir()
    }
    model = MusicFM.from_pretrained("me/model", revision=revision)
    assert model.config == recipe.TINY
    assert sorted(server.downloads()) == sorted(server.files)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "me/model",
            r"cannot download config.json of me/model .*me/model/resolve/main/config.json",
        ),
        ("me--you/model", "no hub id 'me--you/model'"),
    ],
)
def test_an_id_of_nothing_is_named(source: str, message: str, server: Server) -> None:
    with pytest.raises(CheckpointError, match=message):
        MusicFM.from_pretrained(source)


@pytest.mark.parametrize(
    ("name", "is_id"),
    [
        ("me/model", True),
        ("me/model-1.0_b", True),
        ("model", False),
        ("/me/model", False),
        ("./me/model", False),
        ("data/me/model", False),
        ("data/pretrained_msd.pt", False),
        ("data/model.safetensors", False),
        ("me/", False),
    ],
)
def test_what_looks_like_an_id(name: str, is_id: bool) -> None:
    assert is_repo_id(name) is is_id


# -------------------------------------------------------------------------------- uploading


class Api:
    """Notes what a repository would get."""

    error: Exception | None = None
    calls: list[Any]

    def create_repo(self, repo_id: str, **options: Any) -> None:
        self.calls.append((repo_id, options))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any:
        if self.error is not None:
            raise self.error
        self.calls.append((repo_id, commit_message, MusicFM.from_pretrained(folder_path).config))
        return type("Commit", (), {"commit_url": f"https://hub/{repo_id}/commit/1"})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> type[Api]:
    bound = type("BoundApi", (Api,), {"calls": []})
    monkeypatch.setattr(huggingface_hub, "HfApi", bound)
    return bound


def test_push_uploads_what_save_writes(api: type[Api], tiny: MusicFM) -> None:
    address = tiny.push_to_hub("me/model", private=True, message="Mine")
    assert address == "https://hub/me/model/commit/1"
    assert api.calls == [
        ("me/model", {"private": True, "exist_ok": True}),
        ("me/model", "Mine", tiny.config),
    ]


def test_a_push_that_fails_says_why(api: type[Api], tiny: MusicFM) -> None:
    api.error = huggingface_hub.errors.LocalTokenNotFoundError("log in first.\nmore")
    with pytest.raises(CheckpointError, match=r"^cannot upload to me/model: log in first$"):
        tiny.push_to_hub("me/model")
