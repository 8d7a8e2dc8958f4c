"""The folder of an index: what lies in it, how it is read, and how a change of it is committed.

    index.sqlite  all that is no matrix, in three tables:
                    about      one row: what the index is, as JSON; its removed rows, ascending int64; a sha256 of both
                    images     for each row its name, whose bytes are kept, and coordinates, null where unknown
                    checksums  sha256 of rows start to stop of each of the files below, and of the table above
    codes         (n, bits / 8) uint8                 absent from an index of the float branch alone
    floats        (n, D) float32, float16 or int8     absent from an index of the binary branch alone
    scales        (n,) float32                        int8 only: a row is floats * scale
    marks         (n,) uint8                          of an unfinished extraction: 1 once the row is on the disk

SQLite's transaction is the commit point and its lock the writers' lock: rows are appended to the flat files and synced,
then the transaction ends. Bytes behind the rows that `about` counts do not exist; whoever adds next cuts them off.
What is read for the first time is compared with its checksums: of floats and images few rows have one together, for a
search reads some here and some there. Numbers are little-endian. File names are fixed: nothing that is read from a file
is used as a path, and a link or a FIFO in place of a file is refused.
"""

import contextlib
import hashlib
import json
import mmap
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from ...errors import named
from ...ranks import progress
from ..stores import STORES

DATABASE, IMAGES, MARKS = "index.sqlite", "images", {"marks": np.dtype("u1")}
_BESIDE = "-journal", "-wal", "-shm"  # of the database: what SQLite puts there, and reads
_JOURNAL_END = bytes.fromhex("d9d505f920a163d7")  # where a journal names another file, which SQLite would delete
_KINDS = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
_TO_DO = {sqlite3.SQLITE_FULL: "free some space, or choose another folder",
          **dict.fromkeys((sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM),
                          "choose a folder that can be written to, or change its permissions"),
          sqlite3.SQLITE_IOERR: "check that its disk works and has room"}
WAIT = 60.0  # seconds, for the change of another process to be saved
_APPLICATION, VERSION = 0x53565052, 3  # "SVPR"; version 1 had no database, 2 one checksum for many rows, in no order
_TABLES = ("CREATE TABLE about (content BLOB NOT NULL, removed BLOB NOT NULL, sha256 BLOB NOT NULL)",
           "CREATE TABLE images (id INTEGER PRIMARY KEY, name BLOB NOT NULL, east REAL, north REAL)")
_SCHEMAS = {2: {*_TABLES, "CREATE TABLE checksums (file TEXT, start INTEGER, stop INTEGER, sha256 BLOB)"},
            VERSION: {*_TABLES, "CREATE TABLE checksums (file TEXT, start INTEGER, stop INTEGER, sha256 BLOB, "
                                "PRIMARY KEY (file, start)) WITHOUT ROWID"}}
BLOCK_BYTES, BLOCK_ROWS = 16 * 2**20, 2**14  # of rows in hand at a time, at most
SUM_BYTES, SUM_IMAGES = 2**13, 2**8  # of floats, and of the table of images, under one checksum

Rows = dict[str, np.ndarray]  # by flat file
Ids = Sequence[int] | np.ndarray


class ModelIdentity(NamedTuple):
    """The model that extracted the descriptors: its weights' fingerprint, and a name for people, e.g. "base gem"."""

    fingerprint: str
    name: str

    def __str__(self) -> str:
        return f"{self.name} (fingerprint {self.fingerprint[:12]})"


class RowShape(NamedTuple):
    """What an image's row holds: bytes of its code and width of its float descriptor, None for a missing branch."""

    code_bytes: int | None
    float_dim: int | None
    store: str

    def check(self) -> "RowShape":
        """Itself. Raises ValueError for an unknown store, and for rows that would hold nothing."""
        widths = [width for width in (self.code_bytes, self.float_dim) if width is not None]
        if self.store not in STORES:
            raise ValueError(f"store is {self.store!r}; expected one of {', '.join(STORES)}")
        if not widths or not all(0 < width < 2**24 for width in widths):
            raise ValueError(f"rows have widths {widths}; expected codes, floats or both, of 1 to {2**24 - 1}")
        return self

    @property
    def types(self) -> dict[str, np.dtype]:
        """Of a row in each flat file."""
        types: dict[str, np.dtype] = {}
        if self.code_bytes:
            types["codes"] = np.dtype(("u1", (self.code_bytes,)))
        if self.float_dim:
            types["floats"] = np.dtype((STORES[self.store].newbyteorder("<"), (self.float_dim,)))
            types.update({"scales": np.dtype("<f4")} if self.store == "int8" else {})
        return types

    @property
    def row_bytes(self) -> int:
        return sum(dtype.itemsize for dtype in self.types.values())


