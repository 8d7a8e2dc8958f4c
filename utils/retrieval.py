"""Exhaustive search with faiss and re-ranking: Hamming distance on packed codes, L2 on float descriptors.

Searches order equal distances by database index, so that results do not depend on faiss's internals.
"""

import faiss
import numpy as np

_BLOCK_BYTES = 8 * 2**20  # of candidate descriptors gathered at a time: about what a cache holds
_GPU_RANKS = 2048  # a faiss GPU index returns no more
_NOT_FINITE = "descriptors hold NaN or infinity, which have no rank; check the model that made them"


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


def search_l2(database: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Nearest database descriptors of each query, exhaustively, on the GPU where faiss sees one.

    Args: database (n, D) and queries (m, D), float32; k >= 1.
    Returns squared L2 distances (m, k') float32, ascending, and database indices (m, k') int64,
    k' = min(k, n). Raises ValueError for shapes or dtypes that do not fit, and for NaN or infinity.
    """
    _check_searchable(database, queries, k, dtype=np.float32)
    if not (np.isfinite(database).all() and np.isfinite(queries).all()):
        raise ValueError(_NOT_FINITE)
    k = min(k, len(database))
    index = faiss.IndexFlatL2(database.shape[1])
    index.add(np.ascontiguousarray(database))
    queries = np.ascontiguousarray(queries)
    depth = min(k + 1, len(database))
    if faiss.get_num_gpus() == 0 or depth > _GPU_RANKS:
        return _sorted_by_distance_then_id(*index.search(queries, k))

    on_gpu = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
    distances, ids = _sorted_by_distance_then_id(*on_gpu.search(queries, depth))
    # Of equal distances around rank k the CPU index keeps the first ones; which the GPU keeps is open.
    tied = (distances[:, k - 1] == distances[:, -1]) & (depth > k)
    distances, ids = distances[:, :k], ids[:, :k]
    if tied.any():
        distances[tied], ids[tied] = _sorted_by_distance_then_id(*index.search(queries[tied], k))
    return distances, ids


def search_hamming(
    database_codes: np.ndarray, query_codes: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Nearest database codes of each query, exhaustively, on the CPU.

    Among codes nearly every query has equal distances around rank k, and which of them a GPU index keeps is open: each
    would have to be searched again here.

    Args: database_codes (n, bytes) and query_codes (m, bytes), uint8, from `pack_codes`; k >= 1.
    Returns Hamming distances in bits (m, k') int32, ascending, and database indices (m, k') int64,
    k' = min(k, n). Raises ValueError for shapes or dtypes that do not fit.
    """
    _check_searchable(database_codes, query_codes, k, dtype=np.uint8)
    index = faiss.IndexBinaryFlat(8 * database_codes.shape[1])
    index.add(np.ascontiguousarray(database_codes))
    distances, ids = index.search(np.ascontiguousarray(query_codes), min(k, len(database_codes)))
    return _sorted_by_distance_then_id(distances, ids)


def rerank_l2(
    database: np.ndarray, queries: np.ndarray, candidates: np.ndarray, depth: int
) -> tuple[np.ndarray, np.ndarray]:
    """Sort the first `depth` candidates of each query by L2; those beyond keep their order behind them.

    Args:
        database: (n, D) float32. queries: (m, D) float32.
        candidates: (m, k) integer database indices, best first, e.g. from `search_hamming`.
        depth: how many to re-rank, >= 1; all k of them where there are fewer.

    Returns indices (m, k) int64, and the L2 distances (m, min(depth, k)) float32 of the re-ranked part,
    ascending; equal distances keep the order of the candidates. Raises ValueError for NaN or infinity, and
    for shapes, dtypes, depths or indices that do not fit: a -1, faiss's "none", would stand for the last row.
    """
    _check_searchable(database, queries, depth, dtype=np.float32, depth_name="depth")
    if candidates.ndim != 2 or len(candidates) != len(queries) or candidates.dtype.kind not in "iu":
        raise ValueError(
            f"candidates are {candidates.dtype} {candidates.shape}; expected integers ({len(queries)}, k), "
            "one row per query"
        )
    if candidates.size and not 0 <= candidates.min() <= candidates.max() < len(database):
        raise ValueError(
            f"candidates range from {candidates.min()} to {candidates.max()}; "
            f"expected indices of the {len(database)} database rows"
        )
    ids = candidates.astype(np.int64)
    head = ids[:, :depth]  # a view: sorting it sorts the first ranks of ids
    distances = np.empty(head.shape, dtype=np.float32)
    rows = max(1, _BLOCK_BYTES // max(1, head.shape[1] * database.shape[1] * database.itemsize))
    for start in range(0, len(queries), rows):
        block = slice(start, start + rows)
        difference = database[head[block]]
        difference -= queries[block, None]
        block_distances = np.linalg.norm(difference, axis=2)
        if not np.isfinite(block_distances).all():
            raise ValueError(_NOT_FINITE)
        order = np.argsort(block_distances, axis=1, kind="stable")
        head[block] = np.take_along_axis(head[block], order, axis=1)
        distances[block] = np.take_along_axis(block_distances, order, axis=1)
    return ids, distances


def _sorted_by_distance_then_id(distances: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.lexsort((ids, distances), axis=1)
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)


def _check_searchable(
    database: np.ndarray, queries: np.ndarray, k: int, *, dtype: type, depth_name: str = "k"
) -> None:
    for name, rows in (("database", database), ("queries", queries)):
        if rows.ndim != 2 or rows.dtype != dtype:
            raise ValueError(f"{name} is {rows.dtype} {rows.shape}; expected {np.dtype(dtype)} (rows, width)")
    if database.shape[1] != queries.shape[1]:
        raise ValueError(
            f"database rows have width {database.shape[1]}, queries {queries.shape[1]}; "
            "expected descriptors of one model"
        )
    if len(database) == 0:
        raise ValueError("database holds no rows; expected at least one to search")
    if k < 1:
        raise ValueError(f"{depth_name} is {k}; expected at least 1")
