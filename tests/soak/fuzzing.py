"""Hostile input: damaged files for every reader, each read in a process that may crash or hang."""

import multiprocessing
import resource
import shutil
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from hostile import Reader, attempt, outcome

SECONDS = 60.0
"""Until an input counts as one that hangs; all of them take milliseconds on an idle machine."""

MEMORY = 1 << 30
"""Bytes that reading a file of some kilobytes may ask for."""

# Forks, so that what takes long to import is imported once.
_CONTEXT = multiprocessing.get_context("fork")


@dataclass
class Fuzzed:
    """What came of many inputs for a reader."""

    name: str
    outcomes: Counter[str] = field(default_factory=Counter)
    """"read" and "refused"."""
    faults: list[str] = field(default_factory=list)
    """The number of each input that ended otherwise, and how."""
    megabytes: int = 0
    """By which the memory of a process grew at most."""
    seconds: float = 0.0


def fuzz(reader: Reader, numbers: range) -> Fuzzed:
    """Reads the inputs of these numbers."""
    found, begin = Fuzzed(reader.name), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        intact = Path(folder) / "intact"
        intact.mkdir()
        reader.make(intact)
        assert outcome(reader, shutil.copytree(intact, Path(folder) / "scratch")) == "read"
        while numbers:
            numbers = _run(reader, intact, Path(folder) / "scratch", numbers, found)
    found.seconds = time.monotonic() - begin
    return found


def _run(reader: Reader, intact: Path, scratch: Path, numbers: range, found: Fuzzed) -> range:
    """Reads inputs in one process until it dies; returns those that are left."""
    ours, theirs = _CONTEXT.Pipe(duplex=False)
    child = _CONTEXT.Process(target=_child, args=(theirs, reader, intact, scratch, numbers))
    child.start()
    theirs.close()
    done = 0
    try:
        while done < len(numbers):
            if not ours.poll(SECONDS):
                found.faults.append(f"{numbers[done]}: no end after {SECONDS:g} s")
                return numbers[done + 1 :]
            try:
                kind, text, grown = ours.recv()
            except EOFError:
                child.join()
                found.faults.append(f"{numbers[done]}: the process died ({child.exitcode})")
                return numbers[done + 1 :]
            found.megabytes = max(found.megabytes, grown >> 10)
            if kind == "fault":
                found.faults.append(f"{numbers[done]}: {text}")
            else:
                found.outcomes[kind] += 1
            done += 1
        return numbers[:0]
    finally:
        child.kill()
        child.join()


def _child(pipe: Connection, reader: Reader, intact: Path, scratch: Path, numbers: range) -> None:
    torch.set_num_threads(1)
    with open("/proc/self/statm") as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, size + MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        kind, text = "fault", ""
        try:
            kind = attempt(reader, intact, scratch, number)
            assert kind in ("read", "refused"), kind
        except BaseException as error:
            places = [
                f"{Path(frame.filename).name}:{frame.lineno}"
                for frame in traceback.extract_tb(error.__traceback__)
                if "musicfm" in frame.filename
            ]
            text = f"{type(error).__name__} at {places[-1] if places else '?'}: {error}"[:300]
        pipe.send((kind, text, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
