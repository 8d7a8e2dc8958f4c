"""Writing an index row by row: in any order, by several processes, and on from where a killed run stopped."""

import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from ..stores import StoredRows
from .files import (
    MANIFEST,
    MARKS,
    UNFINISHED,
    ModelIdentity,
    RowShape,
    delete_unnamed,
    first_manifest,
    new_name,
    read_manifest,
    sync_folder,
    write_durably,
    write_manifest,
)
from .segments import SegmentWriter
from .two_stage import TwoStageIndex

_SYNC_SECONDS, _SYNC_BYTES = 20.0, 64 * 2**20
_MARKS_READ = 2**24  # at a time


class IndexWriter:
    """Rows of an index of n images, in files of full length from the start, into which each process writes its own.

    A row counts as written once it is on the disk: marks, a byte a row, follow the rows every 20 s or 64 MiB, so that
    neither a kill nor a loss of power leaves a row that is marked and not there. RAM does not grow with n.

    identity    says which descriptors these are (fingerprints of the model and of the list of images, their size,
                precision), of what JSON can hold; it becomes the index's `source`
    code_bytes  of a packed code; float_dim of a float descriptor, stored as `store` says; None for a missing branch
    An unfinished extraction of the same identity, n and row is continued. Raises ValueError, which names what differs,
    for one of another; and where the folder holds a finished index: see `finished`.
    """

    def __init__(self, folder: str | Path, *, n: int, identity: dict, code_bytes: int | None = None,
                 float_dim: int | None = None, store: str = "fp32"):
        self.folder, self.n, self.shape = Path(folder), n, RowShape(code_bytes, float_dim, store).check()
        if n < 1:
            raise ValueError(f"n is {n}; expected at least one image")
        if (self.folder / MANIFEST).exists():
            raise ValueError(f"{folder} holds a finished index; open it, or give another folder")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._identity = json.loads(json.dumps(identity))
        segment = self._begin({"rows": {"images": n, **self.shape._asdict()}, "identity": self._identity})
        self._marks = os.open(self.folder / MARKS, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.ftruncate(self._marks, n)
            self._check_whole(segment)
            self._rows = SegmentWriter(self.folder, n, self.shape, name=segment, keep=True)
        except BaseException:
            os.close(self._marks)
            raise
        sync_folder(self.folder)
        self._unmarked: list[tuple[int, int]] = []
        self._unmarked_bytes, self._synced = 0, time.monotonic()

    def _begin(self, wanted: dict) -> str:
        """The name of the segment to write: that of the first process to come, for all that want the same."""
        path = self.folder / UNFINISHED
        if not path.exists():
            own = path.with_name(f".{new_name(UNFINISHED)}")
            write_durably({**wanted, "segment": new_name("segment")}, own)
            try:
                os.link(own, path)  # which, other than renaming, fails where another process was first
            except FileExistsError:
                pass
            finally:
                own.unlink()
        found = json.loads(path.read_bytes())
        for part, values in wanted.items():
            _check_same(found[part], values, f"{self.folder} holds an unfinished extraction of other descriptors")
        return found["segment"]

    def _check_whole(self, segment: str) -> None:
        """Raises ValueError where rows are marked as written in a file that is gone or torn since."""
        def torn() -> list[Path]:
            paths = {kind: self.folder / f"{segment}.{kind}" for kind in self.shape.arrays()}
            return [path for kind, path in paths.items()
                    if not path.exists() or path.stat().st_size != self.n * self.shape.bytes_of(kind)]

        # In this order: another process may be making the files just now, and makes all before it marks a row.
        if torn() and self._written() and (paths := torn()):
            raise ValueError(f"{paths[0]} is missing or torn, though rows in it were written; "
                             f"delete {self.folder} and extract again")

    def _written(self) -> int:
        return sum(np.count_nonzero(self._marks_of(start, min(start + _MARKS_READ, self.n)))
                   for start in range(0, self.n, _MARKS_READ))

    def _marks_of(self, start: int, stop: int) -> np.ndarray:
        return np.frombuffer(os.pread(self._marks, stop - start, start), np.uint8)

    def missing(self, rows: range) -> np.ndarray:
        """Those of a range of rows, ascending and without gaps, that are not on the disk yet, int64."""
        return rows.start + np.flatnonzero(self._marks_of(rows.start, rows.stop) == 0)

    def write(self, start: int, *, codes: np.ndarray | None = None, floats: np.ndarray | StoredRows | None = None
              ) -> None:
        """Writes rows from `start` on: codes (r, code_bytes) uint8, floats (r, float_dim) float32."""
        self._wrote(start, self._rows.write(start, codes, floats))

    def read_arrays(self, start: int, stop: int) -> list[np.ndarray]:
        """Rows as the files hold them, an array of each, for the `write_arrays` of a writer in another folder."""
        return self._rows.read_arrays(start, stop)

    def write_arrays(self, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Writes rows from `start` on that `read_arrays` gave."""
        self._rows.write_arrays(start, arrays)
        self._wrote(start, len(arrays[0]))

    def _wrote(self, start: int, rows: int) -> None:
        self._unmarked.append((start, rows))
        self._unmarked_bytes += rows * self.shape.bytes_of()
        if self._unmarked_bytes >= _SYNC_BYTES or time.monotonic() - self._synced >= _SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Puts what was written on the disk, and then marks it."""
        self._rows.sync()
        for start, rows in self._unmarked:
            os.pwrite(self._marks, b"\1" * rows, start)
        self._unmarked.clear()
        self._unmarked_bytes, self._synced = 0, time.monotonic()

    def close(self) -> None:
        """Flushes; what is not finished can be continued."""
        if self._marks >= 0:
            self.flush()
            self._rows.close()
            os.close(self._marks)
            self._marks = -1

    def __enter__(self) -> "IndexWriter":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def finish(self, *, names: Iterable[str], model: ModelIdentity, coordinates: np.ndarray | None = None
               ) -> TwoStageIndex:
        """Makes an index of the rows, in one process once all others have closed their writers, and opens it.

        Args: names: n of them, one by one; coordinates: (n, 2), NaN where unknown.
        Raises ValueError where rows are missing, whose number it names; then the extraction can still be continued.
        """
        self.flush()
        missing = self.n - self._written()
        if missing:
            raise ValueError(f"{missing} of {self.n} images are not written to {self.folder} yet; "
                             "expected all before the index is finished")
        described = self._rows.seal(names, None if coordinates is None else [np.asarray(coordinates)])
        manifest = first_manifest(model, self.shape, described, self._identity)
        write_manifest(self.folder, manifest)
        self.close()
        delete_unnamed(self.folder, manifest)
        return TwoStageIndex.open(self.folder)

    @staticmethod
    def finished(folder: str | Path, identity: dict) -> bool:
        """Whether the folder holds the finished index of this identity, so that nothing is left to extract.

        False where there is no index yet. Raises ValueError where it is one of another identity, which names what
        differs, or was changed since.
        """
        if not (Path(folder) / MANIFEST).exists():
            return False
        manifest = read_manifest(Path(folder))
        _check_same(manifest["source"], json.loads(json.dumps(identity)),
                    f"{folder} holds an index of other descriptors")
        if manifest["generation"] != 1:
            raise ValueError(f"{folder} holds an index whose images were changed after its extraction; "
                             "give another folder")
        return True


def _check_same(found: dict, wanted: dict, what: str) -> None:
    for key in {**wanted, **found}:
        if found.get(key) != wanted.get(key):
            raise ValueError(f"{what}: {key} is {found.get(key)!r} there, {wanted.get(key)!r} here; "
                             "give another folder, or delete this one")
