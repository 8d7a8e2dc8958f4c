"""One segment of an index: writing its rows in blocks, and searching it by memory map."""

import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..exact import merge_ranked, rerank_l2, search_hamming, search_l2
from ..stores import StoredRows, store_rows
from .files import RowShape, describe_files, new_name

BLOCK_BYTES = 32 * 2**20  # of descriptors in hand at a time
_LARGE_BYTES = 2**30  # of float descriptors: some of those wanted may still be on the disk
_FEW_ROWS = 2**11  # wanted at once: many are read by several threads, and asking costs half a microsecond each
_NAMES = 2**16  # written at a time
_NONE = np.zeros(0, np.int64)


class SegmentWriter:
    """Writes the n rows of a segment, in blocks and in any order, into files that have their full length at once.

    It writes to the files, not through memory maps, whose pages would count as this process's memory.
    keep  what files of that name hold stays: rows that were written before, or by another process
    """

    def __init__(self, folder: Path, n: int, shape: RowShape, *, name: str | None = None, keep: bool = False):
        if n < 1:
            raise ValueError("expected at least one image to write; got none")
        self.folder, self.n, self.shape, self.name = folder, n, shape.check(), name or new_name("segment")
        self._files = {}
        for kind in shape.arrays():
            file = os.open(self._path(kind), os.O_RDWR | os.O_CREAT | (0 if keep else os.O_EXCL), 0o666)
            self._files[kind] = file
            if os.fstat(file).st_size != n * shape.bytes_of(kind):
                os.ftruncate(file, n * shape.bytes_of(kind))

    def _path(self, kind: str) -> Path:
        return self.folder / f"{self.name}.{kind}"

    def write(self, start: int, codes: np.ndarray | None, floats: np.ndarray | StoredRows | None) -> int:
        """Writes rows from `start`: codes (r, bytes) uint8; floats (r, D) float32, or stored rows, kept as they are.

        Returns how many rows. Raises ValueError for types, widths, values and rows that do not fit.
        """
        rows = check_rows(self.shape, codes, floats)
        if floats is not None and not isinstance(floats, StoredRows):
            floats = store_rows(np.asarray(floats), self.shape.store)
        self.write_arrays(start, [codes if kind == "codes" else getattr(floats, kind) for kind in self._files])
        return rows

    def write_arrays(self, start: int, arrays: Sequence[np.ndarray]) -> None:
        """Writes rows from `start`, in the order and types of `RowShape.arrays`."""
        if not 0 <= start <= start + len(arrays[0]) <= self.n:
            raise ValueError(f"rows {start} to {start + len(arrays[0])} given; expected some of the {self.n} rows")
        for (kind, file), array in zip(self._files.items(), arrays, strict=True):
            offset = start * self.shape.bytes_of(kind)
            data = np.ascontiguousarray(array, dtype=self.shape.arrays()[kind][0]).reshape(-1).view(np.uint8)
            while len(data):  # the kernel may take less than it is offered
                done = os.pwrite(file, data, offset)
                data, offset = data[done:], offset + done

    def read_arrays(self, start: int, stop: int) -> list[np.ndarray]:
        """What `write_arrays` wrote."""
        arrays = []
        for kind, (dtype, row) in self.shape.arrays().items():
            read = os.pread(self._files[kind], (stop - start) * self.shape.bytes_of(kind),
                            start * self.shape.bytes_of(kind))
            arrays.append(np.frombuffer(bytearray(read), dtype).reshape(-1, *row))
        return arrays

    def sync(self) -> None:
        """Returns when what was written is on the disk."""
        for file in self._files.values():
            os.fsync(file)

    def close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def seal(self, names: Iterable[str], coordinates: Iterable[np.ndarray] | None) -> dict:
        """Adds the n names and the coordinates, in blocks (r, 2); returns what the manifest says of this segment."""
        self.close()
        kinds = [*self.shape.arrays(), "offsets", "names"]
        self._write_names(names)
        if coordinates is not None:
            self._write_coordinates(coordinates)
            kinds.append("coordinates")
        described = describe_files([self._path(kind) for kind in kinds])
        return {"name": self.name, "n": self.n, "files": dict(zip(kinds, described, strict=True))}

    def _write_names(self, names: Iterable[str]) -> None:
        names, written, end = iter(names), 0, 0
        with self._path("names").open("wb") as blob, self._path("offsets").open("wb") as offsets:
            np.zeros(1, "<i8").tofile(offsets)
            while block := [name.encode("utf-8", "surrogateescape") for name in islice(names, _NAMES)]:
                ends = end + np.cumsum([len(name) for name in block], dtype="<i8")
                ends.tofile(offsets)
                blob.write(b"".join(block))
                written, end = written + len(block), int(ends[-1])
        if written != self.n:
            raise ValueError(f"{written} names for {self.n} images; expected one each")

    def _write_coordinates(self, blocks: Iterable[np.ndarray]) -> None:
        written = 0
        with self._path("coordinates").open("wb") as file:
            for block in blocks:
                if block.ndim != 2 or block.shape[1] != 2:
                    raise ValueError(f"coordinates have shape {block.shape}; expected ({self.n}, 2)")
                np.ascontiguousarray(block, dtype="<f8").tofile(file)
                written += len(block)
        if written != self.n:
            raise ValueError(f"{written} coordinates for {self.n} images; expected one pair each, NaN where unknown")

    def discard(self) -> None:
        """Takes back what no manifest names."""
        self.close()
        for path in self.folder.glob(f"{self.name}.*"):
            path.unlink()


