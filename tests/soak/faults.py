"""Full disks, read-only folders, files that change, damaged checkpoints, jumping clocks, two runs
at once: each ends in one sentence or not at all, and what follows ends as if undisturbed.
"""

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from musicfm.pretraining.checkpoints import checkpoint_steps
from soak.commands import Command, Content
from soak.kills import PATIENCE, run_in_fork, undisturbed

Commands = dict[str, Command]


@dataclass
class Faulty:
    """What came of one kind of fault."""

    name: str
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    outcomes: dict[str, int] = field(default_factory=dict)
    """How often runs that met the fault ended how."""
    seconds: float = 0.0

    def note(self, what: str) -> None:
        """Counts an outcome."""
        self.outcomes[what] = self.outcomes.get(what, 0) + 1


class Bench:
    """The commands, and what they give when nothing disturbs them."""

    def __init__(self, commands: Commands, folder: Path, rng: random.Random) -> None:
        self.commands, self.folder, self.rng = commands, folder, rng
        self._expected: dict[str, Content] = {}

    def expected(self, name: str) -> Content:
        """What an undisturbed run gives; it stays in :meth:`finished`."""
        if name not in self._expected:
            self.finished(name).parent.mkdir(parents=True)
            self._expected[name], _ = undisturbed(self.commands[name], self.finished(name).parent)
        return self._expected[name]

    def finished(self, name: str) -> Path:
        """The folder of an undisturbed run."""
        return self.folder / name.replace(" ", "_") / "undisturbed"

    def run(self, name: str, out: Path, jumping: bool = False) -> tuple[int, str]:
        """Runs a command in a fork; its status, and what it said."""
        log = self.folder / "log.txt"
        process = run_in_fork(self.commands[name], out, log, jumping)
        process.join(PATIENCE)
        if process.exitcode is None:
            process.kill()
            process.join()
            return -1, f"no end after {PATIENCE:g} s"
        return process.exitcode, log.read_text(errors="replace")

    def check_refused(self, name: str, out: Path, reasons: tuple[str, ...], found: Faulty) -> None:
        """A run that must end in one sentence with one of these reasons, or do without."""
        status, said = self.run(name, out)
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        if status == 0:
            found.note("it did all the same")
        elif status == 1 and "Traceback" not in said and any(r in said for r in reasons):
            found.note("one sentence" if lines else "reported by file")
        else:
            found.faults.append(f"{name}: status {status}, {said[-400:]}")

    def check_whole(self, name: str, out: Path, found: Faulty) -> None:
        """A run that must end well, and as if nothing had happened."""
        status, said = self.run(name, out)
        content = self.commands[name].content(out)
        if status != 0:
            found.faults.append(f"{name}: the rerun has status {status}, {said[-400:]}")
        elif content != self.expected(name):
            names = {*content, *self.expected(name)}
            differing = [n for n in sorted(names) if content.get(n) != self.expected(name).get(n)]
            found.faults.append(f"{name}: after the rerun {differing} differ")


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of so many kilobytes at ``folder``. Needs root."""
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={kilobytes}k"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, option: str) -> None:
    """Changes a small disk."""
    subprocess.run(["mount", "-o", f"remount,{option}", folder], check=True)


def full_disk(bench: Bench, found: Faulty, name: str) -> None:
    """A disk that has room for a part of what a command writes; then for all."""
    bench.expected(name)
    files = [path for path in bench.finished(name).rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files) // 1024
    kilobytes = max(8, round(bench.rng.uniform(0.05, 0.9) * size))
    with small_disk(bench.folder / "disk", kilobytes) as disk:
        out = disk / "out"
        bench.check_refused(name, out, ("No space left on device", "unexpected pos"), found)
        remount(disk, "size=1g")
        bench.check_whole(name, out, found)


def read_only(bench: Bench, found: Faulty, name: str) -> None:
    """A disk that cannot be written to; then one that can."""
    bench.expected(name)
    with small_disk(bench.folder / "disk", 1_000_000) as disk:
        remount(disk, "ro")
        bench.check_refused(name, disk / "out", ("Read-only file system",), found)
        remount(disk, "rw")
        bench.check_whole(name, disk / "out", found)


def changing_files(bench: Bench, found: Faulty, name: str) -> None:
    """Recordings that vanish, shrink or change while they are read; then they are back."""
    bench.expected(name)
    music = bench.folder.parent / "given" / "music"
    kept = {path: path.read_bytes() for path in music.iterdir()}
    out, log = bench.folder / "out", bench.folder / "log.txt"
    shutil.rmtree(out, ignore_errors=True)
    process = run_in_fork(bench.commands[name], out, log)
    try:
        while process.is_alive() and not out.exists():
            time.sleep(0.01)
        for path in bench.rng.sample(sorted(kept), 8):
            _vandalise(path, kept[path], bench.rng)
            process.join(bench.rng.uniform(0.0, 0.5))
        process.join(PATIENCE)
    finally:
        time.sleep(0.01)
        for path, content in kept.items():
            if not path.exists() or path.read_bytes() != content:
                path.write_bytes(content)
    said = log.read_text(errors="replace")
    if process.exitcode in (0, 1) and "Traceback" not in said:
        found.note("all done" if process.exitcode == 0 else "reported by file")
    else:
        found.faults.append(f"{name}: status {process.exitcode}, {said[-400:]}")
    bench.check_whole(name, out, found)


def _vandalise(path: Path, content: bytes, rng: random.Random) -> None:
    match rng.randrange(4):
        case 0:
            path.unlink()
        case 1:
            os.truncate(path, rng.randrange(len(content)))
        case 2:
            path.write_bytes(rng.randbytes(len(content)))
        case 3:
            path.unlink()
            path.mkdir()
            path.rmdir()


def damaged_shards(bench: Bench, found: Faulty, _: str) -> None:
    """A shard that is missing, cut off or garbled, to who reads it; then it is prepared anew."""
    bench.expected("prepare")
    shards = bench.folder / "shards"
    shutil.rmtree(shards, ignore_errors=True)
    shutil.copytree(bench.finished("prepare"), shards)
    tar = bench.rng.choice(sorted(shards.glob("*.tar")))
    data = bytearray(tar.read_bytes())
    match bench.rng.randrange(3):
        case 0:
            tar.unlink()
        case 1:
            os.truncate(tar, bench.rng.randrange(len(data)))
        case 2:
            at = bench.rng.randrange(1024, len(data) - 2048)
            data[at : at + 1024] = bench.rng.randbytes(1024)
            tar.write_bytes(data)
    log, stats = bench.folder / "log.txt", bench.folder / "stats.json"
    line = ("stats", str(shards), "--out", str(stats), "--workers", "1")
    process = run_in_fork(Command("stats", line, lambda _: {}), shards, log)
    process.join(PATIENCE)
    said = log.read_text(errors="replace")
    if process.exitcode not in (0, 1) or "Traceback" in said:
        found.faults.append(f"stats: status {process.exitcode}, {said[-400:]}")
    else:
        found.note("reported by file" if process.exitcode else "not noticed: between recordings")
    tar.unlink(missing_ok=True)
    bench.check_whole("prepare", shards, found)


def damaged_checkpoints(bench: Bench, found: Faulty, _: str) -> None:
    """The last checkpoint of a run cut off or garbled; the run goes on from the one before."""
    bench.expected("pretrain")
    out = bench.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bench.finished("pretrain"), out)
    shutil.rmtree(out / "model")
    last = out / "checkpoints" / f"step-{checkpoint_steps(out / 'checkpoints')[-1]:08d}.ckpt"
    if bench.rng.random() < 0.5:
        os.truncate(last, bench.rng.randrange(last.stat().st_size))
    else:
        data = bytearray(last.read_bytes())
        at = bench.rng.randrange(len(data) - 64)
        data[at : at + 64] = bench.rng.randbytes(64)
        last.write_bytes(data)
    bench.check_whole("pretrain", out, found)
    found.note("it went on from the one before")


def other_checkpoint(bench: Bench, found: Faulty, _: str) -> None:
    """A checkpoint of another recipe, and files that are none, in the place of the last one."""
    import torch

    bench.expected("pretrain")
    out = bench.folder / "run"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(bench.finished("pretrain"), out)
    last = out / "checkpoints" / f"step-{checkpoint_steps(out / 'checkpoints')[-1]:08d}.ckpt"
    content = torch.load(last, weights_only=True)
    match bench.rng.randrange(3):
        case 0:
            content["musicfm"]["recipe"]["model"]["encoder"]["dim"] = 32
        case 1:
            content = {"state_dict": {"model.x": torch.ones(1)}}
        case 2:
            content = [torch.ones(1)]
    torch.save(content, last)
    bench.check_refused("pretrain", out, ("remove it, and resume",), found)
    last.unlink()
    bench.check_whole("pretrain", out, found)


def two_runs(bench: Bench, found: Faulty, name: str) -> None:
    """Two runs that write into one folder at once."""
    bench.expected(name)
    out = bench.folder / "shared"
    shutil.rmtree(out, ignore_errors=True)
    logs = [bench.folder / f"log{i}.txt" for i in range(2)]
    runs = []
    for log in logs:
        runs.append(run_in_fork(bench.commands[name], out, log))
        time.sleep(bench.rng.choice((0.0, 0.0, 0.5)))
    for run in runs:
        run.join(PATIENCE)
    statuses = sorted(run.exitcode if run.exitcode is not None else -1 for run in runs)
    said = " ".join(log.read_text(errors="replace") for log in logs)
    refused = "another run is writing to" in said
    if statuses == [0, 1] and refused and "Traceback" not in said:
        found.note("the second refused")
    elif statuses == [0, 0]:
        found.note("one after the other")
    else:
        found.faults.append(f"{name}: status {statuses}, {said[-600:]}")
    bench.check_whole(name, out, found)


def jumping_clock(bench: Bench, found: Faulty, name: str) -> None:
    """A clock that jumps by months at every look, and results from the future and the past."""
    bench.expected(name)
    out = bench.folder / "clock"
    shutil.rmtree(out, ignore_errors=True)
    status, said = bench.run(name, out, jumping=True)
    if status != 0:
        found.faults.append(f"{name}: status {status}, {said[-400:]}")
    for path in [out, *out.rglob("*")]:
        moment = bench.rng.choice((0, 4_000_000_000)) + bench.rng.randrange(10**6)
        os.utime(path, (moment, moment))
    bench.check_whole(name, out, found)
    found.note("as if undisturbed")


WRITERS = ("embed", "embed to a table", "render", "scan", "prepare", "probe", "pretrain", "table1")

FAULTS: dict[str, tuple[Callable[[Bench, Faulty, str], None], tuple[str, ...]]] = {
    "full disk": (full_disk, WRITERS),
    "read-only disk": (read_only, WRITERS),
    "recordings that change while they are read": (changing_files, ("embed", "scan")),
    "damaged shards": (damaged_shards, ("prepare",)),
    "damaged last checkpoint": (damaged_checkpoints, ("pretrain",)),
    "checkpoint of another run": (other_checkpoint, ("pretrain",)),
    "two runs in one folder": (two_runs, WRITERS),
    "clock that jumps": (jumping_clock, WRITERS),
}
"""By name: what is done, and to which commands."""

NEED_ROOT = ("full disk", "read-only disk")


def inject(bench: Bench, kind: str, name: str, tries: int) -> Faulty:
    """Does one kind of fault to a command, so many times."""
    fault, _ = FAULTS[kind]
    found, begin = Faulty(f"{kind}: {name}"), time.monotonic()
    for _ in range(tries):
        shutil.rmtree(bench.folder / "out", ignore_errors=True)
        fault(bench, found, name)
        found.tries += 1
    found.seconds = time.monotonic() - begin
    return found
