"""Exhaustive search and re-ranking by faiss and numpy: Hamming distance on packed codes, L2 on float descriptors.

Searches order equal distances by database row, re-ranking by the order of the candidates, so that results do not depend
on faiss's internals. The caller's memory is searched where it lies, a memory map's too: no index is filled.
`device`: None or a processor for faiss; CUDA for the same searches in torch (tensors.py).
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeGuard, TypeVar

import faiss
import numpy as np
import torch

from ..ranks import progress
from . import tensors
from .stores import NOT_FINITE, StoredRows

BLOCK_BYTES = 256 * 2**20  # of float32 rows in hand at a time
SLICE_BYTES = 8 * 2**20  # the same for few queries, by each thread: what a cache holds
SLICE_CODES = 2**17  # likewise; fewer are searched faster than threads start
FEW = 19  # queries, up to which faiss compares pairs; beyond, it multiplies matrices
COUNTER_BYTES = 16 * 2**20  # of faiss's lists of rows by distance, for some queries at a time: what a cache holds
SHORT_S = 3  # seconds; a longer search shows how far it is
NEAR_BYTES = 16 * 2**20  # of queries re-ranked together, or of what is read for them: it stays in a cache

ONES = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)  # of each byte

Ranked = tuple[np.ndarray, np.ndarray]  # distances and ids, (m, k) each
T = TypeVar("T")


def pack_codes(binary: np.ndarray) -> np.ndarray:
    """Pack binary codes (n, bits) of -1/+1, an array or a CPU tensor, into uint8 (n, bits / 8).

    A bit is 1 where the value is >= 0; the first value is the most significant bit of the first byte.
    Raises ValueError where bits is no multiple of 8, for an unsigned type (no -1) and for NaN.
    """
    binary = np.asarray(binary)
    if binary.ndim != 2 or binary.shape[1] == 0 or binary.shape[1] % 8:
        raise ValueError(f"codes have shape {binary.shape}; expected (n, bits), bits a multiple of 8")
    if binary.dtype.kind not in "fi":
        raise ValueError(f"codes are {binary.dtype}, which holds no -1; expected signed values, -1/+1")
    if np.isnan(binary).any():
        raise ValueError("codes hold NaN, which has no sign; check the model that made them")
    return np.packbits(binary >= 0, axis=1)


def search_hamming(database_codes: np.ndarray, query_codes: np.ndarray, k: int, *,
                   device: torch.device | None = None) -> Ranked:
    """Nearest database codes of each query, exhaustively.

    Args: database_codes (n, bytes) and query_codes (m, bytes), uint8, from `pack_codes`; k >= 1.
    Returns Hamming distances in bits (m, k') int32, ascending, and database rows (m, k') int64,
    k' = min(k, n). Raises ValueError for shapes or dtypes that do not fit.
    """
    _check(database_codes, query_codes, k, dtype="uint8")
    k = min(k, len(database_codes))
    if _on_gpu(device):
        return tensors.search_hamming(database_codes, query_codes, k, device)
    database, queries = np.ascontiguousarray(database_codes), np.ascontiguousarray(query_codes)
    n, m = len(database), len(queries)

    def search(some: slice, rows: slice) -> Ranked:
        # By counting: faiss lists each distance's rows as it meets them, which is the order wanted here.
        part = database[rows]
        distances, ids = faiss.knn_hamming(queries[some], part, min(k, len(part)), variant="mc")
        return distances, ids + rows.start

    batch = max(1, COUNTER_BYTES // (8 * k * (8 * database.shape[1] + 1)))
    if m <= min(batch, FEW):
        size = max(SLICE_CODES, -(-n // faiss.omp_get_max_threads()))
        return _merged(_in_threads(lambda start: search(slice(m), slice(start, start + size)), range(0, n, size)), k)
    starts = range(0, m, batch)
    found = _in_threads(lambda start: search(slice(start, start + batch), slice(0, n)), starts)
    distances, ids = map(np.concatenate, zip(*_shown(found, "searching", len(starts)), strict=True))
    return distances, ids


def search_l2(database: np.ndarray | StoredRows, queries: np.ndarray, k: int, *, rows: np.ndarray | None = None,
              device: torch.device | None = None) -> Ranked:
    """Nearest database descriptors of each query, exhaustively; the database is read once, in blocks.

    Args:
        database: (n, D) float32, or rows held otherwise. queries: (m, D) float32. k: 1 or more.
        rows: those to search, ascending; None: all n.

    Returns squared L2 distances (m, k') float32, ascending, and database rows (m, k') int64, k' the smaller of k and
    what is searched. Raises ValueError for shapes or dtypes that do not fit, and for NaN or infinity.
    """
    _check(database, queries, k)
    stored = database if isinstance(database, StoredRows) else StoredRows(database)
    queries = np.ascontiguousarray(queries)
    _check_finite(queries)

    def search(part: slice) -> Ranked:
        read = np.ascontiguousarray(stored.read(part if rows is None else rows[part]))
        _check_finite(read)
        depth = min(k, len(read))
        found = tensors.search_l2(read, queries, depth, device) if _on_gpu(device) else faiss.knn(queries, read, depth)
        distances, ids = merge_ranked([found], depth)  # which orders equal ones
        return distances, ids + part.start if rows is None else rows[part][ids]

    n, few = len(stored) if rows is None else len(rows), len(queries) <= FEW and not _on_gpu(device)
    if not n:
        raise ValueError("rows are none; expected at least one to search")
    size = max(1, (SLICE_BYTES if few else BLOCK_BYTES) // (4 * stored.dim))
    parts = [slice(start, start + size) for start in range(0, n, size)]
    found = _in_threads(search, parts) if few else map(search, parts)
    return _merged(_shown(found, "searching", len(parts)), k)


def rerank_l2(database: np.ndarray | StoredRows, queries: np.ndarray, candidates: np.ndarray, depth: int, *,
              device: torch.device | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sort the first `depth` candidates of each query by L2; those beyond keep their order behind them.

    Args:
        database: (n, D) float32, or rows held otherwise; only candidates are read. queries: (m, D) float32.
        candidates: (m, k) integer database rows, best first, e.g. from `search_hamming`.
        depth: how many to re-rank, >= 1; all k of them where there are fewer.

    Returns rows (m, k) int64, and the L2 distances (m, min(depth, k)) float32 of the re-ranked part,
    ascending; equal distances keep the order of the candidates. Raises ValueError for NaN or infinity among what is
    read, and for shapes, dtypes, depths or rows that do not fit: a -1, faiss's "none", would stand for the last row.
    """
    _check(database, queries, depth, name_of_k="depth")
    stored = database if isinstance(database, StoredRows) else StoredRows(database)
    ids, queries = _checked(candidates, len(queries), len(stored)), np.ascontiguousarray(queries)
    head = ids[:, :depth]  # a view: what is sorted there is sorted in ids
    squared = np.empty(head.shape, np.float32)
    for some, rows, local in _read(stored, head, device):
        if _on_gpu(device):
            squared[some] = tensors.squared_l2(rows, queries[some], local, device)
        else:
            squared[some] = _squared_l2(rows, queries[some], local)
    if not np.isfinite(squared).all():
        raise ValueError(NOT_FINITE)
    distances = np.sqrt(squared)
    order = np.argsort(distances, axis=1, kind="stable")
    ids[:, :depth] = np.take_along_axis(head, order, axis=1)
    return ids, np.take_along_axis(distances, order, axis=1)