def check_rows(shape: RowShape, codes: np.ndarray | None, floats: np.ndarray | StoredRows | None) -> int:
    """How many rows are given. Raises ValueError where they are not of this shape."""
    for what, rows, width in (("codes", codes, shape.code_bytes), ("floats", floats, shape.float_dim)):
        if (rows is None) != (width is None):
            raise ValueError(f"this index holds {'no ' if width is None else ''}{what}, "
                             f"but {'none' if rows is None else 'some'} were given")
    if codes is not None and (codes.ndim != 2 or codes.dtype != np.uint8 or codes.shape[1] != shape.code_bytes):
        raise ValueError(f"codes are {codes.dtype} {codes.shape}; expected uint8 (rows, {shape.code_bytes})")
    if isinstance(floats, StoredRows):
        if (floats.kind, floats.dim) != (shape.store, shape.float_dim):
            raise ValueError(f"stored rows are {floats.kind}, width {floats.dim}; "
                             f"expected {shape.store}, width {shape.float_dim}")
    elif floats is not None and (floats.ndim != 2 or floats.shape[1] != shape.float_dim):
        raise ValueError(f"floats have shape {floats.shape}; expected (rows, {shape.float_dim})")
    if codes is not None and floats is not None and len(codes) != len(floats):
        raise ValueError(f"{len(codes)} codes and {len(floats)} float descriptors; expected one each an image")
    return len(floats if codes is None else codes)


def part_of(rows: np.ndarray | StoredRows | None, wanted: slice | np.ndarray) -> np.ndarray | StoredRows | None:
    """Some of the rows, held as they are; None for None."""
    if isinstance(rows, StoredRows):
        return StoredRows(rows.values[wanted], part_of(rows.scales, wanted))
    return None if rows is None else rows[wanted]


def write_segment(folder: Path, shape: RowShape, n: int, rows: Iterable[tuple], names: Iterable[str],
                  coordinates: Iterable[np.ndarray] | None) -> dict:
    """Writes blocks of (codes, floats) one behind the other; returns the segment as the manifest names it."""
    writer = SegmentWriter(folder, n, shape)
    try:
        start = 0
        for codes, floats in rows:
            start += writer.write(start, codes, floats)
        return writer.seal(names, coordinates)
    except BaseException:
        writer.discard()
        raise


