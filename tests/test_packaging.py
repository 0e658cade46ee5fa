"""What is handed out: the wheel, the source distribution, and the versions behind them."""

import os
import re
import runpy
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import pytest

import audio_files
import musicfm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "musicfm"


def build(*arguments: str | Path) -> None:
    """What ``make build`` runs."""
    command = [sys.executable, "-m", "build", "--no-isolation", *map(str, arguments)]
    subprocess.run(command, check=True, capture_output=True)


class Dist(NamedTuple):
    """What was built: the wheel is made from the source distribution."""

    sdist: Path
    wheel: Path


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Dist:
    out = tmp_path_factory.mktemp("dist")
    build(ROOT, "--outdir", out)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return Dist(sdist, wheel)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as file:
        return {name: file.read(name) for name in file.namelist()}


def paths_of_the_package() -> set[str]:
    return {
        path.relative_to(PACKAGE.parent).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.processes
def test_the_wheel_holds_all_of_the_package_and_nothing_else(dist: Dist) -> None:
    files = contents(dist.wheel)
    info = f"musicfm-{musicfm.__version__}.dist-info"
    assert {name for name in files if PurePosixPath(name).parts[0] != info} == (
        paths_of_the_package()
    )
    assets = "musicfm/analysis/assets"
    for name in ("musicfm/py.typed", "musicfm/nano/model.safetensors", f"{assets}/page.html"):
        assert name in files
    for licence in (
        "LICENSE",
        f"src/{assets}/wavesurfer.LICENSE",
        "src/musicfm/library/assets/scatterplot.LICENSE",
    ):
        assert files[f"{info}/licenses/{licence}"] == (ROOT / licence).read_bytes()
    metadata = files[f"{info}/METADATA"].decode()
    assert f"\nVersion: {musicfm.__version__}\n" in metadata
    if "GITHUB_REPOSITORY" not in os.environ:
        assert not re.findall(r"\]\((?![a-z]+:|#)", metadata), "a link that leads nowhere on PyPI"


@pytest.mark.processes
def test_the_checkout_and_the_source_distribution_make_the_same_wheel(
    dist: Dist, tmp_path: Path
) -> None:
    build("--wheel", ROOT, "--outdir", tmp_path)
    assert contents(tmp_path / dist.wheel.name) == contents(dist.wheel)


@pytest.mark.processes
def test_the_wheel_embeds_where_there_is_no_checkout(dist: Dist, tmp_path: Path) -> None:
    """Installed by itself; what it depends on is borrowed from this environment."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False)
    places = {"base": str(environment), "platbase": str(environment)}
    libraries = Path(sysconfig.get_path("purelib", "venv", places))
    programs = Path(sysconfig.get_path("scripts", "venv", places))
    pip = [sys.executable, "-m", "pip", "--python", str(environment)]
    install = ["install", "--quiet", "--no-deps", "--no-index", str(dist.wheel)]
    subprocess.run([*pip, *install], check=True, capture_output=True)
    # A path in a .pth file comes after the environment's own, and .pth files there are not read:
    # an editable musicfm is not found through it.
    borrowed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (libraries / "borrowed.pth").write_text("\n".join(sorted(borrowed)))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    audio_files.write(elsewhere, "tone.wav", seconds=2.0)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> str:
        done = subprocess.run(
            [programs / program, *arguments],
            check=True,
            cwd=elsewhere,
            env={**clean, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        return done.stdout

    home = run("python", "-c", "import musicfm; print(musicfm.__file__)").strip()
    assert Path(home) == libraries / "musicfm" / "__init__.py"
    assert run("musicfm", "--version") == f"musicfm {musicfm.__version__}\n"
    run("musicfm", "embed", "tone.wav", "--model", "nano", "--out", "out", "--workers", "1")
    with np.load(elsewhere / "out" / "tone.npz") as result:
        assert result["frames"].shape == (50, 192)


def test_the_page_on_pypi_leads_to_the_repository_or_nowhere() -> None:
    for_pypi = runpy.run_path(str(ROOT / "tools" / "pypi_readme.py"))["for_pypi"]
    text = "[a](docs/a.md#b) ![c](docs/c.png) [d](#e) [f](https://g.org)"
    assert for_pypi(text, "", "main") == "a  [d](#e) [f](https://g.org)"
    home = "https://github.com/owner/name"
    assert for_pypi(text, "owner/name", "v1").split() == [
        f"[a]({home}/blob/v1/docs/a.md#b)",
        f"![c]({home}/raw/v1/docs/c.png)",
        "[d](#e)",
        "[f](https://g.org)",
    ]


def test_the_citation_names_the_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.M) == [musicfm.__version__]


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(path: Path) -> dict[str, tuple[str, str]]:
    """Version and marker of each package, by its normalised name."""
    lines = re.findall(r"^([\w.-]+)==([^\s;]+)(?: ; ([^\\\n]+))?", path.read_text("utf-8"), re.M)
    return {normalized(name): (version, marker) for name, version, marker in lines}


def test_the_lock_pins_the_versions_of_the_constraints() -> None:
    constraints, lock = pins(ROOT / "constraints.txt"), pins(ROOT / "requirements-ci.lock")
    # PyTorch without CUDA is not where the other packages are; see CONTRIBUTING.md.
    assert constraints.keys() - lock.keys() == {"torch"}
    for name, (version, marker) in lock.items():
        # Other systems and later Pythons need more than the constraints know.
        assert name in constraints or marker, name
        assert constraints.get(name, (version,))[0] == version, name


def test_the_lock_has_a_hash_for_every_package() -> None:
    text = (ROOT / "requirements-ci.lock").read_text(encoding="utf-8")
    packages = re.split(r"\n(?=\S)", text[text.index("\n", text.index("make lock")) :].strip())
    assert len(packages) == len(pins(ROOT / "requirements-ci.lock"))
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", package) for package in packages)


def test_the_page_of_licences_has_every_dependency_that_we_name() -> None:
    script = runpy.run_path(str(ROOT / "tools" / "licences.py"))
    before, _, _ = script["TEXT"].partition("{direct}")
    page = (ROOT / "docs" / "licences.md").read_text(encoding="utf-8")
    assert page.startswith(before), "make licences"
    table, _, _ = page.removeprefix(before).partition("\n\n")
    rows = [line.strip("| ").split(" | ") for line in table.splitlines()]
    needed: dict[str, set[str]] = {}
    for extra, requirements in script["direct_requirements"]().items():
        for requirement in requirements:
            name = re.split(r"[\[<>=!~; ]", requirement)[0]
            needed.setdefault(normalized(name), set()).add(extra)
    listed = {normalized(name): {*extras.split(", ")} for name, _, extras in rows}
    assert listed == needed, "make licences"
