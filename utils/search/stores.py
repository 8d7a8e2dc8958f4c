"""How float descriptors are held: 4, 2 or 1 bytes a value, in memory or in a memory map."""

from dataclasses import dataclass

import numpy as np
import torch

STORES = ("fp32", "fp16", "int8")
_DTYPES = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "int8": np.dtype(np.int8)}
_BLOCK_BYTES = 32 * 2**20  # of float32 rows stored at a time
_SERIAL_VALUES = 2**15 - 1  # torch shares out more between threads
NOT_FINITE = "descriptors hold NaN or infinity, which have no rank; check the model that made them"


@dataclass(frozen=True, eq=False)
class StoredRows:
    """Float descriptors as they are held; `read` gives them back as float32.

    values: (n, D) float32, float16 or int8, an array or a memory map.
    scales: (n,) float32 for int8, a row being values * scale; None otherwise.
    Raises ValueError where these do not fit.
    """

    values: np.ndarray
    scales: np.ndarray | None = None

    def __post_init__(self) -> None:
        values, scales = self.values, self.scales
        if values.ndim != 2 or values.dtype not in _DTYPES.values():
            raise ValueError(f"stored rows are {values.dtype} {values.shape}; "
                             "expected float32, float16 or int8 (rows, width)")
        if (scales is not None) != (self.kind == "int8"):
            raise ValueError(f"{self.kind} rows {'lack' if scales is None else 'have'} scales; "
                             "expected them for int8, and only there")
        if scales is not None and (scales.shape != values.shape[:1] or scales.dtype != np.float32):
            raise ValueError(f"scales are {scales.dtype} {scales.shape}; expected float32 ({len(values)},)")

    def __len__(self) -> int:
        return len(self.values)

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def kind(self) -> str:
        return next(kind for kind, dtype in _DTYPES.items() if dtype == self.values.dtype)

    @property
    def bytes_per_row(self) -> int:
        return self.dim * self.values.itemsize + (0 if self.scales is None else self.scales.itemsize)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows, by a slice or an integer array, as float32 (len, D); for a slice of fp32 a view, else a copy."""
        values = np.asarray(self.values)  # a plain array: a memory map's own indexing is slower
        if self.scales is None and values.dtype == np.float32:
            return values[rows]
        scales = None if self.scales is None else np.array(self.scales[rows])  # torch warns of memory it may not write
        if isinstance(rows, slice):
            values, rows = values[rows], np.arange(len(values[rows]))
        read = np.empty((len(rows), self.dim), np.float32)
        target = torch.from_numpy(read)
        # torch converts float16 far faster than numpy. So few values at a time stay in a cache, and in this thread:
        # torch's threads, awake and waiting for more, would hold up faiss's by milliseconds.
        step = max(1, _SERIAL_VALUES // max(1, self.dim))
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            target[block] = torch.from_numpy(values[rows[block]])
            if scales is not None:
                target[block] *= torch.from_numpy(scales[block, None])
        return read


def store_rows(rows: np.ndarray, kind: str) -> StoredRows:
    """Holds rows, float32 (n, D), as fp32 (the array itself), fp16, or int8 with one scale a row, its maximum / 127.

    Raises ValueError for another kind, shape or dtype, for NaN and infinity, and for values beyond float16.
    """
    if kind not in STORES:
        raise ValueError(f"store is {kind!r}; expected one of {', '.join(STORES)}")
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(f"rows are {rows.dtype} {rows.shape}; expected float32 (rows, width)")
    values = rows if kind == "fp32" else np.empty(rows.shape, _DTYPES[kind])
    scales = np.empty(len(rows), np.float32) if kind == "int8" else None
    step = max(1, _BLOCK_BYTES // max(1, 4 * rows.shape[1]))
    for start in range(0, len(rows), step):
        block = slice(start, start + step)
        given = rows[block]
        largest = np.abs(given).max(axis=1, initial=0)
        if not np.isfinite(largest).all():
            raise ValueError(NOT_FINITE)
        if kind == "fp16":
            if largest.max(initial=0) > np.finfo(np.float16).max:
                raise ValueError(f"descriptors reach {largest.max():g}, beyond float16; "
                                 "expected descriptors of unit length, or store them as fp32 or int8")
            values[block] = given
        elif kind == "int8":
            scales[block] = largest / np.float32(127)
            # A row of zeros has no scale; any divisor leaves it zero.
            values[block] = np.rint(given / np.where(scales[block] > 0, scales[block], 1)[:, None])
    return StoredRows(values, scales)
