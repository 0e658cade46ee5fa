"""Every command and every block of code in README.md and docs/, run as it stands."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pretty_midi
import pytest
import soundfile
import torch
import typer.main
from filelock import FileLock

from command_line import Run
from documentation import PAGES, ROOT, Reader, blocks
from musicfm import cli
from musicfm.datasets.scanning import update_manifest
from musicfm.datasets.shards import prepare
from musicfm.datasets.tracks import Manifest
from musicfm.model import hub, published
from musicfm.model.config import (
    PRESETS,
    ConformerConfig,
    FrontEndConfig,
    preset,
)
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining.recipe import load_recipe
from musicfm.render import benchmark
from musicfm.render.songs import render_songs
from musicfm.tasks.heads import shipped
from test_datasets_harmonix import write_harmonix

COMMANDS: Any = typer.main.get_command(cli.app)
TEXTS = {name: path.read_text(encoding="utf-8") for name, path in PAGES.items()}
ALL = "\n".join(TEXTS.values())
RECORDINGS = (
    "song.mp3", "song.wav", "one.mp3", "two.flac", "albums/a.flac", "albums/b.flac",
    "Music/song.wav", "Music/other.mp3", "Music/a/third.flac", "Music/a/fourth.ogg",
)  # fmt: skip
RUN = ("bash", "python", "pycon")
EXPECTED: dict[str, dict[str, object]] = {
    "README.md": {"e.mean().shape": (192,), "e.frames.shape[1:]": (192,)},
    "docs/embedding.md": {
        "song['frames'].shape[1:]": (192,),
        "(frames.shape[0], frames.shape[2])": (3, 64),
        "output.hidden_states[0].shape": (2, 250, 64),
        "output.num_frames.tolist()": [250, 175],
    },
    "docs/models.md": {"emb.shape": (4, 125, 64), "x.shape[2]": 64},
    "docs/export.md": {"hidden.shape": (2, 250, 192), "num_frames.tolist()": [250, 175]},
    "docs/extending.md": {"mode.summarise(scores)": {"mode": 1.0}, "len(scores) > 0": True},
    "docs/datasets.md": {"len(found.tracks)": 3},
}
"""What comments in a page say of values, where the model is 64 wide."""


@pytest.fixture(scope="module")
def songs(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """All that pages need of rendered-v1: three songs for training, and one of each other set."""
    folder = tmp_path_factory.getbasetemp()
    if worker_id != "master":  # one of several processes, of which the first renders them
        folder = folder.parent
    with FileLock(folder / "rendered-v1.lock"):
        for name, found in benchmark.song_sets().items():
            out, count = folder / "rendered-v1" / name, 3 if name == "train" else 1
            render_songs(count, out, seed=found.first_seed, version=1, num_workers=1)
    return folder / "rendered-v1"


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hidden states of nano, for pages that come later."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, songs: Path) -> Path:
    """A folder with all that pages take for granted, apart from the songs of rendered-v1."""
    folder = tmp_path_factory.mktemp("home")
    song = next((songs / "train").glob("*.flac"))
    samples, rate = soundfile.read(song, stop=8 * 24_000)
    for name in RECORDINGS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples[len(name) * 100 :], rate)
    for task in ("beat", "chord"):
        shutil.copytree(shipped("nano")[task], folder / "probes" / task / "head")
    manifest = folder / "music.parquet"
    update_manifest(manifest, [folder / "Music"], num_workers=1)
    shutil.copytree(folder / "albums", folder / "bucket" / "music")
    prepare(Manifest.load(manifest), folder / "bucket" / "shards", num_workers=1)
    for name in ("FluidR3_GM.sf2", "MuseScore_General.sf3"):
        shutil.copy(Path(pretty_midi.__file__).with_name("TimGM6mb.sf2"), folder / name)
    write_harmonix(folder / "data" / "harmonix")
    for _, content in blocks(ALL, "toml"):
        (folder / "mine.toml").write_text(content)
    return folder


@pytest.fixture
def home(
    tmp_path: Path,
    songs: Path,
    features: Path,
    prepared: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """The working and the home directory of a page: a copy of what is prepared."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    shutil.copytree(songs, "rendered-v1", copy_function=os.link)
    Path("features").symlink_to(features)
    return tmp_path


