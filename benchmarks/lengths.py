"""Time and peak memory of ``musicfm embed`` for recordings of several lengths.

    python benchmarks/lengths.py RECORDING --model msd --minutes 0.5 5 60

The recording is repeated up to each length, written as FLAC, and embedded by a process of its own.
Memory is that of the largest process, from the operating system; time includes importing torch and
loading the model, whose share the first row shows best.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import soundfile


def write(source: Path, target: Path, seconds: float) -> None:
    """Repeats a recording up to a length."""
    samples, rate = soundfile.read(source, dtype="float32", always_2d=True)
    left = round(seconds * rate)
    with soundfile.SoundFile(target, "w", rate, samples.shape[1]) as file:
        while left > 0:
            file.write(samples[:left])
            left -= len(samples)


def main() -> None:
    """Prints a line per length."""
    parser = argparse.ArgumentParser()
    parser.add_argument("recording", type=Path)
    parser.add_argument("--model", default="msd")
    parser.add_argument("--minutes", type=float, nargs="+", default=[0.5, 5.0])
    parser.add_argument("--options", default="", help="more options for musicfm embed")
    options = parser.parse_args()
    print(f"{'audio':>9} {'seconds':>8} {'x real time':>12} {'peak memory':>12}")
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
        rate, memory = 60 * minutes / seconds, usage.ru_maxrss / 2**20
        print(f"{minutes:5g} min {seconds:8.1f} {rate:12.1f} {memory:9.2f} GB", flush=True)


if __name__ == "__main__":
    main()
