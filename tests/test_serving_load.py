"""``musicfm serve`` under load: many clients at once, not all of them friendly."""

import io
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import soundfile

import recipe
from heads_of import write_heads
from served import Answer, Client, eventually

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

CLIENTS = 32
REQUESTS = 3
"""Of each client."""
MAX_BYTES = 2_000_000
MAX_SECONDS = 1_000.0
"""For all of it, on a machine with other things to do."""
MAX_GROWTH = 250 * 2**20
"""Of the server's memory, in bytes."""


def sound(seed: int, seconds: float, container: str) -> bytes:
    file = io.BytesIO()
    samples = 0.5 * recipe.waveform(seed, 1, round(seconds * 24_000))[0]
    soundfile.write(file, samples, 24_000, format=container)
    return file.getvalue()


class Clients:
    """What clients do; each gives what became of it, and fails if that is wrong."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._sounds = {
            container: sound(1, 3.0, container) for container in ("WAV", "OGG", "FLAC", "MP3")
        }

    def kinds(self) -> list[Callable[[random.Random], str]]:
        return [
            *[self.embed] * 4,
            self.analyze,
            self.huge,
            self.long,
            self.leaves,
            self.mutated,
            self.no_sound,
            self.slow,
            self.malformed,
        ]

    def _post(self, path: str, body: bytes) -> Answer:
        """Comes again while the server is busy."""
        while True:
            answer = self._client.post(path, body)
            if answer.status != 503:
                return answer
            time.sleep(0.2 * int(answer.headers["Retry-After"]))

    def _good(self, dice: random.Random) -> bytes:
        return self._sounds[dice.choice(list(self._sounds))]

    def embed(self, dice: random.Random) -> str:
        answer = self._post("/v1/embed?pool=mean", self._good(dice))
        assert answer.status == 200, answer.body
        with np.load(io.BytesIO(answer.body)) as found:
            assert abs(found["duration"] - 3.0) < 0.1
            assert np.isfinite(found["mean"]).all()
        return "embedded"

    def analyze(self, dice: random.Random) -> str:
        answer = self._post("/v1/analyze", self._good(dice))
        assert answer.status == 200, answer.body
        assert len(answer.json()["annotations"]) >= 5
        return "analysed"

    def huge(self, dice: random.Random) -> str:
        assert self._post("/v1/embed", bytes(MAX_BYTES + 1)).status == 413
        return "too large"

    def long(self, dice: random.Random) -> str:
        samples = np.zeros(8_000 * 40, np.int16)
        file = io.BytesIO()
        soundfile.write(file, samples, 8_000, format="FLAC")
        answer = self._post("/v1/embed", file.getvalue())
        assert answer.status == 413, answer.body
        return "too long"

    def leaves(self, dice: random.Random) -> str:
        with socket.create_connection(("127.0.0.1", self._client.port)) as connection:
            connection.sendall(
                b"POST /v1/analyze HTTP/1.1\r\nHost: localhost\r\nContent-Type: audio/wav\r\n"
                b"Content-Length: 1000000\r\n\r\n" + bytes(dice.randrange(100_000))
            )
        return "left"

    def mutated(self, dice: random.Random) -> str:
        body = bytearray(self._good(dice))
        for _ in range(dice.randrange(1, 200)):
            body[dice.randrange(len(body))] = dice.randrange(256)
        answer = self._post("/v1/embed?pool=mean&name=mutated", bytes(body))
        assert answer.status in (200, 413, 422), answer.body
        if answer.status != 200:
            assert "/" not in answer.error.replace("on/off", "")
        return f"mutated: {answer.status}"

    def no_sound(self, dice: random.Random) -> str:
        body = dice.choice(
            [dice.randbytes(50_000), b"#EXTM3U\nfile:///etc/passwd\n", b"<html>", bytes(10_000)]
        )
        answer = self._post("/v1/embed?name=../../x", body)
        assert answer.status == 422, answer.body
        assert "/" not in answer.error
        return "no sound"

    def slow(self, dice: random.Random) -> str:
        def trickle() -> Iterator[bytes]:
            for _ in range(100):
                yield b"RIFF"
                time.sleep(0.5)

        try:
            answer = self._client.post("/v1/embed", trickle())
        except ConnectionError:  # it went on sending after the answer
            return "too slow"
        assert answer.status in (408, 503), answer.body
        return "too slow"

    def malformed(self, dice: random.Random) -> str:
        with socket.create_connection(("127.0.0.1", self._client.port), timeout=60.0) as connection:
            connection.sendall(b"POST /v1/embed HTTP/9\r\nHost: \x00\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 400"
        return "malformed"


def is_alive(pid: int) -> bool:
    """Whether a process is there; a zombie waits for whoever adopted it, and is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_heads(tmp_path_factory.mktemp("heads"))


