"""``make soak``: kills, faults and hostile input, in bounded time, and a table of what came out.

    make soak                                       all of it: about 90 minutes on two idle cores
    make soak SOAK_ARGS="fuzz --inputs 2000"        hostile input alone, less of it
    make soak SOAK_ARGS="kill --kills 50 --only embed --seed 7"

The same seed gives the same inputs and the same order of faults; when a kill strikes depends on
the machine, too. An input that ended badly can be read again by its number:

    PYTHONPATH=tests .venv/bin/python -m soak fuzz --only JAMS --first 1234 --inputs 1
"""

import argparse
import random
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

PARTS = ("fuzz", "kill", "fault")


def main() -> int:
    """Runs the parts that are asked for; 1 if anything ended as it must not."""
    parser = argparse.ArgumentParser(prog="soak", description="Kills, faults and hostile input.")
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="{fuzz,kill,fault}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--inputs", type=int, default=400, help="damaged files for each reader")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--kills", type=int, default=20, help="for each command")
    parser.add_argument("--tries", type=int, default=3, help="of each fault, for each command")
    parser.add_argument("--only", default="", help="what matches this pattern")
    parser.add_argument("--minutes", type=float, default=100.0, help="no new one is begun after")
    parser.add_argument("--table", type=Path, help="Markdown file that lines are appended to")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part {min(unknown)}: choose from {', '.join(PARTS)}")
    deadline, bad, table = time.monotonic() + 60 * options.minutes, 0, []
    with tempfile.TemporaryDirectory(prefix="soak") as folder:
        for line, faults in _lines(options, Path(folder)):
            table.append(line)
            bad += len(faults)
            print(line, flush=True)
            for fault in faults:
                print(f"    {fault}", flush=True)
            if options.table is not None:
                with options.table.open("a", encoding="utf-8") as file:
                    file.write(f"{line}\n")
            if time.monotonic() > deadline:
                print(f"stopped: {options.minutes:g} minutes are over", flush=True)
                break
    print(f"{bad} of all that was tried ended as it must not", flush=True)
    return 1 if bad else 0


def _lines(options: argparse.Namespace, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines of the table (what, how often, what came out), and what ended as it must not."""
    # Imported late: processes that commands start import this file, too.
    import torch

    torch.set_num_threads(1)
    if "fuzz" in options.parts:
        from hostile import READERS
        from soak.fuzzing import fuzz

        numbers = range(options.first, options.first + options.inputs)
        for reader in READERS:
            if re.search(options.only, reader.name):
                fuzzed = fuzz(reader, numbers)
                counts = fuzzed.outcomes
                came = (
                    f"{counts['read']} read, {counts['refused']} refused, "
                    f"{fuzzed.megabytes} MB at most"
                )
                yield _line(f"hostile {reader.name}", len(numbers), came, fuzzed), fuzzed.faults
    if not {"kill", "fault"} & set(options.parts):
        return
    from soak.commands import make_commands
    from soak.faults import FAULTS, NEED_ROOT, Bench, inject
    from soak.kills import kill

    commands = make_commands(folder / "given")
    rng = random.Random(options.seed)
    if "kill" in options.parts:
        for name, command in commands.items():
            if re.search(options.only, name):
                killed = kill(command, folder / "kill", options.kills, rng)
                came = f"{killed.completions} reruns, as if undisturbed"
                yield _line(f"kill -9: {name}", killed.kills, came, killed), killed.faults
    if "fault" in options.parts:
        bench = Bench(commands, folder / "bench", rng)
        for kind, (_, names) in FAULTS.items():
            if kind in NEED_ROOT and not _is_root():
                yield f"| {kind} | 0 | not tried: needs root | |", []
                continue
            for name in names:
                if re.search(options.only, f"{kind}: {name}"):
                    faulty = inject(bench, kind, name, options.tries)
                    came = ", ".join(f"{n} x {what}" for what, n in faulty.outcomes.items())
                    yield _line(faulty.name, faulty.tries, came, faulty), faulty.faults


def _line(what: str, count: int, came: str, found: object) -> str:
    faults, seconds = getattr(found, "faults"), getattr(found, "seconds")  # noqa: B009
    return f"| {what} | {count} | {came} | {len(faults)} | {seconds:.0f} |"


def _is_root() -> bool:
    import os

    return hasattr(os, "geteuid") and os.geteuid() == 0


if __name__ == "__main__":
    sys.exit(main())