def rerank_hamming(database_codes: np.ndarray, query_codes: np.ndarray, candidates: np.ndarray, depth: int) -> Ranked:
    """Sort the first `depth` candidates of each query by Hamming distance; those beyond keep their order behind them.

    Args: as `search_hamming` and `rerank_l2`, whose result has the same order: rows (m, k) int64, and the distances in
    bits (m, min(depth, k)) int32 of the re-ranked part, ascending, equal ones by row. Raises ValueError alike.
    """
    _check(database_codes, query_codes, depth, dtype="uint8", name_of_k="depth")
    ids = _checked(candidates, len(query_codes), len(database_codes))
    head = ids[:, :depth]  # a view: what is sorted there is sorted in ids
    distances = np.empty(head.shape, np.int32)
    size = max(1, NEAR_BYTES // max(1, head.shape[1] * query_codes.shape[1]))
    for start in range(0, len(head), size):
        some = slice(start, start + size)
        differing = database_codes[head[some]] ^ query_codes[some, None]
        distances[some] = ONES[differing].sum(axis=2, dtype=np.int32)
    order = np.lexsort((head, distances), axis=1)
    ids[:, :depth] = np.take_along_axis(head, order, axis=1)
    return ids, np.take_along_axis(distances, order, axis=1)


def merge_ranked(parts: Sequence[Ranked], k: int) -> Ranked:
    """The k best of several searches of parts of one database, each (distances, ids) (m, k_part), ids those of the
    whole; equal distances by id. Returns (m, min(k, all of them))."""
    distances = np.concatenate([distances for distances, _ in parts], axis=1)
    ids = np.concatenate([ids for _, ids in parts], axis=1)
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _merged(parts: Iterable[Ranked], k: int) -> Ranked:
    return functools.reduce(lambda best, found: merge_ranked([best, found], k), parts)


def _shown(steps: Iterable[T], description: str, total: int) -> Iterable[T]:
    """A bar where they take long; none for a single step, as making one takes a third of a query's time."""
    return steps if total == 1 else progress(steps, description, total=total, delay=SHORT_S)


def _in_threads(work: Callable[[T], Ranked], items: Sequence[T]) -> Iterator[Ranked]:
    """`work` of each item, in order, by as many threads as faiss may use, in each of which it uses that one alone.

    faiss's own threads share out queries, of which there may be one, and spin while they wait. On two cores one query
    among a million codes takes 4.0 ms so and 5.3 ms without, 10,000 floats of 4096-d 14 and 26 ms (with a GPU the
    descriptor takes 5); 6,816 queries at once take 0.11 s either way, but beside another program 0.2 against 1.2 s.
    """
    if len(items) == 1:
        yield work(items[0])
        return
    with ThreadPoolExecutor(faiss.omp_get_max_threads(), initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(work, items)


def _read(database: StoredRows, wanted: np.ndarray, device: torch.device | None
          ) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some queries at a time: which, float32 rows among which are those `wanted` (m, depth), and where in these."""
    width = 4 * database.dim
    small = len(database) * width <= BLOCK_BYTES
    in_place = database.kind == "fp32" and database.values.flags.c_contiguous and (small or not _on_gpu(device))
    if small and not in_place:  # a row is read once, and not for each query that wants it
        read, local = np.unique(wanted, return_inverse=True)
        database, wanted, in_place = StoredRows(database.read(read)), local.reshape(wanted.shape), True
    size = max(1, NEAR_BYTES // (width if in_place else width * max(1, wanted.shape[1])))
    starts = range(0, len(wanted), size)
    for start in _shown(starts, "re-ranking", len(starts)):
        some = slice(start, start + size)
        if in_place:
            yield some, database.values, wanted[some]
        else:
            read, local = np.unique(wanted[some], return_inverse=True)
            yield some, database.read(read), local.reshape(wanted[some].shape)


def _squared_l2(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Squared L2 (m, depth) float32 of queries (m, D) to the database rows (n, D) at ids (m, depth).

    faiss has no public Python call for pairs. numpy's, a query at a time, takes four times as long (0.30 s for 1,000
    queries x 100 rows of 4096-d on one thread, this 0.07 s); without the order by place it takes 0.13 s.
    """
    # By place in the database: a row that several queries want is read once, and a memory map from front to back.
    order = np.argsort(ids, axis=None)
    query, wanted = order // max(1, ids.shape[1]), ids.ravel()[order]
    squared, placed = np.empty((2, wanted.size), np.float32)
    faiss.pairwise_indexed_L2sqr(  # type: ignore[attr-defined]
        rows.shape[1], wanted.size, *map(faiss.swig_ptr, (queries, query, rows, wanted, squared)))
    placed[order] = squared
    return placed.reshape(ids.shape)


def _checked(candidates: np.ndarray, m: int, n: int) -> np.ndarray:
    """A copy, int64. Raises ValueError unless these are rows among n of each of m queries."""
    if candidates.ndim != 2 or len(candidates) != m or candidates.dtype.kind not in "iu":
        raise ValueError(f"candidates are {candidates.dtype} {candidates.shape}; expected integers "
                         f"({m}, k), one row per query")
    if candidates.size and not 0 <= candidates.min() <= candidates.max() < n:
        raise ValueError(f"candidates range from {candidates.min()} to {candidates.max()}; "
                         f"expected indices of the {n} database rows")
    return candidates.astype(np.int64)


def _on_gpu(device: torch.device | None) -> TypeGuard[torch.device]:
    return device is not None and device.type == "cuda"


def _check_finite(rows: np.ndarray) -> None:
    """Raises ValueError for NaN or infinity: by the rows' norms, twice as quick as value by value."""
    if not np.isfinite(np.einsum("ij,ij->i", rows, rows)).all():
        raise ValueError(NOT_FINITE)


def _check(database: np.ndarray | StoredRows, queries: np.ndarray, k: int, *, dtype: str = "float32",
           name_of_k: str = "k") -> None:
    for name, rows in (("database", database), ("queries", queries)):
        if isinstance(rows, np.ndarray) and (rows.ndim != 2 or rows.dtype != dtype):
            raise ValueError(f"{name} is {rows.dtype} {rows.shape}; expected {dtype} (rows, width)")
    width = database.dim if isinstance(database, StoredRows) else database.shape[1]
    if width != queries.shape[1]:
        raise ValueError(f"database rows have width {width}, queries {queries.shape[1]}; "
                         "expected descriptors of one model")
    if len(database) == 0:
        raise ValueError("database holds no rows; expected at least one to search")
    if k < 1:
        raise ValueError(f"{name_of_k} is {k}; expected at least 1")
