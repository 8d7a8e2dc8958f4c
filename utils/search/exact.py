"""Exhaustive search with faiss and re-ranking: Hamming distance on packed codes, L2 on float descriptors.

Searches order equal distances by database index, re-ranking by the order of the candidates, so that results do not
depend on faiss's internals. The caller's memory is searched where it lies, a memory map's too: no index is filled.
`device`: None or the processor for faiss's functions; CUDA for faiss's flat GPU index (L2, where faiss has one) and for
tensor_search.py.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np
import torch
from faiss import swig_ptr

from . import tensors as tensor_search
from .stores import NOT_FINITE, StoredRows

_BLOCK_BYTES = 256 * 2**20  # of float32 rows read at a time, for many queries
_SLICE_BYTES = 8 * 2**20  # the same for few queries, by each thread: what a cache holds
_COUNTER_BYTES = 16 * 2**20  # of faiss's lists by distance: more come fresh from the system each time
_NEAR_BYTES = 16 * 2**20  # of queries re-ranked together: they stay in a cache
_THREADED = 2**17  # distances of codes from which a pool of threads, 0.1 ms, pays
_ONE_KEY = 2**16  # above a row's number and above a distance, which then share 32 bits
_MATRIX_QUERIES = 20  # faiss turns to matrix products here, and threads those; below, it threads over queries alone
_GPU_RANKS = 2048  # a faiss GPU index returns no more

Ranked = tuple[np.ndarray, np.ndarray]  # distances and ids, (m, k) each


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
    Returns Hamming distances in bits (m, k') int32, ascending, and database indices (m, k') int64,
    k' = min(k, n). Raises ValueError for shapes or dtypes that do not fit.
    """
    _check_codes(database_codes, query_codes, k)
    n, m, k = len(database_codes), len(query_codes), min(k, len(database_codes))
    if _on_gpu(device):
        return tensor_search.search_hamming(database_codes, query_codes, k, device)
    database, queries = np.ascontiguousarray(database_codes), np.ascontiguousarray(query_codes)
    if m == 1 and n <= _ONE_KEY > 8 * database.shape[1]:
        return _nearest_of_one(database, queries, k)
    threads = faiss.omp_get_max_threads() if m * n >= _THREADED else 1
    if m < threads:
        size = -(-n // threads)
        parts = _in_threads(lambda start: _offset(search_hamming(database[start:start + size], queries, k), start),
                            range(0, n, size), threads)
        return merge_ranked(list(parts), k)
    distances, ids = np.empty((m, k), np.int32), np.empty((m, k), np.int64)
    batch = max(1, min(-(-m // threads), _COUNTER_BYTES // (8 * k * (8 * database.shape[1] + 1))))

    def search(start: int) -> None:
        rows = queries[start:start + batch]
        # By counting: faiss lists each distance's rows as it meets them, which is the order wanted here and faster than
        # its heap.
        faiss.hammings_knn_mc(swig_ptr(rows), swig_ptr(database), len(rows), n, k, database.shape[1],
                              swig_ptr(distances[start:]), swig_ptr(ids[start:]))

    for _ in _in_threads(search, range(0, m, batch), threads):
        pass
    return distances, ids


def _nearest_of_one(database: np.ndarray, query: np.ndarray, k: int) -> Ranked:
    """Of one query: all distances, then a selection by distance and row together; counting takes faiss half as long
    again."""
    n, width = database.shape
    distances = np.empty(n, np.uint32)  # faiss writes int32, none of which is negative
    faiss.hammings(swig_ptr(query), swig_ptr(database), 1, n, width, swig_ptr(distances.view(np.int32)))
    distances <<= np.uint32(16)
    distances |= _row_numbers()[:n]
    distances.partition(k - 1)
    best = np.sort(distances[:k])
    return (best >> np.uint32(16)).astype(np.int32)[None], (best & np.uint32(2**16 - 1)).astype(np.int64)[None]


@functools.cache
def _row_numbers() -> np.ndarray:
    return np.arange(_ONE_KEY, dtype=np.uint32)


def search_l2(database: np.ndarray | StoredRows, queries: np.ndarray, k: int, *,
              device: torch.device | None = None) -> Ranked:
    """Nearest database descriptors of each query, exhaustively; the database is read once, in blocks.

    Args: database (n, D) float32, or rows held otherwise; queries (m, D) float32; k >= 1.
    Returns squared L2 distances (m, k') float32, ascending, and database indices (m, k') int64,
    k' = min(k, n). Raises ValueError for shapes or dtypes that do not fit, and for NaN or infinity.
    """
    database = _checked_floats(database, queries, k)
    queries, k = np.ascontiguousarray(queries), min(k, len(database))
    _check_finite(queries)
    few = len(queries) < _MATRIX_QUERIES and not _on_gpu(device)
    size = max(1, (_SLICE_BYTES if few else _BLOCK_BYTES) // (4 * database.dim))
    search = _l2_on_gpu if _on_gpu(device) else _l2

    def part(start: int) -> Ranked:
        rows = np.ascontiguousarray(database.read(slice(start, start + size)))
        _check_finite(rows)
        return _offset(search(rows, queries, min(k, len(rows)), device), start)

    starts = range(0, len(database), size)
    parts = _in_threads(part, starts, faiss.omp_get_max_threads()) if few else map(part, starts)
    best = next(parts)
    for found in parts:
        best = merge_ranked([best, found], k)
    return best


def rerank_l2(database: np.ndarray | StoredRows, queries: np.ndarray, candidates: np.ndarray, depth: int, *,
              device: torch.device | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Sort the first `depth` candidates of each query by L2; those beyond keep their order behind them.

    Args:
        database: (n, D) float32, or rows held otherwise; only candidates are read. queries: (m, D) float32.
        candidates: (m, k) integer database indices, best first, e.g. from `search_hamming`.
        depth: how many to re-rank, >= 1; all k of them where there are fewer.

    Returns indices (m, k) int64, and the L2 distances (m, min(depth, k)) float32 of the re-ranked part,
    ascending; equal distances keep the order of the candidates. Raises ValueError for NaN or infinity among what is
    read, and for shapes, dtypes, depths or indices that do not fit: a -1, faiss's "none", would stand for the last row.
    """
    database = _checked_floats(database, queries, depth, depth_name="depth")
    if candidates.ndim != 2 or len(candidates) != len(queries) or candidates.dtype.kind not in "iu":
        raise ValueError(
            f"candidates are {candidates.dtype} {candidates.shape}; expected integers ({len(queries)}, k), "
            "one row per query"
        )
    ids = candidates.astype(np.int64)
    if ids.size and ids.view(np.uint64).max() >= len(database):  # a negative one is a large one here
        raise ValueError(f"candidates range from {candidates.min()} to {candidates.max()}; "
                         f"expected indices of the {len(database)} database rows")
    head = ids[:, :depth]  # a view: sorting it sorts the first ranks of ids
    distances = np.empty(head.shape, np.float32)
    if head.size == 0:
        return ids, distances
    in_place = not _on_gpu(device) and database.kind == "fp32" and database.values.flags.c_contiguous
    queries = np.ascontiguousarray(queries)
    for block in _rerank_blocks(head.shape, database, in_place=in_place):
        wanted = np.ascontiguousarray(head[block])
        rows, local = database.values, wanted
        if not in_place:
            read, local = np.unique(wanted, return_inverse=True)
            rows, local = database.read(read), local.reshape(wanted.shape)
        squared = (tensor_search.squared_l2(rows, queries[block], local, device) if _on_gpu(device)
                   else _squared_l2(rows, queries[block], local))
        away = np.sqrt(squared)
        order = _stable_order(away)
        ranked = away.take(order)
        if not ranked[:, -1].max() < np.inf:  # NaN and infinity are last
            raise ValueError(NOT_FINITE)
        head[block], distances[block] = wanted.take(order), ranked
    return ids, distances


def _stable_order(distances: np.ndarray) -> np.ndarray:
    """Positions in the flattened (m, depth) distances, not negative, by which each row ascends."""
    if len(distances) == 1:
        return np.argsort(distances, kind="stable")
    # The bits of such distances order as they do; with the rank below them the quickest sort is a stable one.
    keys = distances.view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(distances.size, dtype=np.uint64).reshape(distances.shape)
    keys.sort(axis=1)
    keys &= np.uint64(2**32 - 1)
    return keys.astype(np.int64)


def merge_ranked(parts: Sequence[Ranked], k: int) -> Ranked:
    """The k best of several searches of parts of one database, each (distances, ids) (m, k_part), ids those of the
    whole; equal distances by id. Returns (m, min(k, all of them))."""
    distances = np.concatenate([distances for distances, _ in parts], axis=1)
    ids = np.concatenate([ids for _, ids in parts], axis=1)
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _l2(rows: np.ndarray, queries: np.ndarray, k: int, _) -> Ranked:
    return _sorted(faiss.knn(queries, rows, k))


def _l2_on_gpu(rows: np.ndarray, queries: np.ndarray, k: int, device: torch.device) -> Ranked:
    depth = min(k + 1, len(rows))
    if faiss.get_num_gpus() == 0 or depth > _GPU_RANKS:
        return tensor_search.search_l2(rows, queries, k, device)
    index = faiss.IndexFlatL2(rows.shape[1])
    index.add(rows)
    on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device.index or 0, index)
    distances, ids = _sorted(on_gpu.search(queries, depth))
    # Of equal distances around rank k the CPU keeps the first ones; which the GPU keeps is open.
    tied = (distances[:, k - 1] == distances[:, -1]) & (depth > k)
    distances, ids = distances[:, :k], ids[:, :k]
    if tied.any():
        distances[tied], ids[tied] = _l2(rows, queries[tied], k, None)
    return distances, ids


def _sorted(found: Ranked) -> Ranked:
    return merge_ranked([found], found[0].shape[1])


def _offset(found: Ranked, start: int) -> Ranked:
    distances, ids = found
    ids += start
    return distances, ids


def _squared_l2(rows: np.ndarray, queries: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Squared L2 (m, depth) float32 of queries (m, D) to the database rows (n, D) at ids (m, depth)."""
    (m, depth), wanted = ids.shape, ids.ravel()
    if m == 1:
        order, query = None, np.zeros(depth, np.int64)
    else:
        # By place in the database: a row that several queries want is read once, and a memory map from front to back.
        # 16 bits of the place, which numpy sorts by radix, are as good as all.
        order = np.argsort((wanted >> max(0, len(rows).bit_length() - 16)).astype(np.uint16), kind="stable")
        query, wanted = order // depth, wanted[order]
    squared = np.empty(wanted.size, np.float32)
    faiss.pairwise_indexed_L2sqr(rows.shape[1], wanted.size, swig_ptr(queries), swig_ptr(query), swig_ptr(rows),
                                 swig_ptr(wanted), swig_ptr(squared))
    if order is not None:
        placed = np.empty_like(squared)
        placed[order] = squared
        squared = placed
    return squared.reshape(m, depth)


def _rerank_blocks(shape: tuple[int, int], database: StoredRows, *, in_place: bool) -> Iterator[slice]:
    """Queries re-ranked together: those that a cache holds, or whose candidates fit into the memory of a block."""
    m, depth = shape
    row_bytes = max(1, 4 * database.dim)
    if in_place:
        size = _NEAR_BYTES // row_bytes
    else:
        size = m if len(database) * row_bytes <= _BLOCK_BYTES else _BLOCK_BYTES // (depth * row_bytes)
    size = max(1, size)
    return (slice(start, start + size) for start in range(0, m, size))


def _in_threads(work: Callable[[int], object], items: Sequence[int], threads: int) -> Iterator:
    """`work` of each item, in order; by so many threads, in each of which faiss uses that one alone."""
    if threads > 1 and len(items) > 1:
        with ThreadPoolExecutor(threads, initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(work, items)
        return
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield from map(work, items)
    finally:
        faiss.omp_set_num_threads(before)


def _on_gpu(device: torch.device | None) -> bool:
    return device is not None and device.type == "cuda"


def _check_finite(rows: np.ndarray) -> None:
    """Raises ValueError for NaN or infinity: by the rows' norms, far quicker than value by value."""
    norms = np.empty(len(rows), np.float32)
    faiss.fvec_norms_L2sqr(swig_ptr(norms), swig_ptr(rows), rows.shape[1], len(rows))
    if not np.isfinite(norms).all():
        raise ValueError(NOT_FINITE)


def _check_codes(database: np.ndarray, queries: np.ndarray, k: int) -> None:
    for name, rows in (("database", database), ("queries", queries)):
        if rows.ndim != 2 or rows.dtype != np.uint8:
            raise ValueError(f"{name} is {rows.dtype} {rows.shape}; expected uint8 (rows, width)")
    _check_fit(database, queries, k, "k")


def _checked_floats(database: np.ndarray | StoredRows, queries: np.ndarray, k: int, *,
                    depth_name: str = "k") -> StoredRows:
    for name, rows in (("database", database), ("queries", queries)):
        if isinstance(rows, np.ndarray) and (rows.ndim != 2 or rows.dtype != np.float32):
            raise ValueError(f"{name} is {rows.dtype} {rows.shape}; expected float32 (rows, width)")
    stored = database if isinstance(database, StoredRows) else StoredRows(database)
    _check_fit(stored.values, queries, k, depth_name)
    return stored


def _check_fit(database: np.ndarray, queries: np.ndarray, k: int, depth_name: str) -> None:
    if database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"database rows have width {database.shape[1]}, queries {queries.shape[1]}; "
            "expected descriptors of one model"
        )
    if len(database) == 0:
        raise ValueError("database holds no rows; expected at least one to search")
    if k < 1:
        raise ValueError(f"{depth_name} is {k}; expected at least 1")
