"""Everything that musicfm reads, and ways to damage it.

A reader has intact files, all small, and a function that reads them. Damaged, they must be read
none the less, or refused with an error of ours. Used by test_hostile.py on a few inputs, and by the
soak on many: both draw them from numbers, so that any input can be made again.
"""

import contextlib
import copy
import csv
import fnmatch
import io
import itertools
import json
import math
import os
import random
import re
import shutil
import sqlite3
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch

import audio_files
import libraries
import recipe
import sound_fonts
import tones
import trees
from musicfm.audio import reading
from musicfm.cli.lists import read_list
from musicfm.datasets import scanning
from musicfm.datasets.annotations import digest, fit, read_jams
from musicfm.datasets.crops import Crops
from musicfm.datasets.fma import read_metadata
from musicfm.datasets.giantsteps_mtg import collect_giantsteps_mtg
from musicfm.datasets.hainsworth import collect_hainsworth
from musicfm.datasets.harmonix import collect_harmonix
from musicfm.datasets.magnatagatune import TAGS, collect_magnatagatune
from musicfm.datasets.pieces import Collected
from musicfm.datasets.shards import prepare
from musicfm.datasets.splits import Splitting, split
from musicfm.datasets.tracks import INDEX, Manifest, Track, to_json
from musicfm.embedding.collection import Summary, _pending, find_recordings
from musicfm.embedding.embedder import Embedder
from musicfm.embedding.results import VECTORS, TableWriter
from musicfm.errors import AudioError, MusicFMError
from musicfm.journal import JOURNAL, Journal, Recording
from musicfm.library.database import Settings as LibrarySettings
from musicfm.library.library import Library
from musicfm.library.transform import is_due
from musicfm.library.writing import Writer
from musicfm.model import checkpoint
from musicfm.model.config import (
    ConformerConfig,
    FrontEndConfig,
    KMeansConfig,
    ModelConfig,
)
from musicfm.model.config import RandomProjectionConfig as Projection
from musicfm.model.musicfm import MusicFM
from musicfm.pretraining import kmeans
from musicfm.pretraining import run as pretraining
from musicfm.pretraining.checkpoints import checkpoint_path, latest_valid
from musicfm.pretraining.metrics import METRICS, read_metrics
from musicfm.pretraining.recipe import RECIPES, load_recipe
from musicfm.remote import is_url
from musicfm.render.soundfont import load_font
from musicfm.render.synthesis import synthesize
from musicfm.tasks import heads, trials
from musicfm.tasks.chord import Chord
from musicfm.tasks.features import Features
from musicfm.tasks.heads import Head, HeadConfig
from musicfm.tasks.key import Key

Outcome = Literal["read", "refused", "an error that says nothing"]

MICRO = ModelConfig(
    front_end=FrontEndConfig(conv_dim=2),
    encoder=ConformerConfig(dim=8, depth=1, num_heads=2, ffn_dim=8, conv_kernel=3),
    quantizer=Projection(codebook_size=8, codebook_dim=4),
    context_seconds=2.0,
)


@dataclass(frozen=True)
class Reader:
    """What is read, and how."""

    name: str
    make: Callable[[Path], object]
    """Writes intact files into an empty folder."""
    read: Callable[[Path], object]
    """Reads the files of a folder, as the package would, all the way to their use."""
    targets: str = "*"
    """Which of the files are damaged."""


def attempt(reader: Reader, intact: Path, scratch: Path, number: int) -> Outcome:
    """Reads damaged files: the input of that number. Raises whatever is no error of ours.

    Args:
        reader: what to read.
        intact: the folder with what ``reader.make`` wrote.
        scratch: a folder for the damaged files; what is there is removed.
        number: which damage.
    """
    damage_copy(reader, intact, scratch, number)
    return outcome(reader, scratch)


def damage_copy(reader: Reader, intact: Path, scratch: Path, number: int) -> None:
    """Writes the input of that number into ``scratch``."""
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(intact, scratch)
    rng = random.Random(f"{reader.name} {number}")
    files = sorted(path for path in scratch.rglob("*") if path.is_file())
    targets = [path for path in files if fnmatch.fnmatch(path.name, reader.targets)]
    for path in rng.sample(targets, 1 if rng.random() < 0.9 else min(2, len(targets))):
        path.write_bytes(damaged(path.read_bytes(), path.suffix, rng))