class About(NamedTuple):
    """What an index is; model None, and generation 0, while its `rows` are being extracted.

    notes  what else was said of it since, of what JSON can hold; indexes written before have none
    """

    model: ModelIdentity | None
    shape: RowShape
    source: dict
    rows: int
    generation: int
    notes: dict = {}


def regular(path: Path) -> Path:
    """The path, of a regular file or of none.

    ValueError for a link, which may lead out of the folder, and for a FIFO or a device, which may never end.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISREG(mode := path.lstat().st_mode):
            raise ValueError(f"{path} is {_KINDS.get(stat.S_IFMT(mode), 'a device')}; expected a regular file: put it "
                             "there itself, or extract again")
    return path


class FlatFiles(contextlib.ExitStack):
    """Files of n rows of these types, by name: `arrays`, by memory map, and open to be written in a mode but "rb".

    "r+b" cuts off what lies behind n rows, "w+b" makes files of zeros. Raises ValueError for a file that is too short.
    """

    def __init__(self, folder: Path, types: dict[str, np.dtype], n: int, mode: str = "rb"):
        super().__init__()
        self._files: dict[str, IO[bytes]] = {}
        self.maps: dict[str, mmap.mmap] = {}
        self.arrays: Rows = {}
        for name, dtype in types.items():
            file = self._files[name] = self.enter_context(regular(folder / name).open(mode))
            there, size = os.fstat(file.fileno()).st_size, n * dtype.itemsize
            if there < size and mode != "w+b":
                raise ValueError(f"{file.name} is torn: it holds {there} bytes, expected {size}; "
                                 "restore it or extract again")
            if mode != "rb":
                with named(file.name):
                    file.truncate(size)
            self.maps[name] = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            self.arrays[name] = np.frombuffer(self.maps[name], dtype)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Rows as bytes; other than the pages of a map they do not stay in this process's memory."""
        size = self.arrays[name].strides[0]
        return os.pread(self._files[name].fileno(), (stop - start) * size, start * size)

    def write(self, start: int, rows: Rows) -> None:
        for name, part in rows.items():
            with named(self._files[name].name):
                self._files[name].seek(start * self.arrays[name].strides[0])
                self._files[name].write(np.ascontiguousarray(part).data)
                self._files[name].flush()

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        for file in self._files.values():
            with named(file.name):
                os.fsync(file.fileno())


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns what SQLite says into one line."""
    try:
        yield
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 255 == sqlite3.SQLITE_BUSY:
            raise ValueError(f"{folder} is being changed by another process, for which {WAIT:g} s were waited; "
                             "try again when that has saved or ended") from None
        to_do = _TO_DO.get(getattr(error, "sqlite_errorcode", 0) & 255, "if it is damaged, restore it or extract again")
        raise ValueError(f"{folder / DATABASE} cannot be used: {error}; {to_do}") from error


def connect(folder: Path, *, new: bool = False) -> sqlite3.Connection:
    """The database of an index, of one that may not exist yet (`new`); it waits for other processes, but not for ever.

    Raises FileNotFoundError where there is none, ValueError for what an earlier version wrote.
    """
    path = regular(folder / DATABASE)
    for name in _BESIDE:
        beside = regular(folder / f"{DATABASE}{name}")
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), beside.open("rb") as file:  # or just gone
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_JOURNAL_END)))
            if file.read() == _JOURNAL_END:
                raise ValueError(f"{beside} names a file outside of the index, which no journal of ours does; "
                                 "delete it if you trust the folder, or extract again")
    if not path.exists():
        if any((folder / name).exists() for name in ("manifest.json", "unfinished.json")):
            raise ValueError(f"{folder} was extracted by an earlier version, whose indexes cannot be read any more; "
                             "extract again, into another folder")
        if not new:
            raise FileNotFoundError(f"{folder} holds no index; expected a folder with {DATABASE}")
        folder.mkdir(parents=True, exist_ok=True)
    with explained(folder):
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode={'rwc' if new else 'rw'}", uri=True, timeout=WAIT,
                               isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def database(folder: Path, *, new: bool = False) -> Iterator[sqlite3.Connection]:
    """As `connect`, for a while; what is not committed in it is rolled back."""
    with explained(folder), contextlib.closing(connect(folder, new=new)) as db:
        yield db


def create(db: sqlite3.Connection) -> bool:
    """Begins a transaction; makes the tables in it unless they are there, and returns whether they were not."""
    there = "SELECT 1 FROM sqlite_master"
    if db.execute(there).fetchone():  # without waiting for whoever changes them
        return False
    db.execute("BEGIN IMMEDIATE")
    if db.execute(there).fetchone():
        return False
    marks = f"PRAGMA application_id = {_APPLICATION}", f"PRAGMA user_version = {VERSION}"
    for statement in (*_SCHEMAS[VERSION], *marks):
        db.execute(statement)
    return True


def read_about(db: sqlite3.Connection, folder: Path) -> tuple[About, np.ndarray]:
    """What an index is, and its removed rows, ascending. ValueError for one that is damaged or of another format."""
    path = folder / DATABASE
    application, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    schema = {sql for sql, in db.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
    if not schema:  # whoever began it was killed
        raise FileNotFoundError(f"{folder} holds no index; expected one in {DATABASE}")
    if application != _APPLICATION or schema != _SCHEMAS.get(version):
        raise ValueError(f"{path} was not written by this version of this project (format {application:#x} {version}, "
                         f"expected {_APPLICATION:#x} {VERSION}); give another folder, or extract again")
    try:
        (content, removed, digest), = db.execute("SELECT * FROM about")
        if hashlib.sha256(content + removed).digest() != digest:
            raise ValueError
        about, gone = About(**json.loads(content)), np.frombuffer(removed, "<i8").astype(np.int64)
        about = about._replace(model=about.model and ModelIdentity(*about.model), shape=RowShape(*about.shape).check())
        whole = [about.rows, about.generation, *(width for width in about.shape[:2] if width is not None)]
        words = [] if about.model is None else [*about.model]
        if not ({type(about.source), type(about.notes)} == {dict}
                and {*map(type, whole)} == {int} and {*map(type, words)} <= {str}
                and 0 < about.rows < 2**40 and (about.generation > 0) == bool(words)
                and (np.diff(gone, prepend=-1, append=about.rows) > 0).all()):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise ValueError(f"{path} is damaged; restore it or extract again") from None
    return about, gone


def write_about(db: sqlite3.Connection, about: About, removed: Ids = ()) -> None:
    """Commits it, and what was done in this transaction before."""
    content, gone = json.dumps(about._asdict()).encode(), np.array(removed, "<i8").tobytes()
    db.execute("DELETE FROM about")
    db.execute("INSERT INTO about VALUES (?, ?, ?)", (content, gone, hashlib.sha256(content + gone).digest()))
    db.execute("COMMIT")


def in_blocks(n: int, shape: RowShape) -> Iterator[slice]:
    """Slices over n rows that are worth having in hand at a time."""
    step = max(1, min(BLOCK_ROWS, BLOCK_BYTES // shape.row_bytes))
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


def append(db: sqlite3.Connection, files: FlatFiles, shape: RowShape, start: int, n: int, *, names: Iterable[str],
           coordinates: np.ndarray | None, rows: Callable[[slice], Rows] | None = None) -> None:
    """Writes n images from row `start` on, inside a transaction; rows: None where the files hold theirs already.

    Raises ValueError where names and coordinates are not n.
    """
    places = np.broadcast_to(np.nan, (n, 2)) if coordinates is None else np.asarray(coordinates, np.float64)
    if n < 1 or places.shape != (n, 2):
        raise ValueError(f"{n} images, coordinates of shape {places.shape}; expected at least one image and "
                         f"({n}, 2), NaN where unknown")
    encoded, written = (name.encode("utf-8", "surrogateescape") for name in names), 0
    size = dict.fromkeys((*shape.types, IMAGES), BLOCK_ROWS)  # of rows under one checksum
    if db.execute("PRAGMA user_version").fetchone()[0] == VERSION:
        size[IMAGES] = min(BLOCK_ROWS, SUM_IMAGES)
        if "floats" in size:
            size["floats"] = min(BLOCK_ROWS, max(1, SUM_BYTES // shape.types["floats"].itemsize))
    for some in progress([*in_blocks(n, shape)], "writing the index"):
        first, last = start + some.start, start + some.stop
        if rows is not None:
            files.write(first, rows(some))
        labels = zip(range(first, last), islice(encoded, last - first), *places[some].T.tolist(), strict=False)
        written += db.executemany("INSERT INTO images VALUES (?, ?, ?, ?)", labels).rowcount
        db.executemany("INSERT INTO checksums VALUES (?, ?, ?, ?)",
                       ((name, row, stop, checksum(db, files.read, name, row, stop)) for name in size
                        for row in range(first, last, size[name]) for stop in [min(row + size[name], last)]))
    written += sum(1 for _ in encoded)
    if written != n:
        raise ValueError(f"{written} names for {n} images; expected one each")
    files.sync()


def checksum(db: sqlite3.Connection, read: Callable[[str, int, int], bytes | memoryview], name: str, start: int,
             stop: int) -> bytes:
    """sha256 of rows start to stop of a flat file, which `read` gives, or of the table of images."""
    if name != IMAGES:
        return hashlib.sha256(read(name, start, stop)).digest()
    rows = db.execute("SELECT * FROM images WHERE id >= ? AND id < ? ORDER BY id", (start, stop)).fetchall()
    return hashlib.sha256(repr(rows).encode()).digest()
