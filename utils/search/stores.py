"""How float descriptors are held: 4, 2 or 1 bytes a value, in memory or in a memory map."""

from dataclasses import dataclass

import numpy as np

STORES: dict[str, np.dtype] = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16), "int8": np.dtype(np.int8)}
BLOCK_BYTES = 32 * 2**20  # of float32 rows stored at a time
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
        if values.ndim != 2 or values.dtype not in STORES.values():
            raise ValueError(f"stored rows are {values.dtype} {values.shape}; "
                             "expected float32, float16 or int8 (rows, width)")
        if (scales is not None) != (self.kind == "int8"):
            raise ValueError(f"{self.kind} rows {'lack' if scales is None else 'have'} scales; "
                             "expected them for int8, and only there")
        if scales is not None and (scales.shape != values.shape[:1] or scales.dtype != np.float32):
            raise ValueError(f"scales are {scales.dtype} {scales.shape}; expected float32 ({len(values)},)")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> "StoredRows":
        """Some of the rows, held as they are."""
        return StoredRows(self.values[rows], None if self.scales is None else self.scales[rows])

    @property
    def dim(self) -> int:
        return self.values.shape[1]

    @property
    def kind(self) -> str:
        return next(kind for kind, dtype in STORES.items() if dtype == self.values.dtype)

    @property
    def bytes_per_row(self) -> int:
        return self.dim * self.values.itemsize + (0 if self.scales is None else self.scales.itemsize)

    def read(self, rows: slice | np.ndarray) -> np.ndarray:
        """Rows, by a slice or an integer array, as float32 (len, D); for a slice of fp32 a view, else a copy."""
        # A plain array: a memory map's own indexing is slower.
        read = np.asarray(self.values)[rows].astype(np.float32, copy=False)
        if self.scales is not None:
            read *= self.scales[rows, None]
        return read


def store_rows(rows: np.ndarray, kind: str) -> StoredRows:
    """Holds rows, float32 (n, D), as fp32 (the array itself), fp16, or int8 with one scale a row, its maximum / 127.

    Raises ValueError for another kind, shape or dtype, for NaN and infinity, and for values beyond float16.
    """
    if kind not in STORES:
        raise ValueError(f"store is {kind!r}; expected one of {', '.join(STORES)}")
    if rows.ndim != 2 or rows.dtype != np.float32:
        raise ValueError(f"rows are {rows.dtype} {rows.shape}; expected float32 (rows, width)")
    values = rows if kind == "fp32" else np.empty(rows.shape, STORES[kind])
    scales = np.empty(len(rows), np.float32)
    step = max(1, BLOCK_BYTES // max(1, 4 * rows.shape[1]))
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
    return StoredRows(values, scales if kind == "int8" else None)