def each_damage(reader: Reader, intact: Path, scratch: Path) -> Iterator[tuple[str, Outcome]]:
    """Reads the reader's files with each kind of damage once: what it was, and what came of it.

    Kinds are those of bytes, of which each takes the next of the files, and for each file that
    holds JSON, text, tensors or a table, changes of what is in it.
    """
    targets = sorted(
        path.relative_to(intact)
        for path in intact.rglob("*")
        if path.is_file() and fnmatch.fnmatch(path.name, reader.targets)
    )
    kinds = list(zip(_BYTES, itertools.cycle(targets), strict=False))
    kinds += [
        (f"change {k}", path) for path in targets if path.suffix in _KNOWING for k in range(3)
    ]
    for kind, path in kinds:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(intact, scratch)
        rng, file = random.Random(f"{reader.name} {kind} {path}"), scratch / path
        content = bytearray(file.read_bytes())
        if kind in _BYTES:
            _BYTES[kind](content, *_place(content, rng), rng)
        else:
            content[:] = _KNOWING[path.suffix](bytes(content), rng)
        file.write_bytes(content)
        yield f"{kind}: {path}", outcome(reader, scratch)


def outcome(reader: Reader, folder: Path) -> Outcome:
    """Whether a folder can be read, or is refused in one sentence."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            reader.read(folder)
        except MusicFMError as error:
            return "refused" if str(error).strip() else "an error that says nothing"
    return "read"


# ------------------------------------------------------------------------------------------ damage


def damaged(data: bytes, suffix: str, rng: random.Random) -> bytes:
    """A file's content with some damage, in its bytes or in what they mean."""
    knowing = _KNOWING.get(suffix)
    if knowing is not None and data and rng.random() < 0.7:
        return knowing(data, rng)
    return _bytes(data, rng)


_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, numbers overwritten, pieces cut out, doubled, blanked, or the end cut off."""
    found = bytearray(data)
    kinds = list(_BYTES.values())
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at, size = _place(found, rng)
        kind = rng.choice(kinds)
        if kind is not _cut_off or rng.random() < 0.3:
            kind(found, at, size, rng)
    return bytes(found)


def _place(data: bytearray, rng: random.Random) -> tuple[int, int]:
    """Where to damage, and how many bytes."""
    # Most of what matters stands at the beginning, or at the end.
    end = rng.choice((16, 64, 512, 4096, len(data)))
    at = rng.randrange(max(1, min(end, len(data))))
    if rng.random() < 0.2:
        at = max(0, len(data) - 1 - at)
    return at, rng.choice((1, 2, 4, 8, 64, 1024))


def _flip(data: bytearray, at: int, _: int, rng: random.Random) -> None:
    if data:
        data[at] ^= 1 << rng.randrange(8)


def _overwrite_number(data: bytearray, at: int, _: int, rng: random.Random) -> None:
    order = rng.choice("<>")
    data[at : at + 4] = struct.pack(f"{order}I", rng.choice(_NUMBERS))


def _overwrite(data: bytearray, at: int, size: int, rng: random.Random) -> None:
    data[at : at + size] = rng.randbytes(size)


def _cut_out(data: bytearray, at: int, size: int, _: random.Random) -> None:
    del data[at : at + size]


def _double(data: bytearray, at: int, size: int, _: random.Random) -> None:
    data[at:at] = data[at : at + size]


def _blank(data: bytearray, at: int, size: int, _: random.Random) -> None:
    data[at : at + size] = bytes(size)


def _cut_off(data: bytearray, at: int, *_: object) -> None:
    del data[at:]


_BYTES: dict[str, Callable[[bytearray, int, int, random.Random], None]] = {
    "flip": _flip,
    "overwrite a number": _overwrite_number,
    "overwrite": _overwrite,
    "cut out": _cut_out,
    "double": _double,
    "blank": _blank,
    "cut off": _cut_off,
}


_DEEP = "\uf8ffdeep\uf8ff"
_HUGE = "\uf8ffhuge\uf8ff"
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 0.5, -0.0, 1e308, 1e-320, math.inf, -math.inf, math.nan),
    *(2**31, 2**62, 2**63, 2**64, -(2**63), 10**30, 10**400, 1_000_000_000),
    *("", "a", "nan", "1e999", "\0", "\ud800", "\n", "../../../../etc/passwd", "/etc/passwd"),
    *("x" * 300, "é" * 5_000, [], {}, [[]], [None], {"": None}, [[], []], _DEEP, _HUGE),
)


def _json(data: bytes, rng: random.Random) -> bytes:
    """A value, key or branch of a JSON document replaced, removed or doubled."""
    try:
        document = [json.loads(data)]
    except (ValueError, RecursionError):
        return _bytes(data, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        holders = list(_holders(document))
        holder = rng.choice(holders)
        key = rng.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        match rng.randrange(6):
            case 0 if holder is not document:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice(("", "kind", "path", "x" * 40))] = holder.pop(key)
            case 2 if isinstance(holder, list) and holder is not document:
                holder.insert(key, holder[key])
            case _:
                holder[key] = copy.deepcopy(rng.choice(_VALUES))
        if not document:
            break
    text = json.dumps(document[0])
    text = text.replace(json.dumps(_DEEP), "[" * 50_000 + "]" * 50_000)
    text = text.replace(json.dumps(_HUGE), "9" * 6_000)
    return text.encode("utf-8", "surrogatepass")


def _holders(node: Any) -> Any:
    """All objects and arrays of a document that have something in them."""
    if isinstance(node, dict | list) and node:
        yield node
        for value in node.values() if isinstance(node, dict) else node:
            yield from _holders(value)


def _json_lines(data: bytes, rng: random.Random) -> bytes:
    """A line of JSON damaged, removed, doubled or moved."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    match rng.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[at])
        case 2:
            rng.shuffle(lines)
        case _:
            lines[at] = _json(lines[at], rng) + b"\n"
    return b"".join(lines)


