"""Files that are damaged, that lie about their sizes, or that mean harm, for everything we read.

The soak does the same with many more inputs: ``make soak``.
"""

import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import recipe
from hostile import MICRO, READERS, Reader, attempt, each_damage, outcome
from musicfm.datasets.annotations import read_jams
from musicfm.errors import DataError, MusicFMError

BY_NAME = {reader.name: reader for reader in READERS}


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Reader], Path]:
    """The folder with a reader's intact files."""
    made: dict[str, Path] = {}

    def folder(reader: Reader) -> Path:
        if reader.name not in made:
            made[reader.name] = tmp_path_factory.mktemp("intact")
            reader.make(made[reader.name])
        return made[reader.name]

    return folder


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_damaged_files_are_read_or_refused(
    reader: Reader, intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    scratch = shutil.copytree(intact(reader), tmp_path / "x")
    assert outcome(reader, scratch) == "read"
    for damage, found in each_damage(reader, intact(reader), scratch):
        assert found in ("read", "refused"), damage
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.soak
@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
def test_files_damaged_at_random_are_read_or_refused(
    reader: Reader, intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    numbers = range(8 if reader.name.startswith("audio") else 30)
    for number in numbers:
        found = attempt(reader, intact(reader), tmp_path / "x", number)
        assert found in ("read", "refused"), number
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("audio tone.aac", 98),  # changes to 18 channels, whose samples PyAV frees too early
        ("model folder", 178),  # complex weights
        ("shards", 161),  # an integer that is not a float
    ],
)
def test_what_the_soak_found_does_no_harm(
    name: str, number: int, intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    reader = next(reader for reader in READERS if reader.name == name)
    found = attempt(reader, intact(reader), tmp_path / "scratch", number)
    assert found in ("read", "refused")


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\xff\xfe" * 50, b"[" * 100_000])
def test_files_of_something_else_are_refused(
    reader: Reader, content: bytes, intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(intact(reader), tmp_path / "x")
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(content)
    assert outcome(reader, folder) in ("read", "refused")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["beat", "chord", "key_mode", "tag_open", "segment_open", "C:maj"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["time", "duration", "value", "confidence", "position", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    namespace=st.sampled_from(
        ["beat", "beat_position", "chord", "segment_open", "key_mode", "tag_x"]
    ),
    data=st.lists(
        st.fixed_dictionaries({"time": JSON, "duration": JSON, "value": JSON}), max_size=3
    )
    | JSON,
    duration=JSON,
)
def test_any_annotations_are_read_or_reported(
    tmp_path_factory: pytest.TempPathFactory, namespace: str, data: Any, duration: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.jams"
    annotation = {"namespace": namespace, "data": data}
    content = {"annotations": [annotation, 3], "file_metadata": {"duration": duration}}
    path.write_text(json.dumps(content))
    try:
        read = read_jams(path)
    except DataError as error:
        assert "any.jams" in str(error)  # noqa: PT017
    else:
        assert all(str(path) in problem for problem in read.problems)


# ------------------------------------------------------------------------------------------- sizes


def wav_of_four_gigabytes(folder: Path) -> None:
    path = folder / "tone.wav"
    data = bytearray(path.read_bytes())
    data[4:8] = data[40:44] = struct.pack("<I", 0xFFFF0000)
    path.write_bytes(data)


def wav_of_one_hertz(folder: Path) -> None:
    path = folder / "tone.wav"
    data = bytearray(path.read_bytes())
    data[24:28] = struct.pack("<I", 1)
    path.write_bytes(data)


def wav_of_many_channels(folder: Path) -> None:
    path = folder / "tone.wav"
    data = bytearray(path.read_bytes())
    data[22:24] = struct.pack("<H", 0xFFFF)
    path.write_bytes(data)


def array_of_terabytes(folder: Path) -> None:
    path = next(folder.rglob("binary.npy"), folder / "0.npy")
    with path.open("wb") as file:
        header = {"descr": "<f2", "fortran_order": False, "shape": (10**12, 4)}
        np.lib.format.write_array_header_1_0(file, header)


def weights_of_terabytes(folder: Path) -> None:
    path = folder / "model.safetensors"
    header = {"head.weight": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))


def header_of_exabytes(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def model_of(**changes: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "config.json"
        fields = json.loads(path.read_bytes())
        for key, value in changes.items():
            section, _, name = key.partition("__")
            fields[section][name] = value
        path.write_text(json.dumps(fields))

    return write


def tensor_of_terabytes(folder: Path) -> None:
    filters = {
        "preprocessor_melspec_2048.mel_stft.mel_scale.fb": torch.zeros(1).expand(10**9, 10**3)
    }
    recipe.write_published(folder / "pretrained_x.pt", MICRO, changes=filters)


def compressed_zeros(folder: Path) -> None:
    """Two gigabytes in two megabytes."""
    with (
        zipfile.ZipFile(folder / "pretrained_x.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data.pkl", "w", force_zip64=True) as entry,
    ):
        for _ in range(256):
            entry.write(bytes(2**23))


def font_of_gigabytes(folder: Path) -> None:
    path = folder / "font.sf2"
    data = bytearray(path.read_bytes())
    at = data.index(b"smpl")
    data[at + 4 : at + 8] = struct.pack("<I", 0xFFFFFFF0)
    path.write_bytes(data)


LIES: list[tuple[str, Callable[[Path], None], str]] = [
    ("audio tone.wav", wav_of_four_gigabytes, "any"),
    ("audio tone.wav", wav_of_one_hertz, "claims 1 Hz"),
    ("audio tone.wav", wav_of_many_channels, "any"),
    ("features", array_of_terabytes, "0.npy is damaged; delete it"),
    ("MagnaTagATune's split", array_of_terabytes, "is not an array of numbers or texts"),
    ("model folder", weights_of_terabytes, "is damaged or incomplete"),
    ("model folder", header_of_exabytes, "is damaged or incomplete"),
    ("model folder", model_of(encoder__depth=10**9), "depth"),
    ("model folder", model_of(encoder__dim=10**12), "dim"),
    ("model folder", model_of(mel__n_fft=10**12), "n_fft"),
    (
        "model folder",
        model_of(quantizer__codebook_size=2**20, quantizer__codebook_dim=2**20),
        "any",
    ),
    ("model folder", model_of(quantizer__num_codebooks=10**9), "num_codebooks"),
    ("published .pt", tensor_of_terabytes, "more than the file holds"),
    ("published .pt", compressed_zeros, "is not a PyTorch checkpoint"),
    ("sound font", font_of_gigabytes, "is larger than what holds it"),
]


@pytest.mark.processes
def test_declared_sizes_are_not_trusted(intact: Callable[[Reader], Path], tmp_path: Path) -> None:
    """All in one process, which may have half a gigabyte more than it begins with."""
    for number, (name, lie, _) in enumerate(LIES):
        lie(shutil.copytree(intact(BY_NAME[name]), tmp_path / str(number)))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )
    assert process.returncode == 0, process.stderr
    said = json.loads(process.stdout)
    for (name, lie, expected), found in zip(LIES, said, strict=True):
        assert expected == "any" or expected in found, f"{name}, {lie.__name__}: {found}"


def read_lies(folder: Path) -> None:
    """What the process of the test above does."""
    import resource
    import warnings

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, size + 2**29))
    said = []
    for number, (name, _, _) in enumerate(LIES):
        try:
            BY_NAME[name].read(folder / str(number))
            said.append("read")
        except MusicFMError as error:
            said.append(str(error))
    print(json.dumps(said))


# -------------------------------------------------------------------------------------------- harm


class Malicious:
    """Makes a file when it is unpickled, if one lets it."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.witness),)


def renamed(archive: bytes, names: Callable[[str], str]) -> bytes:
    """A zip file with other names in it."""
    written = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(written, "w") as new:
        for entry in old.infolist():
            new.writestr(names(entry.filename), old.read(entry))
    return written.getvalue()


def archive_of(content: Any) -> bytes:
    saved = io.BytesIO()
    torch.save(content, saved)
    return saved.getvalue()


@pytest.mark.parametrize(
    "name", ["published .pt", "checkpoint of a run", "features", "model folder"]
)
@pytest.mark.parametrize("how", ["plain", "archive", "odd names", "as a name", "nested"])
def test_code_in_a_file_does_not_run(
    name: str, how: str, intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    witness, reader = tmp_path / "witness", BY_NAME[name]
    folder = shutil.copytree(intact(reader), tmp_path / "x")
    harm = {"state_dict": {"model.x": Malicious(witness)}, "musicfm": Malicious(witness)}
    data = {
        "plain": lambda: pickle.dumps(harm),
        "archive": lambda: archive_of(harm),
        "odd names": lambda: renamed(archive_of(harm), lambda n: n.replace("archive/", "../../a/")),
        "as a name": lambda: archive_of({Malicious(witness): torch.ones(1)}),
        "nested": lambda: archive_of({"state_dict": archive_of(harm), "x": pickle.dumps(harm)}),
    }[how]()
    targets = [p for p in folder.iterdir() if p.suffix in (".pt", ".ckpt", ".npy", ".safetensors")]
    for path in targets:
        path.write_bytes(data)
    assert targets
    assert outcome(reader, folder) == "refused"
    assert not witness.exists()
    pickle.loads(pickle.dumps(harm["musicfm"]))  # it would have
    assert witness.exists()


def test_paths_in_an_archive_cannot_escape(
    intact: Callable[[Reader], Path], tmp_path: Path
) -> None:
    folder = shutil.copytree(intact(BY_NAME["published .pt"]), tmp_path / "a" / "b")
    path = folder / "pretrained_x.pt"
    data = path.read_bytes()
    for prefix in ("../../", "/tmp/escaped/", "archive/../../"):
        path.write_bytes(renamed(data, lambda name, prefix=prefix: prefix + name))  # type: ignore[misc]
        assert outcome(BY_NAME["published .pt"], folder) in ("read", "refused")
    assert {p.name for p in tmp_path.rglob("*")} == {"a", "b", "pretrained_x.pt", "x_stats.json"}
    assert not Path("/tmp/escaped").exists()


if __name__ == "__main__":
    read_lies(Path(sys.argv[1]))
