"""What may import what, read from the import statements."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import musicfm
from musicfm._moved import MOVED

SOURCE = Path(musicfm.__file__).parent
TABLE = Path(__file__).parents[1] / "CONTRIBUTING.md"
TOP = {"cli", "__main__"}
LAZY = {"musicfm", "musicfm.audio", "musicfm.embedding", "musicfm.model"}
# Without PyTorch, which takes a second to import and half a gigabyte in each worker process.
LIGHT = (
    "audio.reading", "audio.decoders", "model.config", "model.hub",
    "datasets.scanning", "render.songs", "cli.app",
)  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module below ``musicfm``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def imports(path: Path) -> set[str]:
    """Our modules that a file imports, at its top or anywhere within."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name for name in found if name.startswith("musicfm.")}
    return {name.removeprefix("musicfm.") for name in ours} & MODULES


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.stem != "__init__"]


MODULES = {name_of(path) for path in modules()}


def test_a_module_imports_only_those_above_it_in_the_table() -> None:
    paths = re.findall(r"^\| `([\w/]+\.py)`", TABLE.read_text(encoding="utf-8"), re.M)
    table = [name_of(SOURCE / path) for path in paths]
    assert sorted(table) == sorted(MODULES - {"__main__"})
    for position, path in enumerate(paths):
        assert imports(SOURCE / path) <= {*table[:position]}, path


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_names_come_from_the_modules_that_define_them(path: Path) -> None:
    """Not from packages, whose lazy names would hide what depends on what."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module in LAZY:
            for alias in node.names:
                found = importlib.util.find_spec(f"{node.module}.{alias.name}")
                assert found, f"{alias.name} of {node.module}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_imports_the_command_line(path: Path) -> None:
    assert name_of(path).split(".")[0] in TOP or not imports(path) & TOP


def test_few_modules_are_at_the_root() -> None:
    assert len([*SOURCE.glob("*.py")]) <= 18


def run(program: str, *options: str) -> None:
    subprocess.run([sys.executable, *options, "-c", program], check=True)


@pytest.mark.parametrize("module", ["", *(f".{name}" for name in LIGHT)])
def test_what_reads_files_does_not_import_torch(module: str) -> None:
    run(f"import sys, musicfm{module}; assert 'torch' not in sys.modules", "-W", "error")


def test_modules_import_under_their_old_names_with_a_warning() -> None:
    """In another process, which has imported none of them."""
    run(
        "import importlib, sys, warnings\n"
        f"for old, new in {MOVED!r}.items():\n"
        "    with warnings.catch_warnings(record=True) as caught:\n"
        "        warnings.simplefilter('always')\n"
        "        module = importlib.import_module(f'musicfm.{old}')\n"
        "    assert module is importlib.import_module(f'musicfm.{new}'), old\n"
        "    assert module.__name__ == module.__spec__.name == f'musicfm.{new}', old\n"
        "    said = [str(w.message) for w in caught if w.category is DeprecationWarning]\n"
        "    assert any(f'musicfm.{old} is now musicfm.{new};' in text for text in said), old\n"
    )


def test_old_names_in_pickles_still_load() -> None:
    run(
        "import pickle\n"
        "from musicfm.model.config import preset\n"
        "from musicfm.model.encoder import Encoder\n"
        "for kind in (type(preset('tiny')), Encoder):\n"
        "    old = pickle.dumps(kind, protocol=0).replace(b'musicfm.model.', b'musicfm.')\n"
        "    assert pickle.loads(old) is kind\n"
        "for name in (b'MusicFM', b'FrontEnd', b'ResidualBlock'):\n"
        "    kind = pickle.loads(b'cmusicfm.model\\n' + name + b'\\n.')\n"
        "    assert kind.__name__ == name.decode()\n",
    )


def test_files_are_asked_for_with_os_path() -> None:
    """Path.exists and its kin raise where a name is too long, and those of os.path say no."""
    for path in modules():
        found = re.search(r".*(?<!path)\.(exists|is_file|is_dir)\(\).*", path.read_text())
        assert found is None, (path, found[0])