def _text(data: bytes, rng: random.Random) -> bytes:
    """Words and numbers of a text replaced, and separators doubled or removed."""
    text = data.decode("utf-8", "replace")
    words = list(re.finditer(r"[^\s,\t|\"=\[\]]+", text))
    separators = list(re.finditer(r"[\n,\t|\"=\[\]]", text))
    for _ in range(rng.choice((1, 1, 2, 4))):
        match = rng.choice(words + separators)
        words, separators = [], []
        new = str(rng.choice(_VALUES)).replace(_DEEP, "[" * 9_000).replace(_HUGE, "9" * 6_000)
        if rng.random() < 0.3:
            new = rng.choice(("", match[0] * 2, ",", "\t", "\n", '"', "\r", "="))
        text = text[: match.start()] + new + text[match.end() :]
        words = list(re.finditer(r"[^\s,\t|\"=\[\]]+", text))
        if not words:
            break
    return text.encode("utf-8", "replace" if rng.random() < 0.5 else "surrogatepass")


def _numpy(data: bytes, rng: random.Random) -> bytes:
    """An .npy file whose header lies."""
    (size,) = struct.unpack("<H", data[8:10])
    header = data[10 : 10 + size].decode("latin1")
    shapes = [
        *("()", "(0,)", "(-1,)", "(1,)", "(2, -2)", "(4, 4, 4)", "(99999999999,)", "(1.5,)", "'x'"),
        *("(1, 99999999999999)", "(9223372036854775807, 9223372036854775807)", "(((("),
    ]
    types = ("'<f8'", "'|O'", "'<U9'", "'|V4'", "'<i1'", "'<c16'", "'x'", "[('a', '<f2')]", "None")
    new = re.sub(r"\([^)]*\)", lambda m: rng.choice((m[0], *shapes)), header, count=1)
    new = re.sub(
        r"'descr': [^,]+", lambda m: rng.choice((m[0], f"'descr': {rng.choice(types)}")), new
    )
    new = new.replace("False", rng.choice(("False", "True", "None", "0")))
    raw = new.encode("latin1")
    length = len(raw) if rng.random() < 0.8 else rng.choice((0, 1, 0xFFFF))
    return data[:8] + struct.pack("<H", length) + raw + data[10 + size :]


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    """A file of tensors whose header lies, or whose tensors are others."""
    size = int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = _json(data[8 : 8 + size], rng)
        length = len(header)
        if rng.random() < 0.1:
            length = rng.choice((0, 2**31, 2**63 - 1, 2**64 - 1, len(data)))
        return length.to_bytes(8, "little") + header + data[8 + size :]
    from safetensors.torch import load, save

    metadata = json.loads(data[8 : 8 + size]).get("__metadata__")
    return save(_tensors(load(data), rng), metadata)