@pytest.fixture
def small_msd(tmp_path: Path) -> Path:
    """What stands for the authors' checkpoint: as deep, and thinner."""
    config = preset("fm7").replace(
        encoder=ConformerConfig(dim=64, num_heads=4, ffn_dim=64),
        front_end=FrontEndConfig(conv_dim=8),
    )
    weights = tmp_path / "data" / "pretrained_msd.pt"
    weights.parent.mkdir(exist_ok=True)
    published.write(config, MusicFM(config).state_dict(), weights)
    return weights


@pytest.mark.pages
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # readers do not make errors of them
@pytest.mark.parametrize("page", [name for name in TEXTS if any(blocks(TEXTS[name], *RUN))])
def test_a_page_does_what_it_says(
    page: str, run: Run, home: Path, small_msd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = small_msd.with_name("msd_stats.json")
    monkeypatch.setattr(hub, "fetch_published", lambda *_: (small_msd, stats))
    sets = {
        name: found.part(15 / 200 if name == "train" else 5 / len(found.seeds))
        for name, found in benchmark.song_sets().items()
    }
    monkeypatch.setattr(benchmark, "song_sets", lambda: sets)
    monkeypatch.setattr("mirdata.core.Dataset.download", lambda *_: None)
    names = Reader(run, home, small_msd).follow(TEXTS[page])
    for expression, value in EXPECTED.get(page, {}).items():
        assert eval(expression, names) == value, expression


@pytest.mark.pages
@pytest.mark.timeout(900)
def test_the_site_has_no_warnings_and_needs_no_other_host(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    loaded = re.compile(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"?(https?://[^\" >]*)")
    for page in tmp_path.rglob("*.html"):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page


@pytest.mark.parametrize("text", [content for _, content in blocks(ALL, "toml")])
def test_recipes_are_recipes(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text)
    assert load_recipe(str(tmp_path / "mine.toml")) != load_recipe("nano")


@pytest.mark.parametrize("line", sorted({*re.findall(r"`musicfm ([^`]* [^`]*)`", ALL)}))
def test_commands_in_the_text_parse(line: str) -> None:
    if "..." in line or "," in line.split()[0]:
        pytest.skip("not a command as it stands")
    group, (verb, *arguments) = COMMANDS, shlex.split(line)
    while hasattr(group.commands[verb], "commands"):
        group, (verb, *arguments) = group.commands[verb], arguments
    command = group.commands[verb]
    assert not arguments or command.make_context(verb, arguments).params


@pytest.mark.parametrize("script", sorted({*re.findall(r"`python ([\w/]+\.py)", ALL)}))
def test_scripts_in_the_text_exist(script: str) -> None:
    assert (ROOT / script).is_file()


def test_the_options_of_embed_are_described_and_no_others() -> None:
    table = set(re.findall(r"^\| `(--[a-z-]+)`", TEXTS["docs/embedding.md"], re.M))
    parameters = COMMANDS.commands["embed"].params
    assert table == {parameter.opts[0] for parameter in parameters} - {"paths"}
    options = {
        option
        for verb in (*COMMANDS.commands.values(), *COMMANDS.commands["library"].commands.values())
        for parameter in verb.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    pages = (text for name, text in TEXTS.items() if name != "CONTRIBUTING.md")  # other programs
    assert set(re.findall(r"`(--[a-z-]+)[` ]", "".join(pages))) <= options


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_described(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in MusicFM(config).parameters())
    targets = {"kmeans": "k-means", "random_projection": "random projection"}[config.quantizer.kind]
    if config.quantizer.num_codebooks > 1:
        targets = f"{config.quantizer.num_codebooks} {targets}s"
    kind = config.encoder.kind.title() + (", with pitch" if config.pitch else "")
    weights = f"{count:,}".replace(",", " ")
    row = (
        f"| `{name}` | {kind} | {config.encoder.depth} | {config.frame_rate:g} "
        f"| {config.context_seconds:g} s | {targets} | {weights} |"
    )
    assert row in TEXTS["docs/models.md"]