def in_blocks(n: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices over n rows that hold about BLOCK_BYTES each."""
    step = max(1, BLOCK_BYTES // bytes_per_row)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


class Segment:
    """The rows `start`, start + 1, ... of an index by memory map: what is touched lies in RAM, once for all processes.

    Searched are the live rows, which are all, all without `removed`, or only `kept`: both ascending, counted from this
    segment's first row. For these the codes are copied, once, into memory of this process; nothing else is.
    """

    def __init__(self, folder: Path, described: dict, shape: RowShape, start: int):
        self._folder, self._described, self.shape, self.start, self.n = folder, described, shape, start, described["n"]
        self._maps: dict[str, mmap.mmap] = {}
        arrays = {kind: self._map(kind, dtype, (self.n, *row)) for kind, (dtype, row) in shape.arrays().items()}
        self.codes: np.ndarray | None = arrays.get("codes")
        self.floats = StoredRows(arrays["values"], arrays.get("scales")) if shape.float_dim else None
        self._offsets = self._map("offsets", "<i8", (self.n + 1,))
        self._names = self._map("names", np.uint8, (described["files"]["names"]["size"],))
        has_coordinates = "coordinates" in described["files"]
        self._coordinates = self._map("coordinates", "<f8", (self.n, 2)) if has_coordinates else None
        self._removed, self._kept = _NONE, None
        # Re-ranking touches rows here and there: reading ahead would bring 128 KB for each.
        self._advise("MADV_RANDOM")

    def _advise(self, advice: str, *where: int) -> None:
        """Tells the system how float descriptors will be read, where there are some and it can be told."""
        if "values" in self._maps and hasattr(mmap, advice):
            self._maps["values"].madvise(getattr(mmap, advice), *where)

    def _map(self, kind: str, dtype: str | np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        expected, size = int(np.prod(shape)) * np.dtype(dtype).itemsize, self._described["files"][kind]["size"]
        path = self._folder / f"{self._described['name']}.{kind}"
        if size != expected:
            raise ValueError(f"{path} has {size} bytes, which are not {self.n} rows; build the index again")
        if size == 0:  # only names, all of them empty
            return np.zeros(shape, dtype)
        with path.open("rb") as file:
            self._maps[kind] = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        return np.frombuffer(self._maps[kind], dtype).reshape(shape)

    def searching(self, *, removed: np.ndarray = _NONE, kept: np.ndarray | None = None) -> "Segment":
        """The same maps, with other live rows."""
        other = copy(self)
        other._removed, other._kept = removed, kept
        other.__dict__.pop("live_codes", None)
        return other

    def __len__(self) -> int:
        """Live rows."""
        return self.n - len(self._removed) if self._kept is None else len(self._kept)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        """Rows of this segment from positions among its live rows."""
        if self._kept is not None:
            return self._kept[positions]
        if not len(self._removed):
            return positions
        # Removed row r has r - (rank of r) live rows before it; so many of the removed lie before a position.
        return positions + np.searchsorted(self._removed - np.arange(len(self._removed)), positions, side="right")

    @property
    def _whole(self) -> bool:
        return self._kept is None and not len(self._removed)

    @cached_property
    def live_codes(self) -> np.ndarray:
        if self._kept is not None:
            return self.codes[self._kept]
        return np.delete(self.codes, self._removed, axis=0) if len(self._removed) else self.codes

    def search_codes(self, queries: np.ndarray, k: int, device: torch.device | None) -> tuple[np.ndarray, np.ndarray]:
        distances, positions = search_hamming(self.live_codes, queries, k, device=device)
        return distances, self._ids(positions)

    def search_floats(self, queries: np.ndarray, k: int, device: torch.device | None) -> tuple[np.ndarray, np.ndarray]:
        self._advise("MADV_SEQUENTIAL")
        try:
            if self._whole:
                distances, positions = search_l2(self.floats, queries, k, device=device)
                return distances, self._ids(positions)
            best = None
            for block in in_blocks(len(self), 4 * self.shape.float_dim):
                rows = self.rows(np.arange(block.start, block.stop))
                distances, positions = search_l2(self.floats.read(rows), queries, k, device=device)
                part = distances, self.start + rows[positions]
                best = part if best is None else merge_ranked([best, part], k)
            return best
        finally:
            self._advise("MADV_RANDOM")

    def rerank(self, queries: np.ndarray, rows: np.ndarray, depth: int, device: torch.device | None
               ) -> tuple[np.ndarray, np.ndarray]:
        """`rerank_l2` among rows (m, k) of this segment."""
        if len(self._maps["values"]) >= _LARGE_BYTES and rows[:, :depth].size <= _FEW_ROWS:
            self._expect(rows[:, :depth])
        return rerank_l2(self.floats, queries, rows, depth, device=device)

    def _expect(self, rows: np.ndarray) -> None:
        """Has the system fetch these rows' float descriptors from the disk, all at once: else the first touch of each
        waits for a read of its own, which brings many neighbours."""
        width = self.shape.bytes_of("values")
        for row in np.unique(rows[(rows >= 0) & (rows < self.n)]).tolist():
            start = row * width // mmap.PAGESIZE * mmap.PAGESIZE
            self._advise("MADV_WILLNEED", start, (row + 1) * width - start)

    def _ids(self, positions: np.ndarray) -> np.ndarray:
        return self.start + self.rows(positions) if self.start or not self._whole else positions

    def names(self, rows: np.ndarray) -> list[str]:
        """Names of rows of this segment."""
        blob = memoryview(self._names)
        bounds = zip(self._offsets[rows].tolist(), self._offsets[rows + 1].tolist(), strict=True)
        return [str(blob[start:stop], "utf-8", "surrogateescape") for start, stop in bounds]

    def coordinates(self, rows: np.ndarray) -> np.ndarray:
        """(len, 2) float64, NaN where unknown."""
        return np.full((len(rows), 2), np.nan) if self._coordinates is None else self._coordinates[rows]

    @property
    def has_coordinates(self) -> bool:
        return self._coordinates is not None