def _tensors(tensors: dict[str, Any], rng: random.Random, plain: bool = True) -> dict[str, Any]:
    """Tensors of which one is missing, renamed, doubled, or another one."""
    found = dict(tensors)
    name = rng.choice(sorted(found))
    tensor = found[name]
    shape = tuple(tensor.shape) if isinstance(tensor, torch.Tensor) else ()
    strange: list[Any] = [
        torch.zeros(shape or (1,)).fill_(rng.choice((math.nan, math.inf, 1e38))),
        torch.zeros(shape, dtype=rng.choice((torch.int8, torch.bool, torch.float64, torch.int64))),
        torch.zeros((*shape, 2)),
        torch.zeros(()),
        torch.zeros((0, *shape[1:])),
        torch.zeros(shape, dtype=torch.complex64),
        torch.zeros(tuple(2 * n for n in shape)),
    ]
    if not plain:
        strange += [
            # A few bytes that claim to be terabytes.
            torch.zeros(1).expand((10**12 // max(1, math.prod(shape)), *shape)),
            torch.zeros(1).expand(tuple(min(40_000 * n, 10**9) for n in shape[:2]) or (10**12,)),
            torch.zeros(1).expand(shape or (1,)),
            torch.zeros(shape or (1,)).to_sparse(),
            *(7, "text", None, [1.0], {}),
        ]
    match rng.randrange(5):
        case 0:
            del found[name]
        case 1:
            found[rng.choice(("", "x", name + ".x", name.replace("0", "99999999")))] = found.pop(
                name
            )
        case _:
            found[name] = rng.choice(strange)
    return found


def _sqlite(data: bytes, rng: random.Random) -> bytes:
    """A database of which a value is another one."""
    strange = [None, 0, 1, -1, 2**31, 2**62, 0.5, -1e308, "", "a", "[]", "{", "null", b"", b"x"]
    path = Path(tempfile.mkdtemp(), "x.sqlite")
    path.write_bytes(data)
    with contextlib.closing(sqlite3.connect(path)) as database:
        names = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        table = rng.choice(sorted(names.fetchall()))[0]
        column = rng.choice(database.execute(f"PRAGMA table_info({table})").fetchall())[1]
        row = f"name = '{rng.choice(_SETTINGS)}'" if table == "settings" else "rowid = 1"
        with contextlib.suppress(sqlite3.IntegrityError):
            change = f"UPDATE {table} SET {column} = ? WHERE {row}"
            database.execute(change, [rng.choice(strange)])
        database.commit()
    found = path.read_bytes()
    shutil.rmtree(path.parent)
    return found


def _torch(data: bytes, rng: random.Random) -> bytes:
    """A file of torch.save whose archive, pickle or tensors are others."""
    way = rng.random()
    if way < 0.4:
        content = torch.load(io.BytesIO(data), weights_only=True)
        holder = content.get("state_dict", content)
        changed: Any = _tensors(holder, rng, plain=False)
        if holder is not content:
            changed = content | {"state_dict": changed}
            if "musicfm" in content and rng.random() < 0.5:
                text = _json(json.dumps(content["musicfm"]["recipe"]).encode(), rng)
                try:
                    changed = content | {"musicfm": {"recipe": json.loads(text)}}
                except (ValueError, RecursionError):
                    changed = content | {"musicfm": copy.deepcopy(rng.choice(_VALUES))}
        saved = io.BytesIO()
        torch.save(changed, saved)
        return saved.getvalue()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice([name for name in entries if name.endswith("data.pkl")] * 9 + list(entries))
    method = zipfile.ZIP_STORED
    match rng.randrange(8):
        case 0:
            del entries[name]
        case 1:
            entries[rng.choice(("../../evil", "/evil", "x", name.upper()))] = entries.pop(name)
        case 2:
            method = zipfile.ZIP_DEFLATED
        case 3:
            entries["archive/../../evil"] = b"evil"
        case _:
            entries[name] = _bytes(entries[name], rng)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", method) as archive:
        for entry, content in entries.items():
            archive.writestr(entry, content)
    return written.getvalue()


def _parquet(data: bytes, rng: random.Random) -> bytes:
    """A table whose columns, values or metadata are others."""
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(io.BytesIO(data))
    metadata = dict(table.schema.metadata or {})
    at = rng.randrange(table.num_columns)
    name, count = table.column_names[at], table.num_rows
    columns: list[Any] = [
        pa.nulls(count, table.schema.types[at]),
        pa.array([rng.choice((2**62, -1, 0))] * count),
        pa.array([rng.choice((math.nan, math.inf, -1.0, 1e300))] * count),
        pa.array([rng.choice(("", "../../x", "\0", "x" * 300))] * count),
        pa.array([b"\xff\xfe"] * count),
        pa.array([[None]] * count, pa.list_(pa.string())),
    ]
    match rng.randrange(6):
        case 0:
            table = table.remove_column(at)
        case 1:
            table = pa.concat_tables([table, table])
        case 2:
            table = table.slice(0, 0)
        case 3:
            metadata = {key: _json(value, rng) for key, value in metadata.items()}
        case _:
            field = pa.field(name, rng.choice(columns).type)
            value = next(column for column in columns if column.type == field.type)
            # As the manifest declares its columns, so that nothing but the values differ.
            if value.type == table.schema.types[at] and not value.null_count:
                field = table.schema.field(at)
            table = pa.table(
                [value if i == at else table.column(i) for i in range(table.num_columns)],
                pa.schema([field if i == at else f for i, f in enumerate(table.schema)]),
            )
    written = io.BytesIO()
    parquet.write_table(table.replace_schema_metadata(metadata), written)
    return written.getvalue()


_KNOWING: dict[str, Callable[[bytes, random.Random], bytes]] = {
    **dict.fromkeys((".json", ".jams"), _json),
    **dict.fromkeys((".jsonl", ".scan"), _json_lines),
    **dict.fromkeys((".csv", ".txt", ".toml", ".beats"), _text),
    **dict.fromkeys((".pt", ".ckpt"), _torch),
    ".npy": _numpy,
    ".safetensors": _safetensors,
    ".parquet": _parquet,
    ".sqlite": _sqlite,
}


# ------------------------------------------------------------------------------------------ readers


def _audio(name: str) -> Reader:
    def read(folder: Path) -> None:
        path = folder / name
        reading.tags(path)
        info = reading.probe(path)
        assert info.duration_seconds is None or info.duration_seconds >= 0
        length = 0
        for block in reading.stream(path, 24_000, on_damage="warn"):
            assert np.isfinite(block).all()
            length += len(block)
        if length > 24_000:
            _suppressed(lambda: reading.load(path, 24_000, start_seconds=0.5, duration_seconds=0.2))

    is_unusual = name in audio_files.UNUSUAL
    write = audio_files.write_unusual if is_unusual else audio_files.write
    return Reader(f"audio {name}", lambda folder: write(folder, name, 1.2), read)


def _suppressed(action: Callable[[], object]) -> None:
    """What may fail as audio does."""
    try:
        action()
    except AudioError:
        return


def _make_jams(folder: Path) -> None:
    tones.write_tones(folder, 1)
    (folder / "tone_0.wav").unlink()


def _read_jams(folder: Path) -> None:
    path = folder / "tone_0.jams"
    scanning._rendered(path)
    read = fit(read_jams(path), 15.5, str(path))
    digest(read.annotations)
    for task in (Chord(), Key()):
        task.is_labelled(read.annotations)
        if task.is_labelled(read.annotations):
            task.targets(read.annotations, np.arange(0.0, 15.0, 0.5))


def _make_jams_of_others(folder: Path) -> None:
    """With what other programs write: all forms, numbers as texts, columns, strange values."""
    spans = [{"time": str(t), "duration": "1.5", "value": v} for t, v in enumerate("ABCNX")]
    beats = [{"time": 0.5 * n, "duration": 0, "value": f"{1 + n % 4}.0"} for n in range(9)]
    places = [{**beat, "value": {"position": 1 + n % 3}} for n, beat in enumerate(beats)]
    levels = [{**span, "value": {"label": "A", "level": n % 2}} for n, span in enumerate(spans)]
    columns = {key: [span[key] for span in spans] for key in ("time", "duration", "value")}
    odd = [{"time": "1,5", "duration": -1, "value": v} for v in ("\x1b[2J\u202e", "Cafe\u0301")]
    content = {
        "annotations": [
            {"namespace": namespace, "data": data}
            for namespace, data in (
                *(("beat", beats), ("beat_position", places), ("beats", beats), ("chord", columns)),
                *(("chord_roman", levels), ("multi_segment", levels), ("segment_open", spans)),
                *(("key_mode", spans + odd), ("tag_open", spans + odd), ("tempo", spans)),
            )
        ],
        "file_metadata": {"duration": "15.5"},
    }
    (folder / "tone_0.jams").write_text(json.dumps(content))


def _make_lists(folder: Path) -> None:
    names = ["a.wav", "Zoë/歌.mp3", "s3://bucket/b.ogg", "# c.flac"]
    lines = "\r\n".join(names)
    for name, content in {
        "lines.txt": lines.encode(),
        "zeros": "\0".join(names).encode(),
        "marked": lines.encode("utf-16"),
        "unmarked": lines.encode("utf-16-be"),
        "list.m3u": f"#EXTM3U\r\n#EXTINF:1,x\r\n{lines}".encode(),
        "list.pls": b"[playlist]\nFile1=a.wav\nTitle1=x\nNumberOfEntries=1\n",
    }.items():
        (folder / name).write_bytes(content)


def _read_lists(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        for name in read_list(path):
            os.fsencode(name)
            if not is_url(name) and not os.path.isdir(name):  # which may be the whole disk
                find_recordings([name], [])


def _make_fma(folder: Path) -> None:
    from test_datasets_fma import GENRES, HEAD, ROWS

    for name, rows in (("tracks.csv", HEAD + ROWS), ("genres.csv", GENRES)):
        with (folder / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)


def _make_harmonix(folder: Path) -> None:
    from test_datasets_harmonix import BEATS, HEAD, ROWS, SEGMENTS

    trees.write_text(folder / "dataset" / "metadata.csv", HEAD + ROWS)
    for name in ("0001_12step", "0003_6foot7foot", "0004_abc"):
        trees.write_text(folder / "dataset" / "beats_and_downbeats" / f"{name}.txt", BEATS)
        trees.write_text(folder / "dataset" / "segments" / f"{name}.txt", SEGMENTS)


def _pieces(collect: Callable[[Path], Collected]) -> Callable[[Path], None]:
    """Reads the annotations of a published dataset, without any audio."""

    def read(folder: Path) -> None:
        for piece in collect(folder).pieces:
            try:
                found = piece.annotate(3.0)
            except MusicFMError:
                continue
            digest(fit(found, 3.0, "it").annotations)

    return read


def _make_magnatagatune(folder: Path) -> None:
    from test_datasets_magnatagatune import write_split

    write_split(folder, ["rock", "no vocals"])


def _make_tags(folder: Path) -> None:
    rows = [["clip_id", *TAGS, "mp3_path"]]
    rows += [[str(i), *("10"[(i + k) % 2] for k in range(50)), f"{i}/a.mp3"] for i in range(4)]
    text = "".join("\t".join(row) + "\n" for row in rows)
    trees.write_text(folder / "annotations_final.csv", text)


def _tracks() -> list[Track]:
    return [
        Track(f"{i}.wav", 1.0 + i, 24_000, 1, 48_000, 1, f"{i:064x}", "artist", genres=("a", "b"))
        for i in range(4)
    ]


def _read_manifest(folder: Path) -> None:
    (path,) = folder.iterdir()
    manifest = split(Manifest.load(path), Splitting(valid=0.5))
    manifest.digest()
    list(manifest)
    manifest.of_split("train").save(folder / "again.jsonl")
    if len(manifest):
        crops = Crops(manifest, 24_000, 1.0, 100, 0)
        manifest[crops.place(3)[0]]


def _make_recipe(folder: Path) -> None:
    (folder / "recipe.json").write_text(json.dumps(RECIPES["tiny"].to_dict()))
    (folder / "recipe.toml").write_text(
        'base = "nano"\nsteps = 7\n[model.encoder]\ndepth = 2\nkind = "conformer"\n[optimizer]\n'
        "learning_rate = 1e-3\nbetas = [0.9, 0.98]\n"
    )


def _read_recipe(folder: Path) -> None:
    for name in ("recipe.json", "recipe.toml"):
        load_recipe(str(folder / name), ["steps=3"])


@cache
def _model() -> MusicFM:
    torch.manual_seed(0)
    return MusicFM(MICRO).eval()


def _read_model(folder: Path) -> None:
    _use(MusicFM.from_pretrained(folder))


def _use(model: MusicFM) -> None:
    """A model that was loaded can be used, if what it is asked to hear is short enough."""
    checkpoint.fingerprint(model)
    embedder = Embedder(model)
    if embedder.windowing.window * embedder.windowing.frame <= 240_000 and model.config.mel == (
        MICRO.mel
    ):
        embedder(torch.zeros(24_000))


def _read_published(folder: Path) -> None:
    _use(MusicFM.from_pretrained(folder / "pretrained_x.pt"))


def _make_run(folder: Path) -> None:
    """A checkpoint as a run writes it, without what a model does not need."""
    state = {f"{checkpoint.RUN_PREFIX}{k}": v for k, v in _model().state_dict().items()}
    facts = {"recipe": {"model": MICRO.to_dict()}}
    torch.save({"state_dict": state, "musicfm": facts}, checkpoint_path(folder, 3))


def _read_run(folder: Path) -> None:
    step, _ = latest_valid(folder)
    _use(MusicFM.from_pretrained(checkpoint_path(folder, step)))


def _make_head(folder: Path) -> None:
    config = HeadConfig(
        task="beat",
        model="x",
        fingerprint="0" * 64,
        layers=(0, 1),
        dim=8,
        hidden=4,
        decoding={"beat_threshold": 0.4},
    )
    heads.save(Head(config), folder)


def _read_head(folder: Path) -> None:
    heads.load_config(folder)
    head = heads.load(folder)
    heads.fingerprint(head)
    head(torch.zeros(1, len(head.config.layers), 3, head.mean.shape[-1]))
    head.decoding  # noqa: B018


@cache
def _kmeans_model() -> MusicFM:
    return MusicFM(MICRO.replace(quantizer=KMeansConfig(codebook_size=4)))


def _make_centroids(folder: Path) -> None:
    config = _kmeans_model().config
    centroids = torch.randn(1, 4, config.token_dim)
    kmeans.save_centroids(centroids, config, folder / "centroids.safetensors")


def _recordings(folder: Path) -> list[Recording]:
    return [Recording(Path(f"/music/{i}.wav"), f"{i}", 10, 20) for i in range(4)]


def _make_journal(folder: Path) -> None:
    recordings = _recordings(folder)
    (folder / VECTORS).write_bytes(bytes(3 * 4 * MICRO.encoder.dim))
    with Journal(folder, {"layers": 1, "pooling": "mean"}, recordings, False) as journal:
        for row, recording in enumerate(recordings[:3]):
            journal.begin(recording)
            journal.add(recording, output=VECTORS, row=row, duration=1.0, warnings=())


def _read_journal(folder: Path) -> None:
    recordings = _recordings(folder)
    with Journal(folder, {"layers": 1, "pooling": "mean"}, recordings, False) as journal:
        _pending(recordings, journal, folder, [".npz"], False, Summary())
        TableWriter(folder, Embedder(_model(), 1)).conclude(journal.entries.values())


def _make_shards(folder: Path) -> None:
    music = folder / "music"
    music.mkdir()
    for i in range(2):
        audio_files.write(music, "tone.flac", 1.0).rename(music / f"{i}.flac")
    tracks = [
        next(t for t in scanning.read_track(str(p)) if isinstance(t, Track))
        for p in sorted(music.iterdir())
    ]
    prepare(Manifest("/", tracks), folder, num_workers=1)
    shutil.rmtree(music)
    for path in folder.glob(".*"):
        path.unlink()


def _read_shards(folder: Path) -> None:
    for name in (INDEX, "shard-000000.jsonl"):
        manifest = Manifest.load(folder / name)
        for track in manifest:
            with manifest.open(track) as recording:
                _suppressed(lambda file=recording: reading.load(file, 24_000))  # type: ignore[misc]


def _read_font(folder: Path) -> None:
    song = sound_fonts.song(sound_fonts.part(0, [(0.0, 0.2, 60, 90)]), duration=0.3)
    assert np.isfinite(synthesize(song, load_font(folder / "font.sf2"), 24_000)).all()


def _make_features(folder: Path) -> None:
    for layer in (0, 1):
        np.save(folder / f"{layer}.npy", np.ones((50, 4), np.float16))


def _read_features(folder: Path) -> None:
    features = Features({layer: folder / f"{layer}.npy" for layer in (0, 1)}, 25.0)
    features.pooled((0, 1), 5.0, "statistics")


def _make_notes(folder: Path) -> None:
    lines = [to_json(track) for track in _tracks()]
    lines.append('{"path": "/x.wav", "size": 1, "modified": 2, "reason": "no"}')
    (folder / ".songs.jsonl.scan").write_text("".join(f"{line}\n" for line in lines))


def _read_notes(folder: Path) -> None:
    with scanning._notes(folder / "songs.jsonl", check=False) as (notes, note):
        for item in notes:
            note(item)


def _make_progress(folder: Path) -> None:
    (folder / "recipe.json").write_text(json.dumps(RECIPES["tiny"].to_dict()))
    lines = [json.dumps({"step": i, "loss": 1.0 / (i + 1)}) for i in range(5)]
    (folder / METRICS).write_text("".join(f"{line}\n" for line in lines))
    fitted = {"objective": 0.5, "validation": {"a": None}, "losses": [[1.0, 2.0]], "seconds": 1.0}
    (folder / trials.FIT).write_text(json.dumps(fitted))
    tested = {"new": {"summary": {"a": 1.0}, "tracks": {"x.wav": {"a": None}}}}
    (folder / trials.TESTS).write_text(json.dumps(tested))


def _read_progress(folder: Path) -> None:
    for read in (
        lambda: pretraining._check_folder(folder, RECIPES["tiny"], resume=True),
        lambda: [row["step"] <= 3 for row in read_metrics(folder / METRICS)],
        lambda: trials.objective_of(folder),
        lambda: trials.tests_of(folder),
    ):
        read()


_SETTINGS = tuple(each.name for each in fields(LibrarySettings))


def _make_library(folder: Path) -> None:
    songs = [folder / f"{number}.wav" for number in range(3)]
    for number, song in enumerate(songs):
        soundfile.write(song, tones.samples(number)[:2_400], 24_000)
    libraries.make(folder / "lib", songs)
    for song in songs:
        song.unlink()


def _read_library(folder: Path) -> None:
    library = Library(folder / "lib")
    tracks = library.tracks()
    for track in tracks:
        library.analysis(track)
        library.similar(track.path, tempo=(1.0, 999.0))
        library.similar(track.path, segment=(0.0, 0.05), key="C", key_distance=12)
    if len(tracks) > 1:
        library.playlist(tracks[0].path, tracks[-1].path, length=3, harmonic=True)
        library.duplicates()
    with library.database.alone():
        writer = Writer(library.database)
        if is_due(library.database):
            writer.fit()
        writer.mark_missing()
        writer.remove(tracks[:1])


READERS: tuple[Reader, ...] = (
    *map(_audio, (*audio_files.ALL_FORMATS, *audio_files.UNUSUAL)),
    Reader("JAMS", _make_jams, _read_jams),
    Reader("JAMS of other programs", _make_jams_of_others, _read_jams),
    Reader("lists and playlists", _make_lists, _read_lists),
    Reader("FMA's tables", _make_fma, read_metadata),
    Reader("Harmonix", _make_harmonix, _pieces(collect_harmonix)),
    Reader(
        "Hainsworth",
        lambda folder: trees.write_text(
            folder / "H_1.0" / "annotations" / "beats" / "a.beats", "0.5 1\n1.0 2\n1.5 1\n"
        ),
        _pieces(collect_hainsworth),
    ),
    Reader(
        "GiantSteps-MTG-Keys",
        lambda folder: trees.write_text(
            folder / "annotations" / "annotations.txt", "ID\tMANUAL KEY\tC\n1\tC minor\t2\n"
        ),
        _pieces(collect_giantsteps_mtg),
    ),
    Reader("MagnaTagATune's split", _make_magnatagatune, _pieces(collect_magnatagatune)),
    Reader("MagnaTagATune's table", _make_tags, _pieces(collect_magnatagatune)),
    Reader(
        "manifest .parquet",
        lambda folder: Manifest("/music", _tracks()).save(folder / "songs.parquet"),
        _read_manifest,
    ),
    Reader(
        "manifest .jsonl",
        lambda folder: Manifest("/music", _tracks()).save(folder / "songs.jsonl"),
        _read_manifest,
    ),
    Reader("recipe", _make_recipe, _read_recipe),
    Reader("model folder", lambda folder: checkpoint.save(_model(), folder), _read_model),
    Reader(
        "published .pt",
        lambda folder: recipe.write_published(folder / "pretrained_x.pt", MICRO),
        _read_published,
    ),
    Reader(
        "published .pt of 2023",
        lambda folder: recipe.write_published(folder / "pretrained_x.pt", MICRO, legacy=True),
        _read_published,
    ),
    Reader("checkpoint of a run", _make_run, _read_run),
    Reader("head", _make_head, _read_head),
    Reader(
        "centroids",
        _make_centroids,
        lambda folder: kmeans.load_centroids(_kmeans_model(), folder / "centroids.safetensors"),
    ),
    Reader("journal", _make_journal, _read_journal, JOURNAL),
    Reader("shards", _make_shards, _read_shards, "*[!n]"),
    Reader(
        "sound font",
        lambda folder: (folder / "font.sf2").write_bytes(sound_fonts.Font().to_bytes()),
        _read_font,
    ),
    Reader("features", _make_features, _read_features),
    Reader("notes of a scan", _make_notes, _read_notes),
    Reader("progress of a run", _make_progress, _read_progress),
    Reader("library", _make_library, _read_library, "*.[sf]*"),
)
