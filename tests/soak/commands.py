"""What the soak runs: commands on small inputs; what is the same whatever happens to them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

import recipe
import tones
from musicfm.datasets.scanning import scan
from musicfm.datasets.tracks import Manifest, Split
from musicfm.pretraining.metrics import METRICS, read_metrics
from songs import write_songs
from test_pretraining_run import MICRO, TIMINGS

Content = Mapping[str, Any]


@dataclass(frozen=True)
class Command:
    """A command that writes into a folder."""

    name: str
    arguments: tuple[str, ...]
    """With {out} for the folder."""
    content: Callable[[Path], Content]
    """What counts of a folder, by the names of finished files; times of day and durations do not.

    Of a folder that is not finished: that part of it which is.
    """

    def line(self, out: Path) -> list[str]:
        """The command line."""
        arguments = [argument.replace("{out}", str(out)) for argument in self.arguments]
        return [sys.executable, "-m", "musicfm", *arguments]

    def start(self, out: Path, **changes: str) -> "subprocess.Popen[str]":
        """Starts it, with further variables of the environment."""
        return subprocess.Popen(
            self.line(out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment() | changes,
        )

    def run(self, out: Path, **changes: str) -> tuple[int, str]:
        """Runs it to its end; status and standard error."""
        process = self.start(out, **changes)
        _, errors = process.communicate(timeout=1_800)
        return process.returncode, errors


def environment() -> dict[str, str]:
    """One thread each, and nothing from the network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def bytes_of(*patterns: str) -> Callable[[Path], Content]:
    """The content of the files that match, which is the same in every run."""

    def content(out: Path) -> Content:
        return {
            str(path.relative_to(out)): path.read_bytes()
            for pattern in patterns
            for path in sorted(out.rglob(pattern))
            if not path.name.startswith(".")
        }

    return content


def _manifest(out: Path) -> Content:
    """A manifest but for when files were changed, which some faults do to them."""
    path = out / "songs.jsonl"
    tracks = Manifest.load(path) if path.exists() else ()
    return {track.path: replace(track, modified=0) for track in tracks}


def _study(out: Path) -> Content:
    """A study but for the seconds that it took."""
    found = dict(bytes_of("head.safetensors", "head.json", "tests.json", "table.*")(out))
    for path in out.rglob("fit.json"):
        fitted = json.loads(path.read_bytes())
        found[str(path.relative_to(out))] = {k: v for k, v in fitted.items() if k != "seconds"}
    found.pop("table.png", None)
    return found


def _run(out: Path) -> Content:
    """A pretraining run but for its speed."""
    found: dict[str, Any] = dict(bytes_of("model.safetensors")(out))
    if found:  # what it reports is rewound when it is resumed
        rows = read_metrics(out / METRICS)
        found["metrics"] = [
            {key: value for key, value in row.items() if key not in TIMINGS} for row in rows
        ]
    return found


def make_commands(folder: Path) -> dict[str, Command]:
    """Writes what the commands need into a folder; the commands by name."""
    music = folder / "music"
    music.mkdir(parents=True)
    for number in range(20):
        samples = np.float32(0.5) * recipe.waveform(number, 1, 24_000 * (2 + number % 3))[0]
        name = f"{number:02d}.{('wav', 'flac', 'ogg')[number % 3]}"
        soundfile.write(music / name, samples, 24_000)
    model = recipe.write_published(folder / "pretrained_tiny.pt")
    songs = folder / "songs"
    write_songs(songs, 7)
    labelled = _labelled(folder)
    (folder / "micro.json").write_text(json.dumps(MICRO.to_dict()))
    out, one = ("--out", "{out}"), ("--workers", "1")
    embed = ("embed", str(music), "--model", str(model), *out, *one)
    probe = ("--data", str(labelled), "--seeds", "2", *out, "--cache", "{out}/features", *one)
    finetune = ("--data", str(labelled), *out, "--device", "cpu", *one)
    pretrain = ("pretrain", str(folder / "micro.json"), str(songs), *out)
    commands = [
        Command("embed", (*embed, "--layer", "all"), bytes_of("*.npz")),
        Command(
            "embed to a table",
            (*embed, "--pool", "mean", "--format", "parquet"),
            bytes_of("embeddings.parquet"),
        ),
        Command(
            "render", ("render", "5", "--seed", "100", *out, *one), bytes_of("*.flac", "*.jams")
        ),
        Command("scan", ("scan", str(music), "--out", "{out}/songs.jsonl", *one), _manifest),
        Command(
            "prepare",
            ("prepare", str(music), "--shard-hours", "0.002", *out, *one),
            bytes_of("shard-*", "index.parquet"),
        ),
        Command("probe", ("probe", "key", "--model", "mel", *probe), _study),
        Command(
            "finetune",
            ("finetune", "key", "--model", str(model), "--epochs", "3", *finetune),
            bytes_of("head.*", "model.safetensors", "tests.json"),
        ),
        Command("pretrain", (*pretrain, "--resume", "--workers", "0"), _run),
        Command(
            "table1",
            ("table1", "--models", "mel,chroma,trivial,oracle", "--tasks", "chord,key", *probe),
            _study,
        ),
    ]
    return {command.name: command for command in commands}


def _labelled(folder: Path) -> Path:
    """A manifest of labelled recordings that are in splits."""
    music = tones.write_tones(folder / "tones", 12)
    tracks = sorted(scan([music], num_workers=1).manifest, key=lambda track: track.path)
    splits: tuple[Split, ...] = ("train",) * 6 + ("valid",) * 3 + ("test",) * 3
    given = [replace(track, split=name) for track, name in zip(tracks, splits, strict=True)]
    Manifest(music, given).save(folder / "tones.parquet")
    return folder / "tones.parquet"
