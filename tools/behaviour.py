"""Stores what the package computes, to compare two versions of the code on one machine.

    python tools/behaviour.py store FOLDER [--music MUSIC] [--resume-from OTHER]
    python tools/behaviour.py compare FOLDER OTHER

``store`` runs the commands of the package that is installed (or on ``PYTHONPATH``) over rendered
songs: embeddings at all layers, 20 steps of pretraining on one process, on two and in float16, a
fine-tuning, a probe, an analysis. With ``--resume-from``, the runs that another version stored go
on from their checkpoints. ``compare`` says where two folders differ, and in how much.
"""

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

SONGS = 8
RUNS = {
    "one_process": [],
    "two_processes": ["--processes", "2", "--set", "micro_batch_size=2"],
    "float16": ["--set", "precision=float16"],
}
# Times of day, durations, paths, and rates of work: these differ between any two runs.
VOLATILE = {
    "seconds", "version",
    "path", "audio_per_second", "memory_gb", "waiting",
}  # fmt: skip


def musicfm(*arguments: str | Path) -> None:
    print("$ musicfm", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "musicfm", *map(str, arguments)], check=True)


def pretrain(out: Path, songs: Path, options: list[str], *more: str) -> None:
    musicfm(
        "pretrain", "tiny", songs, "--out", out, "--device", "cpu", "--workers", "0",
        "--set", "steps=20", "--set", "checkpoint_every=10", "--set", "validate_every=10",
        "--set", "log_every=1", "--set", "validation_clips=4", *options, *more,
    )  # fmt: skip


def finetuning(out: Path, songs: Path, model: Path) -> list[str | Path]:
    return [
        "finetune", "beat", "--data", songs, "--out", out, "--model", model, "--epochs", "2",
        "--epoch-clips", "8", "--batch-size", "4", "--device", "cpu", "--workers", "1",
    ]  # fmt: skip


def kill_finetuning(out: Path, songs: Path, model: Path) -> None:
    """A fine-tuning that is killed after its first checkpoint."""
    command = [sys.executable, "-m", "musicfm", *map(str, finetuning(out, songs, model))]
    child = subprocess.Popen(command)
    while child.poll() is None and not [*out.glob("checkpoints/*.ckpt")]:
        time.sleep(0.02)
    child.kill()
    child.wait()


def store(folder: Path, music: Path, earlier: Path | None) -> None:
    folder.mkdir(parents=True)
    if not music.exists():
        musicfm("render", str(SONGS), "--out", music, "--workers", "1", "--format", "flac")
    recordings = sorted(music.glob("*.flac"))[:2]
    cpu = ["--device", "cpu", "--workers", "1"]
    musicfm(
        "embed", *recordings, "--model", "nano", "--layer", "all", "--out", folder / "nano", *cpu
    )
    musicfm(
        "analyze", recordings[0], "--out", folder / "analysis", "--export", "csv,labels,midi", *cpu
    )
    for name, options in RUNS.items():
        pretrain(folder / name, music, options)
    model = folder / "one_process" / "model"
    musicfm(*finetuning(folder / "finetuned", music, model))
    kill_finetuning(folder / "finetuning_killed", music, model)
    for task in ("key", "beat"):
        musicfm(
            "probe", task, "--data", music, "--out", folder / f"probe_{task}", "--model", model,
            "--seeds", "1", "--cache", folder / "cache", *cpu,
        )  # fmt: skip
    shutil.rmtree(folder / "cache")
    if earlier is None:
        return
    shutil.copytree(earlier / "finetuning_killed", folder / "finetuned_resumed")
    musicfm(*finetuning(folder / "finetuned_resumed", music, earlier / "one_process" / "model"))
    for name, options in RUNS.items():
        out = folder / f"{name}_resumed"
        shutil.copytree(earlier / name, out)
        shutil.rmtree(out / "model")
        for last in sorted((out / "checkpoints").glob("*20*")):
            last.unlink() if last.is_file() else shutil.rmtree(last)
        pretrain(out, music, options, "--resume")


def numbers(path: Path, folder: Path) -> Any:
    """What a file holds, as nested dictionaries and lists; paths into the folder are made alike."""

    def text() -> str:
        return path.read_text(errors="surrogateescape").replace(str(folder.resolve()), "FOLDER")

    match path.suffix:
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        case ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        case ".ckpt":
            return torch.load(path, weights_only=False, map_location="cpu")
        case ".json" | ".jams":
            return json.loads(text())
        case ".jsonl":
            return [json.loads(line) for line in text().splitlines()]
        case ".csv" | ".txt":
            return text()
        case _:
            return path.read_bytes()


def differences(a: Any, b: Any, where: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(set(a) | set(b), key=str):
            if str(key) in VOLATILE or "seconds" in str(key):
                continue
            if key not in a or key not in b:
                yield f"{where}/{key} is in one only"
            else:
                yield from differences(a[key], b[key], f"{where}/{key}")
    elif isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from differences(one, other, f"{where}[{number}]")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            yield f"{where}: {a.dtype} {tuple(a.shape)}, {b.dtype} {tuple(b.shape)}"
        elif not torch.equal(a, b) and not (a != a).equal(b != b):
            yield f"{where}: up to {(a.double() - b.double()).abs().max():.3g} apart"
    elif isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        if a.shape != b.shape or a.dtype != b.dtype or not np.array_equal(a, b):
            yield f"{where}: arrays {a.dtype} {a.shape} and {b.dtype} {b.shape} differ"
    elif type(a) is not type(b):
        yield f"{where}: {type(a).__name__}, {type(b).__name__}"
    elif a != b and not (isinstance(a, float) and a != a and b != b):
        if hasattr(a, "__dict__"):
            yield from differences(vars(a), vars(b), where)
        else:
            yield f"{where}: {str(a)[:80]!r}, {str(b)[:80]!r}"


def kept(folder: Path) -> dict[str, Path]:
    """The files that hold results, not logs and pictures, by names without the folder in them."""
    suffixes = {".npz", ".safetensors", ".ckpt", ".json", ".jams", ".jsonl", ".csv", ".mid", ".txt"}
    as_name = "".join(c if c.isalnum() or c in "-_." else "_" for c in str(folder.resolve()))
    return {
        str(path.relative_to(folder)).replace(as_name, "FOLDER"): path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in suffixes
    }


def compare(folder: Path, other: Path) -> int:
    one, two = kept(folder), kept(other)
    wrong = 0
    for name in sorted(one | two):
        base = name
        if "_resumed" in name:  # equal to the run that was not interrupted
            if not name.endswith((".ckpt", ".safetensors")):
                continue
            base = name.replace("_resumed", "", 1)
        if "killed" in name:  # when it was killed is chance
            continue
        left, right = one.get(base), two.get(name)
        found = ["is in one only"]
        if left is not None and right is not None:
            found = list(differences(numbers(left, folder), numbers(right, other)))
        print("differs" if found else "equal  ", name, *found[:5], sep="  ")
        wrong += bool(found)
    print(f"{wrong} files differ" if wrong else "all equal")
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("verb", choices=("store", "compare"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("other", type=Path, nargs="?")
    parser.add_argument("--music", type=Path, default=Path("behaviour_music"))
    parser.add_argument("--resume-from", type=Path)
    options = parser.parse_args()
    if options.verb == "store":
        store(options.folder, options.music, options.resume_from)
    else:
        sys.exit(min(1, compare(options.folder, options.other)))


if __name__ == "__main__":
    main()
