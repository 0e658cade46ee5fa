"""What may import what, read from the import statements."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import musicfm

SOURCE = Path(musicfm.__file__).parent

# From the bottom up: a module may import those of lower ranks.
RANKS = {
    "errors": 0,
    "config": 1,
    "files": 1,
    "hub": 1,
    "mel": 2,
    "pitch": 3,
    "encoder": 3,
    "quantizers": 3,
    "masking": 3,
    "model": 4,
    "published": 4,
    "inference.weights": 5,
    "inference.convolutions": 5,
    "inference.int8": 6,
    "inference.cuda": 6,
    "inference.front_end": 7,
    "inference.encoder": 7,
    "inference.form": 8,
    "checkpoint": 5,
    "compat": 6,
    "export": 6,
}
TOP_RANK = 9  # what is not listed builds on these
TOP = {"cli", "__main__"}


def name_of(path: Path) -> str:
    """The dotted name of a module below ``musicfm``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


def imports(path: Path, *, lazy: bool = True) -> set[str]:
    """Our modules that a file imports; without ``lazy``, when it is imported itself."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if lazy else iter(tree.body)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = {name for name in found if name.startswith("musicfm.")}
    return {name.removeprefix("musicfm.") for name in ours} & MODULES


def modules() -> list[Path]:
    return [path for path in sorted(SOURCE.rglob("*.py")) if path.stem != "__init__"]


MODULES = {name_of(path) for path in modules()}


@pytest.mark.parametrize("module", RANKS)
def test_imports_go_one_way(module: str) -> None:
    for imported in imports(SOURCE / f"{module.replace('.', '/')}.py", lazy=False):
        assert RANKS.get(imported, TOP_RANK) < RANKS[module], f"{module} imports {imported}"


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_imports_the_command_line(path: Path) -> None:
    assert name_of(path) in TOP or not imports(path) & TOP


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, musicfm; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
