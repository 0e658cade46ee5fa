"""The files of a library: a SQLite database, and matrices of vectors beside it.

The database is what counts. It names the matrices, and says which of their rows are whose; it is
written last, so that a run that was killed at any moment leaves no track without its vectors. It
keeps its journal in a file beside it that is there while it is written (SQLite's "delete" mode),
not in one that is shared in memory ("WAL"), which network folders do not have.
"""

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias

from musicfm.errors import DataError, OutputError
from musicfm.files import atomic_write, exclusive, sweep
from musicfm.library import matrices
from musicfm.library.keys import write_key
from musicfm.library.matrices import Matrix

DATABASE = "library.sqlite"
LOCK = ".library.lock"

Kind: TypeAlias = Literal["tracks", "segments"]
KINDS: tuple[Kind, ...] = ("tracks", "segments")

WAIT_SECONDS = 30.0
"""The longest wait for another process that is writing to the database."""

MIGRATIONS = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE tracks (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        modified INTEGER NOT NULL,
        sound TEXT NOT NULL,
        missing INTEGER NOT NULL DEFAULT 0,
        title TEXT NOT NULL,
        artist TEXT NOT NULL,
        album TEXT NOT NULL,
        duration REAL NOT NULL,
        tempo REAL,
        key TEXT,
        tags TEXT NOT NULL,
        warnings TEXT NOT NULL,
        analysis BLOB,
        vector INTEGER NOT NULL,
        first_segment INTEGER NOT NULL,
        num_segments INTEGER NOT NULL
    );
    CREATE INDEX tracks_by_sound ON tracks (sound);
    CREATE INDEX tracks_by_vector ON tracks (vector);
    CREATE INDEX tracks_by_segment ON tracks (first_segment);
    CREATE TABLE transforms (
        version INTEGER PRIMARY KEY, num_tracks INTEGER NOT NULL, dim INTEGER NOT NULL,
        mean BLOB NOT NULL, projection BLOB NOT NULL
    );
    """,
)
"""The statements that lead to each version of the database from the one before."""


@dataclass(frozen=True)
class Track:
    """What a library knows of a recording."""

    id: int
    """The number of the track, for as long as it is in the library."""
    path: str
    """The absolute path, or a URL."""
    size: int
    """The size of the file in bytes."""
    modified: int
    """The time of the last change, in nanoseconds since 1970, or what its store says."""
    sound: str
    """A hash of the coded sound, which other tags do not change."""
    missing: bool
    """Whether the file was gone when the library last looked."""
    title: str
    """The title by its tags, or the file's name."""
    artist: str
    """The artist by its tags, or empty; likewise the album."""
    album: str
    duration: float
    """The duration in seconds."""
    tempo: float | None
    """The tempo in beats per minute; None if there is no head for beats, or no beat."""
    key: str | None
    """The key, such as "Eb minor"; None if there is no head for keys, or no key."""
    tags: Mapping[str, float] = field(hash=False)
    """Tags and their probabilities, the likeliest first."""
    warnings: tuple[str, ...]
    """Warnings of damage."""
    vector: int
    """The row of its vector among those of tracks."""
    first_segment: int
    """The first row of its vectors among those of segments."""
    num_segments: int

    @property
    def segments(self) -> range:
        """The rows of its vectors among those of segments."""
        return range(self.first_segment, self.first_segment + self.num_segments)

    def facts(self) -> dict[str, Any]:
        """What tables and other programs are told, with seconds and tempi to the hundredth."""
        return {
            "title": self.title,
            "artist": self.artist,
            "album": self.album,
            "duration": round(self.duration, 2),
            "tempo": None if self.tempo is None else round(self.tempo, 2),
            "key": self.key,
        }


COLUMNS = tuple(each.name for each in fields(Track))
_ROWS = ("vector", "first_segment", "num_segments")
_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("path", "sound", "title", "artist", "album", "tags", "warnings"), (str,)),
    **dict.fromkeys(("id", "size", "modified", "missing"), (int,)),
    **dict.fromkeys(_ROWS, (int,)),
    "duration": (float,),
    "tempo": (float, type(None)),
    "key": (str, type(None)),
}
_MOST = 2**31
"""Of rows, and of what else is counted, as far as it can make sense."""


