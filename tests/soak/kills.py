"""Kill -9 at random moments: what was finished stays, and the rerun ends as if undisturbed."""

import multiprocessing
import multiprocessing.process
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from soak.commands import Command, Content, environment

PATIENCE = 900.0
"""Seconds for a run that nobody disturbs; all take seconds on an idle machine."""

# Forks of a process that has imported what the commands need: to import it takes longer than they.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["soak.commands", "musicfm.pretraining.run", "musicfm.tasks.study"])


@dataclass
class Killed:
    """What came of the kills of a command."""

    name: str
    kills: int = 0
    completions: int = 0
    """Runs that ended by themselves and gave what an undisturbed one gives."""
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_in_fork(
    command: Command, out: Path, log: Path, jumping: bool = False
) -> "multiprocessing.process.BaseProcess":
    """Starts a command in a fork; what it says goes to a file.

    With ``jumping``, its clock is another one at every look.
    """
    process = _CONTEXT.Process(target=_main, args=(command.line(out)[3:], log, jumping))
    process.start()
    return process


def _main(arguments: list[str], log: Path, jumping: bool) -> None:
    from musicfm import cli

    os.environ.update(environment())
    if jumping:
        now, rng = time.time, random.Random(0)
        time.time = lambda: now() + rng.uniform(-1e7, 1e7)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.argv = ["musicfm", *arguments]
        cli.main()


def undisturbed(command: Command, folder: Path) -> tuple[Content, float]:
    """What a command gives, and how long it takes from when its folder is there."""
    out, log = folder / "undisturbed", folder / "undisturbed.txt"
    process = run_in_fork(command, out, log)
    while process.is_alive() and not out.exists():
        time.sleep(0.01)
    begin = time.monotonic()
    process.join(PATIENCE)
    if process.exitcode != 0:
        raise RuntimeError(f"{command.name} ends with {process.exitcode}: {log.read_text()[-500:]}")
    return command.content(out), time.monotonic() - begin


def kill(command: Command, folder: Path, count: int, rng: random.Random) -> Killed:
    """Kills a command so many times, going on after each, and begins anew when it is done."""
    found, begin = Killed(command.name), time.monotonic()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    expected, seconds = undisturbed(command, folder)
    out, log = folder / "out", folder / "log.txt"
    while found.kills < count and len(found.faults) < 10:
        process = run_in_fork(command, out, log)
        while process.is_alive() and not out.exists():
            time.sleep(0.01)
        # A command that is done early is killed early the next time, too.
        process.join(rng.uniform(0.0, 0.5 * seconds))
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            found.kills += 1
            found.faults += [f"kill {found.kills}: {what}" for what in torn(command, out, expected)]
        if found.kills % 5 == 0 or process.exitcode == 0:
            _complete(command, folder, expected, found)
    if out.exists():
        _complete(command, folder, expected, found)
    found.seconds = time.monotonic() - begin
    return found


def torn(command: Command, out: Path, expected: Content) -> list[str]:
    """Files with a final name whose content is not that of an undisturbed run."""
    try:
        there = command.content(out)
    except Exception as error:
        return [f"what is there cannot be read: {error!r}"[:300]]
    return [
        f"{name} is not as in an undisturbed run"
        for name, content in there.items()
        if name in expected and content != expected[name]
    ]


def _complete(command: Command, folder: Path, expected: Content, found: Killed) -> None:
    """Lets a run end, compares, and clears up for the next one."""
    out, log = folder / "out", folder / "log.txt"
    process = run_in_fork(command, out, log)
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        said = log.read_text()[-300:]
        found.faults.append(f"after kill {found.kills}: status {process.exitcode}, {said}")
    elif (content := command.content(out)) != expected:
        names = {*content, *expected}
        differing = sorted(name for name in names if content.get(name) != expected.get(name))
        found.faults.append(f"after kill {found.kills}: {', '.join(differing)[:200]} differ")
    elif left := sorted(path.name for path in out.rglob("*.partial")):
        found.faults.append(f"after kill {found.kills}: {left} are left")
    else:
        found.completions += 1
    shutil.rmtree(out)
