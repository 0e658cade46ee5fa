"""What may import what, read from the import statements."""

import ast
import importlib.util
import pickle
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import musicfm
from musicfm._moved import MOVED
from musicfm.audio import reading, sources
from musicfm.model.config import ModelConfig
from musicfm.model.encoder import Encoder
from musicfm.tasks.baselines import ChromaEncoder
from musicfm.tasks.predict import Predictor

SOURCE = Path(musicfm.__file__).parent
TABLE = Path(__file__).parents[1] / "CONTRIBUTING.md"
LAZY = {"musicfm", "musicfm.audio", "musicfm.embedding", "musicfm.model"}
# Without PyTorch, which takes a second to import and half a gigabyte in each worker process.
LIGHT = (
    "audio.reading", "audio.decoders", "model.config", "model.hub",
    "datasets.scanning", "render.songs", "library.library", "cli.app",
)  # fmt: skip


def name_of(path: Path) -> str:
    """The dotted name of a module below ``musicfm``."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts)


@cache
def statements(path: Path) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a file, at its top or anywhere within."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]


def imports(path: Path) -> set[str]:
    """Our modules that a file imports."""
    found: set[str] = set()
    for node in statements(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif node.module:
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


def test_names_come_from_the_modules_that_define_them() -> None:
    """Not from packages, whose lazy names would hide what depends on what."""
    for path in modules():
        for node in statements(path):
            if isinstance(node, ast.ImportFrom) and node.module in LAZY:
                for alias in node.names:
                    found = importlib.util.find_spec(f"{node.module}.{alias.name}")
                    assert found, f"{path}: {alias.name} of {node.module}"


def test_few_modules_are_at_the_root() -> None:
    assert len([*SOURCE.glob("*.py")]) <= 18


def run(program: str, *options: str) -> None:
    subprocess.run([sys.executable, *options, "-c", program], check=True)


def test_what_reads_files_does_not_import_torch() -> None:
    run(
        "import importlib, sys\n"
        f"for name in {('musicfm', *(f'musicfm.{name}' for name in LIGHT))!r}:\n"
        "    importlib.import_module(name)\n"
        "    assert 'torch' not in sys.modules, name\n",
        "-W",
        "error",
    )


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


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("audio.processes", "Task", "TaskFunction"),
        ("render.harmony", "Slot", "PhraseChord"),
        ("render.theory", "Key", "Tonality"),
        ("tasks.evaluation", "listen", "encode_tracks"),
        ("tasks.joint", "Clips", "JointClips"),
        ("tasks.probe", "Recording", "EncodedTrack"),
        ("tasks.trivial", "Predictor", "Annotator"),
    ],
)
def test_names_that_stood_for_two_things_still_work(module: str, old: str, new: str) -> None:
    found = importlib.import_module(f"musicfm.{module}")
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}"):
        assert getattr(found, old) is getattr(found, new)


def test_functions_that_were_renamed_warn() -> None:
    for module in (musicfm.audio, reading):
        with pytest.warns(DeprecationWarning, match="at_hand is now local_copy"):
            assert getattr(module, "at_hand") is sources.local_copy  # noqa: B009
        with pytest.raises(AttributeError, match="no attribute 'nothing'"):
            getattr(module, "nothing")  # noqa: B009


def test_a_method_that_was_renamed_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[object] = []
    monkeypatch.setattr(Predictor, "encode", lambda *rest: given.extend(rest[1:]))
    with pytest.warns(DeprecationWarning, match="listen is now encode"):
        Predictor((), ChromaEncoder(), "chroma").listen("song", Path("folder"))
    assert given == ["song", Path("folder")]


@pytest.mark.filterwarnings("ignore:musicfm:DeprecationWarning")
def test_old_names_in_pickles_still_load() -> None:
    for kind in (ModelConfig, Encoder):
        old = pickle.dumps(kind, protocol=0).replace(b"musicfm.model.", b"musicfm.")
        assert pickle.loads(old) is kind
    for name in ("MusicFM", "FrontEnd", "ResidualBlock"):
        assert pickle.loads(f"cmusicfm.model\n{name}\n.".encode()).__name__ == name


def test_files_are_asked_for_with_os_path() -> None:
    """Path.exists and its kin raise where a name is too long, and those of os.path say no."""
    for path in modules():
        found = re.search(r".*(?<!path)\.(exists|is_file|is_dir)\(\).*", path.read_text())
        assert found is None, (path, found[0])
