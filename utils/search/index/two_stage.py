"""An index on disk: built, opened, changed, saved and verified."""

import contextlib
import json
import mmap
import weakref
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from ...ranks import progress
from ..stores import StoredRows
from . import disk
from .disk import About, FlatFiles, Ids, ModelIdentity
from .searchable import Searchable

_ASKED_FOR = 2**30  # bytes at most: more might push each other out of memory again


class TwoStageIndex(Searchable):
    """Codes, float descriptors, names and coordinates of images in a folder; the format is in disk.py.

    Codes and floats are read by memory map: codes are touched by each search and so lie in RAM, once for all processes
    that have the index open; of float descriptors only what re-ranking touches. Ids are row numbers in order of
    addition and never change within a folder. `add` and `remove` are seen by this object at once, by others once `save`
    has committed them; from the first change to `save` or `close` no other process can change the index.

    model       the ModelIdentity whose descriptors these are.  source  a dictionary of the one who built it
    generation  1 as built; one more with each change of its images that was saved
    notes       what `note` has said of it
    """

    def __init__(self, folder: str | Path, *, model: ModelIdentity | None = None):
        """Opens an index; checks what its database says and the sizes of its files. What these hold is compared with
        its checksums when it is read for the first time; `verify` reads all.

        model  the one whose queries will be searched: an index of another is refused
        Raises FileNotFoundError where there is no index or a file of it is missing, and ValueError for one that is
        damaged, torn, of another format or of another model, and for an unfinished extraction.
        """
        self.folder = Path(folder)
        self._db = disk.connect(self.folder)
        # Whoever forgets the index gives up the lock, which a connection, that refers to itself, keeps for longer.
        weakref.finalize(self, self._db.close).atexit = False
        with disk.explained(self.folder):
            self._db.execute("PRAGMA cache_spill = OFF")  # else a large change locks readers out before it is saved
            about, removed = disk.read_about(self._db, self.folder)
        if about.model is None:
            written = np.count_nonzero(FlatFiles(self.folder, disk.MARKS, about.rows).arrays["marks"])
            raise ValueError(f"{folder} holds an unfinished extraction, {written} of {about.rows} images are written; "
                             "run the same command again to finish it")
        self._take(about, removed)
        if model is not None:
            self.of(model)

    def of(self, model: ModelIdentity, *, teacher: ModelIdentity | None = None) -> None:
        """Raises ValueError, which names both, where the index is of another model, and not of its teacher either.

        teacher  whose descriptors the model was trained to give; None: it has none
        """
        accepted = {asking.fingerprint for asking in (model, teacher) if asking is not None}
        if self.model is not None and self.model.fingerprint not in accepted:
            raise ValueError(f"{self.folder} is an index of {self.model}; the queries are from {model}; "
                             "expected one model: extract again with it, or load the other")

    @classmethod
    def open(cls, folder: str | Path, *, model: ModelIdentity | None = None) -> "TwoStageIndex":
        """As the constructor."""
        return cls(folder, model=model)

    @classmethod
    def build(cls, folder: str | Path, *, model: ModelIdentity, names: Iterable[str], codes: np.ndarray | None = None,
              floats: np.ndarray | StoredRows | None = None, coordinates: np.ndarray | None = None,
              store: str = "fp32", source: dict | None = None, notes: dict | None = None) -> "TwoStageIndex":
        """Writes an index of n images and opens it.

        Args:
            names: n of them, one by one; coordinates: (n, 2) float64, NaN where unknown.
            codes: (n, bytes) uint8 from `pack_codes`.
            floats: (n, D) float32, which are held as `store` says ("fp32", "fp16", "int8"), or rows held so already.
            source: what the caller wants to find again, of what JSON can hold; notes: the same, see `note`.
        Raises ValueError where these do not fit, and where the folder holds an index already.
        """
        given = Searchable(codes, floats)
        about = About(model, given.shape._replace(store=store).check(), source or {}, len(given), 1,
                      notes or {})
        _write_new(Path(folder), about, given, names, coordinates)
        return cls(folder)

    def _take(self, about: About, removed: np.ndarray) -> None:
        with FlatFiles(self.folder, about.shape.types, about.rows) as files:
            codes, floats, scales = map(files.arrays.get, ("codes", "floats", "scales"))
        super().__init__(codes, None if floats is None else StoredRows(floats, scales),
                         np.delete(np.arange(about.rows), removed) if len(removed) else None)
        self._about, self._removed, self._maps, self._arrays = about, removed, files.maps, files.arrays
        before, self._intact = getattr(self, "_intact", {}), {
            name: np.zeros(about.rows, bool) for name in (*files.arrays, disk.IMAGES)}
        for name, rows in before.items():
            self._intact[name][:len(rows)] = rows[:about.rows]
        self.model, _, self.source, _, self.generation, self.notes = about

    @property
    def bytes_on_disk(self) -> int:
        return self._about.rows * self.shape.row_bytes + (self.folder / disk.DATABASE).stat().st_size

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """Inside the transaction that `save` commits; an error takes back this change alone."""
        first = not self._db.in_transaction
        with disk.explained(self.folder):
            if first:
                self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("SAVEPOINT change")
            try:
                if first:
                    about, removed = disk.read_about(self._db, self.folder)
                    # `save` writes it anew. This fails where another index took the place of this one in the folder,
                    # before a file of that is touched.
                    self._db.execute("DELETE FROM about")
                    if about.generation != self.generation:  # another process has saved since
                        self._take(about, removed)
                    self._about, self.notes = self._about._replace(notes=about.notes), about.notes
                yield
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK" if first else "ROLLBACK TO change")
                if not self._db.in_transaction:  # nor where SQLite rolled back by itself, the disk being full
                    self._take(*disk.read_about(self._db, self.folder))
                raise

    def add(self, *, names: Iterable[str], codes: np.ndarray | None = None,
            floats: np.ndarray | StoredRows | None = None, coordinates: np.ndarray | None = None) -> range:
        """Writes more images, as `build` does, and returns their ids; they stay only if `save` is called."""
        given = Searchable(codes, floats)
        with self._change(), FlatFiles(self.folder, self.shape.types, self._about.rows, "r+b") as files:
            start, stop = self._about.rows, self._about.rows + len(given)
            disk.append(self._db, files, self.shape, start, len(given), names=names, coordinates=coordinates,
                        rows=lambda some: given.packed(some, self.shape))
            self._take(self._about._replace(rows=stop), self._removed)
        return range(start, stop)

    def remove(self, images: Ids | Sequence[str]) -> None:
        """Removes images by id, or all that have one of these names; they stay removed only if `save` is called.

        Raises ValueError for ids and names that are not there, or no longer.
        """
        if not len(images):
            return
        with self._change():
            named = isinstance(images[0], str)
            ids = self._ids_of({str(name) for name in images}) if named else np.unique(self.checked(np.asarray(images)))
            if len(gone := np.intersect1d(ids, self._removed)):
                raise ValueError(f"row {gone[0]} is removed already; expected ids of images that can be found")
            self._take(self._about, np.union1d(self._removed, ids))

    def about_to_read(self, name: str, rows: slice | np.ndarray) -> None:
        """Compares rows with their checksums, unless that was done since this was opened. ValueError names the file."""
        for file in ("floats", "scales") if name == "floats" else (name,):
            intact = self._intact.get(file)
            if intact is None or intact[rows].all():
                continue
            start, stop, _ = rows.indices(len(intact)) if isinstance(rows, slice) else (0, 1, 1)
            for first in range(start, stop, disk.BLOCK_ROWS):
                some = np.arange(first, min(first + disk.BLOCK_ROWS, stop)) if isinstance(rows, slice) else rows
                self._compare(file, np.unique(some[~intact[some]]))

    def _compare(self, file: str, rows: np.ndarray) -> None:
        """Ascending rows."""
        # An answer that is not read to its end keeps the database open for reading: else every SELECT opens it anew.
        with disk.explained(self.folder), contextlib.closing(self._db.execute("SELECT 1 FROM about")):
            while len(rows):
                found = self._db.execute("SELECT CAST(start AS INTEGER), CAST(stop AS INTEGER), sha256 FROM checksums "
                                         "WHERE file = ? AND start <= ? ORDER BY start DESC LIMIT 1",
                                         [file, int(rows[0])]).fetchone()
                start, stop, digest = found or (0, 0, b"")
                if (not start <= rows[0] < stop <= self._about.rows
                        or disk.checksum(self._db, self._mapped, file, start, stop) != digest):
                    raise self._damaged(file, start, stop)
                self._intact[file][start:stop] = True
                rows = rows[np.searchsorted(rows, stop):]

    def _mapped(self, name: str, start: int, stop: int) -> memoryview:
        return self._arrays[name][start:stop].data

    def _damaged(self, name: str, start: int, stop: int) -> ValueError:
        file = self.folder / (disk.DATABASE if name == disk.IMAGES else name)
        return ValueError(f"{file}: rows {start} to {stop} are not what was written; restore it or extract again")

    def _ids_of(self, names: set[str]) -> np.ndarray:
        wanted, removed = {name.encode("utf-8", "surrogateescape") for name in names}, {*self._removed.tolist()}
        self.about_to_read(disk.IMAGES, slice(None))
        found = {row: name for row, name in self._db.execute("SELECT id, name FROM images")
                 if name in wanted and row not in removed}
        if nowhere := wanted - {*found.values()}:
            raise ValueError(f"no image is named {min(nowhere).decode(errors='replace')!r}; "
                             "expected names of this index")
        return np.array([*found])

    def note(self, **said: object) -> None:
        """Keeps more notes, of what JSON can hold, in place of those of the same names, at once and for others.

        The images stay as they are, and so does `generation`. Not among changes that are not saved yet: ValueError.
        """
        if self._db.in_transaction:
            raise ValueError(f"{self.folder} has changes that are not saved; save them before a note")
        with self._change():
            notes = self.notes | said
            disk.write_about(self._db, self._about._replace(notes=notes), self._removed)
        self._about, self.notes = self._about._replace(notes=notes), notes

    def save(self, folder: str | Path | None = None) -> None:
        """Commits what was added and removed; or, with another folder, writes a copy without the removed rows there.

        The copy's ids are counted anew, in the same order; this object stays with its folder. Raises ValueError where
        the other folder holds an index already.
        """
        about = self._about._replace(generation=self.generation + self._db.in_transaction)
        if folder is not None and Path(folder).resolve() != self.folder.resolve():
            names = chain.from_iterable(map(self.names, self.live_ids()))
            places = np.concatenate([np.empty((0, 2)), *map(self.coordinates, self.live_ids())])
            _write_new(Path(folder), about._replace(rows=len(self)), self, names, places)
        elif self._db.in_transaction:
            with self._change():
                disk.write_about(self._db, about, self._removed)
            self._about, self.generation = about, about.generation

    def close(self) -> None:
        """Gives up what was not saved, and with it the right to change the index."""
        self._db.close()

    def live_ids(self) -> Iterator[np.ndarray]:
        """Ids of the images that can be found, in blocks."""
        for some in disk.in_blocks(len(self), self.shape):
            yield np.arange(some.start, some.stop) if self.live is None else self.live[some]

    def names(self, ids: Ids) -> list[str]:
        """Names of rows (n,), as they were given."""
        return [name.decode("utf-8", "surrogateescape") for name, in self._of_images("CAST(name AS BLOB)", ids)]

    def coordinates(self, ids: Ids) -> np.ndarray:
        """Coordinates (n, 2) float64 of rows (n,), NaN where unknown."""
        return np.array(self._of_images("CAST(east AS REAL), CAST(north AS REAL)", ids), np.float64).reshape(-1, 2)

    def _of_images(self, columns: str, ids: Ids) -> list[tuple]:
        wanted = self.checked(ids).tolist()
        self.about_to_read(disk.IMAGES, self.checked(ids))
        with disk.explained(self.folder):  # CROSS JOIN: in the order of what is wanted
            found = self._db.execute(f"SELECT {columns} FROM json_each(?) AS wanted CROSS JOIN images "
                                     "ON images.id = wanted.value", [json.dumps(wanted)]).fetchall()
        if len(found) != len(wanted):
            raise ValueError(f"{self.folder / disk.DATABASE} lacks images; restore it or extract again")
        return found

    def rerank(self, floats: np.ndarray, candidates: np.ndarray, depth: int, *, device: torch.device | None = None
               ) -> tuple[np.ndarray, np.ndarray]:
        """As `Searchable.rerank`. The rows are asked for all at once: else each that is on the disk waits for a read of
        its own, which brings its neighbours. 100 rows of 4 kB among a million take 2 ms so, and 128 ms else."""
        head = candidates[:, :depth]
        width = 0 if self.floats is None else self.shape.types["floats"].itemsize
        if 0 < head.size * width <= _ASKED_FOR and hasattr(mmap, "MADV_WILLNEED"):
            for row in np.unique(self.checked(head.ravel())).tolist():
                start = row * width // mmap.PAGESIZE * mmap.PAGESIZE
                self._maps["floats"].madvise(mmap.MADV_WILLNEED, start, (row + 1) * width - start)
        return super().rerank(floats, candidates, depth, device=device)

    def verify(self) -> None:
        """Reads the index as it was saved last; ValueError names a file whose content has changed since."""
        with disk.database(self.folder) as db:
            about, _ = disk.read_about(db, self.folder)
            ends = dict.fromkeys((*about.shape.types, disk.IMAGES), 0)
            total = db.execute("SELECT count(*) FROM checksums").fetchone()[0]
            sums = db.execute("SELECT file, CAST(start AS INTEGER), CAST(stop AS INTEGER), sha256 FROM checksums "
                              "ORDER BY file, start")
            with FlatFiles(self.folder, about.shape.types, about.rows) as files:
                for name, start, stop, digest in progress(sums, "verifying", total=total):
                    if (ends.get(name) != start or not start < (stop or 0) <= about.rows
                            or disk.checksum(db, files.read, name, start, stop) != digest):
                        raise self._damaged(name if name in about.shape.types else disk.IMAGES, start, stop)
                    ends[name] = stop
            if {*ends.values()} != {about.rows}:
                raise ValueError(f"{self.folder / disk.DATABASE} lacks checksums; restore it or extract again")


def _write_new(folder: Path, about: About, given: Searchable, names: Iterable[str], coordinates: np.ndarray | None
               ) -> None:
    if not len(given):
        raise ValueError("0 images were given, or all are removed; expected at least one")
    with disk.database(folder, new=True) as db:
        if not disk.create(db):
            held = "an index" if disk.read_about(db, folder)[0].generation else "an unfinished extraction"
            raise ValueError(f"{folder} holds {held} already; give another folder or delete this one")
        with FlatFiles(folder, about.shape.types, about.rows, "w+b") as files:
            disk.append(db, files, about.shape, 0, about.rows, names=names, coordinates=coordinates,
                        rows=lambda some: given.packed(some, about.shape))
        disk.write_about(db, about)
