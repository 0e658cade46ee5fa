"""Time and peak memory of ``musicfm embed`` for recordings of several lengths.

    python benchmarks/lengths.py RECORDING --model msd --minutes 0.5 5 60 600 [--out FILE]

The recording is repeated up to each length, written as FLAC, and embedded by a process of its own.
Memory is that of the largest process, from the operating system; times include importing torch and
loading the model, whose share the first row shows best. CPU time is that of all processes; other
work on the machine prolongs it less than the time of a clock.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile
from machine import machine


def write(source: Path, target: Path, seconds: float) -> None:
    """Repeats a recording up to a length."""
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    left = round(seconds * rate)
    with soundfile.SoundFile(target, "w", rate, samples.shape[1]) as file:
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)


def main() -> None:
    """Prints a table, and writes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="msd")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 5.0])
    parser.add_argument("--options", default="", help="more options for musicfm embed")
    parser.add_argument("--out", type=Path, help="where to write the table, too")
    options = parser.parse_args()
    lines = [
        f"musicfm embed --model {options.model} {options.options}; {machine()}.",
        "",
        "| audio | CPU seconds | seconds | seconds of audio per CPU second | peak memory |",
        "|---|---|---|---|---|",
    ]
    print("\n".join(lines))
    for minutes in options.minutes:
        with tempfile.TemporaryDirectory() as folder:
            song = Path(folder) / "song.flac"
            write(options.recording, song, 60 * minutes)
            command = [
                sys.executable,
                "-m",
                "musicfm",
                "embed",
                str(song),
                "--model",
                options.model,
            ]
            command += ["--out", f"{folder}/out", *options.options.split()]
            begin = time.perf_counter()
            with open(os.devnull, "w") as quiet:
                process = subprocess.Popen(command, stderr=quiet)
                _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                sys.exit(f"{' '.join(command)} ended with status {process.returncode}")
        computed, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 2**20
        lines.append(
            f"| {minutes:g} min | {computed:.1f} | {seconds:.1f} | {60 * minutes / computed:.0f} | "
            f"{memory:.2f} GB |"
        )
        print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