@dataclass(frozen=True)
class Settings:
    """What holds for a whole library."""

    model: str
    """The name of the model, as --model takes it."""
    fingerprint: str
    """SHA-256 of the model, see :func:`musicfm.model.checkpoint.fingerprint`."""
    layer: int
    """The layer whose hidden states the vectors are made of."""
    dim: int
    """The width of these; vectors are twice as wide."""
    heads: tuple[str, ...]
    """The folders of the heads; none if they are those that come with the model."""
    heads_fingerprint: str
    """SHA-256 of the heads; empty without heads."""
    generation: int = 0
    """The generation of the matrices; another one begins when rows are removed."""
    transform: int = 0
    """The version of the transform of vectors that are compared; 0 before the first one."""


class Database:
    """A library's folder.

    Every call opens the database for itself, so that threads can share this, and what other
    processes have written is seen.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, settings: Settings) -> "Database":
        """Makes a library in a folder whose lock is held. Raises OutputError."""
        if any(name != LOCK for name in os.listdir(folder)):
            raise OutputError(f"{folder} is not empty, and not a library; name another folder")
        with (
            atomic_write(folder / DATABASE) as temporary,
            _opened(temporary) as connection,
        ):
            write_settings(connection, settings)
        return cls(folder)

    @property
    def exists(self) -> bool:
        """Whether there is a library."""
        return os.path.isfile(self.folder / DATABASE)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other writers out. Raises OutputError if one is there."""
        with exclusive(self.folder, LOCK):
            yield

    def settings(self) -> Settings:
        """What holds for the library."""
        with self.connect() as connection:
            return read_settings(connection)

    def tracks(self, where: str = "1", values: Sequence[Any] = ()) -> list[Track]:
        """See :func:`read_tracks`."""
        with self.connect() as connection:
            return read_tracks(connection, where, values)

    def page(self, offset: int, limit: int) -> tuple[int, list[Track]]:
        """How many tracks there are whose files are there, and some of these, by path."""
        with self.connect() as connection:
            (count,) = connection.execute(
                "SELECT count(*) FROM tracks WHERE missing = 0"
            ).fetchone()
            part = "id IN (SELECT id FROM tracks WHERE missing = 0 ORDER BY path LIMIT ? OFFSET ?)"
            return count, read_tracks(connection, part, [limit, offset])

    def matrix(self, kind: Kind, *, raw: bool = False) -> Matrix:
        """See :meth:`read_matrix`."""
        with self.connect() as connection:
            return self.read_matrix(connection, kind, raw=raw)

    def analysis(self, track: Track) -> dict[str, Any] | None:
        """The JAMS object of a track's analysis; None without heads."""
        with self.connect() as connection:
            query = "SELECT analysis FROM tracks WHERE id = ?"
            row = connection.execute(query, (track.id,)).fetchone()
            if row is None or row[0] is None:
                return None
            with making_sense("an analysis"):
                return dict(json.loads(zlib.decompress(row[0])))

    def read_matrix(
        self, connection: sqlite3.Connection, kind: Kind, *, raw: bool = False
    ) -> Matrix:
        """Vectors that are compared, (rows, compared), or as they were computed, (rows, 2 * dim).

        Mapped into memory; rows of tracks that are not there any more are among them. Raises
        DataError if there is no transform yet.
        """
        settings, count = read_settings(connection), num_rows(connection)[kind]
        if raw:
            return matrices.read(self.raw_path(kind, settings), count, 2 * settings.dim)
        query = "SELECT dim FROM transforms WHERE version = ?"
        row = connection.execute(query, (settings.transform,)).fetchone()
        if row is None:
            raise DataError(
                f"nothing can be compared in {self.folder} yet: its vectors have no transform; "
                f"go on adding music, or: musicfm library fit {self.folder}"
            )
        with making_sense("the transform"):
            if not (type(row[0]) is int and 0 < row[0] < _MOST):
                raise ValueError
        return matrices.read(self.searched_path(kind, settings), count, row[0])

    def raw_path(self, kind: Kind, settings: Settings) -> Path:
        """The file of vectors as they were computed."""
        return self.folder / f"{kind}-{settings.generation}.f32"

    def searched_path(self, kind: Kind, settings: Settings) -> Path:
        """The file of vectors that are compared, as the current transform gives them."""
        return self.folder / f"{kind}-{settings.generation}-{settings.transform}.f32"

    def sweep(self) -> None:
        """Removes the matrices of other generations and transforms, and what kills left."""
        settings = self.settings()
        paths = (self.raw_path, self.searched_path)
        kept = {path(kind, settings) for path in paths for kind in KINDS}
        for path in (*self.folder.glob("*.f32"), *self.folder.glob("*.usearch")):
            if path.with_suffix(".f32") not in kept:
                with contextlib.suppress(OSError):  # on Windows, somebody still reads it
                    path.unlink()
        sweep(self.folder)

    @contextlib.contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """A connection, whose changes are committed if the block succeeds.

        Raises:
            DataError: there is no library, or it is damaged, or a newer musicfm made it.
            OutputError: it cannot be written, or another process does not let go of it.
        """
        path = self.folder / DATABASE
        if not self.exists:
            raise DataError(
                f"{self.folder} is not a library; make one: musicfm library add {self.folder} MUSIC"
            )
        with _opened(path) as connection:
            yield connection


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection to a database whose tables are of the newest version."""
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_SECONDS)) as connection:
            connection.text_factory = os.fsdecode  # names of files may be no UTF-8
            _migrate(connection, path)
            with connection:
                yield connection
    except sqlite3.OperationalError as error:
        raise OutputError(f"cannot use {path}: {error}; try again, or check its disk") from error
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"{path} is damaged, or not a library: {error}; restore it from a copy, or make a new "
            "library"
        ) from error


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Brings the tables to the newest version, all steps or none."""
    newest = len(MIGRATIONS)
    if (version := _version(connection)) == newest:
        return
    if version > newest:
        raise DataError(
            f"{path} was written by a newer musicfm (its tables have version {version}, and this "
            f"one knows {newest}); update musicfm"
        )
    with connection:
        connection.execute("BEGIN EXCLUSIVE")
        for step in MIGRATIONS[_version(connection) :]:  # another process may have been faster
            for statement in step.split(";"):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {newest}")


