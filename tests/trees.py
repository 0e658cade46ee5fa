"""Folders of published datasets in small, for tests."""

import hashlib
from pathlib import Path

import numpy as np
import soundfile


def write_audio(path: Path, seconds: float = 3.0) -> Path:
    """Noise that differs from file to file, in the format that the suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4])
    samples = np.random.default_rng(seed).uniform(-0.5, 0.5, round(8_000 * seconds))
    soundfile.write(path, samples, 8_000)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