class Running:
    """``musicfm serve`` in a process of its own."""

    def __init__(self, heads: list[Path], temporary: Path, *options: str) -> None:
        temporary.mkdir()
        command = [sys.executable, "-m", "musicfm", "serve", "--port", "0", "--device", "cpu"]
        for head in heads:
            command += ["--head", str(head)]
        self.temporary = temporary
        self.process = subprocess.Popen(
            [*command, *options],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(temporary), "OMP_NUM_THREADS": "1"},
        )
        assert self.process.stderr
        line = self.process.stderr.readline()
        found = re.fullmatch(r"serving nano at http://127\.0\.0\.1:(\d+)\n", line)
        assert found, line + self.process.stderr.read()
        self.client = Client(int(found[1]))

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task")
        found = [(task / "children").read_text().split() for task in path.iterdir()]
        return [int(pid) for part in found for pid in part]

    def peak(self) -> int:
        """The most memory that the server had, without its decoders, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
        assert found
        return 1024 * int(found[1])

    def stop(self, number: signal.Signals) -> str:
        """Stops it; gives what it said."""
        children = self.children()
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=120.0)
        assert eventually(lambda: not any(map(is_alive, children)))
        return said


@pytest.mark.timeout(1_200)
def test_no_request_is_lost_and_memory_is_bounded(heads: list[Path], tmp_path: Path) -> None:
    limits = ["--max-megabytes", "2", "--max-minutes", "0.5", "--upload-timeout", "10"]
    running = Running(heads, tmp_path / "tmp", *limits, "--max-requests", "12", "--workers", "2")
    try:
        clients = Clients(running.client)
        for kind in (clients.embed, clients.analyze):
            kind(random.Random(0))
        before, begin = running.peak(), time.monotonic()
        kinds = clients.kinds()

        def client(seed: int) -> list[str]:
            dice = random.Random(seed)
            return [kinds[(seed + REQUESTS * turn) % len(kinds)](dice) for turn in range(REQUESTS)]

        with ThreadPoolExecutor(CLIENTS) as pool:
            outcomes = Counter(what for found in pool.map(client, range(CLIENTS)) for what in found)
        seconds, growth = time.monotonic() - begin, running.peak() - before
        print(f"{seconds:.0f} s, {before / 2**20:.0f} MiB + {growth / 2**20:.0f} MiB, {outcomes}")
        assert sum(outcomes.values()) == CLIENTS * REQUESTS
        assert len(outcomes) >= 9
        assert seconds < MAX_SECONDS
        assert growth < MAX_GROWTH
        assert len(running.children()) <= 1 + 2 * 2  # multiprocessing's tracker, and two a worker
        assert eventually(lambda: running.client.ask("GET", "/healthz").json()["requests"] == 0)
        (folder,) = running.temporary.glob("musicfm-serve-*")
        assert list(folder.iterdir()) == []
        assert running.stop(signal.SIGTERM).splitlines()[-1] == "stopped"  # after the log
        assert running.process.returncode == 0
        assert list(running.temporary.iterdir()) == []
    finally:
        running.process.kill()


def test_a_kill_leaves_no_process(heads: list[Path], tmp_path: Path) -> None:
    running = Running(heads[:1], tmp_path / "tmp")
    assert running.client.post("/v1/embed", sound(0, 1.0, "WAV")).status == 200
    assert running.children()
    running.stop(signal.SIGKILL)
    left = [path.name for path in running.temporary.iterdir()]
    assert all(name.startswith("musicfm-serve-") for name in left)
    with socket.create_server(("127.0.0.1", running.client.port)):
        pass  # the port is free again
