"""Writing an index row by row: in any order, by several processes, and on from where a killed run stopped."""

import contextlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..stores import StoredRows
from . import disk
from .disk import About, FlatFiles, Ids, ModelIdentity, RowShape
from .searchable import Searchable
from .two_stage import TwoStageIndex

SYNC_SECONDS, SYNC_BYTES = 20.0, 64 * 2**20


class IndexWriter(contextlib.AbstractContextManager):
    """Rows of an index of n images, in files of full length from the start, into which each process writes its own.

    A row counts as written once it is on the disk: marks, a byte a row, follow the rows every 20 s or 64 MiB, so that
    neither a kill nor a loss of power leaves a row that is marked and not there. RAM does not grow with n. The database
    is used in the beginning and in the end alone.

    identity    says which descriptors these are (fingerprints of the model and of the list of images, their size,
                precision), of what JSON can hold; it becomes the index's `source`
    code_bytes  of a packed code; float_dim of a float descriptor, stored as `store` says; None for a missing branch
    An unfinished extraction of the same identity, n and row is continued. Raises ValueError, which names what differs,
    for one of another; and where the folder holds a finished index: see `finished`.
    """

    def __init__(self, folder: str | Path, *, n: int, identity: dict, code_bytes: int | None = None,
                 float_dim: int | None = None, store: str = "fp32"):
        self.folder, self.n = Path(folder), n
        if n < 1:
            raise ValueError(f"n is {n}; expected at least one image")
        self._shape = RowShape(code_bytes, float_dim, store).check()
        self._about, types = About(None, self._shape, identity, n, 0), self._shape.types | disk.MARKS
        with disk.database(self.folder, new=True) as db:
            if disk.create(db):  # whoever comes now waits until all files are there
                FlatFiles(self.folder, types, n, "w+b").close()
                disk.write_about(db, self._about)
            found, _ = disk.read_about(db, self.folder)
        if found.generation:
            raise ValueError(f"{self.folder} holds a finished index; open it, or give another folder")
        what = f"{self.folder} holds an unfinished extraction of other descriptors"
        _check_same(found.source, identity, what)
        there, here = ({"images": about.rows, **about.shape._asdict()} for about in (found, self._about))
        _check_same(there, here, what)
        self._files = FlatFiles(self.folder, types, n, "r+b")
        self._unmarked: list[range] = []
        self._synced = time.monotonic()

    def missing(self, rows: range) -> np.ndarray:
        """Those of a range of rows, ascending and without gaps, that are not on the disk yet, int64."""
        # Opened anew, for what other nodes have written to a network disk is seen then.
        marks = np.fromfile(disk.regular(self.folder / "marks"), np.uint8, len(rows), offset=rows.start)
        return rows.start + np.flatnonzero(marks == 0)

    def write(self, start: int, *, codes: np.ndarray | None = None, floats: np.ndarray | StoredRows | None = None
              ) -> None:
        """Writes rows from `start` on: codes (r, code_bytes) uint8, floats (r, float_dim) float32."""
        given = Searchable(codes, floats)
        self.write_arrays(start, [*given.packed(slice(len(given)), self._shape).values()])

    def read_arrays(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows as the files hold them, an array of each, for the `write_arrays` of a writer in another folder."""
        return [self._files.arrays[name][start:stop].copy() for name in self._shape.types]

    def write_arrays(self, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Writes rows from `start` on that `read_arrays` gave."""
        written = range(start, start + len(arrays[0]))
        if not 0 <= start <= written.stop <= self.n:
            raise ValueError(f"rows {start} to {written.stop} given; expected some of the {self.n} rows")
        self._files.write(start, dict(zip(self._shape.types, arrays, strict=True)))
        self._unmarked.append(written)
        size = sum(map(len, self._unmarked)) * self._shape.row_bytes
        if size >= SYNC_BYTES or time.monotonic() - self._synced >= SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts what was written on the disk, and then marks it."""
        self._files.sync()
        for rows in self._unmarked:
            self._files.write(rows.start, {"marks": np.ones(len(rows), np.uint8)})
        self._unmarked.clear()
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flushes; what is not finished can be continued."""
        if self._unmarked:
            self.flush()
        self._files.close()

    def __exit__(self, *_) -> None:
        self.close()

    def finish(self, *, names: Iterable[str], model: ModelIdentity, coordinates: np.ndarray | None = None,
               notes: dict | None = None, left_out: Ids = ()) -> TwoStageIndex:
        """Makes an index of the rows, in one process once all others have closed their writers, and opens it.

        Args: names: n of them, one by one; coordinates: (n, 2), NaN where unknown; notes: as TwoStageIndex.build's;
        left_out: ascending rows that are removed from the start, and need not be written.
        Raises ValueError where rows are missing, whose number it names; then the extraction can still be continued.
        """
        self.flush()
        if len(left_out) == self.n:
            raise ValueError(f"{self.folder}: all {self.n} images are left out; expected at least one")
        if missing := len(np.setdiff1d(self.missing(range(self.n)), left_out)):
            raise ValueError(f"{missing} of {self.n} images are not written to {self.folder} yet; "
                             "expected all before the index is finished")
        with disk.database(self.folder) as db, FlatFiles(self.folder, self._shape.types, self.n) as files:
            db.execute("BEGIN IMMEDIATE")
            disk.append(db, files, self._shape, 0, self.n, names=names, coordinates=coordinates)
            disk.write_about(db, self._about._replace(model=model, generation=1, notes=notes or {}), left_out)
        self.close()
        (self.folder / "marks").unlink()
        return TwoStageIndex(self.folder)

    @staticmethod
    def finished(folder: str | Path, identity: dict) -> bool:
        """Whether the folder holds the finished index of this identity, so that nothing is left to extract.

        False where there is no index yet. Raises ValueError where it is one of another identity, which names what
        differs, or was changed since.
        """
        about = _about(Path(folder))
        if about is None:
            return False
        if about.generation:
            _check_same(about.source, identity, f"{folder} holds an index of other descriptors")
        if about.generation > 1:
            raise ValueError(f"{folder} holds an index whose images were changed after its extraction; "
                             "give another folder")
        return about.generation == 1

    @staticmethod
    def held_in(folder: str | Path) -> tuple[dict, RowShape] | None:
        """The identity of the finished index in the folder and its rows; None where there is none, or an unfinished
        extraction."""
        about = _about(Path(folder))
        return (about.source, about.shape) if about and about.generation else None


def _about(folder: Path) -> About | None:
    try:
        with disk.database(folder) as db:
            return disk.read_about(db, folder)[0]
    except FileNotFoundError:
        return None


def _check_same(found: dict, wanted: dict, what: str) -> None:
    wanted = json.loads(json.dumps(wanted))  # as `found`, which comes from a file
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise ValueError(f"{what}: {key} is {found.get(key)!r:.200} there, {wanted.get(key)!r:.200} here; "
                             "give another folder, or delete this one")
