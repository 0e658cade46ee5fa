"""The demo, and the encoder that the documentation points to."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from musicfm.audio.decoders import Block, End, Event
from musicfm.embedding.embedder import Frames
from musicfm.tasks.rows import Row

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@pytest.mark.pages
def test_the_demo_makes_pictures_and_an_npz(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / "demo.py"), str(tmp_path / "demo")]
    done = subprocess.run(
        command,
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
    )
    assert "(2216, 192) at 25 Hz" in done.stdout
    for picture in ("self_similarity.png", "segments.png"):
        assert (tmp_path / "demo" / picture).read_bytes().startswith(b"\x89PNG")
    assert len(list((tmp_path / "demo" / "songs").glob("*.jams"))) == 6
    (page,) = (tmp_path / "demo" / "analysis").glob("*.html")
    assert page.as_uri() in done.stdout
    with np.load(tmp_path / "demo" / "embeddings" / "demo_song.npz") as result:
        assert result["frames"].shape == (2216, 192)


def test_the_sections_fill_the_song() -> None:
    lines = (EXAMPLES / "demo_song.sections.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines]
    starts = [float(start) for start, _, _ in rows]
    ends = [float(end) for _, end, _ in rows]
    assert starts == [0.0, *ends[:-1]]
    assert ends[-1] == pytest.approx(soundfile.info(EXAMPLES / "demo_song.ogg").duration, abs=0.01)


def test_a_model_from_hugging_face_is_an_encoder() -> None:
    pytest.importorskip("transformers")
    encoder = Row(f"{EXAMPLES / 'huggingface.py'}:wav2vec2").encoder(2.0)
    samples = np.random.default_rng(0).normal(0.0, 0.1, 5 * 16_000).astype(np.float32)
    events: list[Event[str]] = [Block("song", samples), End("song", ())]
    frames = torch.cat([e.frames for e in encoder.tracks(events) if isinstance(e, Frames)], dim=1)
    assert frames.shape == (3, 250, 96)
    assert torch.isfinite(frames).all()
