"""Runs the blocks of a page in order, as a reader would, with less music and smaller models.

What a reader types is kept; numbers that make it long are replaced, in the tables below. What
stands for what no test has (a GPU, a cluster, a package registry) is below, too.
"""

import ast
import contextlib
import http.client
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import slurm
from command_line import Run

ROOT = Path(__file__).parents[1]
PAGES = {
    path.relative_to(ROOT).as_posix(): path
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "src" / "musicfm" / "nano" / "README.md",
    )
}

SMALLER: dict[str, list[str]] = {
    "probe": ["--seeds=1"],
    "table1": ["--seeds=1", "--tasks=key", "--fraction=0.2"],
    "finetune": ["--epochs=1", "--epoch-clips=8"],
    "pretrain": [
        "--device=cpu", "--workers=0", "--set=steps=2", "--set=batch_size=2",
        "--set=micro_batch_size=1", "--set=validation_clips=1", "--set=log_every=1",
        "--set=model.context_seconds=2.0",
    ],
}  # fmt: skip
"""Options that are added to a command; of one that is there already, the last one counts."""

SMALLER_MODEL = [
    "--set=model.front_end.conv_dim=4", "--set=model.encoder.dim=32",
    "--set=model.encoder.num_heads=2", "--set=model.encoder.ffn_dim=32",
    "--set=model.encoder.depth=1", "--set=precision=float32",
    "--set=activation_checkpointing=false",
]  # fmt: skip
"""Of the recipes of the paper, as well."""


def blocks(text: str, *languages: str) -> Iterator[tuple[str, str]]:
    """Language and content of a page's code blocks."""
    for language, content in re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        if language in languages:
            yield language, content


class Reader:
    """Follows one page in a folder of its own."""

    def __init__(self, run: Run, home: Path, published: Path) -> None:
        self._run, self._home, self._published = run, home, published
        self._environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._names: dict[str, Any] = {"__name__": "page"}
        self._server: subprocess.Popen[bytes] | None = None
        self._port = 0

    def follow(self, text: str) -> dict[str, Any]:
        """Runs all blocks; what Python's have named. Raises AssertionError if a command fails."""
        try:
            for language, content in blocks(text, "bash", "python", "pycon"):
                if language == "bash":
                    for line in content.replace("\\\n", " ").splitlines():
                        if line.split("#")[0].strip():
                            self._command(line)
                elif language == "pycon":
                    self._session(content)
                else:
                    if named := re.match(r"# (\w+\.py)\n", content):
                        (self._home / named[1]).write_text(content)
                    exec(content, self._names)
        finally:
            self._stop_server()
        return self._names

    def _command(self, line: str) -> None:
        line = line.replace("s3://bucket", f"file://{self._home}/bucket")
        line = line.replace("/shared/", "shared/")
        before, _, musicfm = line.rpartition(" | musicfm ")
        if before:
            listed = self._shell(before)
            (self._home / "listed.txt").write_text(listed)
            line = f"musicfm {musicfm}".replace("--list -", "--list listed.txt")
        words = shlex.split(line, comments=True)
        name = words[0]
        handler: Callable[[list[str]], None] | None = getattr(self, f"_{name}", None)
        if handler is not None:
            handler(words[1:])
        elif name == "curl":
            self._shell(line.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}"))
        elif name == "find":
            self._shell(line)
        else:
            raise AssertionError(f"no way to try '{line}'")

    def _musicfm(self, arguments: list[str]) -> None:
        verb, *rest = arguments
        rest = [
            str(self._published) if word == "msd" else os.path.expanduser(word) for word in rest
        ]
        for option, used in (("--device", "cpu"), ("--address", None)):
            if option in rest:
                place = rest.index(option)
                rest[place : place + 2] = [] if used is None else [option, used]
        rest = [word for word in rest if word != "--compile"]  # it is for CUDA alone
        if verb == "serve":
            self._serve(rest)
            return
        if verb == "render":
            rest[0] = str(min(int(rest[0]), 3))
        added = SMALLER.get(verb, [])
        if verb in ("pretrain", "kmeans") and rest[0].startswith("fm"):
            added = [*added, *SMALLER_MODEL]
        status, _, errors = self._run(verb, *rest, *added)
        assert status == 0, f"{shlex.join(arguments)}: {errors[-2_000:]}"

    def _serve(self, arguments: list[str]) -> None:
        self._stop_server()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        command = [sys.executable, "-m", "musicfm", "serve", *arguments, "--port", str(self._port)]
        self._server = subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            with contextlib.closing(connection), contextlib.suppress(OSError):
                connection.request("GET", "/healthz")
                assert connection.getresponse().status == 200
                return
            assert self._server.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.1)

    def _stop_server(self) -> None:
        if self._server is not None:
            self._server.send_signal(signal.SIGTERM)
            assert self._server.wait(60) == 0
            self._server = None

    def _session(self, content: str) -> None:
        """A session of the interpreter, without what it printed."""
        lines = [line[4:] for line in content.splitlines() if line[:4] in (">>> ", "... ")]
        text = "\n".join(lines).replace("/data/", f"{self._home}/data/")
        for statement in ast.parse(text).body:
            exec(compile(ast.Module([statement], []), "session", "exec"), self._names)

    def _python(self, arguments: list[str]) -> None:
        assert arguments[0] == "-c", "no way to try a script"
        exec(arguments[1].replace("/data/", f"{self._home}/data/"), {"__name__": "line"})

    def _pip(self, arguments: list[str]) -> None:
        """Extras have to be there; nothing is installed."""
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
        extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
        for requirement in arguments[1:]:
            if found := re.fullmatch(r"(?:\.|musicfm)\[([\w,]+)\]", requirement):
                assert set(found[1].split(",")) <= extras, requirement

    def _make(self, arguments: list[str]) -> None:
        """Targets and variables have to be there; nothing is made."""
        subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)

    def _source(self, arguments: list[str]) -> None:
        assert arguments == [".venv/bin/activate"]

    def _export(self, arguments: list[str]) -> None:
        for assignment in arguments:
            name, _, value = assignment.partition("=")
            self._environment[name] = value

    def _torchrun(self, arguments: list[str]) -> None:
        """One machine and one process instead of many."""
        module = arguments.index("-m")
        given = dict(zip(arguments[:module:2], arguments[1:module:2], strict=True))
        given |= {"--nnodes": "1", "--nproc-per-node": "1", "--rdzv-endpoint": "127.0.0.1:0"}
        options = [word for pair in given.items() for word in pair]
        self._launched(
            [sys.executable, "-m", "torch.distributed.run", *options, *arguments[module:]]
        )

    def _sbatch(self, arguments: list[str]) -> None:
        """The script, in what SLURM would give it, of one machine."""
        script = next(k for k, word in enumerate(arguments) if word.endswith(".slurm"))
        self._environment |= {**slurm.JOB, **slurm.write_commands(self._home / "slurm")}
        self._launched(["bash", str(ROOT / arguments[script]), *arguments[script + 1 :]])

    def _launched(self, command: Sequence[str]) -> None:
        smaller = [*SMALLER["pretrain"], *SMALLER_MODEL]
        done = subprocess.run(
            [*command, *smaller], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr[-2_000:]}"

    def _shell(self, line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stderr[-2_000:]}"
        return done.stdout