def _version(connection: sqlite3.Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def num_rows(connection: sqlite3.Connection) -> dict[Kind, int]:
    """How many rows of the matrices count; those of removed tracks may be among them."""
    # By their indices: this is asked for with every track.
    (tracks,) = connection.execute("SELECT max(vector) + 1 FROM tracks").fetchone()
    segments = connection.execute(
        "SELECT first_segment + num_segments FROM tracks ORDER BY first_segment DESC LIMIT 1"
    ).fetchone()
    found: dict[Kind, int] = {
        "tracks": tracks or 0,
        "segments": segments[0] if segments else 0,
    }
    with making_sense("rows of vectors"):
        if not all(type(count) is int and 0 <= count < _MOST for count in found.values()):
            raise ValueError
    return found


def read_settings(connection: sqlite3.Connection) -> Settings:
    """What holds for the library. Raises sqlite3.DatabaseError if it makes no sense."""
    rows = dict(connection.execute("SELECT name, value FROM settings"))
    with making_sense("its settings"):
        values = {name: json.loads(value) for name, value in rows.items()}
        settings = Settings(**{**values, "heads": tuple(values["heads"])})
        texts = (settings.model, settings.fingerprint, settings.heads_fingerprint, *settings.heads)
        numbers = (settings.layer, settings.dim, settings.generation, settings.transform)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError
        if not all(type(number) is int and 0 <= number < _MOST for number in numbers):
            raise ValueError
    return settings


@contextlib.contextmanager
def making_sense(what: str) -> Iterator[None]:
    """Turns errors of values that are read from a database into one of the database."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, zlib.error) as error:
        raise sqlite3.DatabaseError(f"{what} make no sense") from error


def write_settings(connection: sqlite3.Connection, settings: Settings) -> None:
    """Notes what holds for the library."""
    connection.executemany(
        "INSERT OR REPLACE INTO settings VALUES (?, ?)",
        [(name, json.dumps(value)) for name, value in asdict(settings).items()],
    )


def read_tracks(
    connection: sqlite3.Connection, where: str = "1", values: Sequence[Any] = ()
) -> list[Track]:
    """Tracks, by path.

    Args:
        connection: to the database.
        where: a condition of SQL.
        values: of its question marks.
    """
    rows = connection.execute(
        f"SELECT {', '.join(COLUMNS)} FROM tracks WHERE {where} ORDER BY path", values
    )
    return [_track(row) for row in rows]


def _track(row: Sequence[Any]) -> Track:
    values = dict(zip(COLUMNS, row, strict=True))
    with making_sense("values of a track"):
        for column, types in _TYPES.items():
            value = values[column]
            if not isinstance(value, types):
                raise TypeError(column)
        if not all(0 <= values[column] < _MOST for column in _ROWS):
            raise ValueError
        if values["key"] is not None:
            write_key(values["key"])
        values["missing"] = bool(values["missing"])
        tags = json.loads(values["tags"])
        values["tags"] = {str(tag): float(sure) for tag, sure in tags.items()}
        values["warnings"] = tuple(map(str, json.loads(values["warnings"])))
        return Track(**values)
