import io
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import audio_files
from musicfm import remote
from musicfm.audio import reading
from musicfm.errors import AudioError, ConfigError


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(remote, "WAIT_SECONDS", 0.001)
    yield
    MemoryFileSystem.store.clear()


def store(url: str, content: bytes) -> None:
    with fsspec.open(url, "wb") as file:
        file.write(content)


def test_paths_are_no_urls() -> None:
    assert remote.is_url("s3://bucket/song.mp3")
    assert not remote.is_url("music/song.mp3")
    assert not remote.is_url(Path("music/song.mp3"))
    assert remote.join("s3://bucket/music", "a/b.mp3") == "s3://bucket/music/a/b.mp3"
    assert remote.join("s3://bucket/music/", "a/b.mp3") == "s3://bucket/music/a/b.mp3"
    assert remote.join("s3://bucket/music", ".") == "s3://bucket/music"
    assert remote.join(Path("music"), "a/b.mp3") == Path("music/a/b.mp3")
    assert remote.parent("s3://bucket/music/all.parquet") == "s3://bucket/music"


def test_a_file_is_read_in_any_order() -> None:
    content = np.random.default_rng(0).bytes(3_000_000)
    store("memory://bucket/file", content)
    with remote.open_bytes("memory://bucket/file") as file:
        for start, size in [(2_999_990, 100), (0, 10), (1_048_570, 20), (5, 2_000_000)]:
            file.seek(start)
            assert file.read(size) == content[start : start + size]
        assert file.seek(-7, io.SEEK_END) == len(content) - 7
        assert file.read() == content[-7:]
    with remote.fetched("memory://bucket/file") as file:
        assert file.read() == content


class Flaky:
    """Fails now and then, in the ways that stores do."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, failures: int, error: Exception) -> None:
        self._cat, self._failures, self._error = MemoryFileSystem.cat_file, failures, error
        self.requests: list[tuple[int, int]] = []
        monkeypatch.setattr(MemoryFileSystem, "cat_file", partial(self._cat_file))

    def _cat_file(self, path: str, start: int, stop: int) -> bytes:
        self.requests.append((start, stop))
        if len(self.requests) % (self._failures + 1):
            raise self._error
        return bytes(self._cat(MemoryFileSystem(), path, start, stop))


@pytest.mark.parametrize("error", [OSError("503 Slow Down"), TimeoutError(), RuntimeError("reset")])
def test_a_request_that_fails_is_made_again(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    content = np.random.default_rng(0).bytes(3_000)
    store("memory://bucket/file", content)
    monkeypatch.setattr(remote, "_READ_BYTES", 1_000)
    flaky = Flaky(monkeypatch, remote.ATTEMPTS - 1, error)
    with remote.open_bytes("memory://bucket/file") as file:
        assert file.read() == content
    ranges = sorted(set(flaky.requests))
    assert len(flaky.requests) == remote.ATTEMPTS * len(ranges)
    assert sum(stop - start for start, stop in ranges) == len(content)


def test_attempts_come_to_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store("memory://bucket/song.wav", b"RIFF")
    flaky = Flaky(monkeypatch, 1_000, OSError("503 Slow Down"))
    message = r"song\.wav cannot be read \(7 attempts failed, the last with: 503 Slow Down\)"
    with pytest.raises(AudioError, match=message):
        reading.probe("memory://bucket/song.wav")
    assert len(flaky.requests) == remote.ATTEMPTS


def test_what_does_not_exist_is_not_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    info = MemoryFileSystem.info

    def counted(self: MemoryFileSystem, path: str, **options: Any) -> Any:
        asked.append(path)
        return info(self, path, **options)

    monkeypatch.setattr(MemoryFileSystem, "info", counted)
    with pytest.raises(AudioError, match=r"no\.wav cannot be read \(No such file or directory\)"):
        reading.load("memory://bucket/no.wav", 24_000)
    assert len(asked) == 1


def test_a_protocol_that_is_not_known_is_a_mistake_of_the_user() -> None:
    with pytest.raises(ConfigError, match=r"cannot read gopher://bucket/x: Protocol not known"):
        remote.open_bytes("gopher://bucket/x")


def test_a_recording_is_what_it_is_on_the_disk(tmp_path: Path) -> None:
    for name in ("tone.wav", "tone.mp3", "tone.flac", "tone.m4a"):
        path = audio_files.write(tmp_path, name, seconds=2.0)
        url = f"memory://bucket/{name}"
        store(url, path.read_bytes())
        np.testing.assert_array_equal(reading.load(url, 24_000), reading.load(path, 24_000))
        assert reading.probe(url).num_samples == reading.probe(path).num_samples


def test_messages_name_the_url(tmp_path: Path) -> None:
    store("memory://bucket/text.mp3", b"hello, this is text")
    with pytest.raises(AudioError, match=r"memory://bucket/text\.mp3 is not audio"):
        reading.load("memory://bucket/text.mp3", 24_000)
    store("memory://bucket/empty.mp3", b"")
    with pytest.raises(AudioError, match=r"memory://bucket/empty\.mp3 is empty"):
        reading.load("memory://bucket/empty.mp3", 24_000)


def test_folders_are_listed_without_hidden_files() -> None:
    for name in ("b/2.mp3", "a.mp3", "b/1.mp3", ".hidden/3.mp3", "b/._1.mp3"):
        store(f"memory://bucket/music/{name}", name.encode())
    found = list(remote.files_below("memory://bucket/music"))
    names = ["a.mp3", "b/1.mp3", "b/2.mp3"]
    assert [file.url for file in found] == [f"memory:///bucket/music/{name}" for name in names]
    assert [file.size for file in found] == [5, 7, 7]
    (one,) = remote.files_below(found[1].url)
    assert (one.url, one.size) == (found[1].url, 7)
    assert list(remote.files_below("memory://bucket/music")) == found
    store(found[1].url, b"changed")
    after = list(remote.files_below("memory://bucket/music"))
    assert [file.version == old.version for file, old in zip(after, found, strict=True)] == [
        True, False, True,
    ]  # fmt: skip


# --------------------------------------------------------------------- a real server


class _Ranged(SimpleHTTPRequestHandler):
    """Python's server, which knows no ranges, taught them."""

    knows_ranges = True

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        first, last = 0, len(content) - 1
        if "Range" in self.headers and self.knows_ranges:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = content[first : last + 1]
        self.send_response(206 if len(part) < len(content) else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Accept-Ranges", "bytes" if self.knows_ranges else "none")
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    if find_spec("aiohttp") is None:
        pytest.skip("fsspec reads http through aiohttp")
    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(_Ranged, directory=str(tmp_path))
    ) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def test_a_recording_on_a_server(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = audio_files.write(tmp_path, "tone.wav", seconds=10.0)
    url = f"{server}/tone.wav"
    np.testing.assert_array_equal(reading.load(url, 24_000), reading.load(path, 24_000))
    with pytest.raises(AudioError, match="No such file or directory"):
        reading.load(f"{server}/none.wav", 24_000)
    monkeypatch.setattr(_Ranged, "knows_ranges", False)
    # all at once
    np.testing.assert_array_equal(reading.load(url, 24_000), reading.load(path, 24_000))
    with remote.open_bytes(url) as file:
        file.seek(10)
        with pytest.raises(OSError, match=r"bytes came where \d+ were asked for"):
            file.read(10)
