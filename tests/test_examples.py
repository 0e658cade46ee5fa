"""The demo, and what README.md and CONTRIBUTING.md say, tried."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer.main

from musicfm import cli, hub, published
from musicfm.collection import embed_collection
from musicfm.config import PRESETS, ConformerConfig, preset
from musicfm.decoders import Block, End, Event
from musicfm.embedding import Embedder, Frames
from musicfm.model import MusicFM
from musicfm.pretraining.recipe import load_recipe
from musicfm.tasks.rows import Row
from test_imports import MODULES, SOURCE, imports, name_of

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

PAGES = "".join([README, *(p.read_text(encoding="utf-8") for p in ROOT.glob("docs/*.md"))])

COMMANDS: Any = typer.main.get_command(cli.app)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("text", blocks("toml", PAGES))
def test_recipes_in_the_documentation_are_recipes(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.toml")) != load_recipe("nano")


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


def test_python_in_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = preset("tiny").replace(encoder=ConformerConfig(dim=64, num_heads=4, ffn_dim=128))
    weights, stats = Path("data/pretrained_msd.pt"), Path("data/msd_stats.json")
    published.write(config, MusicFM(config).state_dict(), weights)
    monkeypatch.setattr(hub, "fetch_published", lambda *_: (weights, stats))
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, (48_000, 2))
    soundfile.write("song.wav", noise, 48_000)
    soundfile.write("song.mp3", noise, 48_000)
    embed_collection(Embedder(MusicFM.from_pretrained("msd")), ["song.wav"], "embeddings")

    names: dict[str, Any] = {}
    for block in blocks("python"):
        exec(block, names)
    assert names["song"]["frames"].shape == (25, 64)
    assert names["frames"].shape == (3, 25, 64)
    assert names["output"].num_frames.tolist() == [250, 175]
    assert names["emb"].shape == (4, 125, 64)


@pytest.mark.parametrize("line", re.findall(r"musicfm .*", "".join(blocks("bash", PAGES))))
def test_commands_in_the_documentation_parse(line: str) -> None:
    _, verb, *arguments = shlex.split(line, comments=True)
    assert COMMANDS.commands[verb].make_context(verb, arguments).params


def test_the_readme_names_every_option_of_embed_and_no_other() -> None:
    table = set(re.findall(r"^\| `(--[a-z-]+)`", README, re.M))
    parameters = COMMANDS.commands["embed"].params
    assert table == {parameter.opts[0] for parameter in parameters} - {"paths"}
    options = {
        option
        for verb in COMMANDS.commands.values()
        for parameter in verb.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert set(re.findall(r"`(--[a-z-]+)[` ]", PAGES)) <= options


@pytest.mark.parametrize("name", PRESETS)
def test_the_readme_describes_every_preset(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in MusicFM(config).parameters())
    targets = {"kmeans": "k-means", "random_projection": "random projection"}[config.quantizer.kind]
    if config.quantizer.num_codebooks > 1:
        targets = f"{config.quantizer.num_codebooks} {targets}s"
    row = (
        f"| `{name}` | {config.encoder.kind.title()} | {config.encoder.depth} "
        f"| {config.frame_rate:g} | {config.context_seconds:g} s "
        f"| {targets} | {count:,} |".replace(",", " ")
    )
    assert row in README


def test_the_table_of_modules_is_complete_and_in_order() -> None:
    paths = re.findall(r"^\| `([\w/]+\.py)`", CONTRIBUTING, re.M)
    table = [name_of(SOURCE / path) for path in paths]
    assert sorted(table) == sorted(MODULES - {"__main__"})
    for position, path in enumerate(paths):
        assert imports(SOURCE / path, lazy=False) <= {*table[:position]}, path


def test_a_model_from_hugging_face_is_an_encoder() -> None:
    pytest.importorskip("transformers")
    encoder = Row(f"{EXAMPLES / 'huggingface.py'}:wav2vec2").encoder(2.0)
    samples = np.random.default_rng(0).normal(0.0, 0.1, 5 * 16_000).astype(np.float32)
    events: list[Event[str]] = [Block("song", samples), End("song", ())]
    frames = torch.cat([e.frames for e in encoder.tracks(events) if isinstance(e, Frames)], dim=1)
    assert frames.shape == (3, 250, 96)
    assert torch.isfinite(frames).all()
